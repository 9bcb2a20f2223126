"""What an edit says of itself. Values only: numbers, verdict, advice; rendering is elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rwkvedit.recurrent.state import State

TOOK, DID_NOT_TAKE, LEAKED, DRY_RUN = "took", "did not take", "leaked", "dry run"


@dataclass(frozen=True)
class Change:
    """A probability before and after the edit, asked on copies of the two states."""

    before: float
    after: float

    def to_json(self) -> dict[str, float]:
        return {"before": round(self.before, 6), "after": round(self.after, 6)}


@dataclass(frozen=True)
class ControlResult:
    """A fact that should not move: P of its value on its own question, and whether it held.

    ``slip`` is how much it lost: of that probability, or of the probability of beginning the
    answer at all (rather than, say, "I don't know"), whichever is more.
    """

    fact: str
    before: float
    after: float
    kept: bool
    slip: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "fact": self.fact, "before": round(self.before, 6), "after": round(self.after, 6),
            "kept": self.kept,
        }


@dataclass(frozen=True)
class EditReport:
    """Everything an edit found and did.

    ``alpha`` multiplies the delta; ``ratio`` is ``alpha * delta_norm / state_norm`` (Frobenius
    norms over the edited layers); ``ms`` milliseconds by stage with their ``total``; ``decodes``
    tokens run through the model in ``forwards`` batched calls; ``heads`` how many were edited;
    ``calibration`` names the saved calibration used, or where it was fitted (``live``/``fresh``).
    ``applied`` is false when the conversation was left as it was: on a dry run, or because ``auto``
    refused an edit that did not hold or would have moved a control.
    ``unchecked`` counts older heard facts that were not among the controls.
    For forget and nuke ``p_new`` is the probability of saying that it is not known.
    """

    verb: str
    old: str
    new: str
    method: str
    ratio: float
    alpha: float
    state_norm: float
    delta_norm: float
    verdict: str
    p_old: Change
    p_new: Change
    controls: tuple[ControlResult, ...] = ()
    unchecked: int = 0
    ms: dict[str, float] = field(default_factory=dict)
    heads: int = 0
    layers: tuple[int, int] = (0, 0)
    advice: str = ""
    calibration: str = ""
    applied: bool = True
    asked_method: str = ""
    question: str = ""
    outcome: str = ""
    decodes: int = 0
    forwards: int = 0

    def to_json(self) -> dict[str, Any]:
        """The ``edit`` object that ``rwkvedit run --json`` prints."""
        return {
            "kind": "edit", "verb": self.verb, "old": self.old, "new": self.new,
            "method": self.method, "asked_method": self.asked_method or self.method,
            "ratio": round(self.ratio, 6), "alpha": round(self.alpha, 6),
            "state_norm": round(self.state_norm, 6), "delta_norm": round(self.delta_norm, 6),
            "verdict": self.verdict, "outcome": self.outcome or self.verdict,
            "applied": self.applied,
            "question": self.question, "p_old": self.p_old.to_json(), "p_new": self.p_new.to_json(),
            "controls": [c.to_json() for c in self.controls], "unchecked": self.unchecked,
            "ms": {k: round(v, 3) for k, v in self.ms.items()},
            "heads": self.heads, "layers": list(self.layers), "advice": self.advice,
            "calibration": self.calibration, "decodes": self.decodes, "forwards": self.forwards,
        }


@dataclass(frozen=True)
class EditOutcome:
    """The new State (the old one where nothing was applied) and the report."""

    state: State
    report: EditReport


class Clock:
    """Milliseconds by stage; ``lap(name)`` closes the stage that began at the lap before."""

    def __init__(self) -> None:
        self.begun = self.last = time.perf_counter()
        self.ms: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.ms[name] = self.ms.get(name, 0.0) + (now - self.last) * 1e3
        self.last = now

    def total(self) -> dict[str, float]:
        return {**self.ms, "total": (time.perf_counter() - self.begun) * 1e3}
