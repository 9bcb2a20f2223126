"""Means with 95% intervals, the one way every benchmark reports a rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rate(
    values: Sequence[float], groups: Sequence[int] | None = None, draws: int = 2000, *,
    share: bool = True,
) -> dict:
    """``{"mean", "lo", "hi", "n"}`` by bootstrap over ``groups`` (worlds), or over values.

    Percentile intervals; when every group agrees (all right or all wrong) the bootstrap of a
    ``share`` has no spread, so the Wilson bound of the groups is given on the open side (not for
    quantities like milliseconds, of which 0 and 1 are values as any). Empty input gives nulls.
    """
    if not len(values):
        return {"mean": None, "lo": None, "hi": None, "n": 0}
    data = np.asarray(values, dtype=float)
    labels = np.arange(len(data)) if groups is None else np.asarray(groups)
    _, inverse = np.unique(labels, return_inverse=True)
    n = int(inverse.max()) + 1
    totals, counts = np.bincount(inverse, data, n), np.bincount(inverse, minlength=n)
    mean = float(data.mean())
    rng = np.random.default_rng(0)
    picks = rng.integers(0, n, size=(draws, n))
    means = totals[picks].sum(1) / counts[picks].sum(1)
    lo, hi = (float(x) for x in np.percentile(means, [2.5, 97.5]))
    if share and lo == hi and mean in (0.0, 1.0):
        z2 = 1.96**2
        edge = z2 / (n + z2)
        lo, hi = (0.0, edge) if mean == 0.0 else (1.0 - edge, 1.0)
    return {"mean": mean, "lo": lo, "hi": hi, "n": len(data)}
