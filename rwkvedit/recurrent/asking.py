"""Asks a state for a fact's value, on copies: many questions, states and values in one batch.

An ask is a prompt (``User: Where does Bob live?\\n\\nAssistant:``) and the words the assistant says
before the value (`` Bob lives in``). Probabilities are of the whole value, teacher-forced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from rwkvedit_kernels.logprobs import chosen
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

    ``add`` returns a handle; after ``read`` the handles index the Readings. ``tails`` are
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

    def read(self, logits: Tensor, places: np.ndarray | None = None) -> list[Reading]:
        """``logits`` (M, V) of each row's last ``tails`` positions, in order; with ``places`` (M,)
        which row of ``logits`` each of those positions has."""
        if not self._wanted:
            return []
        ends = [0, *accumulate(self.tails)]
        told: list[int] = []
        spots: list[int] = []
        for at, ask, value in self._wanted:
            start = ends[at] + len(ask.prompt) - 1 - (len(self.rows[at]) - self.tails[at])
            spots += range(start, start + len(ask.lead) + len(value))
            told += (*ask.lead, *value)
        where = np.array(spots, np.int64) if places is None else places[np.array(spots, np.int64)]
        logp, greedy = chosen(logits, where, np.array(told, np.int64))
        readings: list[Reading] = []
        first = 0
        for _, ask, value in self._wanted:
            mid = first + len(ask.lead)
            last = mid + len(value)
            readings.append(Reading(
                math.exp(sum(logp[mid:last])), all(greedy[mid:last]),
                math.exp(sum(logp[first:mid])), all(greedy[first:mid]),
            ))
            first = last
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
    return rows.read(torch.cat(list(logits)))
