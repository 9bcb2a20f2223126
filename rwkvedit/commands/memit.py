"""``rwkvedit memit MODEL --edits FILE``: many facts at once, by MEMIT or AlphaEdit."""

from __future__ import annotations

import argparse
from typing import Any

from rwkvedit.commands import model_verbs

FELL_SHORT = 1


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    about = "change many facts in a model's weights at once, over a spread of layers"
    p = subparsers.add_parser("memit", help=about, description=about)
    p.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    p.add_argument("--edits", required=True, metavar="FILE",
                   help="a JSON list of {prompt, subject, target, label?, layer?}")  # fmt: skip
    p.add_argument("--method", choices=("memit", "alphaedit"), default="memit",
                   help="alphaedit keeps to directions the corpus hardly uses")  # fmt: skip
    p.add_argument("--layers", metavar="a:b", help="the spread (default: this model's settings)")
    p.add_argument("--crown", action="store_true",
                   help="write each edit at the layer its answer most depends on")  # fmt: skip
    p.add_argument("--output", metavar="DIR", help="write the patches and their manifest there")
    model_verbs.edit_options(p)
    return p


def main(args: argparse.Namespace) -> int:
    """0 when every edit flipped, 1 when some did not."""
    from rwkvedit.interrupt import deferred
    from rwkvedit.repl import rewritten
    from rwkvedit.repl.render import Renderer
    from rwkvedit.transformer.batch import edit_many, load_edits
    from rwkvedit.transformer.patchfile import save_batch

    requests = load_edits(args.edits)
    renderer = Renderer()
    work = model_verbs.Work(args, renderer)
    try:
        with deferred() as pressed:
            result = edit_many(
                work.session, requests, args.method, layers=args.layers, crown=args.crown,
                stats=args.stats, specificity=args.validate_specificity, seed=args.seed,
                cancel=pressed,
                progress=lambda what, done, total: renderer.progress(done, total, what),
            )  # fmt: skip
    finally:
        renderer.end_progress()
    paths, notices = [], list(result.notices)
    if args.output:
        paths = [str(path) for path in save_batch(args.output, result.named_patches())]
        notices.append(f"wrote {len(paths) - 1} patches and {paths[-1]}")
    work.show(rewritten.batch(result, paths), args.seed, notices)
    return 0 if all(result.flips) else FELL_SHORT
