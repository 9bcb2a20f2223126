"""``rwkvedit demo interp``: every primitive once, on a toy that needs no download or on a model."""

from __future__ import annotations

import argparse
import time
from typing import Any

from rwkvedit.cli import set_threads


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("demo", help="a walk through what can be asked of a model")
    p.add_argument("name", choices=("interp",), help="interp: looking into a transformer")
    p.add_argument("--model", default="toy", metavar="M", help="toy (default), smollm2, or a path")
    p.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def main(args: argparse.Namespace) -> int:
    """Exit code 1 when anything that must hold does not."""
    from rwkvedit.commands.look import Context, meta
    from rwkvedit.repl.render import Renderer
    from rwkvedit.repl.result import Text
    from rwkvedit.repl.tour import Done, Step, walk

    set_threads(args.threads)
    renderer = Renderer()
    say = (lambda text: None) if args.json else lambda text: renderer.block(Text(text))
    ctx = Context(on_progress=renderer.progress)
    began, done = time.perf_counter(), []
    session: Any = None

    def announce(step: Step) -> None:
        renderer.end_progress()
        say(f"\n# {step.why}\n> {step.line}")

    def report(one: Done) -> None:
        renderer.result(one.result)
        if one.ok is not None:
            say(f"check: {one.step.holds}: {'yes' if one.ok else 'NO'}")

    for one in walk(ctx, args.model, announce):
        session = session or ctx.sessions.current.session
        done.append(one)
        if not args.json:
            report(one)
    checked = [one for one in done if one.ok is not None]
    failed = sum(not one.ok for one in checked)
    if args.json:
        steps = [one.to_json() for one in done]
        renderer.document({"steps": steps, "passed": len(checked) - failed, "failed": failed,
                           "meta": meta(args, session, began)})  # fmt: skip
    else:
        say(f"\n{len(done)} steps, {len(checked) - failed} of {len(checked)} checks hold, "
            f"{time.perf_counter() - began:.1f} s")  # fmt: skip
    return 1 if failed else 0
