"""``/calib``: the library of saved calibrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.calibactions import ACTIONS, perform
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Fields, Result, Table, result, say


@command(
    "calib",
    group="memory",
    args=[
        Arg("action", choices=ACTIONS),
        Arg("words", many=True, required=False, completer="calibration"),
    ],
    options=[
        Option("--from", "where fit tells it: fresh (the default) or live, this conversation",
               choices=("fresh", "live")),
        Option("--kind", "fit many values of one kind of fact", metavar="KIND"),
        Option("--values", "comma-separated, for --kind", metavar="A,B"),
        Option("--name", "what to call it", metavar="NAME"),
    ],
    help='Saved calibrations: fit "old" "new", list, show NAME, rm NAME, export NAME FILE, '
    "import FILE.",
    example='/calib fit "Bob lives in Austin" "Bob lives in Chicago"',
)
def calib(ctx: Any, action: str, words: list[str], **options: Any) -> Result:
    given = [name for name, value in options.items() if value is not None]
    if action != "fit" and given:
        raise UsageError(f"--{given[0]} is of /calib fit")
    loaded = ctx.session.loaded
    document = perform(
        loaded, action, words, kind=options["kind"], values=options["values"],
        name=options["name"] or "", typed="/calib",
        state=ctx.session.state if options["from"] == "live" else None,
    )
    return SHOW[action](loaded, document)


def _fitted(loaded: Any, document: Any) -> Result:
    if isinstance(document, list):
        names = [row["name"] for row in document]
        return say("calib", f"fitted {', '.join(names)}", entries=document)
    return say("calib", f"fitted {document['name']}", **document)


def _list(loaded: Any, document: Any) -> Result:
    from rwkvedit.recurrent.library import Library

    notices = Library.of(loaded).damaged()
    if not document:
        text = "no calibrations for this model yet; /calib fit makes one"
        return say("calib", text, entries=[], notices=notices)
    rows = tuple(
        (row["name"], row["kind"] or "-", len(row["values"]),
         "shipped" if row["shipped"] else "yours")
        for row in document
    )
    table = Table(("name", "kind", "values", "whose"), rows)
    return result("calib", table, entries=document, notices=notices)


def _show(loaded: Any, document: Any) -> Result:
    shown = {
        "name": document["name"],
        "kind": document["kind"] or "-",
        "told": document["told"],
        "values": ", ".join(document["values"]),
        "start": document["start"],
        "model_digest": document["model_digest"][:16],
        "tokenizer_digest": document["tokenizer_digest"][:16],
        "file": Path(document["path"]).name,
    }
    return result("calib", Fields.of(**shown), **{**document, **shown})


SHOW = {
    "fit": _fitted,
    "list": _list,
    "show": _show,
    "rm": lambda _, d: say("calib", f"removed {d['name']}", path=d["removed"]),
    "export": lambda _, d: say("calib", f"exported {d['exported']} to {d['path']}", path=d["path"]),
    "import": lambda _, d: say("calib", f"imported {d['name']}", name=d["name"]),
}
