"""What the calibration library is asked to do, by ``/calib`` and by ``rwkvedit calib`` alike.

An action's answer is a document: a dict, or a list of them. Prints nothing, knows no screen. Heavy
imports happen when an action is done, so that the shell's help is instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import UsageError

if TYPE_CHECKING:
    from rwkvedit.recurrent.state import State

ACTIONS = ("fit", "list", "show", "rm", "export", "import")
#: What an action but ``fit`` takes.
FORMS = {"list": "", "show": "NAME", "rm": "NAME", "export": "NAME FILE", "import": "FILE"}


def describe(path: Path, calibration: Any, whole: bool = False) -> dict[str, Any]:
    """One calibration as JSON."""
    from rwkvedit.recurrent.library import shipped_folder

    shipped = shipped_folder() in path.parents
    row = {
        "name": calibration.name, "kind": calibration.kind, "told": calibration.told,
        "values": list(calibration.values), "start": calibration.start,
        "created": calibration.created, "model_digest": calibration.model_digest,
        "tokenizer_digest": calibration.tokenizer_digest, "shipped": shipped, "path": str(path),
    }
    if whole:
        writes = calibration.writes.float()
        row |= {
            "layers": writes.shape[1], "heads": writes.shape[2], "head_size": writes.shape[3],
            "addresses": writes.shape[4], "bytes": path.stat().st_size,
            "write_norm_by_layer": [round(float(w.norm()), 4) for w in writes.unbind(1)],
        }
    return row


#: Values that ship beside the first of each training list: those of the README's session.
SHOWN = {"cities": ("Austin", "Chicago", "Paris", "London", "Boston", "Dallas", "Berlin", "Oslo")}


def common_values(n: int = 8) -> dict[str, list[str]]:
    """Some common values of every kind of fact: kind -> values."""
    from rwkvedit.facts import KINDS
    from rwkvedit.facts.lexicon import TRAIN

    made = {"ages": [str(age) for age in range(20, 60, 5)], "phones": ["2075", "6391", "4410"]}
    return {
        name: made.get(kind.slot) or list(SHOWN.get(kind.slot, TRAIN[kind.slot][:n]))
        for name, kind in KINDS.items()
    }


def perform(
    loaded: Any, action: str, words: Sequence[str], *, kind: str | None = None,
    values: str | None = None, entity: str = "", name: str = "", to: str | None = None,
    state: State | None = None, typed: str = "calib",
) -> Any:
    """Do one action and return its document.

    ``fit`` tells from ``state``, a fresh one when it is None; ``to`` is a library's folder instead
    of the user's; ``typed`` is how the reader of an error types the command. Raises UsageError for
    wrong arguments and RwkvEditError when it cannot be done.
    """
    from rwkvedit.recurrent.calibrate import fit_kind, fit_pair
    from rwkvedit.recurrent.library import Library
    from rwkvedit.recurrent.pairs import read_pair

    library = Library.of(loaded)
    if to is not None:
        library = Library(loaded.model.digest, loaded.tokenizer.digest, [Path(to)])
    if action in FORMS and len(words) != len(FORMS[action].split()):
        raise UsageError(f"say: {typed} {action} {FORMS[action]}".rstrip())
    if action == "list":
        return [describe(path, c) for path, c in library.all()]
    if action == "show":
        return describe(*library.get(words[0]), whole=True)
    if action == "rm":
        return {"removed": str(library.remove(words[0])), "name": words[0]}
    if action == "export":
        return {"exported": words[0], "path": str(library.export(words[0], words[1]))}
    if action == "import":
        calibration = library.add_file(words[0], loaded)
        return describe(*library.get(calibration.name))
    if action != "fit":
        raise UsageError(f"{typed} {action}? there are {', '.join(ACTIONS)}")
    if kind == "all" and not words and not values:
        made = [fit_kind(loaded, k, v, state=state) for k, v in common_values().items()]
        return [describe(library.save(c), c) for c in made]
    if kind:
        listed = [v.strip() for v in (values or "").split(",") if v.strip()]
        if words or len(listed) < 2:
            raise UsageError(f"say: {typed} fit --kind city --values Austin,Chicago,Oslo")
        calibration = fit_kind(loaded, kind, listed, entity, state=state)
    else:
        if len(words) != 2 or values:
            raise UsageError(
                f'say: {typed} fit "Bob lives in Austin" "Bob lives in Chicago", '
                f"or {typed} fit --kind city --values Austin,Chicago"
            )
        calibration = fit_pair(loaded, read_pair(*words), state)
    if name:
        calibration = replace(calibration, name=name)
    return describe(library.save(calibration), calibration)
