"""Erasing: towards the state in which a fact was never told. Prints nothing, changes nothing given.

Two families of delta over the edited layers, both with a searched strength:

``project``      delta = -(S V) V^T, with V the addresses of the live probe (old value against
                 another value of its kind): what the state reads at the fact's own address goes.
``nullspace``    the same, bent off what the controls' questions read (``methods.nullspace``);
                 ``nullspace-firm`` with more weight on them.
``optimised``    from the best of those tried, trained not to know (``methods.optimised``).
``entity``,      delta = state(baseline told alone) - state(fact told alone), each an acknowledged
``neutral``,     turn from a fresh state; the baseline is the entity's name only (keeps the
``placeholder``  entity), ``"."``, or dots of the fact's own length (keeps later turns in place).

Strength: the least multiple at which the model says that it does not know, on the fact's own
questions, and, forced to begin the answer, no longer gives the old value first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.facts import KINDS, Fact, parse_fact
from rwkvedit.facts.lexicon import TRAIN
from rwkvedit.recurrent.asking import Ask, Reading, Rows, make_asks
from rwkvedit.recurrent.calibrate import told_turn
from rwkvedit.recurrent.controls import add_controls, compare, make_controls
from rwkvedit.recurrent.edit import SLIP
from rwkvedit.recurrent.editreport import (
    DID_NOT_TAKE,
    DRY_RUN,
    LEAKED,
    TOOK,
    Change,
    Clock,
    ControlResult,
    EditOutcome,
    EditReport,
)
from rwkvedit.recurrent.methods.donorless import removal
from rwkvedit.recurrent.methods.nullspace import FIRM, GUARD, unseen
from rwkvedit.recurrent.methods.optimised import Lesson, train
from rwkvedit.recurrent.pairs import Pair, pair_of_facts
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.strength import parse_ratio, search_strength
from rwkvedit.recurrent.workspace import BUDGET_MS, Workspace, kernels_first, layer_range

UNKNOWN = " I don't know"
BASELINES = (
    "project", "entity", "neutral", "placeholder", "nullspace", "nullspace-firm", "optimised",
)
#: What ``auto`` tries in turn, for each verb, until one holds and shakes no control.
ORDER = {
    "forget": ("project", "nullspace", "nullspace-firm", "entity", "optimised"),
    "nuke": ("project", "neutral", "nullspace", "nullspace-firm", "optimised"),
}
#: What a fixed ratio means for each verb: the published baseline delta.
PUBLISHED = {"forget": ("entity",), "nuke": ("neutral",)}
#: Strengths tried; fine, since an erasure that is too strong takes other facts with it.
LADDER = (0.35, 0.5, 0.65, 0.8, 1.0, 1.25, 1.6)
GUARDS = {"nullspace": GUARD, "nullspace-firm": FIRM}
TRAINED = "optimised"
PROBED = ("project", *GUARDS, TRAINED)
#: P(old) after an erasure, the answer's own words forced, must fall below this.
GONE = 0.4
#: P("I don't know") that every one of a fact's own questions must pass. At .6 an erasure now and
#: then fails in a wording it was not searched on (51 and 50 worlds of other seeds, a person's facts
#: erased: .922 and .980 no longer told, at .8 .961 and .980; one of two facts: 1.00 and .962, at .8
#: 1.00 both).
TARGET = 0.8
#: P(old) under which, on all the fact's questions, there is nothing of it to erase.
DOUBT = 0.2
PUBLISHED_RATIO = 0.5  # the published value for another model; ``--ratio 0.5`` asks for it


def _another(fact: Fact) -> str:
    """A common value of the fact's kind that is not its own: the probe's other branch."""
    slot = KINDS[fact.kind].slot
    options = {"ages": ("40", "31"), "phones": ("2075", "6391")}.get(slot) or tuple(TRAIN[slot])
    return next(v for v in options if v.lower() != fact.value.lower())


def read_fact(text: str) -> Pair:
    """One typed fact as a Pair whose new value is another of its kind (the probe's contrast).

    Raises UsageError for an empty or one-word fact.
    """
    fact = parse_fact(text)
    if fact is not None:
        return pair_of_facts(fact, fact.with_value(_another(fact)))
    said = " ".join(text.split()).rstrip(".! ")
    head, _, last = said.rpartition(" ")
    if not head or not last:
        raise UsageError('name a whole fact, like /rwkv-forget "Bob has a car" "Bob"')
    return Pair("", head, f" {last}", " something", ".", (), f" {head}", f" {last}", " something")


def apply_forget(loaded: Any, state: State, fact: str, entity: str, **options: Any) -> EditOutcome:
    """Remove one property of ``entity`` and keep the entity. Options as for :func:`erase`.

    Raises UsageError when the fact does not name the entity.
    """
    name = " ".join(entity.split())
    spoken = " ".join(fact.split())
    if not name or not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", spoken, re.IGNORECASE):
        raise UsageError(
            f'"{fact}" says nothing of "{entity}"; write it like /rwkv-forget "Bob has a car" "Bob"'
        )
    return erase(loaded, state, fact, name, verb="forget", **options)


def apply_nuke(loaded: Any, state: State, fact: str, **options: Any) -> EditOutcome:
    """Remove a fact whole, against a neutral base. Options as for :func:`erase`."""
    return erase(loaded, state, fact, ".", verb="nuke", **options)


@kernels_first
def erase(
    loaded: Any,
    state: State,
    fact: str,
    entity: str,
    *,
    verb: str = "forget",
    method: str = "auto",
    ratio: str | float = "auto",
    layers: str = "upper",
    start: str = "fresh",
    controls: Sequence[str] = (),
    dry_run: bool = False,
    cancel: Callable[[], bool] | None = None,
    target: float = TARGET,
    n_asks: int = 3,
    budget_ms: float | None = None,
    heard: Sequence[Fact] | None = None,
) -> EditOutcome:
    """Take ``fact`` out of ``state``; returns the new State and a report.

    ``method`` is ``auto`` or one of ``BASELINES``; ``ratio`` ``auto`` or a number
    (``alpha * ||delta|| / ||state||``, with which ``auto`` means the published baseline delta);
    ``budget_ms`` what ``optimised`` may spend, which ``auto`` tries last and only where nothing
    else has held. ``heard`` is all that the chat holds, controls or not (by default the controls).
    The report's ``p_new`` is the probability of beginning with "I don't know". The verdict is
    ``took`` when no question's reply gives the old value any more (the advice then says if it
    still comes where the answer is begun for the model); ``auto`` leaves alone a state that never
    gave it, and says so. Raises UsageError and RwkvEditError; ``state`` is never
    touched.
    """
    clock = Clock()
    pair = read_fact(fact)
    fixed = parse_ratio(ratio)
    if method != "auto" and method not in BASELINES:
        raise UsageError(f"no erasing method {method}; there are auto, {', '.join(BASELINES)}")
    names = ORDER[verb] if method == "auto" else (method,)
    if fixed is not None and method == "auto":
        names = PUBLISHED[verb]
    span = layer_range(layers, state.n_layer)
    begin = None if start == "live" else loaded.model.zero_state()
    ws = Workspace(
        loaded, state, pair, span, start=begin, n_asks=n_asks, cancel=cancel,
        budget_ms=BUDGET_MS if budget_ms is None else budget_ms,
    )
    ws.controls = make_controls(loaded, controls, pair.fact)
    known = [f for f in map(parse_fact, controls) if f is not None] if heard is None else heard
    work = _Erasure(ws, entity, target)
    clock.lap("prepare")
    work.before(names[0])
    clock.lap("probe")
    state_norm = state.norm(ws.layers)
    p_old, p_new = _mean(work.old_before), _mean(work.unknown_before)
    if method == "auto" and fixed is None and work.untold() and not work.mixes_up(known):
        report = EditReport(
            verb=verb, old=fact, new="", method="none", asked_method=method, ratio=0.0, alpha=0.0,
            state_norm=state_norm, delta_norm=0.0, verdict=DRY_RUN if dry_run else DID_NOT_TAKE,
            outcome=DID_NOT_TAKE, applied=False, p_old=Change(p_old, p_old),
            p_new=Change(p_new, p_new), controls=compare(ws.controls, work.quiet, work.quiet),
            layers=span, question=ws.asks[0].text, decodes=ws.decodes, forwards=ws.forwards,
            advice=f'the model does not tell "{fact}" now, so there is nothing to erase; see what '
            f"it says: /ask {ws.asks[0].text}",
        )
        return EditOutcome(state, replace(report, ms=clock.total()))
    tried: list[_Tried] = []
    best: _Tried | None = None
    for name in names:
        if name in (*GUARDS, TRAINED) and tried:
            if ws.model.backend != "native":
                continue  # it needs hooks or gradients, which this backend has not
            if name == TRAINED and best is not None and best.verdict == TOOK and best.held:
                break  # dear, and something holds already
        tried.append(work.attempt(name, fixed, state_norm, clock))
        best = min(tried, key=_Tried.order)
        if best.verdict == TOOK and best.held and best.slip <= SLIP:
            break
        ws.warm = best.alpha * best.delta
    assert best is not None, "at least one method is tried"
    verdict, alpha, delta = best.verdict, best.alpha, best.delta
    refused = method == "auto" and fixed is None and verdict != TOOK
    applied = not dry_run and not refused
    final = ws.edited(delta, [alpha])[0] if applied else state
    clock.lap("apply")
    norm = float(delta.double().norm())
    report = EditReport(
        verb=verb, old=fact, new="", method=best.name, asked_method=method,
        ratio=alpha * norm / state_norm if state_norm else 0.0, alpha=alpha,
        state_norm=state_norm, delta_norm=norm, verdict=DRY_RUN if dry_run else verdict,
        outcome=verdict, applied=applied,
        p_old=Change(p_old, _mean(best.old)), p_new=Change(p_new, _mean(best.unknown)),
        controls=best.controls,
        heads=(ws.hi - ws.lo) * state.n_head, layers=span,
        advice=_advice(best, verb, fact, refused, dry_run),
        calibration="live probe" if best.name in PROBED else start, question=ws.asks[0].text,
        decodes=ws.decodes, forwards=ws.forwards,
    )
    report = replace(report, ms=clock.total())
    return EditOutcome(final, report)


def _mean(readings: Sequence[Reading]) -> float:
    return sum(r.p for r in readings) / len(readings)


@dataclass(frozen=True)
class _Tried:
    """One method tried: what the erased copy answers. ``held``: the strength reached its target."""

    name: str
    delta: Tensor
    alpha: float
    held: bool
    old: list[Reading]
    unknown: list[Reading]
    controls: tuple[ControlResult, ...]
    verdict: str

    @property
    def slip(self) -> float:
        return max((c.slip for c in self.controls), default=0.0)

    @property
    def forced(self) -> bool:
        """Does the old value still come, the answer's own words once begun for the model?"""
        return any(r.said or r.p >= GONE for r in self.old)

    def order(self) -> tuple:
        """Smaller is better: the verdict, whether it held, then what it damaged."""
        rank = {TOOK: 0, LEAKED: 1, DID_NOT_TAKE: 2}[self.verdict]
        return rank, not self.held, sum(not c.kept for c in self.controls), self.slip


class _Erasure:
    """One erasure's questions and what they said before."""

    def __init__(self, ws: Workspace, entity: str, target: float) -> None:
        self.ws, self.entity, self.target = ws, entity, target
        self.unknown = ws.loaded.tokenizer.encode(UNKNOWN)
        # the reply's own beginning: nothing is forced before "I don't know"
        self.open = [Ask(a.text, a.prompt, ()) for a in ws.asks] if ws.pair.questions else []

    def rows(
        self, state: int, rows: Rows, most: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Handles of the old value's and the not knowing's readings, on the first ``most`` asks."""
        ws = self.ws
        return (
            [rows.add(a, ws.said_old, state) for a in ws.asks[:most]],
            [rows.add(a, self.unknown, state) for a in self.open[:most]],
        )

    def before(self, name: str) -> None:
        rows = Rows()
        olds, unknowns = self.rows(0, rows)
        watched = add_controls(rows, self.ws.controls)
        names = ("probe-old", "probe-new") if name in PROBED else ()
        readings = self.ws.gather(names, rows)
        self.old_before = [readings[h] for h in olds]
        self.unknown_before = [readings[h] for h in unknowns] or [Reading(0, False, 0, False)]
        self.quiet = [readings[h] for h in watched]

    def untold(self) -> bool:
        """Is the value not what the state gives, not even its first word, before anything?

        (Of "a baker in Paris" a state told of a baker gives the first word: it is told.)
        """
        if any(r.said or r.p >= DOUBT for r in self.old_before):
            return False
        ws, rows = self.ws, Rows()
        words = ws.pair.answer_old.split()
        first = words[: 2 if words[0] in ("a", "an") else 1]
        head = ws.loaded.tokenizer.encode(" " + " ".join(first))
        handles = [rows.add(ask, head) for ask in ws.asks]
        readings = ws.gather((), rows)
        return all(readings[h].p < DOUBT for h in handles)

    def mixes_up(self, heard: Sequence[Fact]) -> bool:
        """Does it give, in this fact's place, the value of another that the chat holds?

        Not where the chat holds another value of this very fact: then the user named a wrong one.
        """
        ws, own = self.ws, self.ws.pair.fact
        if own is None:
            return False
        if any(f.key == own.key and f.value.lower() != own.value.lower() for f in heard):
            return False
        rows, encode = Rows(), ws.loaded.tokenizer.encode
        values = dict.fromkeys(own.with_value(fact.value).answer_value() for fact in heard)
        handles = [rows.add(ask, encode(value)) for value in values for ask in ws.asks]
        readings = ws.gather((), rows)
        return any(readings[h].said and readings[h].path_said for h in handles)

    def lesson(self) -> Lesson:
        """Not to know, however the fact is asked after, nor to give it where the answer is begun
        for the model."""
        ws = self.ws
        asks = make_asks(ws.loaded, ws.pair.questions, ws.pair.answer)
        return Lesson(
            [(ask.prompt, self.unknown) for ask in asks] if ws.pair.questions else [],
            [(ask.tokens, ws.said_old) for ask in asks],
        )

    def delta(self, name: str) -> Tensor:
        """(l, H, N, N), see the module's formulas."""
        ws = self.ws
        if name == TRAINED:
            start = ws.warm if ws.warm is not None else self.delta("project")
            return train(ws, self.lesson(), start)
        if name in PROBED:
            gone = removal(ws.state.wkv[ws.layers], ws.triples("probe", ws.rank).v)
            return unseen(ws, gone, GUARDS[name]) if name in GUARDS else gone
        statement = ws.pair.statement(ws.pair.old)
        length = len(ws.loaded.tokenizer.encode(f" {statement}"))
        baseline = {
            "entity": f"{self.entity}.", "neutral": ".", "placeholder": " ".join(["."] * length),
        }[name]
        turns = [told_turn(ws.loaded, text) for text in (statement, baseline)]
        _, after = ws.forward(turns, ws.start)
        return after.wkv[1, ws.layers] - after.wkv[0, ws.layers]

    def attempt(
        self, name: str, fixed: float | None, state_norm: float, clock: Clock
    ) -> _Tried:
        """Delta, strength and verification of one method."""
        ws = self.ws
        ws.check()
        delta = self.delta(name)
        norm = float(delta.double().norm())
        if not bool(torch.isfinite(delta).all()):
            raise RwkvEditError("the delta is not finite; the state may be damaged (try /undo)")
        if norm == 0.0:
            raise RwkvEditError("there is nothing at this fact's address; nothing to erase")
        clock.lap("calibrate")
        found: dict[float, tuple[list[Reading], list[Reading]]] = {}
        checked: dict[float, list[Reading]] = {}

        def score(alphas: list[float], first: bool = False) -> list[float]:
            """The worst answer at each strength: of the fact's first question, or of all (one
            forward, which then reads the controls too)."""
            rows = Rows()
            handles = [self.rows(i, rows, 1 if first else None) for i in range(len(alphas))]
            watched = {
                alpha: add_controls(rows, ws.controls, i)
                for i, alpha in enumerate(alphas) if not first
            }
            readings = ws.read(rows, ws.edited(delta, alphas))
            checked.update({a: [readings[h] for h in handles] for a, handles in watched.items()})
            scores = []
            for alpha, (olds, unknowns) in zip(alphas, handles, strict=True):
                old, unknown = [readings[h] for h in olds], [readings[h] for h in unknowns]
                if not first:
                    found[alpha] = (old, unknown)
                gone = min(1.0 if r.p < GONE and not r.said else 0.5 * (1 - r.p) for r in old)
                scores.append(min([gone, *(r.p for r in unknown)]))
            return scores

        if fixed is not None or name == TRAINED:
            alpha = 1.0 if fixed is None else fixed * state_norm / norm
            held = score([alpha])[0] >= self.target
        else:
            strength = search_strength(
                score, target=self.target, bracket=LADDER, rounds=0, ceiling=3.0,
                bound=lambda alphas: score(alphas, first=True),
            )
            alpha, held = strength.alpha, strength.held
            if alpha not in strength.tried:
                score([alpha])
        old, unknown = found[alpha]
        clock.lap("strength")
        results = compare(ws.controls, self.quiet, checked[alpha])
        clock.lap("verify")
        # the reply gives the old value when it starts the answer and the value comes first
        gone = all(not o.said for o in old) or (
            bool(unknown) and all(u.said for u in unknown)
        )
        verdict = DID_NOT_TAKE if not gone else TOOK if all(c.kept for c in results) else LEAKED
        shown = unknown or [Reading(0, False, 0, False)]
        return _Tried(name, delta, alpha, held, old, shown, results, verdict)


def _advice(best: _Tried, verb: str, fact: str, refused: bool, dry_run: bool) -> str:
    """What to try next, one line; empty when the erasure took and reached its strength."""
    undo = "" if refused or dry_run else "/undo, then "
    stronger = f'/rwkv-nuke "{fact}"' + (" --layers all" if verb == "nuke" else "")
    if best.verdict == TOOK:
        if best.held:
            return ""
        if best.forced:
            least = max(r.p for r in best.old)
            return (
                "the reply does not tell it, but the model, made to begin the answer, still gives "
                f"the old value (P {least:.2f}): {undo}{stronger}"
            )
        unsure = min(r.p for r in best.unknown)
        if not all(r.said for r in best.unknown):
            return (
                "the reply gives the old value no more, but does not always say that it is not "
                f"known (P {unsure:.2f}; see what it says with /ask): {undo}{stronger}"
            )
        return f"it says that it does not know, but not surely (P {unsure:.2f}): {undo}{stronger}"
    if best.verdict == LEAKED:
        moved = ", ".join(f'"{c.fact}"' for c in best.controls if not c.kept)
        if refused:
            return f"{moved} would go too; --method {best.name} does it all the same"
        return f"{moved} moved too: {undo}try a smaller --ratio"
    other = "/rwkv-nuke" if verb == "forget" else "/rwkv-edit to another value"
    return f"{undo}try --ratio {PUBLISHED_RATIO}, --layers all, or {other}"
