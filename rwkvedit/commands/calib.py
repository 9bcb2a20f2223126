"""``rwkvedit calib``: fit, list, show, remove, export and import saved calibrations."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rwkvedit.errors import UsageError

ACTIONS = ("fit", "list", "show", "rm", "export", "import")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("calib", help="saved calibrations for live edits")
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("words", nargs="*", metavar="ARG",
                        help='fit "old" "new"; show/rm NAME; export NAME FILE; import FILE')
    parser.add_argument("--kind", help="fit many values of one kind of fact (with --values), "
                        "or all: some common values of every kind")
    parser.add_argument("--values", help="comma-separated values for --kind")
    parser.add_argument("--entity", default="", help="who the values are told of (default Sam)")
    parser.add_argument("--name", default="", help="the calibration's name")
    parser.add_argument("--to", metavar="FOLDER",
                        help="fit into this library folder, not yours (how calibrations/ is made)")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--vocab", help="vocabulary file of the model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(main=main)


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
    loaded: Any, action: str, words: list[str], *, kind: str | None = None,
    values: str | None = None, entity: str = "", name: str = "", to: str | None = None,
) -> Any:
    """Do one action and return its document.

    Raises UsageError for wrong arguments and RwkvEditError when it cannot be done.
    """
    from rwkvedit.recurrent.calibrate import fit_kind, fit_pair
    from rwkvedit.recurrent.library import Library
    from rwkvedit.recurrent.pairs import read_pair

    library = Library.of(loaded)
    if to is not None:
        library = Library(loaded.model.digest, loaded.tokenizer.digest, [Path(to)])
    wanted = {"list": 0, "show": 1, "rm": 1, "export": 2, "import": 1}
    if action in wanted and len(words) != wanted[action]:
        forms = {"list": "", "show": "NAME", "rm": "NAME", "export": "NAME FILE", "import": "FILE"}
        raise UsageError(f"say: calib {action} {forms[action]}".rstrip())
    if action == "list":
        return [describe(path, c) for path, c in library.all()]
    if action == "show":
        return describe(*library.get(words[0]), whole=True)
    if action == "rm":
        return {"removed": str(library.remove(words[0]))}
    if action == "export":
        return {"exported": words[0], "path": str(library.export(words[0], words[1]))}
    if action == "import":
        calibration = library.add_file(words[0], loaded)
        return describe(*library.get(calibration.name))
    if action != "fit":
        raise UsageError(f"calib {action}? there are {', '.join(ACTIONS)}")
    if kind == "all" and not words and not values:
        fitted = [fit_kind(loaded, k, v) for k, v in common_values().items()]
        return [describe(library.save(c), c) for c in fitted]
    if kind:
        listed = [v.strip() for v in (values or "").split(",") if v.strip()]
        if words or len(listed) < 2:
            raise UsageError("say: calib fit --kind city --values Austin,Chicago,Oslo")
        calibration = fit_kind(loaded, kind, listed, entity, name=name)
    else:
        if len(words) != 2 or values:
            raise UsageError(
                'say: calib fit "Bob lives in Austin" "Bob lives in Chicago", '
                "or calib fit --kind city --values Austin,Chicago"
            )
        calibration = fit_pair(loaded, read_pair(*words))
    if name:
        from dataclasses import replace

        calibration = replace(calibration, name=name)
    return describe(library.save(calibration), calibration)


def lines(action: str, document: Any) -> list[str]:
    """The document for a person, a line each."""
    if isinstance(document, list):
        if not document:
            return ['no calibrations for this model; fit one: calib fit "old fact" "new fact"']
        out = []
        for row in document:
            values = ", ".join(v.strip() for v in row["values"][:4])
            more = f" and {len(row['values']) - 4} more" if len(row["values"]) > 4 else ""
            place = "shipped" if row["shipped"] else "yours"
            out.append(f"{row['name']}  {row['kind'] or '-'}  {place}  {values}{more}")
        return out
    return [f"{key}: {value if not isinstance(value, list) else ', '.join(map(str, value))}"
            for key, value in document.items()]


def main(args: argparse.Namespace) -> int:
    from rwkvedit.models.catalog import load_model

    loaded = load_model(args.model, args.device, vocab=args.vocab)
    document = perform(
        loaded, args.action, args.words, kind=args.kind, values=args.values, entity=args.entity,
        name=args.name, to=args.to,
    )
    if args.action == "list":
        from rwkvedit.recurrent.library import Library

        sys.stderr.write("".join(f"{line}\n" for line in Library.of(loaded).damaged()))
    if args.json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(line + "\n" for line in lines(args.action, document)))
    return 0
