"""``rwkvedit crown MODEL --prompt P``: the layer whose MLP the answer most depends on."""

from __future__ import annotations

import argparse
from typing import Any

from rwkvedit.commands import model_verbs


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    about = "where an answer is made: zero each layer's MLP at the prompt's last position"
    p = subparsers.add_parser("crown", help=about, description=about)
    p.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    p.add_argument("--prompt", required=True, metavar="P", help="what stands before the answer")
    p.add_argument("--expect", metavar="TOKENS",
                   help="the answer to watch (default: the model's own)")  # fmt: skip
    p.add_argument("--layers", metavar="a:b", help="only these, b excluded (default: all)")
    model_verbs.options(p)
    return p


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl import located
    from rwkvedit.repl.render import Renderer
    from rwkvedit.report import locate

    work = model_verbs.Work(args, Renderer())
    result = work.session.crown(args.prompt, args.expect, args.layers)
    return work.answer(
        located.crown(result),
        lambda: locate.crown_plot(result),
        lambda meta: locate.crown_page(result, meta),
        notices=[result.answer.read_as],
    )
