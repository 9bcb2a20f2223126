"""``rwkvedit study NAME|all|list``: how this model holds a told fact; tables, plots and a page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rwkvedit.cli import load, model_options
from rwkvedit.errors import UsageError

ALL, LIST = "all", "list"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("study", help="anatomy: how the model holds a told fact")
    p.add_argument("name", metavar="NAME", help="a study, all, or list (which shows them)")
    p.add_argument("--worlds", type=int, metavar="N", help="worlds (each study has its default)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the worlds (default 0)")
    p.add_argument("--lexicon", default="common", metavar="L",
                   help="common (default), held-out, or a JSON file of words")
    p.add_argument("--a", metavar="FILE", help="prompts to contrast, one a line[<tab>group]")
    p.add_argument("--b", metavar="FILE", help="the prompts they are contrasted with")
    p.add_argument("--permutations", type=int, default=99, metavar="N",
                   help="label permutations of probes (default 99)")
    p.add_argument("--out", metavar="DIR", help="write JSON, PNGs and a page (index.html) there")
    p.add_argument("--fresh", action="store_true", help="with all: run finished studies again")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    model_options(p)
    return p


def options_of(args: argparse.Namespace) -> Any:
    from rwkvedit.study import Options

    options = Options(args.worlds, args.seed, args.lexicon, args.a, args.b, args.permutations)
    options.check()
    return options


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.render import Renderer

    renderer = Renderer()
    if args.name == LIST:
        return listed(args, renderer)
    if args.name == ALL:
        return everything(args, renderer)
    from rwkvedit.study import find_study, run_study
    from rwkvedit.study.files import open_folder, write_one

    find_study(args.name)
    options = options_of(args)
    folder = open_folder(args.out) if args.out else None
    document = run_study(args.name, load(args), options).to_json()
    if folder is not None:
        renderer.notice(f"wrote {', '.join(map(str, write_one(document, folder)))}")
    if args.json:
        renderer.document(document)
    else:
        show(document, renderer)
    return 0


def listed(args: argparse.Namespace, renderer: Any) -> int:
    from rwkvedit.study import STUDIES

    rows = [{"study": e.name, "question": e.question, "worlds": e.worlds or None,
             "min_layers": e.min_layers, "needs": list(e.needs)} for e in STUDIES.values()]
    if args.json:
        renderer.document({"studies": rows})
        return 0
    from rwkvedit.repl.result import Table

    renderer.block(Table(("study", "question"), tuple((r["study"], r["question"]) for r in rows)))
    return 0


def everything(args: argparse.Namespace, renderer: Any) -> int:
    from rwkvedit.study.files import PAGE, run_all

    if not args.out:
        raise UsageError("study all writes files: say where with --out DIR")
    options = options_of(args)
    try:
        documents = run_all(
            load(args), options, args.out, fresh=args.fresh, notice=renderer.notice)
    except KeyboardInterrupt:
        renderer.notice("finished studies are kept; the same command goes on from there")
        raise
    page = Path(args.out).expanduser() / PAGE
    if args.json:
        renderer.document({"studies": documents, "page": str(page)})
        return 0
    from rwkvedit.repl.result import Text

    for document in documents:
        renderer.block(Text(f"{document['study']}: {document['finding']}\n"))
    renderer.block(Text(f"{len(documents)} studies: {page}"))
    return 0


def show(document: dict[str, Any], renderer: Any) -> None:
    """Finding and tables on stdout, then the command, the model and the seconds."""
    from rwkvedit.report.tables import Table, rich_table, roomy

    renderer.show(document["question"], style="dim")
    renderer.show(document["finding"] + "\n")
    main = {"title": document["title"], "columns": document["columns"], "rows": document["rows"]}
    tables = [Table.from_json(data) for data in (main, *document["tables"])]
    for table in tables:
        renderer.show(rich_table(table, renderer.width), "")
    if not all(roomy(table, renderer.width) for table in tables):
        renderer.show("95% intervals: --json, or a wider terminal", style="dim")
    meta = document["meta"]
    renderer.show(
        f"{meta['command']}\nrwkvedit {meta['version']}, {meta['model']} "
        f"{str(meta['model_digest'])[:16]}, {meta['device']} {meta['dtype']}, "
        f"{meta['threads']} threads, seed {meta['seed']}, {meta['seconds']:.1f} s",
        style="dim", wrap=sys.stdout.isatty(),
    )
