"""``rwkvedit bench recall|state|speed``: measurements, as a table or one JSON document."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import shlex
import sys
import time
from typing import Any

from rwkvedit import __version__
from rwkvedit.cli import set_threads
from rwkvedit.errors import UnavailableError

BENCHES = {
    "recall": ("rwkvedit.evaluate.recall", "what the model remembers of what it was told"),
    "state": ("rwkvedit.evaluate.runner", "editing methods on the live state"),
    "speed": ("rwkvedit.evaluate.speed", "tokens per second beside the rwkv package"),
}

COMMON: dict[str, dict[str, Any]] = {
    "--model": {"default": "embedded", "metavar": "M", "help": "embedded, or a path"},
    "--device": {"default": None, "metavar": "D", "help": "auto, cpu or cuda"},
    "--threads": {"type": int, "metavar": "N", "help": "CPU threads"},
    "--json": {"action": "store_true", "help": "print one JSON document"},
}


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
    from rwkvedit.repl.render import Renderer

    if getattr(args, "missing", None):
        raise UnavailableError(f"bench {args.bench} is not part of this build ({args.missing})")
    set_threads(args.threads)
    began = time.perf_counter()
    document = importlib.import_module(BENCHES[args.bench][0]).run(args)
    about = meta(args, time.perf_counter() - began)
    document["meta"] = {**about, **document.get("meta", {})}
    renderer = Renderer()
    if args.json:
        renderer.document(document)
        return 0
    show(document)
    return 0


def meta(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Where the numbers come from."""
    import torch

    from rwkvedit.models.catalog import load_model

    model = load_model(args.model or "embedded", args.device or "auto").model
    return {
        "version": __version__,
        "model": str(args.model),
        "model_digest": model.digest,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": getattr(args, "seed", None),
        "command": shlex.join(["rwkvedit", *sys.argv[1:]]),
        "seconds": round(seconds, 3),
    }


def show(document: dict[str, Any]) -> None:
    """The rows as a table on stdout; a rate as its mean and, where there is room, [lo, hi]."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rows = document["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    roomy = console.width >= 18 * len(columns)
    table = Table(box=None, padding=(0, 1))
    for column in columns:
        table.add_column(
            column.replace("_", " "), justify="left" if column in TEXT_COLUMNS else "right"
        )
    for row in rows:
        table.add_row(*(cell(row.get(column), roomy) for column in columns))
    console.print(table)
    if not roomy:
        console.print("95% intervals: --json, or a wider terminal", style="dim")
    console.print(f"{document['meta']['command']}  ({document['meta']['seconds']} s)", style="dim")


TEXT_COLUMNS = ("name", "method", "task", "size", "peer_name", "unit")


def cell(value: Any, intervals: bool) -> str:
    """One value for people."""
    if isinstance(value, dict) and "mean" in value:
        if value["mean"] is None:
            return "-"
        mean = number(value["mean"])
        return f"{mean} [{number(value['lo'])}, {number(value['hi'])}]" if intervals else mean
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else str(value)


def number(value: float) -> str:
    """Three decimals for a share, fewer digits for a large number."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
