"""What a state answers to a world's questions, and the numbers that an edited one is judged by.

Judges states whoever made them; knows no editing method. Symbols: B worlds, F facts a world, V the
vocabulary; log-probabilities in nats.

flip        the greedy reply to a held-out question gives the new value and none it had before; of
            several edits, every one. Erasing: it gives neither the old value nor another fact's
held        the same, one number an edit
keep        a control fact's reply still gives its value and none that an edit wrote, one number a
            control; keep_same those of the edited entity, keep_other those of others
clean       flip, and every control kept
leak        P(old value) after the answer's own words
reply       the whole reply is the fact itself or the oracle's reply, word for word. Erasing: it
            says that it does not know
kl_*        KL(oracle || edited) of the next token where the value would stand
fluency     40 more tokens, greedily, after the edited answer: their mean log-probability under the
            oracle's state, less that of the oracle's own 40 (0: as good; nats a token)
same_40     those 40 tokens are the oracle's own
stutter     they repeat four tokens at once, which the oracle's do not
old_40      they say the old value, which the oracle's do not
still_first (erasing) made to begin the answer, the old value is still its first choice
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rwkvedit.evaluate.replies import gives, greedy_replies, is_unknown, mentions, says
from rwkvedit.evaluate.suites import EditCase
from rwkvedit.facts import Fact, parse_fact
from rwkvedit.models.catalog import LoadedModel
from rwkvedit.models.tokenizer import END
from rwkvedit.recurrent.asking import make_asks
from rwkvedit.recurrent.state import State

REPLY_TOKENS = 24  # the longest reply that is read
MORE = 40  # tokens after the answer
ROOM = 2**29  # bytes of states in one batch


@dataclass(frozen=True)
class Judged:
    """What a state answers to one world's questions.

    ``replies`` F texts; ``logp`` (F, V) where the values would stand; ``p_old`` and ``old_first``
    of each target's superseded value, in the targets' order.
    """

    replies: list[str]
    logp: Tensor
    p_old: list[float]
    old_first: list[bool]


@dataclass(frozen=True)
class Continued:
    """Greedy tokens after the answer to the target's question. ``prompt`` is what came before:
    the question and the answer, closed."""

    prompt: list[int]
    tokens: list[int]


def room_for(state: State) -> int:
    """How many states like this one a batch may hold."""
    one = state if state.batch is None else state[0]
    return max(8, ROOM // max(1, one.nbytes))


def pick(states: State, rows: Sequence[int]) -> State:
    """Rows of a stack of states."""
    index = torch.tensor(list(rows))
    return State(*(x[index.to(x.device)] for x in states.tensors()))


def superseded(case: EditCase, index: int, steps: int | None) -> list[Fact]:
    """What fact ``index`` said before the first ``steps`` edits were through, oldest first."""
    return [step.old for step in case.steps[:steps] if step.index == index]


def judge(
    loaded: LoadedModel, cases: Sequence[EditCase], states: Sequence[State],
    steps: int | None = None,
) -> list[Judged]:
    """Ask each world's held-out questions of its state, after its first ``steps`` edits."""
    jobs = [(at, i) for at, case in enumerate(cases) for i in range(len(case.world.facts))]
    replies: list[str] = []
    logps: list[Tensor] = []
    olds: dict[tuple[int, int], tuple[float, bool]] = {}
    room = room_for(states[0])
    for first in range(0, len(jobs), room):
        _ask(loaded, cases, states, jobs[first : first + room], steps, replies, logps, olds)
    judged, row = [], 0
    for at, case in enumerate(cases):
        n = len(case.world.facts)
        mine = [olds[at, i] for i in case.targets(steps)]
        judged.append(Judged(
            replies[row : row + n], torch.stack(logps[row : row + n]),
            [p for p, _ in mine], [first for _, first in mine],
        ))
        row += n
    return judged


def _ask(
    loaded: LoadedModel, cases: Sequence[EditCase], states: Sequence[State],
    jobs: Sequence[tuple[int, int]], steps: int | None,
    replies: list[str], logps: list[Tensor], olds: dict[tuple[int, int], tuple[float, bool]],
) -> None:
    """One batch of (world, fact) questions; fills the three collections."""
    asks = [
        make_asks(loaded, [cases[at].asks[i]], cases[at].world.facts[i].answer_prefix())[0]
        for at, i in jobs
    ]
    start = State.stack([states[at] for at, _ in jobs])
    replies += greedy_replies(loaded, start, [list(a.prompt) for a in asks], REPLY_TOKENS)
    with torch.no_grad():
        logits, after = loaded.model.forward([list(a.tokens) for a in asks], start)
    assert isinstance(logits, Tensor)  # (B, V), since not full
    logp = torch.log_softmax(logits.float(), -1)
    logps += list(logp.cpu())
    for row, (at, i) in enumerate(jobs):
        before = superseded(cases[at], i, steps)
        if before:
            value = loaded.tokenizer.encode(before[-1].answer_value())
            olds[at, i] = _spoken(loaded, value, logp[row], after[row])


def _spoken(
    loaded: LoadedModel, value: list[int], logp: Tensor, state: State
) -> tuple[float, bool]:
    """(probability of a value's tokens, are they the greedy ones?), where ``logp`` (V,) stands."""
    rows = [logp]
    if len(value) > 1:
        with torch.no_grad():
            more, _ = loaded.model.forward(value[:-1], state, full=True)
        rows += list(torch.log_softmax(more.float(), -1))
    total = sum(float(row[token]) for row, token in zip(rows, value, strict=True))
    first = all(int(row.argmax()) == token for row, token in zip(rows, value, strict=True))
    return float(torch.tensor(total).exp()), first


def knows(judged: Judged, case: EditCase) -> bool:
    """Does the state tell every fact of the world?"""
    return all(
        says(reply, fact.value)
        for reply, fact in zip(judged.replies, case.world.facts, strict=True)
    )


def holds(judged: Judged, case: EditCase, steps: int | None = None) -> list[bool]:
    """Does each target's reply say what the first ``steps`` edits made of it?"""
    truth = case.truth(steps)
    found = []
    for i in case.targets(steps):
        reply, now = judged.replies[i], truth[i]
        gone = {fact.value for fact in superseded(case, i, steps)}
        if now is None:
            gone |= {fact.value for fact in case.world.facts}
        else:
            gone.discard(now.value)
        said = now is None or says(reply, now.value)
        found.append(said and not any(mentions(reply, value) for value in gone))
    return found


def reads_right(reply: str, ideal: str, fact: Fact | None) -> bool:
    """The whole reply, by rule: the oracle's words, the fact and no other, or not knowing."""
    if fact is None:
        return is_unknown(reply)
    if reply.strip().lower() == ideal.strip().lower():
        return True
    read = parse_fact(reply)
    return read is not None and (*read.key, read.value.lower()) == (*fact.key, fact.value.lower())


def divergence(reference: Tensor, other: Tensor) -> float:
    """KL(reference || other), nats, of two (V,) log-probability vectors."""
    return float((reference.exp() * (reference - other)).nansum().clamp_min(0.0))


def score(
    case: EditCase, edited: Judged, oracle: Judged, steps: int | None = None
) -> dict[str, Any]:
    """The measures of one world after ``steps`` edits; lists are over targets or controls."""
    truth, targets = case.truth(steps), case.targets(steps)
    controls = case.controls_after(steps)
    facts = case.world.facts
    held = holds(edited, case, steps)
    written = [step.new.value for step in case.steps[:steps] if step.new is not None]
    keep = [gives(edited.replies[i], facts[i].value, written) for i in controls]
    edited_people = {facts[i].entity for i in targets}
    same = [kept for i, kept in zip(controls, keep, strict=True)
            if facts[i].entity in edited_people]
    other = [kept for i, kept in zip(controls, keep, strict=True)
             if facts[i].entity not in edited_people]
    numbers: dict[str, Any] = {
        "flip": all(held), "held": held, "keep": keep, "keep_same": same, "keep_other": other,
        "clean": all(held) and all(keep), "leak": edited.p_old,
        "reply": all(reads_right(edited.replies[i], oracle.replies[i], truth[i]) for i in targets),
        "kl_target": [divergence(oracle.logp[i], edited.logp[i]) for i in targets],
        "kl_control": [divergence(oracle.logp[i], edited.logp[i]) for i in controls],
    }
    if any(truth[i] is None for i in targets):
        numbers["still_first"] = edited.old_first
    return {name: _plain(value) for name, value in numbers.items()}


def _plain(value: Any) -> Any:
    return [float(x) for x in value] if isinstance(value, list) else float(value)


def continue_answers(
    loaded: LoadedModel, cases: Sequence[EditCase], states: Sequence[State],
    judged: Sequence[Judged], n: int = MORE,
) -> list[Continued]:
    """``n`` greedy tokens after each world's own answer about its last target."""
    tok, template = loaded.tokenizer, loaded.template
    prompts = [
        template.encode_user(tok, case.asks[case.target])
        + template.encode_assistant(tok, seen.replies[case.target])
        for case, seen in zip(cases, judged, strict=True)
    ]
    found: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    with torch.no_grad():
        logits, state = loaded.model.forward(prompts, State.stack(list(states)))
        for _ in range(n):
            assert isinstance(logits, Tensor)  # (B, V), since not full
            best = logits.argmax(-1).tolist()
            for place, token in zip(alive, best, strict=True):
                found[place].append(token)  # the document's end counts as its last token
            rows = [row for row, token in enumerate(best) if token != END]
            if not rows:
                break
            if len(rows) < len(best):
                state = pick(state, rows)
            alive = [alive[row] for row in rows]
            logits, state = loaded.model.forward([[best[row]] for row in rows], state)
    return [Continued(p, t) for p, t in zip(prompts, found, strict=True)]


def likelihood(
    loaded: LoadedModel, states: Sequence[State], texts: Sequence[Continued]
) -> list[float]:
    """Mean log-probability a token of each continuation, read from ``states``."""
    rows = [t.prompt + t.tokens[:-1] for t in texts]
    with torch.no_grad():
        logits, _ = loaded.model.forward(rows, State.stack(list(states)), full=True)
    means = []
    for text, scores in zip(texts, logits, strict=True):
        at = scores[len(text.prompt) - 1 :].float()  # (tokens, V)
        spoken = torch.tensor(text.tokens, device=at.device)[:, None]
        means.append(float(torch.log_softmax(at, -1).gather(1, spoken).mean()))
    return means


def repeats(tokens: Sequence[int], n: int = 4) -> set[tuple[int, ...]]:
    """The ``n``-grams that stand twice in a row."""
    return {
        tuple(tokens[i : i + n]) for i in range(len(tokens) - 2 * n + 1)
        if tokens[i : i + n] == tokens[i + n : i + 2 * n]
    }


def score_more(
    loaded: LoadedModel, case: EditCase, edited: Continued, ideal: Continued,
    likely: float, ideal_likely: float,
) -> dict[str, float]:
    """Measures of one world's 40 more tokens; ``likely`` from :func:`likelihood`."""
    text, reference = (
        loaded.tokenizer.decode([t for t in c.tokens if t != END]) for c in (edited, ideal)
    )
    old = [f.value for f in superseded(case, case.target, None)]
    return {
        "fluency": likely - ideal_likely,
        "same_40": float(edited.tokens == ideal.tokens),
        "stutter": float(bool(repeats(edited.tokens) - repeats(ideal.tokens))),
        "old_40": float(any(mentions(text, v) and not mentions(reference, v) for v in old)),
    }
