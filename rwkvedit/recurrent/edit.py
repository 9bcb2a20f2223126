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
from rwkvedit.recurrent.asking import Reading, Rows, read_rows
from rwkvedit.recurrent.controls import Control, add_controls, compare, make_controls
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
from rwkvedit.recurrent.strength import TARGET, Strength, search_strength
from rwkvedit.recurrent.workspace import Workspace, layer_range

STARTS = ("auto", "live", "fresh", "library")


@dataclass(frozen=True)
class Attempt:
    """One method tried: its delta, strength, and what the edited copy answers."""

    method: str
    delta: Tensor
    strength: Strength
    after: list[tuple[Reading, Reading]]  # (of old, of new) per ask
    controls: tuple
    verdict: str

    @property
    def damage(self) -> tuple[int, float]:
        """Controls lost, and how far their probabilities moved together."""
        lost = sum(not c.kept for c in self.controls)
        return lost, sum(abs(c.after - c.before) for c in self.controls)


def parse_ratio(ratio: str | float) -> float | None:
    """``auto`` as None, a positive number as itself. Raises UsageError for anything else."""
    if ratio == "auto":
        return None
    try:
        value = float(ratio)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1e4:
        raise UsageError(f"--ratio {ratio} must be auto or a positive number like 0.2")
    return value


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
    n_asks: int = 2,
    target: float = TARGET,
) -> EditOutcome:
    """Change a remembered fact from ``old`` to ``new`` in one conversation's ``state``.

    ``method`` is ``auto`` (hyb-u, the whole probe and isolate, tried until one holds; the probe
    first when a value takes several tokens) or a name of
    :data:`~rwkvedit.recurrent.methods.METHODS`; ``ratio`` is ``auto`` or
    ``alpha * ||delta|| / ||state||``; ``start`` where the calibration is told (``auto``: a saved
    one if it matches, else live). ``controls`` are facts that must not move. ``history`` is the
    conversation's tokens, needed by methods that replay. Returns the new State (the same one on a
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
        n_asks=n_asks, cancel=cancel,
    )
    auto = AUTO_SEVERAL if ws.several and fixed is None else AUTO
    names = (method,) if method != "auto" else auto if fixed is None else auto[:1]
    checks = make_controls(loaded, controls, pair.fact)
    rows = Rows()
    asked = [(rows.add(ask, ws.said_old), rows.add(ask, ws.said_new)) for ask in ws.asks]
    watched = add_controls(rows, checks)
    clock.lap("prepare")
    readings = ws.gather(find_method(names[0]).rows(ws), rows)
    before = [(readings[o], readings[n]) for o, n in asked]
    quiet = [readings[h] for h in watched]
    clock.lap("probe")

    state_norm = state.norm(ws.layers)
    attempts: list[Attempt] = []
    for name in names:
        ws.check()
        attempts.append(
            _attempt(ws, find_method(name), fixed, state_norm, before, checks, quiet, clock, target)
        )
        if attempts[-1].verdict == TOOK:
            break
    order = {TOOK: 0, LEAKED: 1, DID_NOT_TAKE: 2}
    best = min(attempts, key=lambda a: (order[a.verdict], a.damage, -a.strength.score))
    alpha = best.strength.alpha
    final = ws.edited(best.delta, [alpha])[0]
    clock.lap("apply")
    delta_norm = float(best.delta.double().norm())
    report = EditReport(
        verb="edit", old=old, new=new, method=best.method, asked_method=method,
        ratio=alpha * delta_norm / state_norm if state_norm else 0.0, alpha=alpha,
        state_norm=state_norm, delta_norm=delta_norm,
        verdict=DRY_RUN if dry_run else best.verdict, outcome=best.verdict,
        p_old=Change(_mean(b[0] for b in before), _mean(a[0] for a in best.after)),
        p_new=Change(_mean(b[1] for b in before), _mean(a[1] for a in best.after)),
        controls=best.controls, heads=(ws.hi - ws.lo) * state.n_head, layers=span,
        advice=_advice(best, before, ws),
        calibration=origin if find_method(best.method).calibrated else "none",
        question=ws.asks[0].text,
        decodes=ws.decodes, forwards=ws.forwards,
    )
    report = replace(report, ms=clock.total())
    return EditOutcome(state if dry_run else final, report)


def _mean(readings: Any) -> float:
    values = [r.p for r in readings]
    return sum(values) / len(values)


def _attempt(
    ws: Workspace, method: Method, fixed: float | None, state_norm: float,
    before: list[tuple[Reading, Reading]], checks: list[Control], quiet: list[Reading],
    clock: Clock, target: float,
) -> Attempt:
    """Delta, strength and verification of one method."""
    ws.gather(method.rows(ws))
    clock.lap("probe")
    delta = method.delta(ws)
    if not bool(torch.isfinite(delta).all()):
        raise RwkvEditError("the edit's delta is not finite; the state may be damaged (try /undo)")
    norm = float(delta.double().norm())
    if norm == 0.0:
        raise RwkvEditError("old and new leave the same state; this edit would change nothing")
    clock.lap("calibrate")
    expected = [b[0].path_said for b in before]
    one = len(ws.said_old) == len(ws.said_new) == 1
    found: dict[float, list[tuple[Reading, Reading]]] = {}

    def evaluate(alphas: list[float]) -> list[float]:
        rows = Rows()
        handles = [
            [(rows.add(ask, ws.said_new, i), rows.add(ask, ws.said_old, i) if one else -1)
             for ask in ws.asks]
            for i in range(len(alphas))
        ]
        edited = ws.edited(delta, alphas)
        readings = _read(ws, rows, edited)
        for alpha, hs in zip(alphas, handles, strict=True):
            found[alpha] = [(readings[o if o >= 0 else n], readings[n]) for n, o in hs]
        return [
            min(r.p * (r.path if e else 1.0) for (_, r), e in zip(found[a], expected, strict=True))
            for a in alphas
        ]

    if fixed is not None:
        alpha = fixed * state_norm / norm
        strength = Strength(alpha, evaluate([alpha])[0], True)
    elif not method.searched:
        strength = Strength(1.0, evaluate([1.0])[0], True)
    else:
        strength = search_strength(evaluate, target=target)
    clock.lap("strength")
    after = found[strength.alpha]
    results: tuple = ()
    if checks or not one:
        rows = Rows()
        watched = add_controls(rows, checks)
        olds = [] if one else [rows.add(ask, ws.said_old) for ask in ws.asks]
        readings = _read(ws, rows, ws.edited(delta, [strength.alpha]))
        results = compare(checks, quiet, [readings[h] for h in watched])
        if not one:
            after = [(readings[o], n) for o, (_, n) in zip(olds, after, strict=True)]
    took = all(
        n.said and (n.path_said or not e) for (_, n), e in zip(after, expected, strict=True)
    )
    verdict = DID_NOT_TAKE if not took else TOOK if all(c.kept for c in results) else LEAKED
    clock.lap("verify")
    return Attempt(method.name, delta, strength, after, results, verdict)


def _read(ws: Workspace, rows: Rows, edited: State) -> list[Reading]:
    ws.check()
    ws.forwards += 1
    ws.decodes += rows.n_tokens
    with torch.no_grad():
        return read_rows(ws.model, rows, edited.unstack())


def _advice(best: Attempt, before: list[tuple[Reading, Reading]], ws: Workspace) -> str:
    """What to try next, one line; empty when the edit took."""
    if best.verdict == TOOK:
        return ""
    if best.verdict == LEAKED:
        moved = ", ".join(f'"{c.fact}"' for c in best.controls if not c.kept)
        return f"{moved} moved too: /undo, then try a smaller --ratio or --method hyb-uv"
    if _mean(b[0] for b in before) < 0.2:
        return (
            f'the model did not hold "{ws.pair.statement(ws.pair.old)}" to begin with: '
            "tell it the new fact in the chat, or name the value it does give (/ask)"
        )
    return "try --layers all, a larger --ratio, --method uniform, or say the correction in the chat"
