"""Makes the states that a benchmark judges: each editing method, and the baselines beside them.

Judges nothing. ``none`` leaves the state alone, ``tell`` says it in the chat, ``oracle`` replays
the conversation had it been told so from the start, ``random`` adds a random direction of the
norm of an edit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.evaluate.recall import conversation_tokens
from rwkvedit.evaluate.suites import EditCase, Step, counterfactual
from rwkvedit.evaluate.suites.cases import EDIT, FORGET, NUKE
from rwkvedit.models.catalog import LoadedModel
from rwkvedit.recurrent import erase
from rwkvedit.recurrent.calibrate import Calibration, fit_calibration, told_turn
from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.editreport import EditOutcome
from rwkvedit.recurrent.methods import METHODS
from rwkvedit.recurrent.pairs import Pair, read_pair
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.workspace import layer_range

AUTO = "auto"
BASELINES = {
    "none": "the state as it is",
    "tell": "the correction said in the chat, as a user's turn",
    "oracle": "the conversation replayed with the fact changed: what an edit should equal",
    "random": "a random direction of the norm of an edit",
}
#: Shown without ``--methods``, those of them that there are.
USUAL = (AUTO, "uniform", "isolate", "full-r1", "hyb-u", "hyb-uv", "nullspace", "optimised")


def known_methods(erases: bool) -> dict[str, str]:
    """Name and one-line summary of every method of a suite that edits, or that erases."""
    if erases:
        named = {name: f"erasing by {name}" for name in erase.BASELINES}
        return {AUTO: "the chat's default for forgetting", **named, **BASELINES}
    named = {name: method.summary for name, method in METHODS.items()}
    return {AUTO: "the chat's default", **named, **BASELINES}


def default_methods(erases: bool) -> tuple[str, ...]:
    known = known_methods(erases)
    if erases:
        return tuple(known)
    return tuple(name for name in (*USUAL, *BASELINES) if name in known)


def choose_methods(wanted: str | None, erases: bool, beside: bool = True) -> tuple[str, ...]:
    """The methods of ``--methods a,b`` with the baselines beside; ``all`` is every one.

    Raises UsageError with the list for a name that is none.
    """
    known = known_methods(erases)
    if not wanted:
        return default_methods(erases)
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    names = [one for name in names for one in (known if name == "all" else (name,))]
    for name in names:
        if name not in known:
            what = "erasing method" if erases else "method"
            raise UsageError(f"no {what} called {name}; there are {', '.join(known)}")
    if not names:
        raise UsageError(f"--methods names none; there are {', '.join(known)}")
    return tuple(dict.fromkeys((*names, *(BASELINES if beside else ()))))


@dataclass(frozen=True)
class Made:
    """One method's work in one world. ``states`` by the number of edits made; ``ms``, ``decodes``
    and ``forwards`` are means of an edit. ``note`` says what was used, or why it was refused."""

    states: dict[int, State]
    ms: float = 0.0
    decodes: float = 0.0
    forwards: float = 0.0
    note: str = ""


@dataclass
class Job:
    """One world as the methods get it. ``number`` seeds what is random in it."""

    loaded: LoadedModel
    case: EditCase
    live: State
    number: int
    layers: str = "upper"
    heard: bool = True
    oracle: Made | None = None
    made: dict[str, Made] = field(default_factory=dict)

    @property
    def stops(self) -> tuple[int, ...]:
        """Numbers of edits after which the world is judged, the last being all of them."""
        return (*self.case.checkpoints, len(self.case.steps))

    def tokens(self, steps: int) -> list[int]:
        """The conversation, had the first ``steps`` edits been told from the start."""
        world = counterfactual(self.case, steps) if steps else self.case.world
        return conversation_tokens(self.loaded, world)

    def controls(self, before: int) -> list[str]:
        """The facts that the chat would have heard when edit ``before`` is made, but its own."""
        now, target = self.case.truth(before), self.case.steps[before].index
        later = {step.index for step in self.case.steps if step.new is None}
        return [
            fact.statement() for i, fact in enumerate(now)
            if fact is not None and i != target and i not in later
        ]


def replay(loaded: LoadedModel, jobs: Sequence[Job]) -> None:
    """Give every job its oracle."""
    for job in jobs:
        states: dict[int, State] = {}
        begun, decodes = time.perf_counter(), 0
        for stop in job.stops:
            tokens = job.tokens(stop)
            decodes = len(tokens)
            with torch.no_grad():
                # nothing told is nothing to replay: the state that stands before any token
                states[stop] = (
                    loaded.model.forward(tokens, loaded.model.zero_state())[1]
                    if tokens else loaded.model.zero_state()
                )
        ms = (time.perf_counter() - begun) * 1e3 / len(job.stops)
        job.oracle = Made(states, ms, decodes, 1)


def make(job: Job, method: str) -> Made:
    """The world's states after ``method``'s edits. An edit that is refused changes nothing."""
    steps = job.case.steps
    if method == "none":
        return Made(dict.fromkeys(job.stops, job.live))
    if method == "oracle":
        assert job.oracle is not None
        return job.oracle
    if method == "random" and not (job.case.verb == EDIT and "random" in METHODS):
        return _random(job)
    one = _tell if method == "tell" else _edit
    calibration = _generic(job) if job.case.told_as and method != "tell" else None
    state, states = job.live, {}
    history = job.tokens(0)  # a chat has its tokens at hand: what was said, whatever was edited
    ms = decodes = forwards = 0.0
    notes: list[str] = []
    for at, step in enumerate(steps):
        begun = time.perf_counter()
        try:
            outcome = one(job, method, at, step, state, calibration, history)
        except RwkvEditError as error:
            notes.append(f"refused: {error}")
        else:
            state = outcome.state
            decodes += outcome.decodes
            forwards += outcome.forwards
            notes.append(outcome.note)
        ms += (time.perf_counter() - begun) * 1e3
        if at + 1 in job.stops:
            states[at + 1] = state
    n = len(steps)
    return Made(states, ms / n, decodes / n, forwards / n, ", ".join(dict.fromkeys(notes)))


@dataclass(frozen=True)
class _Done:
    state: State
    decodes: int
    forwards: int
    note: str = ""

    @staticmethod
    def of(outcome: EditOutcome) -> _Done:
        report = outcome.report
        note = report.method if report.verdict == "took" else f"{report.method}: {report.verdict}"
        return _Done(outcome.state, report.decodes, report.forwards, note)


def _tell(
    job: Job, method: str, at: int, step: Step, state: State, calibration: Calibration | None,
    history: Sequence[int],
) -> _Done:
    loaded = job.loaded
    if step.new is not None:
        turn = told_turn(loaded, f"Actually, {step.new.statement()}")
    else:
        said = step.old.statement()
        turn = loaded.template.encode_turn(
            loaded.tokenizer, f"Forget that {said}", "Okay, I forgot that.")
    with torch.no_grad():
        _, state = loaded.model.forward(turn, state)
    return _Done(state, len(turn), 1)


def _edit(
    job: Job, method: str, at: int, step: Step, state: State, calibration: Calibration | None,
    history: Sequence[int],
) -> _Done:
    options: dict[str, Any] = {"method": method, "layers": job.layers}
    options["controls"] = job.controls(at) if job.heard else ()
    old = step.old.statement()
    if job.case.verb == NUKE:
        return _Done.of(erase.apply_nuke(job.loaded, state, old, **options))
    if job.case.verb == FORGET:
        return _Done.of(
            erase.apply_forget(job.loaded, state, old, step.old.entity, **options))
    assert step.new is not None
    options["history"] = history
    if calibration is not None and (method not in METHODS or METHODS[method].calibrated):
        options |= {"start": "library", "library": _One(calibration)}
    return _Done.of(apply_edit(job.loaded, state, old, step.new.statement(), **options))


def _generic(job: Job) -> Calibration:
    """The calibration of the case's own telling, which names nobody. Made ahead: it costs the
    edit nothing, as a saved one would not."""
    step = job.case.steps[0]
    assert step.new is not None
    pair = read_pair(step.old.statement(), step.new.statement())
    (old, new), said = pair.names, job.case.told_as
    tellings = {
        old: said.replace("{v}", pair.old.strip()), new: said.replace("{v}", pair.new.strip())
    }
    return fit_calibration(job.loaded, tellings, kind=pair.kind, name="generic")


class _One:
    """A library of one calibration, right for whatever is asked."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def find(self, pair: Pair) -> Calibration:
        return self.calibration


def _random(job: Job) -> Made:
    """In every head a Gaussian matrix of the norm that the first method's edit has there."""
    named = [name for name in job.made if name not in BASELINES]
    reference = job.made[named[0]] if named else make(job, AUTO)
    lo, hi = layer_range(job.layers, job.live.n_layer)
    generator = torch.Generator().manual_seed(job.number)
    noise = torch.randn(job.live.wkv[lo:hi].shape, generator=generator).to(job.live.device)
    noise = noise / noise.norm(dim=(-2, -1), keepdim=True)  # (l, H, N, N)
    states = {}
    for stop, state in reference.states.items():
        moved = (state.wkv - job.live.wkv)[lo:hi].norm(dim=(-2, -1), keepdim=True)
        wkv = job.live.wkv.clone()
        wkv[lo:hi] += noise * moved
        states[stop] = job.live.replace(wkv=wkv)
    return Made(states, note="norms of " + (named[0] if named else AUTO))
