"""Settings."""

from __future__ import annotations

from typing import Any

from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg
from rwkvedit.repl.result import Fields, Result, result, say

GROUP = "settings"


@command(
    "set",
    group=GROUP,
    args=[Arg("name", completer="setting"), Arg("value", rest=True)],
    help="Change a setting, like /set temperature 0.8.",
)
def set_(ctx: Any, name: str, value: str) -> Result:
    new = ctx.session.set(name.replace("-", "_"), value)
    return say("set", f"{name} is {new}", name=name, value=new)


@command("show", group=GROUP, help="Model and settings.")
def show(ctx: Any) -> Result:
    session = ctx.session
    model = session.model
    about = {
        "model": session.loaded.name,
        "digest": model.digest[:16],
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "backend": model.backend,
        "tokens": len(session.place.tokens),
        "turns": len(session.turns),
        "branch": session.journal.branch_name,
    }
    settings = session.settings
    return result("show", Fields.of(**about, **settings), **about, settings=settings)
