"""``rwkvedit edit MODEL --src P --tgt P --new-token T``: change one fact in a model's weights."""

from __future__ import annotations

import argparse
from typing import Any

from rwkvedit.commands import model_verbs

REFUSED = 1


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    about = "change what the weights answer to a prompt, by one rank-one update behind a gate"
    p = subparsers.add_parser("edit", help=about, description=about)
    p.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    p.add_argument("--src", required=True, metavar="P", help="the prompt to be answered otherwise")
    p.add_argument("--tgt", required=True, metavar="P", help="one that is answered so already")
    p.add_argument("--new-token", required=True, metavar="T", help="the new answer, one token")
    p.add_argument("--subject", metavar="S", help="whom or what it is about (default: the words in "
                   "which --src differs from --tgt)")  # fmt: skip
    p.add_argument("--method", choices=("whitened", "plain"), default="whitened",
                   help="plain is d = W_down (k_tgt - k_src) at the crown")  # fmt: skip
    model_verbs.gate_options(p)
    model_verbs.edit_options(p)
    return p


def main(args: argparse.Namespace) -> int:
    from rwkvedit.interrupt import deferred
    from rwkvedit.repl import edited
    from rwkvedit.repl.render import Renderer
    from rwkvedit.transformer.patchfile import save_patch
    from rwkvedit.transformer.rank1 import edit

    renderer = Renderer()
    work = model_verbs.Work(args, renderer)
    try:
        with deferred() as pressed:
            result = edit(
                work.session, args.src, args.tgt, args.new_token, args.layer,
                method=args.method, subject=args.subject, gate=not args.no_gate,
                strict=not args.lenient, stats=args.stats, label=args.label, seed=args.seed,
                specificity=args.validate_specificity, cancel=pressed,
                progress=lambda what, done, total: renderer.progress(done, total, what),
            )  # fmt: skip
    finally:
        renderer.end_progress()
    paths, notices = [], list(result.notices)
    if args.output and result.landed:
        paths.append(str(save_patch(args.output, result.patch)))
        notices.append(f"wrote {paths[0]}")
    work.show(edited.edit(result, paths), args.seed, notices)
    return 0 if result.landed else REFUSED
