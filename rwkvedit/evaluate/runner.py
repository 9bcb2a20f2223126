"""``bench state``: every editing method over a suite's worlds, judged by whole greedy replies.

A world counts when the unedited model answers all its questions and the oracle (the conversation
replayed with the fact changed) flips; all methods are judged on the same worlds. World i edits its
fact i modulo the number of facts, in the order they were told.

flip        the greedy reply to a held-out question gives the new value (and not the old)
keep        a control fact's reply still gives its value (one number a control)
clean       flip, and every control kept
reply       the whole reply reads as the oracle's
leak        P(old value) at the answer's value position
kl_*        KL(oracle || edited) in nats of the next-token distribution at the value position
ms          milliseconds of the whole edit, strength search and verification included
decodes     tokens run through the model for it
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.evaluate.intervals import rate
from rwkvedit.evaluate.recall import conversation_tokens
from rwkvedit.evaluate.replies import greedy_replies, says
from rwkvedit.evaluate.suites import SUITES, EditCase, counterfactual, find_suite
from rwkvedit.evaluate.worlds import Maker
from rwkvedit.facts.lexicon import Lexicon, heldout, load_lexicon
from rwkvedit.models.catalog import LoadedModel
from rwkvedit.recurrent.asking import make_asks
from rwkvedit.recurrent.calibrate import told_turn
from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.methods import METHODS
from rwkvedit.recurrent.state import State

BATCH = 20  # worlds judged together
MEASURES = ("flip", "keep", "clean", "leak", "reply", "kl_target", "kl_control", "ms", "decodes")
DEFAULT_METHODS = (
    "auto", "uniform", "isolate", "full-r1", "hyb-u", "hyb-uv", "probe", "tell", "oracle", "none",
)
BASELINES = ("none", "tell", "oracle")


@dataclass(frozen=True)
class Judged:
    """What a state answers to one world's questions.

    ``replies`` whole texts, ``logp`` (F, V) log-probabilities at each answer's value position,
    ``p_old`` of the target's old value.
    """

    replies: list[str]
    logp: Tensor
    p_old: float


@dataclass(frozen=True)
class Made:
    """One method's state for one world and what it cost. ``state`` None: the method refused."""

    state: State | None
    ms: float
    decodes: int
    note: str = ""


def make_state(
    loaded: LoadedModel, method: str, case: EditCase, live: State, history: list[int],
    oracle: Made, controls: Sequence[str], layers: str,
) -> Made:
    """The world's state after ``method``."""
    if method == "none":
        return Made(live, 0.0, 0)
    if method == "oracle":
        return oracle
    begun = time.perf_counter()
    if method == "tell":
        turn = told_turn(loaded, f"Actually, {case.new.statement()}")
        _, state = loaded.model.forward(turn, live)
        return Made(state, (time.perf_counter() - begun) * 1e3, len(turn))
    try:
        outcome = apply_edit(
            loaded, live, case.old.statement(), case.new.statement(), method=method,
            history=history, controls=controls, layers=layers,
        )
    except RwkvEditError as error:
        return Made(None, (time.perf_counter() - begun) * 1e3, 0, str(error))
    report = outcome.report
    return Made(outcome.state, report.ms["total"], report.decodes, report.method)


def judge(
    loaded: LoadedModel, cases: Sequence[EditCase], states: Sequence[State]
) -> list[Judged]:
    """Ask each world's held-out questions of its state; all worlds in one batch."""
    prompts: list[list[int]] = []
    value_rows: list[list[int]] = []
    owner: list[int] = []
    olds: list[tuple[int, list[int]]] = []  # (position of the value, the old value's tokens)
    for at, case in enumerate(cases):
        for i, fact in enumerate(case.world.facts):
            ask = make_asks(loaded, [case.asks[i]], fact.answer_prefix())[0]
            value = loaded.tokenizer.encode(fact.answer_value())
            prompts.append(list(ask.prompt))
            value_rows.append([*ask.tokens, *value[:-1]])
            olds.append((len(ask.tokens) - 1, value))
            owner.append(at)
    picked = torch.tensor(owner)
    stacked = State.stack(list(states))
    start = State(*(x[picked.to(x.device)] for x in stacked.tensors()))
    texts = greedy_replies(loaded, start, prompts, 24)
    with torch.no_grad():
        logits, _ = loaded.model.forward(value_rows, start, full=True)
    judged, row = [], 0
    for case in cases:
        n = len(case.world.facts)
        logp = [torch.log_softmax(x.float(), -1) for x in logits[row : row + n]]
        at, value = olds[row + case.target]
        spoken = torch.tensor(value, device=logp[0].device)[:, None]
        own = logp[case.target][at : at + len(value)].gather(1, spoken).sum().exp()
        here = torch.stack([lp[olds[row + i][0]] for i, lp in enumerate(logp)]).cpu()
        judged.append(Judged(texts[row : row + n], here, float(own)))
        row += n
    return judged


def _divergence(reference: Tensor, other: Tensor) -> float:
    """KL(reference || other), nats, of two (V,) log-probability vectors."""
    return float((reference.exp() * (reference - other)).sum().clamp_min(0.0))


def score(case: EditCase, edited: Judged, oracle: Judged) -> dict[str, Any]:
    """The measures of one world (``keep`` and ``kl_control`` are lists over controls)."""
    reply = edited.replies[case.target]
    flip = says(reply, case.new.value) and not says(reply, case.old.value)
    keep = [says(edited.replies[i], case.world.facts[i].value) for i in case.controls]
    return {
        "flip": float(flip), "keep": [float(k) for k in keep], "clean": float(flip and all(keep)),
        "leak": edited.p_old,
        "reply": float(reply.strip().lower() == oracle.replies[case.target].strip().lower()),
        "kl_target": _divergence(oracle.logp[case.target], edited.logp[case.target]),
        "kl_control": [_divergence(oracle.logp[i], edited.logp[i]) for i in case.controls],
    }


def measure(
    loaded: LoadedModel, suite: str, lexicon: Lexicon, worlds: int, seed: int,
    methods: Sequence[str] = DEFAULT_METHODS, *, layers: str = "upper", heard: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    wrong: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """``{"suite", "rows", "worlds", "worlds_counted"}``.

    ``heard`` gives ``auto`` the controls that a chat session would (the other facts heard), which
    it may use to choose a method. ``wrong`` collects what was not clean.
    """
    make = find_suite(suite)
    maker = Maker(lexicon, np.random.default_rng([seed, list(SUITES).index(suite)]))
    cases = [make(maker, i) for i in range(worlds)]
    found: dict[str, dict[str, list]] = {m: defaultdict(list) for m in methods}
    counted = 0
    for first in range(0, worlds, BATCH):
        group = cases[first : first + BATCH]
        histories = [conversation_tokens(loaded, c.world) for c in group]
        changed = [conversation_tokens(loaded, counterfactual(c)) for c in group]
        with torch.no_grad():
            _, live = loaded.model.forward(histories)
        oracles = []
        for tokens in changed:
            begun = time.perf_counter()
            with torch.no_grad():
                _, state = loaded.model.forward(tokens, loaded.model.zero_state())
            oracles.append(Made(state, (time.perf_counter() - begun) * 1e3, len(tokens)))
        before = judge(loaded, group, live.unstack())
        ideal = judge(loaded, group, [o.state for o in oracles if o.state is not None])
        counts = [
            i for i, case in enumerate(group)
            if _knows(before[i].replies, case)
            and says(ideal[i].replies[case.target], case.new.value)
        ]
        for method in methods if counts else ():
            made = [
                make_state(
                    loaded, method, group[i], live[i], histories[i], oracles[i],
                    [f.statement() for f in group[i].others] if heard and method == "auto" else (),
                    layers,
                )
                for i in counts
            ]
            # an edit that was refused leaves the conversation as it was, and is judged so
            states = [m.state if m.state is not None else live[i]
                      for m, i in zip(made, counts, strict=True)]
            picked = [group[i] for i in counts]
            for at, (i, case, seen) in enumerate(
                zip(counts, picked, judge(loaded, picked, states), strict=True)
            ):
                numbers = score(case, seen, ideal[i])
                numbers |= {"ms": made[at].ms, "decodes": float(made[at].decodes)}
                _collect(found[method], numbers, first + i)
                if wrong is not None and not numbers["clean"]:
                    wrong.append({
                        "method": method, "world": first + i, "used": made[at].note,
                        "old": case.old.statement(), "new": case.new.statement(),
                        "asked": case.asks[case.target], "reply": seen.replies[case.target],
                        "lost": [f"{case.asks[c]} {seen.replies[c]} ({case.world.facts[c].value})"
                                 for c, k in zip(case.controls, numbers["keep"], strict=True)
                                 if not k],
                    })
        counted += len(counts)
        if on_progress:
            on_progress(min(first + BATCH, worlds), worlds)
    rows = [
        {"method": m, "worlds_counted": counted,
         **{name: rate(found[m][name], found[m][name + "/world"]) for name in MEASURES}}
        for m in methods
    ]
    return {"suite": suite, "worlds": worlds, "worlds_counted": counted, "rows": rows}


def _knows(replies: Sequence[str], case: EditCase) -> bool:
    return all(says(r, f.value) for r, f in zip(replies, case.world.facts, strict=True))


def _collect(into: dict[str, list], numbers: dict[str, Any], world: int) -> None:
    for name, value in numbers.items():
        values = value if isinstance(value, list) else [value]
        into[name] += values
        into[name + "/world"] += [world] * len(values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", default="five-entity", help=f"one of {', '.join(SUITES)}")
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lexicon", help="a JSON file of words to use instead of the built-in")
    parser.add_argument("--methods", help=f"comma-separated, of {', '.join(DEFAULT_METHODS)}")
    parser.add_argument("--layers", default="upper", help="upper, lower, all or a:b")
    parser.add_argument("--no-heard", dest="heard", action="store_false",
                        help="do not give auto the other facts as controls, as the chat does")
    parser.add_argument("--show-wrong", action="store_true", help="list what was not clean")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The document of ``bench state`` without its meta. Raises UsageError for bad arguments."""
    from rwkvedit.models.catalog import load_model

    if args.worlds < 1:
        raise UsageError("--worlds must be at least 1; try --worlds 200")
    find_suite(args.suite)
    methods = tuple(args.methods.split(",")) if args.methods else DEFAULT_METHODS
    known = ("auto", *METHODS, *BASELINES)
    for name in methods:
        if name not in known:
            raise UsageError(f"no method called {name}; there are {', '.join(known)}")
    lexicon = load_lexicon(args.lexicon) if args.lexicon else heldout()
    loaded = load_model(
        getattr(args, "model", None) or "embedded", device=getattr(args, "device", None) or "auto")
    lexicon.check(loaded.tokenizer)
    wrong: list[dict[str, Any]] | None = [] if args.show_wrong else None
    document = measure(
        loaded, args.suite, lexicon, args.worlds, args.seed, methods,
        layers=args.layers, heard=args.heard, wrong=wrong,
    )
    document["lexicon"] = lexicon.source
    if wrong is not None:
        document["wrong"] = wrong
    return document
