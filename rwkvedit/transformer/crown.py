"""The crown layer: where the current answer stands or falls with one MLP.

Every layer's MLP output (RWKV-7: channel-mix) is zeroed at the prompt's last position, one layer a
row of a single batch behind a cached prefix, and the answer's probability is read again. What is
watched is the *current* answer, not the one that an edit would bring. Edits nothing.

Glossary: L layers scanned, k tokens of the answer, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.transformer.answers import Answer, Expect, answer_of, log_p, watch, window_for
from rwkvedit.transformer.hooks import Layers

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession, Prompt

ROWS = 64
"""Rows of one batch: a model of more layers takes several."""


@dataclass(frozen=True)
class CrownRow:
    """One layer without its MLP at the last position."""

    layer: int
    p: float
    logp: float
    delta_p: float
    """Change of the answer's probability."""
    delta_logp: float
    """The same in nats: orders layers where probabilities are too small to tell apart."""
    top: str
    """What the model would say instead: its likeliest token at each place of the answer."""
    flips: bool
    """Is ``top`` another than with every layer whole?"""

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class CrownResult:
    """A scan of layers. ``crown`` is the layer whose MLP the answer most depends on."""

    tokens: list[int]
    pieces: list[str]
    answer: Answer
    p: float
    """Of the answer, with every layer whole (k tokens: of the whole sequence)."""
    logp: float
    top: str
    scan: list[CrownRow]
    crown: int
    flips: bool
    """Does zeroing the crown change the likeliest token? (False: no layer does.)"""

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self.pieces,
            "baseline": {**self.answer.to_json(), "p": self.p, "logp": self.logp, "top": self.top},
            "scan": [row.to_json() for row in self.scan],
            "crown": self.crown,
            "flips": self.flips,
        }


def crown(
    session: ModelSession,
    prompt: Prompt,
    expect: Expect = None,
    layers: Layers = None,
    bos: bool | None = None,
) -> CrownResult:
    """Scan ``layers`` (None: all) for the one that most suppresses the answer when zeroed.

    ``expect``: the answer to watch, as text or ids of one token or more; None is the model's own
    current answer. The crown is the most negative change among the layers that flip the likeliest
    token, else the most negative of all. UsageError on an empty prompt, a wrong layer range, or an
    answer without tokens.
    """
    ids = session.tokens(prompt, bos)
    chosen = session.shape.layers(layers)
    answer = answer_of(session, ids, expect)
    session.check_length(len(ids) + len(answer.tokens) - 1)
    last, cache = len(ids) - 1, None
    if last:
        cache = session.run(
            ids[:-1], logits="none", keep_cache=True, window=window_for(len(ids), answer)
        ).cache
    logits = [watch(session, [ids[last:]], answer, cache=cache)]
    for at in range(0, len(chosen), ROWS):
        part = chosen[at : at + ROWS]
        taps = {f"blocks.{layer}.ffn.out": _zero(part, layer) for layer in set(part)}
        logits.append(watch(session, [ids[last:]] * len(part), answer, taps=taps, cache=cache))
    every = torch.cat(logits)  # (1 + L, k, V)
    logp = log_p(every, answer).tolist()
    tops = [session.text(row) for row in every.argmax(-1).tolist()]
    p = [math.exp(min(0.0, x)) for x in logp]
    scan = [
        CrownRow(layer, p[i], logp[i], p[i] - p[0], logp[i] - logp[0], tops[i], tops[i] != tops[0])
        for i, layer in enumerate(chosen, 1)
    ]
    best = min([row for row in scan if row.flips] or scan, key=lambda row: row.delta_logp)
    return CrownResult(
        ids, session.pieces(ids), answer, p[0], logp[0], tops[0], scan, best.layer, best.flips
    )


def _zero(layers: list[int], layer: int) -> Any:
    """Zero the first position fed (the prompt's last) in the rows that are ``layer``'s."""
    rows = [i for i, other in enumerate(layers) if other == layer]

    def tap(x: Tensor) -> Tensor:
        x = x.clone()
        x[rows, 0] = 0.0
        return x

    return tap
