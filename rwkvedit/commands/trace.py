"""``rwkvedit trace MODEL --prompt P --subject S``: which states bring a fact back that noise took.

With ``--facts FILE`` the average over the facts that the model knows.
"""

from __future__ import annotations

import argparse
from typing import Any

from rwkvedit.commands import model_verbs
from rwkvedit.errors import UsageError

INTERRUPTED = 130
FACTS = 10
"""Facts traced for an average where --n does not say."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    about = "causal trace: what, restored, brings back a fact that noise on its subject took away"
    p = subparsers.add_parser("trace", help=about, description=about)
    p.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    p.add_argument("--prompt", metavar="P", help="what stands before the answer")
    p.add_argument("--subject", metavar="S", help="the words of the prompt that are corrupted")
    p.add_argument("--expect", metavar="TOKENS",
                   help="the answer to watch (default: the model's own)")  # fmt: skip
    p.add_argument("--facts", metavar="FILE",
                   help="average over a JSON file of facts instead (known_1000.json)")  # fmt: skip
    p.add_argument("--n", type=int, metavar="N",
                   help=f"with --facts: how many known facts to trace (default {FACTS})")
    p.add_argument("--kinds", metavar="K,..", help="state, mlp, attn (default: all three)")
    p.add_argument("--noise", type=float, default=3.0, metavar="X",
                   help="standard deviations of the subject tokens' embeddings (default 3)")
    p.add_argument("--runs", type=int, default=10, metavar="R", help="noise runs (default 10)")
    p.add_argument("--window", type=int, default=10, metavar="W",
                   help="layers restored together for mlp and attn (default 10)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default 0)")
    model_verbs.options(p)
    return p


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.render import Renderer

    renderer = Renderer()
    settings = {name: getattr(args, name) for name in ("noise", "runs", "seed", "window")}
    if args.kinds:
        settings["kinds"] = [kind.strip() for kind in args.kinds.split(",") if kind.strip()]
    try:
        return (_average if args.facts else _single)(args, settings, renderer)
    finally:
        renderer.end_progress()


def _single(args: argparse.Namespace, settings: dict[str, Any], renderer: Any) -> int:
    from rwkvedit.repl import located
    from rwkvedit.report import locate

    for name in ("prompt", "subject"):
        if getattr(args, name) is None:
            raise UsageError(f"trace needs --{name}, or --facts FILE for an average")
    if args.n is not None:
        raise UsageError("--n goes with --facts FILE")
    work = model_verbs.Work(args, renderer)
    result = work.session.trace(
        args.prompt, args.subject, args.expect, **settings,
        progress=lambda done, total: renderer.progress(done, total, "tracing, cells"),
    )  # fmt: skip
    renderer.end_progress()
    weak = "noise on the subject does not lower the answer: try another --noise or --expect"
    return work.answer(
        located.trace(result),
        lambda: locate.trace_plot(result),
        lambda meta: locate.trace_page(result, meta),
        args.seed,
        [result.answer.read_as, weak if result.corrupted >= result.clean else None],
    )


def _average(args: argparse.Namespace, settings: dict[str, Any], renderer: Any) -> int:
    from rwkvedit.evaluate.tracing import average_trace
    from rwkvedit.interrupt import deferred
    from rwkvedit.repl import located
    from rwkvedit.report import average
    from rwkvedit.transformer.known import load_facts

    for name in ("prompt", "subject", "expect"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is for one fact: leave it out with --facts")
    facts = load_facts(args.facts)
    work = model_verbs.Work(args, renderer)
    with deferred() as pressed:
        result = average_trace(
            work.session, facts, FACTS if args.n is None else args.n, **settings, cancel=pressed,
            progress=lambda what, done, total: renderer.progress(done, total, f"{what}, facts"),
        )  # fmt: skip
    renderer.end_progress()
    stopped = f"interrupted: the average is over the {len(result.traced)} facts traced so far"
    code = work.answer(
        located.average(result),
        lambda: average.plot(result),
        lambda meta: average.page(result, meta),
        args.seed,
        [stopped if result.stopped else None],
    )
    return INTERRUPTED if result.stopped else code
