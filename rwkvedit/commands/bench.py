"""``rwkvedit bench recall|state|speed``: one document, as JSON or as a table."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from rwkvedit import __version__

# Benchmark to (module with add_arguments and run, what it measures).
BENCHMARKS = {
    "recall": ("rwkvedit.evaluate.recall", "what the model remembers of what it was told"),
    "state": ("rwkvedit.evaluate.runner", "state editing methods over generated worlds"),
    "speed": ("rwkvedit.evaluate.speed", "tokens per second, beside the rwkv package"),
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("bench", help="benchmarks")
    kinds = parser.add_subparsers(dest="benchmark", required=True)
    for name, (module, what) in BENCHMARKS.items():
        one = kinds.add_parser(name, help=what, description=what)
        one.add_argument("--model", default="embedded", help="embedded (default) or a path")
        one.add_argument("--device", default="auto", help="auto, cpu or cuda")
        one.add_argument("--json", action="store_true", help="print one JSON document")
        one.add_argument("--output", type=Path, help="also write the JSON document here")
        importlib.import_module(module).add_arguments(one)
    parser.set_defaults(main=main)
    return parser


def main(args: argparse.Namespace) -> int:
    module = importlib.import_module(BENCHMARKS[args.benchmark][0])
    began = time.perf_counter()
    document = module.run(args)
    document["meta"] = {**meta(args, time.perf_counter() - began), **document.get("meta", {})}
    text = json.dumps(document)
    if args.output:
        from rwkvedit.files import atomic_write

        atomic_write(args.output, text.encode())
    if args.json:
        print(text)
    else:
        show(document)
    return 0


def show(document: dict[str, Any]) -> None:
    """The rows as a table on stdout; a rate as mean [lo, hi]."""
    from rich.console import Console
    from rich.table import Table

    rows = document["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table()
    for column in columns:
        table.add_column(column, justify="left" if column in ("name", "method") else "right")
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    console = Console()
    console.print(table)
    console.print(f"{document['meta']['command']}  ({document['meta']['seconds']} s)")


def cell(value: Any) -> str:
    """One value for people."""
    if isinstance(value, dict) and "mean" in value:
        if value["mean"] is None:
            return "-"
        return f"{value['mean']:.3f} [{value['lo']:.3f}, {value['hi']:.3f}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def meta(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What every benchmark document carries; see the contract of ``--json``."""
    import torch

    from rwkvedit.models.catalog import load_model

    loaded = load_model(args.model, device=args.device)
    return {
        "version": __version__, "model": args.model, "model_digest": loaded.model.digest,
        "device": str(loaded.model.device), "dtype": str(loaded.model.dtype).split(".")[-1],
        "threads": torch.get_num_threads(), "seed": getattr(args, "seed", None),
        "command": "rwkvedit " + " ".join(sys.argv[1:]), "seconds": round(seconds, 2),
    }
