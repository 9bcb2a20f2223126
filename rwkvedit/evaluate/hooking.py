"""``bench hooks``: what looking inside costs. Every variant takes turns, so that whatever else the
machine does falls on all of them. A cost is the median of the ratios to the first variant, turn by
turn, less one, with a 95% interval; ``ms`` is a median of one forward, or of one generated token.

What a session adds where nothing is registered is far below what two forwards of the same kind
differ by. So it is timed by itself too: a forward's time less that spent inside the model's own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from rwkvedit.errors import UsageError
from rwkvedit.transformer import Noop, Record, Steer, ZeroAblate, open_session
from rwkvedit.transformer.blocks import HFModel

PROMPT = 64  # tokens of a forward
WRITTEN = 16  # tokens of a generation
REPEATS = 31
DRAWS = 2000  # of the bootstrap


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="smollm2", metavar="M", help="any that opens (smollm2)")
    parser.add_argument(
        "--repeats", type=int, default=REPEATS,
        help=f"turns of each forward, and of a third as many generations (default {REPEATS})",
    )  # fmt: skip
    parser.add_argument("--tokens", type=int, default=PROMPT, help="of a forward (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the tokens (default 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Rows: task, ms, ``cost`` (.05: 5% longer than the first of its kind), its ``lo`` and ``hi``,
    and ``n`` turns."""
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

    def forward() -> Any:
        return session.forward(ids)

    forwards: dict[str, Callable[[], Any]] = {
        "forward, nothing registered": forward,
        "forward, five callbacks in every layer": lambda: session.forward(ids, [Noop()]),
        "forward, every layer recorded": recorded,
    }
    if isinstance(session.model, HFModel):
        alone = {"forward, transformers alone": lambda: _alone(session.model, ids)}
        forwards = {**alone, **forwards}
    writing: dict[str, Callable[[], Any]] = {
        "generate a token, nothing registered": write(),
        "generate a token, steered": write(steer),
        "generate a token, steered, one MLP zeroed, all recorded": write(steer, ablate, Record()),
    }
    rows = [
        *_rows(forwards, args.repeats, 1),
        _outside(session.model, forward, args.repeats),
        *_rows(writing, -(-args.repeats // 3), WRITTEN),
    ]
    return {"rows": rows}


def _alone(model: Any, ids: list[int]) -> Any:
    """The same forward asked of transformers directly: logits of the last position."""
    with torch.no_grad():
        tokens = torch.tensor([ids], device=model.device)
        out = model.model(tokens, logits_to_keep=1, use_cache=False)
        return out.logits[0, -1].float().cpu().numpy()


def _rows(tasks: dict[str, Callable[[], Any]], repeats: int, per: int) -> list[dict[str, Any]]:
    """A row a task, all of them in turns; the order is reversed every other turn."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats):
        names = list(tasks)
        for name in names if turn % 2 else reversed(names):
            seconds[name].append(_seconds(tasks[name]))
    first = seconds[next(iter(tasks))]
    return [
        _row(name, spent, per, [a / b - 1 for a, b in zip(spent, first, strict=True)])
        for name, spent in seconds.items()
    ]


def _outside(model: Any, forward: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """What a forward spends outside the model's own code, as a share of what it spends inside."""
    spent, costs = [], []
    with _timed(model) as inside:
        for _ in range(repeats):
            inside.clear()
            whole = _seconds(forward)
            spent.append(whole - sum(inside))
            costs.append(spent[-1] / sum(inside))
    return _row("forward, the session's own part of it", spent, 1, costs)


@contextmanager
def _timed(model: Any) -> Iterator[list[float]]:
    """The seconds of every call into the model's own code, while the block runs."""
    seconds: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - began)

        return run

    if isinstance(model, HFModel):
        base, project = model.base, model.project
        with patch.object(base, "forward", timed(base.forward)), \
                patch.object(model, "project", timed(project)):  # fmt: skip
            yield seconds
    else:
        with patch.object(model.model, "forward", timed(model.model.forward)):
            yield seconds


def _seconds(task: Callable[[], Any]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def _row(name: str, spent: Sequence[float], per: int, costs: Sequence[float]) -> dict[str, Any]:
    lo, hi = _interval(costs)
    return {
        "task": name,
        "ms": round(statistics.median(spent) * 1e3 / per, 3),
        "cost": round(statistics.median(costs), 4),
        "lo": round(lo, 4),
        "hi": round(hi, 4),
        "n": len(costs),
    }


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """95% percentile bootstrap of the median."""
    data = np.asarray(values)
    picks = np.random.default_rng(0).integers(0, len(data), (DRAWS, len(data)))
    lo, hi = np.percentile(np.median(data[picks], axis=1), [2.5, 97.5])
    return float(lo), float(hi)
