"""The material of most studies: worlds with one fact in two versions, and what a state says of it.

Every case is a conversation in which a few people's facts of one kind are told in turns; the target
is told once with its old and once with its new value, in equally many tokens, so that positions of
the two conversations correspond.

Glossary (B cases, L layers, H heads, N head size):
    old, new      State (B,)           after the conversation with the old / the new value
    ask           tokens               the target's question and its answer's words before the value
    reading       logp_old, logp_new   (B,) nats: log P(value | state, ask), whole values
    odds          (B,)                 logp_new - logp_old
    effect        (B,)                 share of the log-odds between old and new that a patch moves:
                                       (odds - odds_old) / (odds_new - odds_old); 0 nothing, 1 all
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError
from rwkvedit.evaluate.worlds import ACKNOWLEDGEMENT, Maker
from rwkvedit.facts import KINDS, Fact, fill
from rwkvedit.facts.kinds import PROPER_SLOTS
from rwkvedit.facts.lexicon import HELDOUT, TRAIN, Lexicon, heldout, load_lexicon
from rwkvedit.recurrent.asking import make_asks
from rwkvedit.recurrent.state import State

TRIES = 400  # draws before a case of equally many tokens is given up
ENOUGH = 8  # one-token words a slot needs before the longer ones are left out
STATE_BYTES = 512 << 20  # states held in one batched forward
FLAT = 0.1  # nats of log-odds between old and new below which no share of them is formed


def find_lexicon(loaded: Any, name: str) -> Lexicon:
    """``common``: training's words that are one token here (anatomy is clearest there);
    ``held-out``; or a file. Raises UsageError for words the tokenizer cannot carry."""
    if name == "common":
        words = {}
        for slot in HELDOUT:
            known = TRAIN.get(slot) or HELDOUT[slot]
            single = tuple(w for w in known if len(loaded.tokenizer.encode(f" {w}")) == 1)
            words[slot] = single if len(single) >= ENOUGH else tuple(known)
        lexicon = Lexicon({**words, "months": TRAIN["months"], "fillers": HELDOUT["fillers"]},
                          "common")
    else:
        lexicon = heldout() if name == "held-out" else load_lexicon(name)
    lexicon.check(loaded.tokenizer)
    return lexicon


@dataclass(frozen=True)
class Case:
    """One world: ``facts`` in the order told, the target's index, its other version, its tokens."""

    facts: tuple[Fact, ...]
    target: int
    new: Fact
    old_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    turn_start: int  # position of the target's turn in the tokens
    turn_end: int
    ask: tuple[int, ...]
    old_value: tuple[int, ...]
    new_value: tuple[int, ...]

    @property
    def old(self) -> Fact:
        return self.facts[self.target]

    @cached_property
    def value_at(self) -> tuple[int, ...]:
        """Positions at which the two conversations differ."""
        pairs = zip(self.old_tokens, self.new_tokens, strict=True)
        return tuple(i for i, (a, b) in enumerate(pairs) if a != b)


def turn_tokens(loaded: Any, text: str, reply: str = ACKNOWLEDGEMENT) -> list[int]:
    return loaded.template.encode_turn(loaded.tokenizer, text, reply)


def ask_tokens(loaded: Any, maker: Maker, fact: Fact) -> tuple[int, ...]:
    """A held-out question of the fact and the assistant's words before the value."""
    return make_asks(loaded, [maker.ask(fact)], fact.answer_prefix())[0].tokens


def value_tokens(loaded: Any, fact: Fact) -> tuple[int, ...]:
    return tuple(loaded.tokenizer.encode(fact.answer_value()))


def wording(maker: Maker, kind: str) -> str:
    """A held-out telling template that does not open with a common word."""
    tells = [t for t in KINDS[kind].tells_heldout
             if KINDS[kind].slot in PROPER_SLOTS or not t.startswith("{v}")]
    return maker.pick(tells)


def make_case(loaded: Any, maker: Maker, n_facts: int = 3, target: int | None = None) -> Case:
    """A case of ``n_facts`` people; the target is drawn unless given.

    Raises RwkvEditError when no two values of equally many tokens can be found.
    """
    for _ in range(TRIES):
        facts = maker.facts(n_facts, 1)
        at = int(maker.rng.integers(n_facts)) if target is None else target
        old = facts[at]
        new = old.with_value(maker.value(KINDS[old.kind].slot, {f.value for f in facts}))
        old_value, new_value = value_tokens(loaded, old), value_tokens(loaded, new)
        told = [wording(maker, fact.kind) for fact in facts]
        turns = [turn_tokens(loaded, fill(t, f.entity, f.value, f.thing))
                 for t, f in zip(told, facts, strict=True)]
        changed = turn_tokens(loaded, fill(told[at], new.entity, new.value, new.thing))
        if len(old_value) != len(new_value) or len(changed) != len(turns[at]):
            continue
        before = [token for turn in turns[:at] for token in turn]
        after = [token for turn in turns[at + 1 :] for token in turn]
        case = Case(
            tuple(facts), at, new, (*before, *turns[at], *after), (*before, *changed, *after),
            len(before), len(before) + len(changed), ask_tokens(loaded, maker, old),
            old_value, new_value,
        )
        if case.value_at and old_value != new_value:
            return case
    raise RwkvEditError(
        "found no two values of equally many tokens in this lexicon; give another with --lexicon"
    )


@dataclass(frozen=True)
class Reading:
    """log P of the old and of the new value, nats, (B,) each."""

    logp_old: np.ndarray
    logp_new: np.ndarray

    @property
    def p_old(self) -> np.ndarray:
        return np.exp(self.logp_old)

    @property
    def p_new(self) -> np.ndarray:
        return np.exp(self.logp_new)

    @property
    def odds(self) -> np.ndarray:
        return self.logp_new - self.logp_old

    @property
    def flipped(self) -> np.ndarray:
        """Is the new value the likelier one?"""
        return self.odds > 0

    @staticmethod
    def join(parts: Sequence[Reading]) -> Reading:
        return Reading(*(np.concatenate([getattr(p, k) for p in parts])
                         for k in ("logp_old", "logp_new")))


def spans(loaded: Any, count: int) -> Iterator[slice]:
    """Consecutive slices of ``count`` cases whose states fit the budget together."""
    c = loaded.model.config
    size = 4 * c.n_layer * (c.n_head * c.head_size**2 + 2 * c.n_embd)
    step = max(1, STATE_BYTES // (4 * size))
    return (slice(i, min(i + step, count)) for i in range(0, count, step))


def pick(state: State, at: Any) -> State:
    """Some rows of a stack."""
    return State(*(x[at] for x in state.tensors()))


def run_tokens(loaded: Any, rows: Sequence[Sequence[int]], start: State | None = None) -> State:
    """The states after each of B token rows, from ``start`` (a stack, one for all, or fresh)."""
    parts = []
    for part in spans(loaded, len(rows)):
        begin = pick(start, part) if start is not None and start.batch is not None else start
        parts.append(loaded.model.forward([list(r) for r in rows[part]], begin)[1])
    return State(*(torch.cat(xs) for xs in zip(*(p.tensors() for p in parts), strict=True)))


def read(loaded: Any, cases: Sequence[Case], states: State) -> Reading:
    """What B states say to their cases' own questions. ``states`` is not touched."""
    rows: list[list[int]] = []
    owner: list[int] = []
    wanted: list[tuple[int, tuple[int, ...], int]] = []  # row, value, where it begins
    for at, case in enumerate(cases):
        single = len(case.old_value) == len(case.new_value) == 1
        for value in (case.old_value, case.new_value):
            if value is case.old_value or not single:
                rows.append([*case.ask, *value[:-1]])
                owner.append(at)
            wanted.append((len(rows) - 1, value, len(case.ask) - 1))
    last_only = all(len(value) == 1 for _, value, _ in wanted)
    scores: list[float] = []
    for part in spans(loaded, len(rows)):
        here = range(part.start, part.stop)
        start = pick(states, torch.tensor([owner[i] for i in here], device=states.device))
        logits, _ = loaded.model.forward([rows[i] for i in here], start, full=not last_only)
        for row, value, begin in wanted:
            if row not in here:
                continue
            seen = logits[row - part.start]
            seen = seen[None] if last_only else seen[begin : begin + len(value)]
            logp = torch.log_softmax(seen.float(), -1)
            ids = torch.tensor(value, device=logp.device)[:, None]
            scores.append(float(logp.gather(1, ids).sum()))
    both = np.array(scores).reshape(-1, 2)
    return Reading(both[:, 0], both[:, 1])


class Material:
    """Cases with their two states and readings; ``old`` and ``new`` are never written into."""

    def __init__(self, loaded: Any, cases: Sequence[Case]) -> None:
        self.loaded, self.cases = loaded, list(cases)
        self.old = run_tokens(loaded, [c.old_tokens for c in cases])
        self.new = run_tokens(loaded, [c.new_tokens for c in cases])
        self.before = read(loaded, self.cases, self.old)
        self.after = read(loaded, self.cases, self.new)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def delta(self) -> Tensor:
        """wkv(new) - wkv(old), (B, L, H, N, N)."""
        return self.new.wkv - self.old.wkv

    @property
    def known(self) -> np.ndarray:
        """Cases in which either state prefers the value it was told."""
        return ~self.before.flipped & self.after.flipped

    def only(self, keep: np.ndarray) -> Material:
        """The chosen cases."""
        chosen = np.flatnonzero(keep)
        part = object.__new__(Material)
        at = torch.tensor(chosen, device=self.old.device)
        part.loaded, part.cases = self.loaded, [self.cases[i] for i in chosen]
        part.old, part.new = pick(self.old, at), pick(self.new, at)
        for name in ("before", "after"):
            reading = getattr(self, name)
            setattr(part, name, Reading(reading.logp_old[chosen], reading.logp_new[chosen]))
        return part

    def patched(self, wkv: Tensor) -> Reading:
        """What the old states say with their ``wkv`` swapped for another (B, L, H, N, N)."""
        return read(self.loaded, self.cases, self.old.replace(wkv=wkv))

    def effect(self, reading: Reading) -> np.ndarray:
        """Share of the log-odds moved; NaN where old and new hardly differ."""
        whole = self.after.odds - self.before.odds
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = (reading.odds - self.before.odds) / whole
        return np.where(np.abs(whole) < FLAT, np.nan, moved)


def gather(
    loaded: Any, lexicon: str, rng: np.random.Generator, worlds: int, n_facts: int = 3
) -> tuple[Material, dict[str, Any], str]:
    """(cases the model knows, settings for the report, a caution for the finding).

    When the model knows fewer than two, all are used and the caution says so.
    """
    maker = Maker(find_lexicon(loaded, lexicon), rng)
    whole = Material(loaded, [make_case(loaded, maker, n_facts) for _ in range(worlds)])
    known = whole.known
    counted = int(known.sum())
    settings = {"worlds": worlds, "worlds_counted": counted, "facts_told": n_facts,
                "lexicon": maker.lexicon.source}
    if counted >= 2:
        return whole.only(known), settings, ""
    return whole, settings, (
        f"Caution: the model tells old from new in {counted} of {worlds} worlds, so all were used. "
    )
