"""Live state editing: one conversation's State in, a new State and a report out. Prints nothing.

The course of an edit: one batched forward runs the calibration's tellings, the probe's branches
and the questions before; the method makes a delta; its strength is searched on copies in batched
forwards; a last one verifies the controls. Nothing that was passed in is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.recurrent.asking import Reading, Rows
from rwkvedit.recurrent.controls import add_controls, compare, make_controls
from rwkvedit.recurrent.editreport import (
    DID_NOT_TAKE,
    DRY_RUN,
    LEAKED,
    TOOK,
    Change,
    Clock,
    EditOutcome,
    EditReport,
)
from rwkvedit.recurrent.library import Library
from rwkvedit.recurrent.methods import AUTO, AUTO_SEVERAL, Method, find_method
from rwkvedit.recurrent.pairs import read_pair
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.strength import TARGET, Strength, parse_ratio, search_strength
from rwkvedit.recurrent.workspace import BUDGET_MS, Workspace, kernels_first, layer_range

#: A control that loses more than this much probability is shaken, even if its answer stands: the
#: next method is tried before that one is settled for.
SLIP = 0.1
#: Strengths tried on the fact's first question; the least that hold there are tried on all.
LADDER = (0.5, 0.65, 0.8, 1.0, 1.3, 1.8)
STARTS = ("auto", "live", "fresh", "library")


@dataclass(frozen=True)
class Attempt:
    """One method tried: its delta, strength, and what the edited copy answers."""

    method: str
    delta: Tensor
    strength: Strength
    p_old: float  # after it, on the fact's first question
    p_new: float
    controls: tuple
    verdict: str

    @property
    def slip(self) -> float:
        """The most that any control lost."""
        return max((c.slip for c in self.controls), default=0.0)

    @property
    def damage(self) -> tuple[int, float]:
        """Controls lost, and how much all of them slipped together."""
        return sum(not c.kept for c in self.controls), sum(max(c.slip, 0) for c in self.controls)


def choose_start(loaded: Any, start: str, ws_pair: Any, library: Library | None) -> tuple:
    """(calibration or None, start state or None for the live one, its name for the report)."""
    if start not in STARTS:
        raise UsageError(f"--from {start} must be one of live, fresh or library")
    calibration = None
    if start in ("auto", "library"):
        calibration = (library or Library.of(loaded)).find(ws_pair)
    if start == "library" and calibration is None:
        raise RwkvEditError(
            f'no saved calibration tells "{ws_pair.told}" with{ws_pair.old} and{ws_pair.new}; '
            f'fit one: rwkvedit calib fit "{ws_pair.statement(ws_pair.old)}" '
            f'"{ws_pair.statement(ws_pair.new)}"'
        )
    if calibration is not None:
        return calibration, None, f"saved: {calibration.name}"
    if start == "fresh":
        return None, loaded.model.zero_state(), "fresh"
    return None, None, "live"


@kernels_first
def apply_edit(
    loaded: Any,
    state: State,
    old: str,
    new: str,
    *,
    method: str = "auto",
    ratio: str | float = "auto",
    layers: str = "upper",
    start: str = "auto",
    controls: Sequence[str] = (),
    dry_run: bool = False,
    library: Library | None = None,
    history: Sequence[int] | None = None,
    cancel: Callable[[], bool] | None = None,
    n_asks: int = 3,
    target: float = TARGET,
    budget_ms: float = BUDGET_MS,
) -> EditOutcome:
    """Change a remembered fact from ``old`` to ``new`` in one conversation's ``state``.

    ``method`` is ``auto`` (those of :data:`~rwkvedit.recurrent.methods.AUTO` in turn until one
    holds and moves no control; else nothing is changed and the report says why) or a name of
    :data:`~rwkvedit.recurrent.methods.METHODS`; ``ratio`` is ``auto`` or
    ``alpha * ||delta|| / ||state||``; ``start`` where the calibration is told (``auto``: a saved
    one if it matches, else live). ``controls`` are facts that must not move. ``history`` is the
    conversation's tokens, needed by methods that replay; ``budget_ms`` what a method that trains
    (``optimised``) may spend. Returns the new State (the same one on a
    dry run) and the report. Raises UsageError for words that are not an edit and RwkvEditError
    when it cannot be done; ``state`` is never touched.
    """
    clock = Clock()
    pair = read_pair(old, new)
    fixed = parse_ratio(ratio)
    span = layer_range(layers, state.n_layer)
    if method != "auto":
        find_method(method)
    calibration, begin, origin = choose_start(loaded, start, pair, library)
    ws = Workspace(
        loaded, state, pair, span, start=begin, history=history, calibration=calibration,
        n_asks=n_asks, budget_ms=budget_ms, cancel=cancel,
    )
    auto = AUTO_SEVERAL if ws.several and fixed is None else AUTO
    names = (method,) if method != "auto" else auto if fixed is None else auto[:1]
    ws.controls = make_controls(loaded, controls, pair.fact)
    clock.lap("prepare")
    if method == "auto" and ws.model.backend != "native":  # which has no hooks to guard by
        names = tuple(name for name in names if not find_method(name).guarded)
    trial = _Trial(ws, find_method(names[0]), fixed, target, clock)
    attempts: list[Attempt] = []
    best: Attempt | None = None
    for name in names:
        ws.check()
        if find_method(name).guarded and best is not None and best.verdict == TOOK:
            break  # those are dear, and something holds already
        attempts.append(trial.attempt(find_method(name)))
        best = min(attempts, key=_order)
        if best.verdict == TOOK and best.slip <= SLIP:
            break
        ws.warm = best.strength.alpha * best.delta
    assert best is not None, "at least one method is tried"
    refused = method == "auto" and fixed is None and best.verdict != TOOK
    applied = not dry_run and not refused
    alpha = best.strength.alpha
    final = ws.edited(best.delta, [alpha])[0] if applied else state
    clock.lap("apply")
    delta_norm = float(best.delta.double().norm())
    report = EditReport(
        verb="edit", old=old, new=new, method=best.method, asked_method=method,
        ratio=alpha * delta_norm / trial.state_norm if trial.state_norm else 0.0, alpha=alpha,
        state_norm=trial.state_norm, delta_norm=delta_norm,
        verdict=DRY_RUN if dry_run else best.verdict, outcome=best.verdict, applied=applied,
        p_old=Change(trial.p_old, best.p_old), p_new=Change(trial.p_new, best.p_new),
        controls=best.controls, heads=(ws.hi - ws.lo) * state.n_head, layers=span,
        advice=_advice(best, trial.p_old, ws, refused, dry_run),
        calibration=origin if find_method(best.method).calibrated else "none",
        question=ws.asks[0].text,
        decodes=ws.decodes, forwards=ws.forwards,
    )
    report = replace(report, ms=clock.total())
    return EditOutcome(final, report)


def _order(attempt: Attempt) -> tuple:
    """Smaller is better: the verdict, then what it damaged, then how surely it answers."""
    rank = {TOOK: 0, LEAKED: 1, DID_NOT_TAKE: 2}
    return rank[attempt.verdict], attempt.damage, -attempt.strength.score


class _Trial:
    """What is measured once for all methods, and the trying of one.

    The old value is read on the fact's first question only. Whether the model begins its sentence
    at all is asked of the others when it no longer does.
    """

    def __init__(
        self, ws: Workspace, first: Method, fixed: float | None, target: float, clock: Clock
    ) -> None:
        self.ws, self.fixed, self.target, self.clock = ws, fixed, target, clock
        rows = Rows()
        old = rows.add(ws.asks[0], ws.said_old)
        # a guarded method reads where all of them look, so that they may as well be asked at once
        asked = ws.asks if first.guarded else ws.asks[:1]
        new = [rows.add(ask, ws.said_new) for ask in asked]
        watched = add_controls(rows, ws.controls)
        readings = ws.gather(first.rows(ws), rows, sites=first.guarded)
        self._spoken = {q: readings[h].path_said for q, h in enumerate(new)}
        self.p_old, self.p_new = readings[old].p, readings[new[0]].p
        self.quiet = [readings[h] for h in watched]
        self.state_norm = ws.state.norm(ws.layers)
        clock.lap("probe")

    def spoken(self, q: int) -> bool:
        """Was question ``q`` understood before the edit: does the model begin its sentence?"""
        if q not in self._spoken:
            rows = Rows()
            handle = rows.add(self.ws.asks[q], self.ws.said_new)
            self._spoken[q] = self.ws.gather((), rows)[handle].path_said
        return self._spoken[q]

    def begins(self, q: int) -> bool:
        """Must the model begin its sentence itself when ``q`` is asked of the edited state?

        It must where it did before. Where it did on no question, the fact was never told: then it
        must on each, or an edit would take that no question brings to light.
        """
        if self.spoken(q):
            return True
        asked = bool(self.ws.pair.questions)  # else its own words stand in for a question
        return asked and not any(self.spoken(other) for other in range(len(self.ws.asks)))

    def worth(self, q: int, after: Reading) -> float:
        """P(new) on question ``q``, the sentence that leads to it included where it must be."""
        return after.p * (after.path if after.path_said or self.begins(q) else 1.0)

    def attempt(self, method: Method) -> Attempt:
        """Delta, strength and verification of one method."""
        ws, clock = self.ws, self.clock
        ws.gather(method.rows(ws))
        clock.lap("probe")
        delta = method.delta(ws)
        if not bool(torch.isfinite(delta).all()):
            raise RwkvEditError(
                "the edit's delta is not finite; the state may be damaged (try /undo)"
            )
        norm = float(delta.double().norm())
        if norm == 0.0:
            raise RwkvEditError("old and new leave the same state; this edit would change nothing")
        clock.lap("calibrate")
        heard: dict[tuple[float, int], Reading] = {}  # by strength and question
        checked: dict[float, tuple[Reading, list[Reading]]] = {}  # the old value, the controls
        every = range(len(ws.asks))

        def answers(alphas: list[float], asks: Sequence[int], check: bool) -> list[float]:
            """The worst of these questions' P(new) at each strength; one forward, which with
            ``check`` also reads the old value and the controls."""
            rows = Rows()
            handles = {
                (alpha, q): rows.add(ws.asks[q], ws.said_new, i)
                for i, alpha in enumerate(alphas) for q in asks if (alpha, q) not in heard
            }
            watched = {
                alpha: (rows.add(ws.asks[0], ws.said_old, i), add_controls(rows, ws.controls, i))
                for i, alpha in enumerate(alphas) if check and alpha not in checked
            }
            readings = ws.read(rows, ws.edited(delta, alphas))
            heard.update({key: readings[h] for key, h in handles.items()})
            checked.update({
                alpha: (readings[old], [readings[h] for h in controls])
                for alpha, (old, controls) in watched.items()
            })
            return [min(self.worth(q, heard[alpha, q]) for q in asks) for alpha in alphas]

        def evaluate(alphas: list[float]) -> list[float]:
            return answers(alphas, every, True)

        if self.fixed is not None:
            alpha = self.fixed * self.state_norm / norm
            score = evaluate([alpha])[0]
            strength = Strength(alpha, score, score >= self.target)
        elif not method.searched:
            score = evaluate([1.0])[0]
            strength = Strength(1.0, score, score >= self.target)
        else:
            strength = search_strength(
                evaluate, target=self.target, bracket=LADDER, rounds=0,
                bound=lambda alphas: answers(alphas, (0,), False),
            )
        clock.lap("strength")
        if strength.alpha not in checked:
            evaluate([strength.alpha])
        after = [heard[strength.alpha, q] for q in every]
        old, watched = checked[strength.alpha]
        results = compare(ws.controls, self.quiet, watched)
        took = all(
            r.said and (r.path_said or not self.begins(q)) for q, r in enumerate(after)
        )
        verdict = DID_NOT_TAKE if not took else TOOK if all(c.kept for c in results) else LEAKED
        clock.lap("verify")
        return Attempt(
            method.name, delta, strength, old.p, after[0].p, results, verdict
        )


def _advice(
    best: Attempt, p_old: float, ws: Workspace, refused: bool, dry_run: bool
) -> str:
    """What to try next, one line; empty when the edit took, and surely."""
    undo = "" if refused or dry_run else "/undo, then "
    if best.verdict == TOOK:
        if not ws.pair.questions:
            return (
                "it was checked on its own words only, for no kind of fact explains this sentence: "
                "see what the model answers with /ask QUESTION"
            )
        if best.strength.held:
            return ""
        return (
            f"it answers so, but not surely (P {best.strength.score:.2f}): {undo}try --layers all, "
            "--method uniform, or say the correction in the chat"
        )
    if best.verdict == LEAKED:
        moved = ", ".join(f'"{c.fact}"' for c in best.controls if not c.kept)
        if refused:
            return f"{moved} would move too; --method {best.method} does it all the same"
        return f"{moved} moved too: {undo}try a smaller --ratio or --method hyb-uv"
    if p_old < 0.2:
        return (
            f'the model did not hold "{ws.pair.statement(ws.pair.old)}" to begin with: {undo}'
            "tell it the new fact in the chat, or name the value it does give (/ask)"
        )
    return (
        f"{undo}try --layers all, a larger --ratio, --method uniform, or say the correction in the "
        "chat"
    )
