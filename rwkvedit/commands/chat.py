"""``rwkvedit chat``: the conversation at a terminal. Piped, it is ``rwkvedit run``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rwkvedit.cli import model_options
from rwkvedit.commands.run import open_shell, run_lines, talk_options


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("chat", help="talk (this is what no verb does)")
    talk_options(p)
    model_options(p)
    return p


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.render import Renderer

    shell = open_shell(args)
    if not sys.stdin.isatty():
        return run_lines(shell, sys.stdin, Renderer())
    from rwkvedit.repl.app import App

    return App(shell, Renderer()).run()
