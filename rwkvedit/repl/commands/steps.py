"""Commands that go back, forward and aside."""

from __future__ import annotations

from typing import Any

from rwkvedit.errors import RwkvEditError
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg
from rwkvedit.repl.result import Result, Table, result, say

GROUP = "steps"
STEPS = Arg("steps", required=False, kind=int)


def _listed(entries: list[Any]) -> str:
    return "; ".join(f"{entry.verb} {short(entry.label)}" for entry in entries)


def short(text: str, width: int = 60) -> str:
    """One line of at most ``width`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _some(steps: Any, verb: str, name: str) -> None:
    if not steps:
        raise RwkvEditError(
            f"there is no change of {name}'s weights to {verb}; /use chat goes back to the "
            f"conversation, whose steps /{verb} then takes"
        )


@command(
    "undo",
    group=GROUP,
    args=[STEPS],
    help="Take back the last step (or N), bit for bit; of "
    "the model in use, its last change of weights.",
)
def undo(ctx: Any, steps: int | None) -> Result:
    count, opened = 1 if steps is None else steps, ctx.sessions.in_use
    if opened is not None:
        _some(opened.past, "undo", opened.name)
        said = "; ".join(short(text) for text in opened.undo(count))
        return say("undo", f"undid in {opened.name}: {said}", steps=count, session=opened.name)
    undone = ctx.session.undo(count)
    return say("undo", f"undid: {_listed(undone)}", steps=len(undone))


@command("redo", group=GROUP, args=[STEPS], help="Do again what was undone.")
def redo(ctx: Any, steps: int | None) -> Result:
    count, opened = 1 if steps is None else steps, ctx.sessions.in_use
    if opened is not None:
        _some(opened.future, "redo", opened.name)
        said = "; ".join(short(text) for text in opened.redo(count))
        return say("redo", f"redid in {opened.name}: {said}", steps=count, session=opened.name)
    redone = ctx.session.redo(count)
    return say("redo", f"redid: {_listed(redone)}", steps=len(redone))


@command("journal", group=GROUP, help="The steps of this branch; * is where you stand.")
def journal(ctx: Any) -> Result:
    book = ctx.session.journal
    branch = book.branch
    rows, data = [], []
    for index, entry in enumerate(branch.entries):
        mark = "*" if index == branch.cursor else ("" if index < branch.cursor else "redo")
        if entry.place is None:
            mark = "dropped"
        rows.append((index, mark, entry.verb, short(entry.label)))
        data.append(
            {
                "number": index,
                "verb": entry.verb,
                "label": entry.label,
                "current": index == branch.cursor,
                "kept": entry.place is not None,
                "tokens": len(entry.place.tokens) if entry.place else None,
            }
        )
    return result(
        "journal",
        Table(("step", "", "what", ""), tuple(rows)),
        branch=book.branch_name,
        entries=data,
        undoable=branch.undoable,
        redoable=branch.redoable,
        bytes=book.nbytes,
        budget=book.budget,
    )


@command(
    "branch",
    group=GROUP,
    args=[Arg("name", required=False)],
    help="Start a branch here and go onto it; without a name, list them.",
)
def branch(ctx: Any, name: str | None) -> Result:
    session = ctx.session
    if name is None:
        rows = tuple(
            (
                "*" if key == session.journal.branch_name else "",
                key,
                f"{branch.cursor} steps",
                short(branch.here.label, 40),
            )
            for key, branch in session.branches.items()
        )
        table = Table(("", "branch", "", "stands at"), rows)
        return result("branch", table, current=session.journal.branch_name, branches=[*_names(ctx)])
    old = session.journal.branch_name
    session.branch(name)
    return say("branch", f"on branch {name}; /switch {old} goes back", current=name)


@command(
    "switch",
    group=GROUP,
    args=[Arg("name", completer="branch")],
    help="Go to another branch, where it was left.",
)
def switch(ctx: Any, name: str) -> Result:
    ctx.session.switch(name)
    here = ctx.session.journal.here
    return say("switch", f"on branch {name}, after: {short(here.label)}", current=name)


def _names(ctx: Any) -> list[str]:
    return list(ctx.session.branches)
