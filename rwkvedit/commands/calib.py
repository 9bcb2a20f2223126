"""``rwkvedit calib``: fit, list, show, remove, export and import saved calibrations."""

from __future__ import annotations

import argparse
from typing import Any

from rwkvedit.cli import load, model_options
from rwkvedit.recurrent.calibactions import ACTIONS, perform


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("calib", help="saved calibrations for live edits")
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("words", nargs="*", metavar="ARG",
                        help='fit "old" "new"; show/rm NAME; export NAME FILE; import FILE')
    parser.add_argument("--kind", help="fit many values of one kind of fact (with --values), "
                        "or all: some common values of every kind")
    parser.add_argument("--values", help="comma-separated values for --kind")
    parser.add_argument("--entity", default="", help="who the values are told of (default Sam)")
    parser.add_argument("--name", default="", help="the calibration's name")
    parser.add_argument("--to", metavar="FOLDER",
                        help="fit into this library folder, not yours (how calibrations/ is made)")
    model_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(main=main)


def lines(document: Any) -> list[str]:
    """The document for a person, a line each."""
    if isinstance(document, list):
        if not document:
            return ['no calibrations for this model; fit one: calib fit "old fact" "new fact"']
        out = []
        for row in document:
            values = ", ".join(v.strip() for v in row["values"][:4])
            more = f" and {len(row['values']) - 4} more" if len(row["values"]) > 4 else ""
            place = "shipped" if row["shipped"] else "yours"
            out.append(f"{row['name']}  {row['kind'] or '-'}  {place}  {values}{more}")
        return out
    return [f"{key}: {value if not isinstance(value, list) else ', '.join(map(str, value))}"
            for key, value in document.items()]


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.render import Renderer

    loaded = load(args)
    document = perform(
        loaded, args.action, args.words, kind=args.kind, values=args.values, entity=args.entity,
        name=args.name, to=args.to,
    )
    renderer = Renderer()
    if args.action == "list":
        from rwkvedit.recurrent.library import Library

        for line in Library.of(loaded).damaged():
            renderer.notice(line)
    if args.json:
        renderer.document(document)
    else:
        renderer.write("".join(f"{line}\n" for line in lines(document)))
    return 0
