"""What a session's calls return: numpy arrays and pieces of text, nothing that needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TopToken:
    """One candidate for the next token. ``p`` is full-softmax, ``logit`` in nats."""

    id: int
    piece: str
    p: float
    logit: float

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "token": self.piece, "p": self.p, "logit": self.logit}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Full softmax over the last axis, float64."""
    x = np.asarray(logits, np.float64)
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def top_tokens(logits: np.ndarray, k: int, piece: Callable[[int], str]) -> list[TopToken]:
    """The ``k`` likeliest tokens of (V,) logits, best first; equal ones by id."""
    p = softmax(logits)
    k = min(k, len(p))
    best = np.argpartition(-p, k - 1)[:k]
    best = best[np.lexsort((best, -p[best]))]
    return [TopToken(int(i), piece(int(i)), float(p[i]), float(logits[i])) for i in best]


@dataclass(frozen=True)
class ForwardResult:
    """One forward pass of one prompt."""

    tokens: list[int]
    """What was run, BOS included where it was asked for."""
    logits: np.ndarray
    """(V,) fp32 of the last position, before softmax."""
    piece: Callable[[int], str] = field(repr=False)

    @property
    def probs(self) -> np.ndarray:
        """(V,) float64, full softmax."""
        return softmax(self.logits)

    def p(self, token: int) -> float:
        """The probability of one token id."""
        return float(self.probs[token])

    def top(self, k: int = 10) -> list[TopToken]:
        return top_tokens(self.logits, k, self.piece)

    @property
    def argmax(self) -> int:
        return int(self.logits.argmax())


@dataclass(frozen=True)
class PatchResult:
    """Recipient and donor as they are, and the recipient with the donor's activation in it."""

    before: ForwardResult
    donor: ForwardResult
    after: ForwardResult
    layer: int
    position: int
    donor_position: int


@dataclass(frozen=True)
class LensRow:
    """What the residual after one layer would say at one position, through norm and W_U."""

    layer: int
    position: int
    top: list[TopToken]
    entropy: float
    """Nats."""


@dataclass(frozen=True)
class LensResult:
    """A logit lens: ``rows[i][j]`` is layer ``layers[i]`` at position ``positions[j]``."""

    tokens: list[int]
    pieces: list[str]
    layers: list[int]
    positions: list[int]
    rows: list[list[LensRow]]


@dataclass(frozen=True)
class Track:
    """One token through the layers (each array (len(layers),))."""

    token: int
    piece: str
    layers: list[int]
    p: np.ndarray
    logit: np.ndarray
    rank: np.ndarray
    """0 is the likeliest."""


@dataclass(frozen=True)
class Race:
    """Several tokens through the layers; ``leader[i]`` is the token id ahead after layer i."""

    tracks: list[Track]
    layers: list[int]
    leader: list[int]


@dataclass(frozen=True)
class Neighbor:
    """A token and its cosine to what was asked for."""

    id: int
    piece: str
    cosine: float


@dataclass(frozen=True)
class Projection:
    """A residual vector's direct effect on the logits: raw W_U, no norm."""

    logits: np.ndarray
    """(V,) fp32."""
    top: list[tuple[int, str, float]]
    """(id, piece, logit), most promoted first."""
    bottom: list[tuple[int, str, float]]
    """Most suppressed first."""


@dataclass(frozen=True)
class Attribution:
    """Direct logit attribution of one token: what each part adds to its raw logit.

    The parts sum to the raw logit of the last residual (``total``), before the final norm.
    """

    token: int
    piece: str
    position: int
    embedding: float
    """What enters layer 0."""
    attention: np.ndarray
    """(L,)"""
    mlp: np.ndarray
    """(L,)"""
    total: float


@dataclass(frozen=True)
class Generation:
    """What ``generate_with_hooks`` wrote."""

    prompt: list[int]
    tokens: list[int]
    """New tokens, without the one that ended it."""
    text: str
    stopped: str
    """``end`` (an end token), ``length`` or ``cancelled``."""
    cache: Any = field(repr=False, default=None)
    """What the model remembers after the last token it was fed, or None."""
