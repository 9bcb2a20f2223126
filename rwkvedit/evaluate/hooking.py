"""``bench hooks``: what looking inside costs. Every variant takes turns, so that whatever else the
machine does falls on all of them; numbers are medians of one forward, or of one generated token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from rwkvedit.errors import UsageError
from rwkvedit.transformer import Noop, Record, Steer, ZeroAblate, open_session
from rwkvedit.transformer.blocks import HFModel

PROMPT = 64  # tokens of a forward
WRITTEN = 24  # tokens of a generation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="smollm2", metavar="M", help="any that opens (smollm2)")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each variant (default 9)")
    parser.add_argument("--tokens", type=int, default=PROMPT, help="of a forward (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the tokens (default 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Rows: task, ms, and ``cost``: how much longer than with nothing registered (.05 is 5%)."""
    if args.repeats < 1 or args.tokens < 1:
        raise UsageError("--repeats and --tokens must be at least 1")
    session = open_session(args.model, getattr(args, "device", None) or "cpu")
    args.loaded = session
    generator = torch.Generator().manual_seed(args.seed)
    ids = torch.randint(2, session.shape.vocab_size, (args.tokens,), generator=generator).tolist()
    vector = torch.randn(session.d_model, generator=generator)
    middle = session.n_layer // 2
    steer, ablate = Steer(middle, vector, 0.01), ZeroAblate(middle, "mlp")
    record = Record()

    def recorded() -> None:
        record.clear()
        session.forward(ids, [record])

    def write(*hooks: Any) -> Callable[[], Any]:
        return lambda: session.generate_with_hooks(ids[:8], hooks, WRITTEN, stop_ids=())

    forwards: dict[str, Callable[[], Any]] = {
        "forward, nothing registered": lambda: session.forward(ids),
        "forward, five callbacks in every layer": lambda: session.forward(ids, [Noop()]),
        "forward, every layer recorded": recorded,
    }
    if isinstance(session.model, HFModel):
        forwards["forward, transformers alone"] = lambda: _alone(session.model, ids)
    writing: dict[str, Callable[[], Any]] = {
        "generate a token, nothing registered": write(),
        "generate a token, steered": write(steer),
        "generate a token, steered, one MLP zeroed, all recorded": write(steer, ablate, Record()),
    }
    rows = _rows(forwards, args.repeats, 1) + _rows(writing, args.repeats, WRITTEN)
    return {"rows": rows}


def _alone(model: Any, ids: list[int]) -> Any:
    """The same forward asked of transformers directly: logits of the last position."""
    with torch.no_grad():
        out = model.model(torch.tensor([ids], device=model.device), logits_to_keep=1)
        return out.logits[0, -1].float().cpu().numpy()


def _rows(tasks: dict[str, Callable[[], Any]], repeats: int, per: int) -> list[dict[str, Any]]:
    """Each task's median milliseconds; ``cost`` is the median of its ratios to the first, turn by
    turn, less one."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats):
        names = list(tasks)
        for name in names if turn % 2 else reversed(names):
            began = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - began)
    first = seconds[next(iter(tasks))]
    return [
        {
            "task": name,
            "ms": round(statistics.median(spent) * 1e3 / per, 3),
            "cost": round(
                statistics.median(a / b for a, b in zip(spent, first, strict=True)) - 1, 4
            ),
        }
        for name, spent in seconds.items()
    ]
