"""Finding one model's settings of ``rome``, ``memit`` and ``alphaedit`` on CounterFact's records.

Records are facts that the model knows, from the *end* of the seed's order: ``bench edit`` with the
same seed starts at its beginning. First every layer of a grid with guessed settings, then, at the
best, one setting after another; last the spread and weight of ``memit`` and the cut-off of
``alphaedit``, all records at once. What is compared is the harmonic mean of three soft rates:
sigmoids of how much likelier the right answer is (prompt, rephrased, neighbour).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.counterfact import load_records, select
from rwkvedit.evaluate.editing import SOFT, Bench, harmonic
from rwkvedit.transformer.tuning import Settings, guess
from rwkvedit.transformer.value import NotFoundError

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

LEAST = 4
DEPTHS = (0.07, 0.13, 0.17, 0.23, 0.33)
TRIES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("enough", (0.95, 0.5)), ("clamp", (1.0, 3.0)), ("kl", (0.25,)), ("ridge", (0.2, 0.01)),
)  # fmt: skip
WIDTHS = (1, 3, 5)
WEIGHTS = (10.0, 100.0)
CUTS = (0.1, 0.5)


def calibrate(
    session: ModelSession,
    data: str | Path,
    n: int = 12,
    seed: int = 0,
    *,
    stats: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Settings:
    """The best settings found; ``found`` says on what and what was tried.

    ``progress(tries, about how many)``. UsageError where the model knows too few of the records.
    """
    records, digest = load_records(data)
    chosen = select(session, records, digest, "known", n, seed, None, cancel, last=True)
    if len(chosen) < LEAST:
        raise UsageError(
            f"{data}: the model knows {len(chosen)} of these facts, at least {LEAST} are needed"
        )
    search = _Search(session, [records[i] for i in chosen], stats, seed, progress, cancel)
    best = search.run()
    found = {
        "data": Path(data).name, "data_digest": digest, "group": "known", "n": len(chosen),
        "seed": seed, "end_of_order": True, "tried": search.tried,
    }  # fmt: skip
    return replace(best, found=found)


class _Search:
    """Tries settings on records and keeps what they came to."""

    def __init__(
        self,
        session: ModelSession,
        records: Sequence[Any],
        stats: str | None,
        seed: int,
        progress: Callable[[int, int], None] | None,
        cancel: Callable[[], bool] | None,
    ) -> None:
        self.session, self.records, self.stats, self.seed = session, records, stats, seed
        self.progress, self.cancel = progress, cancel
        self.tried: list[dict[str, Any]] = []
        self.total = (
            len(DEPTHS) + sum(len(values) for _, values in TRIES) + len(WIDTHS) + len(WEIGHTS)
            + len(CUTS) + 1
        )  # fmt: skip

    def run(self) -> Settings:
        start, n = guess(self.session), self.session.n_layer
        layers = list(dict.fromkeys(min(n - 1, round(depth * n)) for depth in DEPTHS))
        scores = {
            layer: self.score("rome", replace(start, layers=(layer,)), f"layer {layer}")
            for layer in layers
        }
        ranked = sorted(scores, key=lambda layer: -scores[layer])
        best, top = replace(start, layers=tuple(ranked[:3])), scores[ranked[0]]
        for name, values in TRIES:
            best, top = self.better("rome", best, top, name, values)
        peak = best.layers[0]
        spreads = [tuple(range(max(0, peak - width + 1), peak + 1)) for width in WIDTHS]
        best = replace(best, spread=spreads[0])
        top = self.score("memit", best, f"memit, layers {spreads[0]}")
        best, top = self.better("memit", best, top, "spread", spreads[1:])
        best, top = self.better("memit", best, top, "weight", WEIGHTS)
        top = self.score("alphaedit", best, f"alphaedit, cut {best.cut}")
        return self.better("alphaedit", best, top, "cut", CUTS)[0]

    def better(
        self, method: str, best: Settings, top: float, name: str, values: Sequence[Any]
    ) -> tuple[Settings, float]:
        """The best of ``values`` for one setting, where one is better than what is there."""
        start = best
        for value in values:
            changed = replace(start, **{name: value})
            score = self.score(method, changed, f"{method}, {name} {value}")
            if score > top:
                best, top = changed, score
        return best, top

    def score(self, method: str, settings: Settings, what: str) -> float:
        bench = Bench(
            self.session, self.records, settings, method, self.stats, self.seed, None, self.cancel
        )
        try:
            values = bench.values(generate=False)
        except (NotFoundError, UsageError):  # nothing reached, or no direction below the cut-off
            values = []
        means = [sum(v[name] for v in values) / len(values) if values else 0.0 for name in SOFT]
        score = harmonic(means)
        soft = {name: round(x, 4) for name, x in zip(SOFT, means, strict=True)}
        self.tried.append({"what": what, "score": round(score, 4), **soft})
        if self.progress is not None:
            self.progress(len(self.tried), self.total)
        return score
