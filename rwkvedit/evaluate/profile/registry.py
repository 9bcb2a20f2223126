"""What a quality benchmark is, and the list of them.

To add one, write a function of a ``Case`` that returns ``Found`` and put ``@benchmark`` on it, in a
module that ``MODULES`` names. Its docstring is its definition: the command prints it word for word.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rwkvedit.evaluate.intervals import rate

if TYPE_CHECKING:
    from rwkvedit.evaluate.profile.case import Case

MODULES = ("direct", "nearby", "chained", "many", "tuned")
NEEDS = ("edit", "sequence", "batch", "tuned")
"""What is made for a benchmark; those that need the same are measured in one task."""
ORDER = (
    "EditBench", "EditGeneralization", "RippleBench", "FineTuneDiff", "SeqCollapse",
    "BatchConsistency", "SeqRetention", "LocalitySens", "LEME", "IndirectRecovery", "Portability",
    "PM", "zsRE",
)  # fmt: skip
EXAMPLES = 6
"""Probes that a document shows of each benchmark."""


@dataclass(frozen=True)
class Shown:
    """One probe, for eyes."""

    text: str
    wanted: str
    value: float

    def to_json(self) -> dict[str, Any]:
        return {"probe": self.text, "wanted": self.wanted, "value": self.value}


@dataclass(frozen=True)
class Found:
    """What a benchmark found of one edit. ``values``: one for each probe that counts."""

    values: list[float]
    of: int
    """Probes that were asked, those that the unedited model fails included."""
    shown: list[Shown] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    score: float | None = None
    """Where it is not the mean of ``values``."""

    def to_json(self) -> dict[str, Any]:
        score = self.score
        if score is None and self.values:
            score = sum(self.values) / len(self.values)
        low = sorted(self.shown, key=lambda one: one.value)[:EXAMPLES]
        return {
            "score": score, "values": self.values, "of": self.of,
            "examples": [one.to_json() for one in low], **self.more,
        }  # fmt: skip


Measure = Callable[["Case"], Found]


@dataclass(frozen=True)
class Benchmark:
    name: str
    threshold: float
    needs: str
    source: str
    definition: str
    measure: Measure

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "threshold": self.threshold, "source": self.source,
            "definition": self.definition,
        }  # fmt: skip


_FOUND: dict[str, Benchmark] = {}


def benchmark(name: str, threshold: float, needs: str, source: str) -> Callable[[Measure], Measure]:
    """Put a function in the list. ``source``: where the measure comes from, or ``ours``."""
    assert needs in NEEDS and name not in _FOUND

    def add(measure: Measure) -> Measure:
        text = " ".join((inspect.getdoc(measure) or "").split())
        _FOUND[name] = Benchmark(name, threshold, needs, source, text, measure)
        return measure

    return add


def benchmarks() -> list[Benchmark]:
    """All of them: the thirteen in their order, then whatever else was added."""
    for module in MODULES:
        importlib.import_module(f"rwkvedit.evaluate.profile.{module}")
    place = {name: at for at, name in enumerate(ORDER)}
    return sorted(_FOUND.values(), key=lambda b: place.get(b.name, len(ORDER)))


def row(one: Benchmark, results: list[dict[str, Any]]) -> dict[str, Any]:
    """A document's row: one benchmark over every edit of the file (``Found.to_json`` of each).

    The score is the mean of the edits' scores. With nothing that counts it is null, and a fail.
    """
    scores = [r["score"] for r in results if r["score"] is not None]
    values = [v for r in results for v in r["values"]]
    score = sum(scores) / len(scores) if scores else None
    more: dict[str, Any] = {}
    for result in results:
        more |= {k: v for k, v in result.items() if k not in ("score", "values", "of", "examples")}
    return {
        "name": one.name, "score": score, "threshold": one.threshold,
        "passed": score is not None and score >= one.threshold,
        "counted": len(values), "of": sum(r["of"] for r in results),
        "interval": rate(values) if values else None,
        "definition": one.definition, "source": one.source,
        **more, "examples": [e for r in results for e in r["examples"]][:EXAMPLES],
    }  # fmt: skip
