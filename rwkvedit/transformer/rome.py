"""``rome``: one fact changed by one rank-one update, after Meng et al. (2022), as repaired.

Meng et al., "Locating and Editing Factual Associations in GPT" (2022), equation 2:
W' = W + d u^T, u = C^-1 k* / (k*^T C^-1 k*), with k* the key at the subject's last token averaged
over contexts, C its second moments over a corpus (``statistics``), and d found by gradient
(``value``). The same k* stands in both places (Gupta et al., "Rebuilding ROME", 2024): the update
writes d for k* itself, not for the key of the bare prompt, which is what made single edits
disable a model. Which layer and how strongly is found per model (``tuning``), not copied.

A gate (see ``gate``) can refuse the result: then the weights are restored and the next layer tried.

Glossary: D residual width, F MLP width, k* (F,), C (F, F), d (D,), u (F,).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvedit.errors import UsageError
from rwkvedit.transformer.asking import ask, likeliest
from rwkvedit.transformer.facts import held_out
from rwkvedit.transformer.gate import Gate, Verdict
from rwkvedit.transformer.patchfile import Patch
from rwkvedit.transformer.rewordings import rewordings
from rwkvedit.transformer.statistics import TOKENS, Moments, second_moments
from rwkvedit.transformer.tuning import Settings, settings_for
from rwkvedit.transformer.value import Aim, NotFoundError, Request, Value, aim, solve
from rwkvedit.transformer.weights import RankOne

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

Progress = Callable[[str, int, int], None]
Cancel = Callable[[], bool]
CANDIDATES = 3
"""Layers tried before a gate's refusal is final."""


@dataclass(frozen=True)
class Tried:
    """One layer tried."""

    layer: int
    value: Value | None
    """None: the new answer was not reached by gradient; ``why`` says it."""
    delta: RankOne | None
    flipped: bool
    relative_change: float
    verdict: Verdict | None
    why: str = ""

    @property
    def passed(self) -> bool:
        return self.flipped and (self.verdict is None or self.verdict.passed)

    def to_json(self) -> dict[str, Any]:
        value = self.value
        return {
            "layer": self.layer,
            "loss": None if value is None else value.loss,
            "steps": None if value is None else value.steps,
            "length": None if value is None else float(value.delta.norm() / value.h.norm()),
            "flipped": self.flipped,
            "relative_change": self.relative_change,
            "gate": None if self.verdict is None else self.verdict.to_json(),
            "passed": self.passed,
            "why": self.why,
        }


@dataclass(frozen=True)
class RomeResult:
    """What became of an edit. ``landed``: it is in the weights; else they are as they were."""

    request: Request
    old: str
    new: str
    p_new: tuple[float, float]
    """Probability of the whole new answer (before, after)."""
    landed: bool
    best: Tried
    tried: list[Tried]
    patch: Patch
    settings: Settings
    statistics: dict[str, object]
    held_out: list[bool]
    """Of each held-out fact asked: is it answered as before?"""
    seconds: float
    notices: list[str] = field(default_factory=list)

    @property
    def flipped(self) -> bool:
        return self.best.flipped

    def to_json(self) -> dict[str, Any]:
        verdict = self.best.verdict
        return {
            "method": "rome",
            "prompt": self.request.prompt,
            "subject": self.request.subject,
            "old": self.old,
            "new": self.new,
            "p_new": {"before": self.p_new[0], "after": self.p_new[1]},
            "landed": self.landed,
            "layers": [self.best.layer],
            "flipped": self.flipped,
            "relative_change": self.best.relative_change,
            "gate": None if verdict is None else verdict.to_json(),
            "attempts": [one.to_json() for one in self.tried],
            "settings": self.settings.to_json(),
            "statistics": self.statistics,
            "seconds": self.seconds,
        }


def update(found: Value, moments: Moments, layer: int, ridge: float) -> RankOne:
    """d u^T with u = C^-1 k* / (k*^T C^-1 k*): what the layer writes for k* moves by exactly d."""
    u = moments.whiten(found.key, ridge)
    right = (u / u.dot(found.key.double().cpu())).float().to(found.delta.device)
    return RankOne(layer, found.delta, right)


def rome(
    session: ModelSession,
    prompt: str,
    subject: str,
    target: str,
    layer: int | None = None,
    *,
    settings: Settings | None = None,
    gate: bool = True,
    strict: bool = True,
    stats: str | Path | None = None,
    tokens: int = TOKENS,
    specificity: int = 0,
    label: str = "",
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> RomeResult:
    """Make ``session`` go on with ``target`` after ``prompt``, which names ``subject``.

    ``layer`` None: up to three of the settings' candidates, the first that the gate passes. When
    none passes, the weights are as they were. ``stats``: a text file for C instead of the corpus
    that ships. ``specificity``: ask that many held-out facts before and after. Raises NotFoundError
    when the new answer was reached at no layer, UsageError on an answer that is the current one and
    on a subject that is not in the prompt; every error and Ctrl-C leave the weights as they were.
    """
    began, live, base_digest = time.perf_counter(), session.edits.live, session.digest
    settings = settings or settings_for(session)
    request = Request(prompt, subject, target, label, layer)
    goal = aim(session, request, settings.contexts)
    ids = goal.places[0][0]
    old, before = _current(session, goal)
    notices = [] if settings.found else [
        "no calibration of this model is known: layers and steps are a guess "
        "(rwkvedit rome MODEL --calibrate finds them)"
    ]  # fmt: skip
    layers = settings.layers[:CANDIDATES] if layer is None else (session.shape.layer(layer),)
    asked = [session.tokens(p) for p in rewordings(prompt, subject)]
    door = Gate(session, asked, goal.target, strict) if gate else None
    rng = np.random.default_rng(seed + 1)
    probes = [session.tokens(p) for p in held_out(prompt, subject, specificity, rng)]
    kept = likeliest(session, probes) if probes else []
    moments = second_moments(session, layers[:1], stats, tokens, _named(progress, "statistics"),
                             cancel)  # fmt: skip
    tried: list[Tried] = []
    try:
        for candidate in layers:
            moments |= second_moments(session, [candidate], stats, tokens, cancel=cancel)
            step = _named(progress, f"layer {candidate}")
            tried.append(
                _attempt(session, goal, candidate, settings, moments[candidate], door, step, cancel)
            )
            session.edits.set(live)
            if tried[-1].passed:
                break
        found = [one for one in tried if one.delta is not None]
        if not found:
            raise NotFoundError("; ".join(one.why for one in tried))
        best = max(found, key=lambda one: (one.passed, one.flipped, -tried.index(one)))
        assert best.delta is not None
        if best.passed:
            session.edits.apply(best.delta)
        after = ask(session, [ids], goal.target).p[0]
        same = likeliest(session, probes) if probes else []
    except BaseException:
        session.edits.set(live)
        raise
    patch = Patch.of(
        session, best.delta, base_digest, 1.0, src_prompt=prompt, old_token=session.piece(old),
        new_token=session.text(goal.target), method="rome", subject=subject,
        relative_change=best.relative_change, **({"label": label} if label else {}),
    )  # fmt: skip
    return RomeResult(
        request, session.piece(old), session.text(goal.target), (before, after), best.passed, best,
        tried, patch, settings, moments[best.layer].to_json(), unchanged(kept, same),
        round(time.perf_counter() - began, 3), notices,
    )  # fmt: skip


def _current(session: ModelSession, goal: Aim) -> tuple[int, float]:
    """(likeliest token, P(target)) now; UsageError where the target is said already."""
    said = ask(session, [goal.places[0][0]], goal.target)
    if said.says[0]:
        raise UsageError(
            f"the model answers {goal.request.prompt!r} with {goal.request.target.strip()!r} "
            "already: nothing to edit"
        )
    return said.top[0], said.p[0]


def _attempt(
    session: ModelSession,
    goal: Aim,
    layer: int,
    settings: Settings,
    moments: Moments,
    door: Gate | None,
    progress: Callable[[int, int], None] | None,
    cancel: Cancel | None,
) -> Tried:
    """One layer's update, left in the weights for whoever looks."""
    try:
        found = solve(session, goal, layer, settings, progress, cancel)
    except NotFoundError as error:
        return Tried(layer, None, None, False, 0.0, None, str(error))
    delta = update(found, moments, layer, settings.ridge)
    change = session.edits.apply(delta)
    flipped = ask(session, [goal.places[0][0]], goal.target).says[0]
    verdict = door.check([layer]) if door is not None and flipped else None
    why = "" if flipped else "the prompt is not answered with the new answer"
    if verdict is not None and not verdict.passed:
        why = "; ".join(verdict.why)
    return Tried(layer, found, delta, flipped, change.relative[layer], verdict, why)


def unchanged(before: Sequence[int], after: Sequence[int]) -> list[bool]:
    """Of each held-out fact: is its likeliest answer the same?"""
    return [a == b for a, b in zip(before, after, strict=True)]


def with_layer(settings: Settings, layer: int) -> Settings:
    """The same settings for one layer alone."""
    return replace(settings, layers=(layer,), spread=(layer,))


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
