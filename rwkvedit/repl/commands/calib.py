"""``/calib``: the library of saved calibrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg
from rwkvedit.repl.result import Fields, Result, Table, result, say

ACTIONS = ("fit", "list", "show", "rm", "export", "import")


@command(
    "calib",
    group="memory",
    args=[
        Arg("action", choices=ACTIONS),
        Arg("words", many=True, required=False, completer="calibration"),
    ],
    help='Saved calibrations: fit "old" "new", list, show NAME, rm NAME, export NAME FILE, '
    "import FILE.",
    example='/calib fit "Bob lives in Austin" "Bob lives in Chicago"',
)
def calib(ctx: Any, action: str, words: list[str]) -> Result:
    from rwkvedit.recurrent.library import Library

    wanted = {"fit": 2, "list": 0, "show": 1, "rm": 1, "export": 2, "import": 1}[action]
    if len(words) != wanted:
        shown = {"fit": '"old" "new"', "export": "NAME FILE", "import": "FILE", "list": ""}
        raise UsageError(f"usage: /calib {action} {shown.get(action, 'NAME')}".rstrip())
    library = Library.of(ctx.session.loaded)
    return RUN[action](ctx, library, *words)


def _fit(ctx: Any, library: Any, old: str, new: str) -> Result:
    from rwkvedit.recurrent.calibrate import fit_pair
    from rwkvedit.recurrent.pairs import read_pair

    calibration = fit_pair(ctx.session.loaded, read_pair(old, new))
    path = library.save(calibration)
    return say("calib", f"fitted {calibration.name}", name=calibration.name, path=str(path))


def _list(ctx: Any, library: Any) -> Result:
    found = library.all()
    rows = tuple((c.name, c.kind or "-", len(c.values), _whose(library, p)) for p, c in found)
    data = [{"name": c.name, "kind": c.kind, "path": str(p)} for p, c in found]
    notices = library.damaged()
    if not rows:
        text = "no calibrations for this model yet; /calib fit makes one"
        return say("calib", text, entries=[], notices=notices)
    table = Table(("name", "kind", "values", "whose"), rows)
    return result("calib", table, entries=data, notices=notices)


def _show(ctx: Any, library: Any, name: str) -> Result:
    path, found = library.get(name)
    about = {
        "name": found.name,
        "kind": found.kind or "-",
        "told": found.told,
        "values": ", ".join(found.values),
        "start": found.start,
        "model_digest": found.model_digest[:16],
        "tokenizer_digest": found.tokenizer_digest[:16],
        "file": path.name,
    }
    return result("calib", Fields.of(**about), **about)


def _rm(ctx: Any, library: Any, name: str) -> Result:
    path = library.remove(name)
    return say("calib", f"removed {name}", path=str(path))


def _export(ctx: Any, library: Any, name: str, file: str) -> Result:
    path = library.export(name, file)
    return say("calib", f"exported {name} to {path}", path=str(path))


def _import(ctx: Any, library: Any, file: str) -> Result:
    path = Path(file).expanduser()
    if not path.exists():
        raise RwkvEditError(f"no such file: {path}")
    found = library.add_file(path, ctx.session.loaded)
    return say("calib", f"imported {found.name}", name=found.name)


def _whose(library: Any, path: Path) -> str:
    return "yours" if path.parent == library.folders[0] else "shipped"


RUN = {
    "fit": _fit,
    "list": _list,
    "show": _show,
    "rm": _rm,
    "export": _export,
    "import": _import,
}
