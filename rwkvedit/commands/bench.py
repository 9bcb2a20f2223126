"""``rwkvedit bench recall|state|speed``: measurements, as a table or one JSON document."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import shlex
import sys
import time
from typing import Any

from rwkvedit.cli import set_threads
from rwkvedit.errors import UnavailableError

BENCHES = {
    "recall": ("rwkvedit.evaluate.recall", "what the model remembers of what it was told"),
    "state": ("rwkvedit.evaluate.runner", "editing methods on the live state"),
    "speed": ("rwkvedit.evaluate.speed", "tokens per second beside the rwkv package"),
    "hooks": ("rwkvedit.evaluate.hooking", "what looking inside a model costs"),
}

COMMON: dict[str, dict[str, Any]] = {
    "--model": {"default": "embedded", "metavar": "M", "help": "embedded, or a path"},
    "--device": {"default": None, "metavar": "D", "help": "auto, cpu or cuda"},
    "--threads": {"type": int, "metavar": "N", "help": "CPU threads"},
    "--json": {"action": "store_true", "help": "print one JSON document"},
}

INTERRUPTED = 130


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("bench", help="measure recall, editing or speed")
    kinds = p.add_subparsers(dest="bench", required=True, metavar="WHAT")
    for name, (where, about) in BENCHES.items():
        one = kinds.add_parser(name, help=about)
        if importlib.util.find_spec(where) is not None:
            importlib.import_module(where).add_arguments(one)
        else:
            one.set_defaults(missing=where)
        known = {flag for action in one._actions for flag in action.option_strings}
        for flag, options in COMMON.items():
            if flag not in known:
                one.add_argument(flag, **options)
    return p


def main(args: argparse.Namespace) -> int:
    """Exit code 0, or 130 when Ctrl-C cut the measurement short: what was done is still shown."""
    from rwkvedit.repl.render import Renderer

    if getattr(args, "missing", None):
        raise UnavailableError(f"bench {args.bench} is not part of this build ({args.missing})")
    set_threads(args.threads)
    began = time.perf_counter()
    if sys.stderr.isatty():
        args.on_progress = progress
    document = importlib.import_module(BENCHES[args.bench][0]).run(args)
    if "rows" in document:
        about = meta(args, time.perf_counter() - began)
        document["meta"] = {**about, **document.get("meta", {})}
    if args.json:
        Renderer().document(document)
    else:
        show(document)
    return INTERRUPTED if document.get("interrupted") else 0


def progress(done: int, of: int) -> None:
    """One line on the terminal, written over by the next."""
    sys.stderr.write(f"\r\x1b[K{done} of {of} worlds\r")
    sys.stderr.flush()


def meta(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Where the numbers come from. The model is the benchmark's own where it left one behind."""
    from rwkvedit.evaluate.loading import load_once
    from rwkvedit.report.meta import meta_of

    command = shlex.join(["rwkvedit", *sys.argv[1:]])
    return meta_of(load_once(args), getattr(args, "seed", None), command, seconds)


def show(document: dict[str, Any]) -> None:
    """A document for people, on stdout."""
    from rich.console import Console

    from rwkvedit.report import bench

    console = Console()
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    for part in bench.render(document, console.width):
        console.print(part)
