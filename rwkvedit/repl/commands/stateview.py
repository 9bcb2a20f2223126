"""``/state``: norms and differences of a State, layer by layer, and the State in a file."""

from __future__ import annotations

from pathlib import Path

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.recurrent.state import State
from rwkvedit.repl.result import Fields, Result, Table, result, say
from rwkvedit.session import Session


def view(session: Session, what: str, steps: int | None) -> Result:
    """``show``, ``diff`` (against ``steps`` back, 1 by default) or ``stats``."""
    if what == "diff":
        return _diff(session, 1 if steps is None else steps)
    if steps is not None:
        raise UsageError(f"/state {what} takes no number; /state diff {steps} does")
    return _show(session) if what == "show" else _stats(session.state)


def number_of_steps(text: str | None) -> int | None:
    """``/state diff N``'s number. Raises UsageError for other words."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"'{text}' is no number of steps; try /state diff 2") from None


def kept(session: Session, what: str, file: str | None) -> Result:
    """Write the State alone to a file, or take one from it."""
    if file is None:
        raise UsageError(f"which file? /state {what} FILE")
    if what == "save":
        path = session.save_state(Path(file).expanduser())
        return say("state", f"the state is in {path}", what=what, path=str(path))
    session.load_state(Path(file).expanduser())
    text = f"the state of {file}; none of its words are here, /undo brings the last one back"
    return say("state", text, what=what, path=file)


def _show(session: Session) -> Result:
    state = session.state
    fields = Fields.of(
        layers=state.n_layer,
        heads=state.n_head,
        head_size=state.head_size,
        width=state.n_embd,
        bytes=state.nbytes,
        tokens=len(session.place.tokens),
        norm=float(state.norm()),
    )
    return result("state", fields, what="show", **dict(fields.pairs))


def _stats(state: State) -> Result:
    rows = []
    for layer in range(state.n_layer):
        wkv = state.wkv[layer]
        rows.append(
            (
                layer,
                float(wkv.norm()),
                float(wkv.abs().max()),
                float(state.att_x[layer].norm()),
                float(state.ffn_x[layer].norm()),
            )
        )
    columns = ("layer", "||wkv||", "max|wkv|", "||att_x||", "||ffn_x||")
    return result("state", Table(columns, tuple(rows)), what="stats", columns=columns, rows=rows)


def _diff(session: Session, steps: int) -> Result:
    branch = session.journal.branch
    if steps < 1 or steps > branch.cursor:
        raise RwkvEditError(f"cannot look {steps} steps back: there are {branch.cursor}")
    before = branch.entries[branch.cursor - steps].place
    if before is None:
        raise RwkvEditError(f"{steps} steps back was dropped to stay in the journal's budget")
    now, then = session.state, before.state
    rows = []
    for layer in range(now.n_layer):
        delta = float((now.wkv[layer] - then.wkv[layer]).norm())
        size = float(then.wkv[layer].norm())
        rows.append((layer, delta, delta / size if size else None))
    same = now.equal(then)
    table = Table(("layer", "||change||", "share"), tuple(rows))
    return result("state", table, what="diff", steps=steps, same=same, rows=rows)
