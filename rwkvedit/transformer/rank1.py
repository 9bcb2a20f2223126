"""``edit``: one fact changed by one rank-one update of one MLP's second matrix.

Two rules make the update:

``whitened``, the default. The key is taken at the subject's last token, averaged over contexts,
and whitened by the layer's second moments (Meng et al. 2022, equation 2: the direction that least
disturbs the corpus's own keys); what it writes is found by gradient, so that the new answer follows
in every context, with what the subject is held in place by a KL term. The same averaged key is used
for finding and for writing (Gupta et al., "Rebuilding ROME", 2024). Of all strengths the smallest
is taken at which the prompt and other wordings of it flip.

``plain``, the reference. At the crown layer and the last position d = W (k_tgt - k_src), written
at k_src; the smallest scale that flips the prompt.

A gate (see ``gate``) can refuse the result: then the weights are restored and the next layer tried.

Glossary: L layers, D residual width, F MLP width, k (F,) a key (what enters down_proj), C (F, F)
its second moments, d (D,) what is written; update = scale * d u^T, u = C^-1 k / (k^T C^-1 k).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.asking import Said, ask, likeliest
from rwkvedit.transformer.facts import held_out
from rwkvedit.transformer.gate import Gate, Verdict
from rwkvedit.transformer.optimise import Place, Step, contexts, essence, solve
from rwkvedit.transformer.patchfile import Patch
from rwkvedit.transformer.rewordings import others, rewordings, subject_of
from rwkvedit.transformer.statistics import TOKENS, second_moments
from rwkvedit.transformer.weights import RankOne
from rwkvedit.transformer.words import token_id

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

METHODS = ("whitened", "plain")
GRID = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Scales of the plain rule, and with SHRINK of the whitened one."""
SHRINK = 0.5
"""A whitened update overshoots on purpose: its scales are GRID times this."""
HALVINGS = 3
MARGIN = 1.15
"""The smallest scale that flips every wording looked at, and a little more for those that were
not."""
DEPTHS = (0.13, 0.23, 0.30)
"""Where to try, as shares of the depth: the first is the best layer of SmolLM2's calibration."""
CONTROLS = 20

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Attempt:
    """One layer tried."""

    layer: int
    scale: float
    flipped: bool
    relative_change: float
    verdict: Verdict | None
    kept: tuple[int, int]
    """(facts of the controls that are as before, controls)."""

    @property
    def passed(self) -> bool:
        return self.flipped and (self.verdict is None or self.verdict.passed)

    def to_json(self) -> dict[str, Any]:
        gate = None if self.verdict is None else self.verdict.to_json()
        return {**vars(self), "verdict": gate, "kept": list(self.kept), "passed": self.passed}


@dataclass(frozen=True)
class EditResult:
    """What became of an edit. ``landed``: it is in the weights; else they are as they were."""

    method: str
    prompt: str
    subject: str | None
    old: str
    new: str
    p_old: tuple[float, float]
    """Probability of the old answer (before, after)."""
    p_new: tuple[float, float]
    landed: bool
    attempt: Attempt
    attempts: list[Attempt]
    delta: RankOne
    patch: Patch
    statistics: dict[str, object] | None
    held_out: list[bool]
    """Of the held-out facts that were asked for: is its answer as it was?"""
    seconds: float
    notices: list[str] = field(default_factory=list)

    @property
    def flipped(self) -> bool:
        return self.attempt.flipped

    def to_json(self) -> dict[str, Any]:
        verdict = self.attempt.verdict
        return {
            "method": self.method,
            "prompt": self.prompt,
            "subject": self.subject,
            "old": self.old,
            "new": self.new,
            "p_old": {"before": self.p_old[0], "after": self.p_old[1]},
            "p_new": {"before": self.p_new[0], "after": self.p_new[1]},
            "landed": self.landed,
            "layers": [self.attempt.layer],
            "flipped": self.flipped,
            "scale": self.attempt.scale,
            "relative_change": self.attempt.relative_change,
            "gate": None if verdict is None else verdict.to_json(),
            "kept": {"kept": self.attempt.kept[0], "of": self.attempt.kept[1]},
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "statistics": self.statistics,
            "held_out": self.held_out,
            "seconds": self.seconds,
        }


def edit(
    session: ModelSession,
    src: str,
    tgt: str,
    new_token: str,
    layer: int | None = None,
    *,
    method: str = "whitened",
    subject: str | None = None,
    gate: bool = True,
    strict: bool = True,
    stats: str | Path | None = None,
    tokens: int = TOKENS,
    specificity: int = 0,
    label: str | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> EditResult:
    """Make ``session`` answer ``src`` with ``new_token``; ``tgt`` is a prompt that it answers so.

    ``layer`` None: up to three candidates, the first that the gate passes with every control fact
    kept, else the best that it passed. When none passes, the weights are as they were. ``subject``
    None: the words in which ``src`` differs from ``tgt``. ``stats``: a text file for C instead of
    the corpus that ships. ``specificity``: ask that many other held-out facts before and after.
    UsageError on a new answer that is the current one, on several tokens where one is needed and on
    a subject that is not in the prompt; Ctrl-C and every error leave the weights as they were.
    """
    began, live, base_digest = time.perf_counter(), session.edits.live, session.digest
    if method not in METHODS:
        raise UsageError(f"no method {method!r}: choose {' or '.join(METHODS)}")
    case = _Case.of(session, src, tgt, new_token, subject, method, seed)
    layers = _candidates(session, case, layer)
    door = Gate(session, case.gated, [case.new], strict) if gate else None
    rng = np.random.default_rng(seed + 1)
    probes = [session.tokens(p) for p in held_out(src, case.subject or "", specificity, rng)]
    before = likeliest(session, probes) if probes else []
    tried: list[tuple[Attempt, RankOne]] = []
    moments = None
    try:
        for candidate in layers:
            if cancel is not None and cancel():
                raise KeyboardInterrupt
            if case.method == "plain":
                delta = plain(session, case, candidate)
                attempt, delta = _attempt(session, case, delta, door, GRID, 1.0)
            else:
                moments = second_moments(
                    session, [candidate], stats, tokens, _named(progress, "statistics"), cancel
                )[candidate]
                solved = solve(
                    session, case.contexts, case.new, case.held, candidate,
                    _named(progress, f"layer {candidate}"), cancel,
                )  # fmt: skip
                delta = _whitened(candidate, solved, moments.whiten(solved.key))
                grid = tuple(SHRINK * scale for scale in GRID)
                attempt, delta = _attempt(session, case, delta, door, grid, MARGIN)
            tried.append((attempt, delta))
            session.edits.set(live)
            if attempt.passed and attempt.kept[0] == attempt.kept[1]:
                break
        best, delta = max(
            tried, key=lambda pair: (pair[0].passed, pair[0].flipped, pair[0].kept[0])
        )
        if best.passed:
            session.edits.apply(delta)
        after = ask(session, [case.ids], [case.old]), ask(session, [case.ids], [case.new])
        same = likeliest(session, probes) if probes else []
    except BaseException:
        session.edits.set(live)
        raise
    patch = Patch.of(
        session, delta, base_digest, best.scale, src_prompt=src, tgt_prompt=tgt,
        old_token=session.piece(case.old), new_token=session.piece(case.new), method=case.method,
        subject=case.subject or "", relative_change=best.relative_change,
        **({"label": label} if label else {}),
    )  # fmt: skip
    return EditResult(
        case.method, src, case.subject, session.piece(case.old), session.piece(case.new),
        (case.p_old, after[0].p[0]), (case.p_new, after[1].p[0]), best.passed, best,
        [attempt for attempt, _ in tried], delta, patch,
        None if moments is None else moments.to_json(),
        [a == b for a, b in zip(before, same, strict=True)],
        round(time.perf_counter() - began, 3), case.notices,
    )  # fmt: skip


@dataclass(frozen=True)
class _Case:
    """An edit's prompts, asked once before anything is changed."""

    method: str
    ids: list[int]
    donor: list[int]
    old: int
    new: int
    p_old: float
    p_new: float
    subject: str | None
    contexts: list[Place]
    """The prompt in its contexts."""
    held: Place
    """What is kept as it was: see ``optimise.essence``."""
    gated: list[list[int]]
    wordings: list[list[int]]
    """Other wordings that the model answers as it does the prompt."""
    controls: list[list[int]]
    answers: list[int]
    """What the controls are answered with."""
    notices: list[str]

    @classmethod
    def of(
        cls,
        session: ModelSession,
        src: str,
        tgt: str,
        new_token: str,
        subject: str | None,
        method: str,
        seed: int,
    ) -> _Case:
        ids, donor = session.tokens(src), session.tokens(tgt)
        new, notices = token_id(session, new_token), list[str]()
        was: Said = ask(session, [ids], [new])
        old = was.top[0]
        if old == new:
            raise UsageError(
                f"the model answers {src!r} with {session.piece(new)!r} already: nothing to edit"
            )
        if ask(session, [donor], [new]).top[0] != new:
            notices.append(f"{tgt!r} is not answered with {session.piece(new)!r} by this model")
        given, subject = subject, subject or subject_of(src, tgt)
        places: list[Place] = []
        held: Place = ([], 0)
        if subject is None or subject not in src:
            if given is not None or method != "plain":
                wanted = "name it with --subject" if given is None else "it must stand there"
                raise UsageError(f"the subject {subject or ''!r} is not in {src!r}: {wanted}")
        else:
            places = contexts(session, src, subject)
            held = essence(session, subject, places[-1][1])
        said = subject or ""
        asked = [session.tokens(p) for p in (others(src, said) if said else [])]
        wordings = [
            row for row, top in zip(asked, likeliest(session, asked), strict=True) if top == old
        ] if asked else []  # fmt: skip
        rng = np.random.default_rng(seed)
        controls = [session.tokens(p) for p in [tgt, *held_out(src, said, CONTROLS - 1, rng)]]
        return cls(
            method, ids, donor, old, new, ask(session, [ids], [old]).p[0], was.p[0], subject,
            places, held,
            [session.tokens(p) for p in rewordings(src, said)] if said else [ids],
            wordings, controls, likeliest(session, controls), notices,
        )  # fmt: skip


def plain(session: ModelSession, case: _Case, layer: int) -> RankOne:
    """d = W (k_tgt - k_src) at the last position, answering to k_src."""
    seen: list[Tensor] = []
    for row in (case.ids, case.donor):
        session.run(row, taps={f"blocks.{layer}.ffn.key": seen.append}, logits="none")
    src, tgt = (k[0, -1].float() for k in seen)
    d = session.model.down_proj(layer).float() @ (tgt - src)
    return RankOne(layer, d, src / src.dot(src))


def _whitened(layer: int, solved: Step, u: Tensor) -> RankOne:
    right = (u / u.dot(solved.key.double().cpu())).float().to(solved.delta.device)
    return RankOne(layer, solved.delta, right)


def _candidates(session: ModelSession, case: _Case, layer: int | None) -> list[int]:
    if layer is not None:
        return [session.shape.layer(layer)]
    if case.method == "plain":
        scan = session.crown(case.ids)
        rows = sorted(scan.scan, key=lambda row: (not row.flips, row.delta_logp))
        return [scan.crown, *(row.layer for row in rows if row.layer != scan.crown)][:3]
    n = session.n_layer
    return list(dict.fromkeys(min(n - 2, max(0, round(depth * n))) for depth in DEPTHS))


def _attempt(
    session: ModelSession,
    case: _Case,
    delta: RankOne,
    door: Gate | None,
    grid: Sequence[float],
    margin: float,
) -> tuple[Attempt, RankOne]:
    """The smallest scale that flips, applied, and what the gate and the controls say to it."""
    live = session.edits.live
    wanted = [case.ids, *(case.wordings if case.method != "plain" else [])]

    def scaled(scale: float) -> RankOne:
        return RankOne(delta.layer, delta.left * scale, delta.right)

    def flips(scale: float, rows: Sequence[Sequence[int]]) -> bool:
        session.edits.set([*live, scaled(scale)])
        return all(ask(session, rows, [case.new]).says)

    scale = smallest(lambda x: flips(x, wanted), grid)
    if scale is None:  # not every wording flips at any strength: the prompt has to
        scale = smallest(lambda x: flips(x, [case.ids]), grid)
    chosen = scaled(grid[-1] if scale is None else scale * margin)
    session.edits.set([*live, chosen])
    flipped = ask(session, [case.ids], [case.new]).says[0]
    verdict = door.check([delta.layer]) if door is not None and flipped else None
    same = likeliest(session, case.controls)
    kept = sum(a == b for a, b in zip(same, case.answers, strict=True))
    strength = grid[-1] if scale is None else scale * margin
    relative = session.edits.relative_change(delta.layer)
    return Attempt(
        delta.layer, strength, flipped, relative, verdict, (kept, len(same))
    ), chosen  # fmt: skip


def smallest(holds: Callable[[float], bool], grid: Sequence[float]) -> float | None:
    """The smallest scale found to hold: the first of ``grid`` that does, then bisection below it.

    None when none of ``grid`` does.
    """
    below = 0.0
    for scale in grid:
        if holds(scale):
            above = scale
            break
        below = scale
    else:
        return None
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        if holds(middle):
            above = middle
        else:
            below = middle
    return above


def _named(
    progress: Callable[[str, int, int], None] | None, what: str
) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
