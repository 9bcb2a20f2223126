"""``rwkvedit commands``: the chat's commands as a table (the README's comes from here)."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("commands", help="list the chat's commands")
    p.add_argument("--markdown", action="store_true", help="as the README's table")
    p.add_argument("--json", action="store_true")
    return p


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.commands import REGISTRY
    from rwkvedit.repl.render import Renderer

    if args.markdown:
        Renderer().write(REGISTRY.markdown())
    elif args.json:
        rows = [{"name": c.name, "usage": c.usage, "help": c.help} for c in REGISTRY.commands]
        Renderer().document(rows)
    else:
        from rwkvedit.repl.result import Table

        Renderer().block(Table(("", ""), tuple((f"/{c.name}", c.help) for c in REGISTRY.commands)))
    return 0
