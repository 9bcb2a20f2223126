"""Commands about the conversation's own turns."""

from __future__ import annotations

from typing import Any

from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg
from rwkvedit.repl.result import Result, say

GROUP = "conversation"


@command("retry", group=GROUP, help="Answer the last turn again.")
def retry(ctx: Any) -> Result:
    return ctx.reply(ctx.session.retry(ctx.on_text))


@command("continue", group=GROUP, help="Go on with the last reply.")
def continue_(ctx: Any) -> Result:
    return ctx.reply(ctx.session.continue_(ctx.on_text))


@command("clear", group=GROUP, help="Start a fresh conversation (/undo brings this one back).")
def clear(ctx: Any) -> Result:
    ctx.session.clear()
    return say("clear", "a fresh conversation; /undo brings the last one back")


@command(
    "system",
    group=GROUP,
    args=[Arg("text", required=False, rest=True)],
    help="Tell the model how to behave from here on; without text, show it.",
)
def system(ctx: Any, text: str | None) -> Result:
    session = ctx.session
    if text is None:
        return say("system", session.system or "no system text", text=session.system)
    session.set_system(text)
    return say("system", "the system text is set", text=text)
