"""``rwkvedit models list``: what can be loaded by name."""

from __future__ import annotations

import argparse
import json
import sys

from rwkvedit.models.catalog import list_models


def add_parser(subparsers: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    parser = subparsers.add_parser("models", help="models that can be loaded by name")
    parser.add_argument("action", nargs="?", default="list", choices=("list",))
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    rows = list_models()
    if args.json:
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
        return 0
    for row in rows:
        have = "available" if row["available"] else "not here"
        size = f"{row['parameters'] / 1e6:.1f}M" if row["parameters"] else ""
        digest = (row["digest"] or "")[:16]
        line = f"{row['name']:10} {row['kind']:12} {have:10} {size:>8} {digest:16} {row['source']}"
        sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.write("or a path to an official RWKV-7 .pth or .safetensors checkpoint\n")
    return 0
