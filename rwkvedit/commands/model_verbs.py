"""What the verbs that open a model share: their options, the opened model, and how they answer."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from rwkvedit.cli import set_threads


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--png", metavar="FILE", help="draw it there")
    p.add_argument("--html", metavar="FILE", help="write it there as one self-contained page")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    model_group(p)


def model_group(p: argparse.ArgumentParser) -> None:
    """The options of every verb that opens a session."""
    group = p.add_argument_group("model")
    group.add_argument("--bos", action="store_true", help="put a BOS token before the prompt")
    group.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda")
    group.add_argument("--dtype", default=None, metavar="T", help="fp32, bf16 or fp16")
    group.add_argument("--vocab", default=None, metavar="FILE", help="a vocabulary (RWKV-7)")
    group.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads")


def gate_options(p: argparse.ArgumentParser) -> None:
    """The options of a verb that makes one edit behind the gate."""
    p.add_argument("--layer", type=int, metavar="N", help="only this one (default: up to three)")
    p.add_argument("--output", metavar="FILE", help="write the change there (.lqpatch)")
    p.add_argument("--label", default="", metavar="TEXT", help="a name for it in the patch")
    p.add_argument("--no-gate", action="store_true", help="keep it whatever else it does")
    p.add_argument("--lenient", action="store_true", help="let behaviour move by 0.25 nats")


def edit_options(p: argparse.ArgumentParser) -> None:
    """The options of every verb that changes what the weights know."""
    p.add_argument("--stats", metavar="FILE", help="text for the key statistics (default: shipped)")
    p.add_argument("--validate-specificity", type=int, default=0, metavar="N",
                   help="ask N held-out facts before and after")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the held-out facts")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    model_group(p)


class Work:
    """One verb's model, pictures and clock, which starts when the model is open.

    Names of pictures are checked before the model is opened.
    """

    def __init__(self, args: argparse.Namespace, renderer: Any) -> None:
        from rwkvedit.repl.pictures import Pictures
        from rwkvedit.transformer import open_session

        self.args, self.renderer = args, renderer
        drawn = {"png": getattr(args, "png", None), "html": getattr(args, "html", None)}
        self.pictures = Pictures(drawn)
        set_threads(args.threads)
        self.session = open_session(
            args.model, args.device, args.dtype, bos=args.bos, vocab=args.vocab
        )
        self.began = time.perf_counter()

    def answer(
        self,
        view: tuple[dict[str, Any], list[Any]],
        plot: Callable[[], Any],
        page: Callable[[Mapping[str, Any]], str],
        seed: int | None = None,
        notices: list[str | None] | tuple[str | None, ...] = (),
    ) -> int:
        """Print ``view`` as a person or a script wants it, and draw what was asked for."""
        command = shlex.join(["rwkvedit", *sys.argv[1:]])
        seconds = time.perf_counter() - self.began
        drawn = self.pictures.write(self.session, command, plot, page, seed)
        return self.show(view, seed, [*notices, *drawn], seconds)

    def show(
        self,
        view: tuple[dict[str, Any], list[Any]],
        seed: int | None = None,
        notices: Sequence[str | None] = (),
        seconds: float | None = None,
    ) -> int:
        """Print ``view`` alone; ``seconds`` None: until now."""
        from rwkvedit.report.meta import meta_of

        command = shlex.join(["rwkvedit", *sys.argv[1:]])
        loaded = SimpleNamespace(model=self.session, name=self.session.name)
        took = time.perf_counter() - self.began if seconds is None else seconds
        meta = meta_of(loaded, seed, command, took)
        for notice in filter(None, notices):
            self.renderer.notice(notice)
        data, blocks = view
        if self.args.json:
            self.renderer.document({**data, "meta": meta})
            return 0
        for block in blocks:
            self.renderer.block(block)
        return 0
