"""``rwkvedit replay``: run recorded sessions again and show what differs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rwkvedit.cli import load, model_options


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("replay", help="run transcripts again and compare")
    p.add_argument("files", nargs="+", metavar="FILE", help="transcripts")
    p.add_argument("--update", action="store_true", help="rewrite them with what comes out")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    model_options(p)
    p.set_defaults(model=None)
    return p


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.render import Renderer
    from rwkvedit.repl.replay import replay

    renderer = Renderer()
    models: dict[str, Any] = {}

    def model(header: dict[str, str]) -> Any:
        name = args.model or header.get("model", "embedded")
        if name not in models:
            models[name] = load(argparse.Namespace(**{**vars(args), "model": name}))
        return models[name]

    done = []
    for name in args.files:
        one = replay(Path(name).expanduser(), model, update=args.update)
        done.append(one)
        if not args.json:
            _show(renderer, one, args.update)
    failed = sum(bool(one.mismatches) for one in done) if not args.update else 0
    if args.json:
        renderer.document(
            {
                "files": [one.to_json() for one in done],
                "passed": len(done) - failed,
                "failed": failed,
            }
        )
    return 1 if failed else 0


def _show(renderer: Any, one: Any, update: bool) -> None:
    from rwkvedit.repl.result import Text

    for notice in one.notices:
        renderer.notice(f"{one.path}: {notice}")
    if update:
        verdict = f"rewritten, {len(one.mismatches)} changed, {one.unfilled} filled"
    elif one.mismatches:
        verdict = f"{len(one.mismatches)} of {one.turns} differ"
    else:
        verdict = f"{one.turns} as recorded"
        if one.unfilled:
            verdict += f" ({one.unfilled} have no output yet; --update fills them)"
    renderer.block(Text(f"{one.path}: {verdict}"))
    if not update:
        for mismatch in one.mismatches:
            renderer.block(Text(f"  step {mismatch.step}: {mismatch.input}"))
            for row in mismatch.diff:
                renderer.block(Text(f"    {row}"))
