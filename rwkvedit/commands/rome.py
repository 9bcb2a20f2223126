"""``rwkvedit rome MODEL --prompt P --subject S --target T``: change one fact, after Meng et al.

With ``--calibrate`` find this model's settings instead, and keep them.
"""

from __future__ import annotations

import argparse
from typing import Any

from rwkvedit.commands import model_verbs
from rwkvedit.errors import UsageError

REFUSED = 1


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    about = "change a fact in a model's weights: one rank-one update found by gradient (ROME)"
    p = subparsers.add_parser("rome", help=about, description=about)
    p.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    p.add_argument("--prompt", metavar="P", help="what stands before the answer")
    p.add_argument("--subject", metavar="S", help="the words of the prompt that the fact is about")
    p.add_argument("--target", metavar="T", help="the new answer, of any number of tokens")
    p.add_argument("--calibrate", metavar="FILE",
                   help="find this model's settings on CounterFact's flat records, and keep them")
    p.add_argument("--n", type=int, default=12, metavar="N",
                   help="with --calibrate: records to try (default 12)")  # fmt: skip
    model_verbs.gate_options(p)
    model_verbs.edit_options(p)
    return p


def main(args: argparse.Namespace) -> int:
    from rwkvedit.interrupt import deferred
    from rwkvedit.repl import rewritten
    from rwkvedit.repl.render import Renderer
    from rwkvedit.transformer.patchfile import save_patch
    from rwkvedit.transformer.rome import rome

    wanted = [name for name in ("prompt", "subject", "target") if getattr(args, name) is None]
    if args.calibrate:
        return _calibrate(args)
    if wanted:
        raise UsageError(f"rome needs --{', --'.join(wanted)} (or --calibrate FILE)")
    renderer = Renderer()
    work = model_verbs.Work(args, renderer)
    try:
        with deferred() as pressed:
            result = rome(
                work.session, args.prompt, args.subject, args.target, args.layer,
                gate=not args.no_gate, strict=not args.lenient, stats=args.stats,
                specificity=args.validate_specificity, label=args.label, seed=args.seed,
                cancel=pressed,
                progress=lambda what, done, total: renderer.progress(done, total, what),
            )  # fmt: skip
    finally:
        renderer.end_progress()
    paths, notices = [], list(result.notices)
    if args.output and result.landed:
        paths.append(str(save_patch(args.output, result.patch)))
        notices.append(f"wrote {paths[0]}")
    work.show(rewritten.rome(result, paths), args.seed, notices)
    return 0 if result.landed else REFUSED


def _calibrate(args: argparse.Namespace) -> int:
    from rwkvedit.evaluate.calibrating import calibrate
    from rwkvedit.interrupt import deferred
    from rwkvedit.repl import rewritten
    from rwkvedit.repl.render import Renderer
    from rwkvedit.transformer.tuning import save

    renderer = Renderer()
    work = model_verbs.Work(args, renderer)
    try:
        with deferred() as pressed:
            found = calibrate(
                work.session, args.calibrate, args.n, args.seed, stats=args.stats, cancel=pressed,
                progress=lambda done, total: renderer.progress(done, total, "edits tried"),
            )  # fmt: skip
    finally:
        renderer.end_progress()
    path = save(work.session, found)
    return work.show(rewritten.settings(found), args.seed, [f"wrote {path}"])
