"""Average causal effects over the facts that a model knows (Meng et al. 2022, section 2).

Each known fact is traced by itself; its cells are averaged by the place of their position in the
prompt, then over facts. The average indirect effect (AIE) of a layer at a place is the mean of
P(restored) - P(corrupted); the average total effect (ATE) that of P(clean) - P(corrupted).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.evaluate.intervals import rate
from rwkvedit.transformer.known import Fact, known_facts
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.trace import (
    KINDS,
    NOISE,
    RUNS,
    WINDOW,
    Cancel,
    TraceResult,
    check_kinds,
    embedding_std,
)

PLACES = (
    *("first subject token", "middle subject tokens", "last subject token"),
    *("first token after", "further tokens", "last token"),
)
"""A subject's only token is its last one; the prompt's last token is that and nothing else."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AverageTrace:
    """Traces of several facts, averaged."""

    facts: int
    """Facts given."""
    known: int
    """Facts that the model completes by itself."""
    traced: list[Fact]
    clean: list[float]
    corrupted: list[float]
    effects: dict[str, dict[str, np.ndarray]]
    """kind: place: (facts that have the place, L) indirect effects."""
    std: float
    stopped: bool
    """Was it interrupted before all facts asked for were traced?"""

    @property
    def total(self) -> dict[str, Any]:
        """The average total effect, a rate."""
        change = np.subtract(self.clean, self.corrupted)
        return rate([float(x) for x in change], share=False)

    def mean(self, kind: str, place: str) -> np.ndarray | None:
        """(L,) average indirect effects; None where no fact has the place."""
        found = self.effects[kind][place]
        return found.mean(0) if len(found) else None

    def to_json(self) -> dict[str, Any]:
        names = {"state": "hidden", "mlp": "mlp", "attn": "attn"}
        return {
            "facts": self.facts,
            "known": self.known,
            "traced": len(self.traced),
            "stopped": self.stopped,
            "clean": rate(self.clean, share=False),
            "corrupted": rate(self.corrupted, share=False),
            "ate": self.total,
            "std": self.std,
            "aie": {
                names[kind]: {
                    place: [rate(list(map(float, x)), share=False) for x in found.T]
                    for place, found in places.items()
                }
                for kind, places in self.effects.items()
            },
        }


def average_trace(
    session: ModelSession,
    facts: Sequence[Fact],
    n: int | None = None,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    noise: float = NOISE,
    runs: int = RUNS,
    seed: int = 0,
    window: int = WINDOW,
    bos: bool | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> AverageTrace:
    """Trace ``n`` of the facts the model knows (None: all), drawn by ``seed``.

    Noise is ``noise`` standard deviations of the embeddings of all given facts' subject tokens.
    ``progress(what, done, total)``; ``cancel`` ends it after the traces that are finished (before
    the first one is, it raises KeyboardInterrupt). RwkvEditError when the model knows none.
    """
    if n is not None and n < 1:
        raise UsageError(f"--n {n}: expected 1 fact or more")
    kinds = check_kinds(kinds)
    tell = progress or (lambda what, done, total: None)
    known = known_facts(session, facts, bos, lambda *count: tell("asking", *count), cancel)
    if not known:
        raise RwkvEditError(
            f"{session.name} completes none of the {len(facts)} facts by itself: nothing to trace"
        )
    subjects = [t for f in facts for t in session.vocabulary.encode(" " + f.subject)]
    std = embedding_std(session, subjects)
    picks = np.random.default_rng(seed).permutation(len(known))[:n]
    traced, clean, corrupted, stopped = [], [], [], False
    effects: dict[str, dict[str, list[np.ndarray]]] = {
        kind: {place: [] for place in PLACES} for kind in kinds
    }
    for done, pick in enumerate(picks):
        tell("tracing", done, len(picks))
        fact = known[pick].fact
        try:
            result = session.trace(
                fact.prompt, fact.subject, known[pick].answer, kinds=kinds, noise=noise, runs=runs,
                seed=seed, window=window, std=std, bos=bos, cancel=cancel,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not traced:
                raise
            stopped = True
            break
        traced.append(fact)
        clean.append(result.clean)
        corrupted.append(result.corrupted)
        places = places_of(result)
        for kind in kinds:
            effect = result.effect(kind)
            for place, positions in places.items():
                if positions:
                    effects[kind][place].append(effect[:, positions].mean(1))
    tell("tracing", len(traced), len(picks))
    empty = np.zeros((0, session.n_layer))
    arrays = {
        kind: {place: np.stack(rows) if rows else empty for place, rows in places.items()}
        for kind, places in effects.items()
    }
    return AverageTrace(
        len(facts), len(known), traced, clean, corrupted, arrays, std, stopped
    )  # fmt: skip


def places_of(result: TraceResult) -> dict[str, list[int]]:
    """The positions of each place; where the subject stands twice, its last mention counts."""
    last = len(result.tokens) - 1
    end = result.subject[-1]
    start = end
    while start - 1 in result.subject:
        start -= 1
    out: dict[str, list[int]] = {place: [] for place in PLACES}
    for at in range(start, last + 1):
        if at == last:
            place = "last token"
        elif at == end:
            place = "last subject token"
        elif at < end:
            place = "first subject token" if at == start else "middle subject tokens"
        else:
            place = "first token after" if at == end + 1 else "further tokens"
        out[place].append(at)
    return out
