"""Whether a model says something after prompts, in one batch. Changes nothing.

Glossary: B prompts, k tokens of the target, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

ROWS = 32
"""Prompts of one batch."""


@dataclass(frozen=True)
class Said:
    """What was said after each of B prompts."""

    logp: list[float]
    """Of the whole target, teacher forced, nats."""
    says: list[bool]
    """Would greedy decoding give the target? (Each of its tokens is the likeliest.)"""
    top: list[int]
    """The likeliest first token."""
    p_top: list[float]

    @property
    def p(self) -> list[float]:
        return [float(torch.tensor(x, dtype=torch.float64).exp()) for x in self.logp]


def ask(session: ModelSession, prompts: Sequence[Sequence[int]], target: Sequence[int]) -> Said:
    """The probability of ``target`` after each prompt, and what is likeliest there."""
    out = Said([], [], [], [])
    last = f"blocks.{session.n_layer - 1}.resid_out"
    ids = torch.tensor(list(target), device=session.device)
    k = len(target)
    for at in range(0, len(prompts), ROWS):
        part, seen = prompts[at : at + ROWS], list[Tensor]()
        session.run([[*row, *target[:-1]] for row in part], taps={last: seen.append}, logits="none")
        h = torch.stack([seen[0][b, len(row) - 1 : len(row) - 1 + k] for b, row in enumerate(part)])
        logits = session.unembed(h)  # (B, k, V)
        chosen = logits.gather(-1, ids.expand(len(part), k)[..., None])[..., 0].double()
        out.logp.extend((chosen - logits.logsumexp(-1).double()).sum(-1).tolist())
        best = logits.argmax(-1)
        out.says.extend((best == ids).all(-1).tolist())
        out.top.extend(best[:, 0].tolist())
        out.p_top.extend(logits[:, 0].softmax(-1).max(-1).values.tolist())
    return out


def likeliest(session: ModelSession, prompts: Sequence[Sequence[int]]) -> list[int]:
    """The likeliest next token after each prompt."""
    out: list[int] = []
    for at in range(0, len(prompts), ROWS):
        logits = session.run(prompts[at : at + ROWS]).logits
        out.extend(logits.argmax(-1).tolist())
    return out
