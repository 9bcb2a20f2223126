"""Causal tracing: which hidden states, put back, bring a fact back that noise has taken away.

Meng et al., "Locating and Editing Factual Associations in GPT" (2022), section 2: a clean run, a
run whose subject embeddings carry Gaussian noise, and corrupted runs with one thing restored to
what it was in the clean run. Restored are a layer's output at one position (``state``), or the MLP
or attention outputs of a window of layers at one position (``mlp``, ``attn``). Edits nothing.

A cell starts where it departs from the corrupted run: at its own position, behind the corrupted
run's cache, and (transformers) at its own layer, with the corrupted run's residual entering it.

Glossary: L layers, T tokens of the prompt, k of the answer, N = T + k - 1 tokens fed, R noise runs,
D residual width, V vocabulary; a cell is (layer, position); C cells of one batch (C * R rows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.answers import (
    Answer,
    Expect,
    answer_of,
    find_subject,
    log_p,
    watch,
    window_for,
)
from rwkvedit.transformer.hooks import Fn, finite

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession, Prompt

KINDS = {"state": "resid_out", "mlp": "ffn.out", "attn": "att.out"}
"""What can be restored, and the site where it is."""
NOISE, RUNS, WINDOW = 3.0, 10, 10
"""Section 2 and appendix B.1 of the paper: 3 standard deviations, 10 runs, 10 layers."""
BATCH = 320
"""Tokens of one batch: larger ones are no faster on a CPU."""
TOP = 3

Progress = Callable[[int, int], None]
Cancel = Callable[[], bool]


@dataclass(frozen=True)
class TraceGrid:
    """One kind of restoration."""

    p: np.ndarray
    """(L, T) probability of the answer with (layer, position) restored, the mean of the runs."""
    top: list[list[list[tuple[str, float]]]]
    """[layer][position]: the likeliest tokens after the prompt, by the mean of the runs."""


@dataclass(frozen=True)
class TraceResult:
    """A causal trace of one fact. Indirect effect of a cell: ``grids[kind].p - corrupted``."""

    tokens: list[int]
    pieces: list[str]
    subject: list[int]
    """Positions whose embeddings were corrupted."""
    answer: Answer
    clean: float
    """Probability of the answer in the clean run."""
    corrupted: float
    """The same with noise, the mean of the runs."""
    clean_top: list[tuple[str, float]]
    corrupted_top: list[tuple[str, float]]
    grids: dict[str, TraceGrid]
    noise: float
    """Multiples of ``std``."""
    std: float
    """Of the subject tokens' embeddings."""
    runs: int
    seed: int
    window: int

    @property
    def total_effect(self) -> float:
        return self.clean - self.corrupted

    def effect(self, kind: str) -> np.ndarray:
        """(L, T) indirect effects: what restoring a cell adds to the corrupted probability."""
        return self.grids[kind].p - self.corrupted

    def best(self, kind: str) -> tuple[int, int, float]:
        """(layer, position, probability) of the strongest cell."""
        p = self.grids[kind].p
        layer, at = np.unravel_index(int(p.argmax()), p.shape)
        return int(layer), int(at), float(p[layer, at])

    def to_json(self) -> dict[str, Any]:
        """``hidden``, ``mlp`` and ``attn`` are [layer][position]; empty where not asked for."""
        names = {"hidden": "state", "mlp": "mlp", "attn": "attn"}
        return {
            "tokens": self.pieces,
            "subject": self.subject,
            "answer": self.answer.to_json(),
            "clean": self.clean,
            "corrupted": self.corrupted,
            **{
                name: self.grids[kind].p.tolist() if kind in self.grids else []
                for name, kind in names.items()
            },
            "best": {
                name: dict(zip(("layer", "position", "p"), self.best(kind), strict=True))
                for name, kind in names.items()
                if kind in self.grids
            },
            "noise": self.noise,
            "std": self.std,
            "runs": self.runs,
            "seed": self.seed,
            "window": self.window,
        }


def trace(
    session: ModelSession,
    prompt: Prompt,
    subject: str,
    expect: Expect = None,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    noise: float = NOISE,
    runs: int = RUNS,
    seed: int = 0,
    window: int = WINDOW,
    std: float | None = None,
    bos: bool | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> TraceResult:
    """Trace one fact: every (layer, position) for each of ``kinds``.

    ``subject`` stands in the prompt; ``expect`` is the answer watched (None: the model's own).
    Noise has standard deviation ``noise * std``; ``std`` None takes the subject tokens' own
    embeddings. ``window`` layers around each for mlp and attn. ``progress(done, total)`` counts
    cells; ``cancel`` is asked between batches, and a true answer raises KeyboardInterrupt.
    UsageError on a subject that is not in the prompt and on numbers that make no sense.
    """
    kinds = check_kinds(kinds)
    scale, runs, window = finite(noise, "noise"), _count(runs, "runs"), _count(window, "window")
    if scale <= 0:
        raise UsageError(f"noise {noise!r}: expected a number above 0")
    ids = session.tokens(prompt, bos)
    places = find_subject(session, ids, subject)
    answer = answer_of(session, ids, expect)
    session.check_length(len(ids) + len(answer.tokens) - 1)
    spread = embedding_std(session, [ids[i] for i in places]) if std is None else finite(std, "std")
    generator = torch.Generator().manual_seed(_seed(seed))
    shift = torch.randn(runs, len(places), session.d_model, generator=generator) * (scale * spread)
    tracer = _Tracer(session, ids, answer, places, shift)
    done, first = 0, places[0]
    total = len(kinds) * session.n_layer * (len(ids) - first)
    grids = {}
    for kind in kinds:
        p = np.full((session.n_layer, len(ids)), tracer.corrupted)
        top = [[tracer.corrupted_top for _ in ids] for _ in range(session.n_layer)]
        for at in range(first, len(ids)):  # before the subject there is nothing to restore
            for layers in tracer.batches(at):
                if cancel is not None and cancel():
                    raise KeyboardInterrupt
                found, tops = tracer.cells(kind, layers, at, window)
                for layer, value, best in zip(layers, found, tops, strict=True):
                    p[layer, at], top[layer][at] = value, best
                done += len(layers)
                if progress is not None:
                    progress(done, total)
        grids[kind] = TraceGrid(p, top)
    return TraceResult(
        ids, session.pieces(ids), places, answer, tracer.clean, tracer.corrupted,
        tracer.clean_top, tracer.corrupted_top, grids, scale, spread, runs, int(seed), window,
    )  # fmt: skip


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """``kinds`` in KINDS' order; UsageError on none and on any other."""
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"no kind {kind!r} to restore: choose {', '.join(KINDS)}")
    if not kinds:
        raise UsageError(f"nothing to restore: choose {', '.join(KINDS)}")
    return [kind for kind in KINDS if kind in kinds]


def embedding_std(session: ModelSession, tokens: Sequence[int]) -> float:
    """Standard deviation over all entries of the tokens' embeddings."""
    rows = session.model.embedding[list(tokens)].float()
    return float(rows.std())


def window_of(layer: int, width: int, n_layer: int) -> range:
    """The ``width`` layers around ``layer`` (one more below than above when even), cut to fit."""
    start = layer - width // 2
    return range(max(0, start), min(n_layer, start + width))


def _count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{what} {value!r}: expected a whole number from 1 on")
    return int(value)


def _seed(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"seed {seed!r}: expected a whole number from 0 on")
    return int(seed)


class _Tracer:
    """The clean and the corrupted runs of one fact, and the cells restored from them."""

    def __init__(
        self,
        session: ModelSession,
        ids: list[int],
        answer: Answer,
        places: list[int],
        shift: Tensor,
    ) -> None:
        self.session, self.ids, self.answer = session, ids, answer
        self.runs = len(shift)
        layers = range(session.n_layer)
        self.restored: dict[tuple[int, str], Tensor] = {}
        """(layer, site): (N, D) of the clean run."""
        keep = {
            f"blocks.{layer}.{site}": _keep(self.restored, (layer, site))
            for layer in layers
            for site in KINDS.values()
        }
        logits = watch(session, [ids], answer, taps=keep)
        self.clean, self.clean_top = self._mean(logits)[0]
        self.entering: list[Tensor] = []
        """For each layer the (R, N, D) residual that enters it in the corrupted runs."""

        def corrupt(x: Tensor) -> Tensor:
            x = x.clone()
            x[:, places] += shift.to(dtype=x.dtype, device=x.device)
            self.entering.append(x)
            return x

        taps: dict[str, Fn] = {
            f"blocks.{layer}.resid_in": self.entering.append for layer in layers[1:]
        }
        kept: list[Any] = []
        logits = watch(
            session, [ids] * self.runs, answer, taps={**taps, "blocks.0.resid_in": corrupt},
            keep_cache=True, kept=kept,
        )  # fmt: skip
        self.corrupted, self.corrupted_top = self._mean(logits, self.runs)[0]
        self.cache = kept[0]
        self.behind: tuple[int, Any] = (0, None)

    def batches(self, at: int) -> list[list[int]]:
        """All layers in runs that fill a batch at position ``at``."""
        n, fed = self.session.n_layer, len(self.entering[0][0]) - at
        size = max(1, BATCH // (self.runs * fed))
        return [list(range(a, min(n, a + size))) for a in range(0, n, size)]

    def cells(
        self, kind: str, layers: list[int], at: int, window: int
    ) -> tuple[list[float], list[list[tuple[str, float]]]]:
        """Answer's probability and the likeliest tokens, one for each of ``layers`` at ``at``."""
        session, R, site = self.session, self.runs, KINDS[kind]
        last = session.n_layer - 1
        spans = [
            range(layer, layer + 1) if kind == "state" else window_of(layer, window, last + 1)
            for layer in layers
        ]
        start = 0
        if session.kind != "rwkv7":  # a state that is put back need not run its own layer
            start = min(span[0] for span in spans) + (kind == "state")
            start = min(start, last)
        h = self.entering[start][:, at:].repeat(len(layers), 1, 1)  # (C * R, N - at, D)
        taps: dict[str, Fn] = {}
        for layer in sorted({i for span in spans for i in span}):
            rows = [c for c, span in enumerate(spans) if layer in span]
            value = self.restored[layer, site][at]
            if layer < start:
                h.view(len(layers), R, *h.shape[1:])[rows, :, 0] = value
            else:
                taps[f"blocks.{layer}.{site}"] = _put(rows, R, value)
        cache = self._behind(at)
        logits = watch(
            session, [self.ids[at:]] * len(h), self.answer, taps=taps, enter=(start, h),
            cache=None if cache is None else cache.repeat(len(layers)),
        )  # fmt: skip
        found = self._mean(logits, R)
        return [p for p, _ in found], [top for _, top in found]

    def _behind(self, at: int) -> Any:
        """What the corrupted runs remember of the positions before ``at``: R rows, or None."""
        if at == 0:
            return None
        if self.session.kind != "rwkv7":
            return self.cache.crop(at)
        if self.behind[0] != at:  # a state has no positions to cut off: go on from the last one
            was, before = self.behind if self.behind[0] < at else (0, None)
            run = self.session.run(
                [self.ids[was:at]] * self.runs, cache=before, keep_cache=True, logits="none",
                enter=(0, self.entering[0][:, was:at]),
                window=window_for(len(self.ids), self.answer),
            )  # fmt: skip
            self.behind = (at, run.cache)
        return self.behind[1]

    def _mean(self, logits: Tensor, runs: int = 1) -> list[tuple[float, list[tuple[str, float]]]]:
        """For each ``runs`` rows of (B, k, V): the answer's mean probability, likeliest tokens."""
        p = log_p(logits, self.answer).exp().view(-1, runs).mean(1)
        first = logits[:, 0].softmax(-1).view(-1, runs, logits.shape[-1]).mean(1)
        values, ids = first.topk(min(TOP, logits.shape[-1]))
        return [
            (float(x), [(self.session.piece(i), v) for i, v in zip(row, found, strict=True)])
            for x, row, found in zip(p, ids.tolist(), values.tolist(), strict=True)
        ]


def _keep(kept: dict[tuple[int, str], Tensor], key: tuple[int, str]) -> Fn:
    def tap(x: Tensor) -> None:
        kept[key] = x[0]

    return tap


def _put(cells: list[int], runs: int, value: Tensor) -> Fn:
    """``value`` (D,) at the first position fed, in every run of ``cells``."""

    def tap(x: Tensor) -> Tensor:
        x = x.clone()
        x.view(-1, runs, *x.shape[1:])[cells, :, 0] = value
        return x

    return tap
