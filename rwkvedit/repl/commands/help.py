"""Help and the way out; both come from the registry."""

from __future__ import annotations

from typing import Any

from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg, Command
from rwkvedit.repl.result import Block, Result, Table, Text, result, say

GROUP = "help"
KEYS = (
    "Anything without a slash is said to the model (a line that begins with // says /...).\n"
    "Alt-Enter or a \\ at the end goes on to another line; Ctrl-C stops a reply; Ctrl-D leaves."
)


@command(
    "help",
    group=GROUP,
    aliases=["?"],
    args=[Arg("command", required=False, completer="command")],
    help="This list, or all about one command.",
)
def help_(ctx: Any, command: str | None) -> Result:
    registry = ctx.registry
    if command is not None:
        found = registry.find(command.removeprefix("/"))
        return result("help", *_about(found), name=found.name, usage=found.usage, help=found.help)
    rows = [(f"/{c.name}", c.help) for group in registry.groups().values() for c in group]
    names = [c.name for c in registry.commands]
    return result("help", Table(("", ""), tuple(rows)), Text(KEYS), commands=names)


@command("quit", group=GROUP, aliases=["exit"], help="Leave (Ctrl-D does too).")
def quit_(ctx: Any) -> Result:
    ctx.quit = True
    return say("quit", "bye")


def _about(command: Command) -> list[Block]:
    blocks: list[Block] = [Text(command.help), Text(f"usage: {command.usage}")]
    if command.aliases:
        blocks.append(Text("also: " + ", ".join(f"/{alias}" for alias in command.aliases)))
    rows = [(arg.name.upper(), arg.about) for arg in command.args if arg.about]
    rows += [(option.shown, option.help) for option in command.options]
    if rows:
        blocks.append(Table(("", ""), tuple(rows)))
    if command.example:
        blocks.append(Text(f"example: {command.example}"))
    return blocks
