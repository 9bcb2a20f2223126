"""Asks a state for a fact's value, on copies: many questions, states and values in one batch.

An ask is a prompt (``User: Where does Bob live?\\n\\nAssistant:``) and the words the assistant says
before the value (`` Bob lives in``). Probabilities are of the whole value, teacher-forced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rwkvedit.recurrent.state import State


@dataclass(frozen=True)
class Ask:
    """One way to ask: ``prompt`` ends after the assistant's opening, ``lead`` before the value."""

    text: str
    prompt: tuple[int, ...]
    lead: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.lead


@dataclass(frozen=True)
class Reading:
    """What a state answers to one ask about one value.

    p         probability of the whole value after the forced lead (product over its tokens)
    said      greedy decoding after the lead gives the value
    path      probability of the lead itself after the prompt
    path_said greedy decoding after the prompt gives the lead (so the reply is lead + value)
    """

    p: float
    said: bool
    path: float
    path_said: bool


def make_asks(loaded: Any, questions: Sequence[str], answer: str) -> list[Ask]:
    """Asks for ``questions`` with the assistant's ``answer`` (leading space) as the lead.

    Without questions there is one ask: the assistant's own continuation of ``answer``.
    """
    tok, template = loaded.tokenizer, loaded.template
    lead = tuple(tok.encode(answer))
    if not questions:
        opening = tuple(tok.encode(f"{template.assistant_name}:"))
        return [Ask(answer.strip(), opening, lead)]
    return [Ask(q, tuple(template.encode_user(tok, q)), lead) for q in questions]


class Rows:
    """A batch of token rows to be read; equal rows on one state are run once.

    ``add`` returns a handle; after ``read(logits)`` the handles index the Readings. ``tails`` are
    how many of each row's last positions the readings need.
    """

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.owner: list[int] = []  # which state each row starts from
        self.tails: list[int] = []
        self._seen: dict[tuple[int, tuple[int, ...]], int] = {}
        self._wanted: list[tuple[int, Ask, tuple[int, ...]]] = []

    def add(self, ask: Ask, value: Sequence[int], state: int = 0) -> int:
        row = ask.tokens + tuple(value[:-1])
        at = self._seen.get((state, row))
        if at is None:
            at = self._seen[state, row] = len(self.rows)
            self.rows.append(list(row))
            self.owner.append(state)
            self.tails.append(1)
        self.tails[at] = max(self.tails[at], len(row) - len(ask.prompt) + 1)
        self._wanted.append((at, ask, tuple(value)))
        return len(self._wanted) - 1

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.rows))

    def read(self, logits: Sequence[Tensor]) -> list[Reading]:
        """``logits`` are the (tails[i], V) of each row's last positions, in order."""
        readings = []
        for at, ask, value in self._wanted:
            start = len(ask.prompt) - 1 - (len(self.rows[at]) - self.tails[at])
            told = torch.tensor([*ask.lead, *value], device=logits[at].device)  # (lead + value,)
            scores = logits[at][start : start + len(told)].float()  # (lead + value, V)
            chosen = scores.gather(1, told[:, None])[:, 0]
            logp = chosen - scores.logsumexp(-1)
            greedy = chosen >= scores.amax(-1)
            n = len(ask.lead)
            numbers = torch.stack(
                [logp[n:].sum().exp(), logp[:n].sum().exp(), greedy[n:].all(), greedy[:n].all()]
            ).tolist()
            readings.append(
                Reading(numbers[0], bool(numbers[2]), numbers[1], bool(numbers[3]))
            )
        return readings


def read_rows(model: Any, rows: Rows, states: Sequence[State]) -> list[Reading]:
    """Run ``rows`` from the states they name (one batched forward) and read them."""
    if len(states) == 1:
        start = states[0]
    else:
        picked = torch.tensor(rows.owner)
        stacked = State.stack(list(states))
        start = State(*(x[picked.to(x.device)] for x in stacked.tensors()))
    logits, _ = model.forward(rows.rows, start, tails=rows.tails)
    return rows.read(logits)
