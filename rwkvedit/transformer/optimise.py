"""What an MLP should write at a subject so that another answer follows: found by gradient.

Meng et al. (2022), section 3.1, step 2: minimise the mean -log P(new answer) over contexts, plus a
KL term that holds what the model says of the subject itself in place, plus a penalty on length.
Only the positions from the subject on are run at each step, behind caches of what stands before it.
Changes no weights.

Glossary: D residual width, F MLP width, B contexts, V vocabulary, h the residual leaving the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.transformer.answers import find_subject
from rwkvedit.transformer.running import one_line_when_out_of_memory
from rwkvedit.transformer.statistics import corpus_text

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

Place = tuple[list[int], int]
"""A prompt's tokens, and the position of its subject's last one."""

STEPS, RATE, KL, DECAY, LONGEST = 25, 0.1, 0.0625, 0.02, 1.5
"""RATE and LONGEST are in units of h's length: a step moves each entry by RATE * rms(h), and d is
at most LONGEST * ||h|| long. KL as in the reference; DECAY is of (||d|| / ||h||)^2."""
ENOUGH = 0.6
"""Stop when the new answer has this probability in every context."""
CONTEXTS, LENGTH = 4, 8
"""Contexts besides the bare prompt, and their tokens: sentence ends of the corpus that ships."""


@dataclass(frozen=True)
class Step:
    """The result: what to write, for which key."""

    delta: Tensor
    """(D,) fp32, to be added to what the MLP writes at the subject's last token."""
    key: Tensor
    """(F,) fp32: the mean key there."""
    p: float
    """Of the new answer, the least over the contexts."""
    steps: int


def contexts(session: ModelSession, prompt: str, subject: str) -> list[Place]:
    """The prompt as it is, and behind the ends of CONTEXTS sentences, equally many tokens each."""
    ids = session.tokens(prompt)
    out = [(ids, find_subject(session, ids, subject)[-1])]
    inner = session.vocabulary.encode(" " + prompt)
    at = find_subject(session, inner, subject)[-1]
    sentences = _sentences()
    for sentence in sentences[:: max(1, len(sentences) // CONTEXTS)][:CONTEXTS]:
        end = session.vocabulary.encode(sentence + ".")[-LENGTH:]
        out.append(([*end, *inner], len(end) + at))
    return out


def essence(session: ModelSession, subject: str, at: int) -> Place:
    """ "{subject} is a" behind as much of the corpus as puts the subject's last token at ``at``.

    So it shares its batch with the contexts. Where ``at`` is too early it stands alone.
    """
    inner = session.vocabulary.encode(f" {subject} is a")
    here = find_subject(session, inner, subject)[-1]
    before = at - here
    if before < 1:
        bare = session.tokens(f"{subject} is a")
        return bare, find_subject(session, bare, subject)[-1]
    text = session.vocabulary.encode(". ".join(_sentences()[:4]) + ".")
    return [*text[-before:], *inner], at if len(text) >= before else len(text) + here


def _sentences() -> list[str]:
    text, _ = corpus_text(None)
    return [s for s in text.replace("\n", " ").split(". ") if 30 < len(s) < 200]


def solve(
    session: ModelSession,
    places: Sequence[Place],
    new: int,
    held: Place,
    layer: int,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Step:
    """Find d at ``layer`` so that ``new`` follows in every one of ``places``.

    What follows ``held`` (see ``essence``) is kept as it was by the KL term.
    """
    rows = groupby([*places, held], lambda place: place[1])
    groups = [_Group(session, list(members), layer) for _, members in rows]
    size = float(torch.cat([g.h for g in groups])[:-1].norm(dim=-1).mean())  # ||h||
    d = torch.zeros(session.d_model, device=session.device, requires_grad=True)
    optimiser = torch.optim.Adam([d], lr=RATE * size / session.d_model**0.5)
    was = groups[-1].logits(None)[-1].log_softmax(-1)
    p, step = 0.0, 0
    for step in range(1, STEPS + 1):
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        every = torch.cat([g.logits(d) for g in groups]).log_softmax(-1)  # (B + 1, V)
        logp = every[:-1, new]
        p = float(logp.detach().min().exp())
        if p >= ENOUGH:
            break
        drift = (was.exp() * (was - every[-1])).sum()
        loss = -logp.mean() + KL * drift + DECAY * (d.norm() / size) ** 2
        optimiser.zero_grad()
        with one_line_when_out_of_memory():
            loss.backward()
        optimiser.step()
        with torch.no_grad():
            d.mul_(min(1.0, LONGEST * size / max(1e-12, float(d.detach().norm()))))
        if progress is not None:
            progress(step, STEPS)
    key = torch.cat([g.keys for g in groups])[:-1].mean(0)
    return Step(d.detach().clone(), key, p, step)


class _Group:
    """Prompts whose subject ends at the same position, cached up to it."""

    def __init__(self, session: ModelSession, rows: list[Place], layer: int) -> None:
        self.session, self.layer, at = session, layer, rows[0][1]
        self.cache: Any = None
        if at:
            before = [ids[:at] for ids, _ in rows]
            self.cache = session.run(before, logits="none", keep_cache=True).cache
        self.rows = [ids[at:] for ids, _ in rows]
        kept: dict[str, Tensor] = {}
        taps = {
            f"blocks.{layer}.{site}": lambda x, site=site: kept.__setitem__(site, x[:, 0].float())
            for site in ("ffn.key", "resid_out")
        }
        session.run(self.rows, taps=taps, cache=self.cache, logits="none")
        self.keys: Tensor = kept["ffn.key"]
        """(B, F) at the subject's last token."""
        self.h: Tensor = kept["resid_out"]
        """(B, D) there."""

    def logits(self, d: Tensor | None) -> Tensor:
        """(B, V) at the end of each row, with ``d`` added to what the MLP writes at the subject."""
        if d is None:
            return self.session.run(self.rows, cache=self.cache).logits

        def add(x: Tensor) -> Tensor:
            first = (x[:, :1].float() + d).to(x.dtype)
            return torch.cat([first, x[:, 1:]], 1)

        taps = {f"blocks.{self.layer}.ffn.out": add}
        return self.session.run(self.rows, taps=taps, cache=self.cache, grad=True).logits
