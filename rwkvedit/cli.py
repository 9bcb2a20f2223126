"""The shell's entry: finds the verb's module, runs it, turns errors into one line and a code.

Exit codes: 0 ok, 1 a command failed, 2 usage, 3 model or device unavailable, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rwkvedit import __version__
from rwkvedit.errors import RwkvEditError, UsageError

# Verb to what it does. A verb's module is rwkvedit/commands/VERB.py, imported only when asked for.
VERBS = {
    "chat": "open the chat (what rwkvedit alone does)",
    "run": "run chat lines from -c, a file or standard input",
    "replay": "run transcripts again and show what differs",
    "calib": "fit, list, show, remove, export and import calibrations",
    "bench": "benchmarks: recall, state, speed",
    "models": "what models there are",
    "logits": "logits of the last position of some tokens",
    "train": "train a model like the embedded one",
}


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except RwkvEditError as error:
        if "--json" in words:
            print(json.dumps({"kind": "error", "message": str(error)}), flush=True)
        print(f"rwkvedit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rwkvedit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader has gone; do not complain again at shutdown
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(words: list[str]) -> int:
    if words[:1] in (["-h"], ["--help"], ["help"]):
        print(overview())
        return 0
    if words[:1] == ["--version"]:
        print(f"rwkvedit {__version__}")
        return 0
    if not words or words[0].startswith("-"):
        words = ["chat", *words]
    verb = words[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else "see rwkvedit --help"
        raise UsageError(f"no verb {verb!r}; {hint}")
    module = importlib.import_module(f"rwkvedit.commands.{verb}")
    parser = Parser(prog="rwkvedit")
    module.add_parser(parser.add_subparsers(dest="verb"))
    args = parser.parse_args(words)
    return int(args.main(args) or 0)


def overview() -> str:
    """What ``rwkvedit --help`` prints."""
    rows = "\n".join(f"  {verb:<8} {what}" for verb, what in VERBS.items())
    return (
        "usage: rwkvedit [VERB] [OPTIONS]\n\n"
        "Chat with an RWKV-7 model and edit what it remembers, live.\n\n"
        f"{rows}\n\nrwkvedit VERB --help tells the rest."
    )
