"""How strong an edit must be: the least multiple that holds. Knows no models, only scores.

Bracketing, then bisection; each round is one batch (the caller evaluates all its multiples at
once), because a batched forward costs little more than a single one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rwkvedit.errors import UsageError

#: P(new) that every one of a fact's own questions must pass. At .6 the least strength now and then
#: fails in a wording it was not searched on (100 worlds of five people: clean .986, at .7 1.00).
TARGET = 0.7
MOST = 1e4  # times the state's own norm: no edit is that strong


def parse_ratio(value: Any, said: str = "--ratio") -> float | None:
    """``auto`` as None, a positive number as itself; ``said`` is how its reader named it.

    Raises UsageError for anything else.
    """
    if value == "auto":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 < number < MOST:
        raise UsageError(f"{said} is a number above 0, or auto, not '{value}'")
    return number


@dataclass(frozen=True)
class Strength:
    """The chosen multiple. ``held`` is false when no tried multiple reached the target."""

    alpha: float
    score: float
    held: bool
    tried: dict[float, float] = field(default_factory=dict)


def search_strength(
    evaluate: Callable[[list[float]], Sequence[float]],
    *,
    target: float = TARGET,
    bracket: Sequence[float] = (0.5, 1.0, 2.0),
    rounds: int = 1,
    points: int = 2,
    ceiling: float = 4.0,
    bound: Callable[[list[float]], Sequence[float]] | None = None,
) -> Strength:
    """The least multiple whose score passes ``target``.

    ``evaluate`` maps multiples to scores in [0, 1] (one batched forward). ``bracket`` is tried
    first; the gap below its first success is cut by ``points`` multiples in each of ``rounds``. If
    nothing in the bracket holds, the range up to ``ceiling`` is tried once. When none holds, the
    best-scoring multiple comes back with ``held`` false.

    ``bound`` is a cheaper score that is never below the true one (fewer questions), and rises with
    the multiple until it is far too strong: the bracket is cut by two multiples at a time, and only
    those that may pass are evaluated, the least first.
    """
    tried: dict[float, float] = {}

    def run(multiples: list[float]) -> None:
        fresh = [m for m in multiples if m not in tried]
        if fresh:
            tried.update(zip(fresh, map(float, evaluate(fresh)), strict=True))

    def least() -> float | None:
        return min((m for m, score in tried.items() if score >= target), default=None)

    if bound is None:
        run(list(bracket))
    else:
        for multiple in _bounded(sorted(bracket), bound, target):
            run([multiple])
            if least() is not None:
                break
    if least() is None and ceiling > max(bracket):
        low = max(bracket)
        run([low * (ceiling / low) ** 0.5, ceiling])
    for _ in range(rounds):
        high = least()
        if high is None:
            break
        low = max((m for m in tried if m < high), default=0.0)
        cuts = [low + (high - low) * (i + 1) / (points + 1) for i in range(points)]
        run([round(cut, 4) for cut in cuts])
    chosen = least()
    if chosen is not None:
        return Strength(chosen, tried[chosen], True, tried)
    finite = {m: s for m, s in tried.items() if not math.isnan(s)} or {1.0: 0.0}
    best = max(finite, key=lambda m: (finite[m], -m))
    return Strength(best, finite[best], False, tried)


def _bounded(
    rungs: list[float], bound: Callable[[list[float]], Sequence[float]], target: float
) -> Iterator[float]:
    """Multiples of ``rungs`` whose bound passes, the least first; two are bounded at a time.

    The bound is taken to rise up to the first success; rungs that this left out are asked when all
    others have failed.
    """
    bounds: dict[float, float] = {}

    def ask(some: list[float]) -> None:
        fresh = [m for m in some if m not in bounds]
        if fresh:
            bounds.update(zip(fresh, map(float, bound(fresh)), strict=True))

    low, high = 0, len(rungs)  # rungs below low fail, the one at high passes
    while low < high:
        between = high - low
        cuts = sorted({low + (between - 1) // 3, low + (2 * between - 1) // 3})
        ask([rungs[i] for i in cuts])
        passed = [i for i in cuts if bounds[rungs[i]] >= target]
        failed = [i for i in cuts if i not in passed and (not passed or i < passed[0])]
        low, high = max([low, *(i + 1 for i in failed)]), min([high, *passed])
    for multiple in rungs[high:]:
        ask([multiple])
        if bounds[multiple] >= target:
            yield multiple
    for multiple in rungs[:high]:
        if multiple not in bounds:
            ask([multiple])
            if bounds[multiple] >= target:
                yield multiple
