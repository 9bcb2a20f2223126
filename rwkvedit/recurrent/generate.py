"""Choosing tokens and turning them into text until something says stop. Prints nothing.

Generation works on bytes: a stop text may begin in the middle of one token and end in the middle
of another, and a character may be spread over several. What a caller gets back is exactly what
stands before the stop text: its text, its tokens, and the State and logits right after them.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.models.tokenizer import END, StreamDecoder, WorldTokenizer
from rwkvedit.recurrent.model import RWKV7
from rwkvedit.recurrent.state import State


class Sampler:
    """Logits to a token id. Greedy at ``temperature`` 0; all randomness is its own generator's.

    ``top_p`` keeps the likeliest tokens up to that mass (1 keeps all), ``top_k`` that many (0 keeps
    all). ``presence`` is subtracted from the logit of every token already chosen and ``frequency``
    once more for each time; the counts start afresh at ``forget_counts``.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        presence: float = 0.0,
        frequency: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_settings(temperature, top_p, top_k, presence, frequency)
        self.temperature, self.top_p, self.top_k = float(temperature), float(top_p), int(top_k)
        self.presence, self.frequency = float(presence), float(frequency)
        self.seed = int(seed)
        self._rng = np.random.Generator(np.random.PCG64(self.seed))
        self._counts: dict[int, int] = {}

    def sample(self, logits: Tensor) -> int:
        """One id from (V,) logits, counted for the penalties."""
        x = logits.detach().double().cpu().numpy()
        if self._counts and (self.presence or self.frequency):
            x = x.copy()
            ids = np.fromiter(self._counts, np.int64, len(self._counts))
            times = np.fromiter(self._counts.values(), np.float64, len(self._counts))
            x[ids] -= self.presence + self.frequency * times
        best = int(x.argmax())
        if not math.isfinite(x[best]):
            raise RwkvEditError("the model gave NaN logits; /undo, or load another state")
        token = best if self.temperature == 0 else self._draw(x)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _draw(self, x: np.ndarray) -> int:
        order = np.argsort(-x, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        p = np.exp((x[order] - x[order[0]]) / self.temperature)
        p /= p.sum()
        if self.top_p < 1:
            keep = int(np.searchsorted(np.cumsum(p), self.top_p)) + 1
            order, p = order[:keep], p[:keep] / p[:keep].sum()
        at = int(np.searchsorted(np.cumsum(p), self._rng.random(), side="right"))
        return int(order[min(at, len(order) - 1)])

    def forget_counts(self) -> None:
        """The penalties start from nothing (at the start of a reply)."""
        self._counts = {}

    def get_state(self) -> dict[str, Any]:
        """Settings, generator and counts, all JSON-able; ``set_state`` restores them exactly."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "presence": self.presence,
            "frequency": self.frequency,
            "seed": self.seed,
            "rng": copy.deepcopy(self._rng.bit_generator.state),
            "counts": [[token, n] for token, n in self._counts.items()],
        }

    def set_state(self, saved: dict[str, Any]) -> None:
        """Undo everything since the matching ``get_state``. UsageError when it is not one."""
        try:
            fresh = Sampler.from_state(saved)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a sampler's state: {error}") from error
        self.__dict__.update(fresh.__dict__)

    @classmethod
    def from_state(cls, saved: dict[str, Any]) -> Sampler:
        names = ("temperature", "top_p", "top_k", "presence", "frequency", "seed")
        sampler = cls(**{name: saved[name] for name in names})
        sampler._rng.bit_generator.state = copy.deepcopy(saved["rng"])
        sampler._counts = {int(token): int(n) for token, n in saved["counts"]}
        return sampler


def check_settings(
    temperature: float, top_p: float, top_k: int, presence: float, frequency: float
) -> None:
    """UsageError naming the setting that is out of range."""
    for name, value, low, high in (
        ("temperature", temperature, 0.0, 100.0),
        ("top_p", top_p, 0.0, 1.0),
        ("top_k", top_k, 0, 10_000_000),
        ("presence", presence, -100.0, 100.0),
        ("frequency", frequency, -100.0, 100.0),
    ):
        if not low <= value <= high:
            raise UsageError(f"{name} {value} is out of range: expected {low} to {high}")


@dataclass(frozen=True)
class Generated:
    """What came before the stop. ``state`` and ``logits`` stand right after ``tokens``."""

    tokens: list[int]
    text: str
    state: State
    logits: Tensor
    stopped: str
    """``stop`` (a stop text), ``end`` (end of document), ``length`` or ``cancelled``."""
    stop: str | None = None
    """The stop text that was met; it is not in ``text``."""


def generate(
    model: RWKV7,
    logits: Tensor,
    state: State,
    sampler: Sampler,
    max_tokens: int,
    stops: Sequence[str],
    tokenizer: WorldTokenizer,
    on_text: Callable[[str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Generated:
    """Generate from ``logits`` (V,) and the ``state`` they came with.

    ``on_text`` gets text as soon as its bytes are whole characters that cannot belong to a stop
    text; joined together its pieces are ``Generated.text``. ``cancel`` is asked before each token.
    """
    marks = [s.encode() for s in stops if s]
    longest = max(map(len, marks), default=0)
    tokens: list[int] = []
    data = bytearray()
    # (offset in data, number of tokens, state, logits) before each recent token
    ring: deque[tuple[int, int, State, Tensor]] = deque()
    stream = _Stream(StreamDecoder(tokenizer), on_text)
    stopped, met = "length", None
    while len(tokens) < max_tokens:
        if cancel is not None and cancel():
            stopped = "cancelled"
            break
        token = sampler.sample(logits)
        if token == END:
            stopped = "end"
            break
        piece = tokenizer.decode_bytes([token])
        ring.append((len(data), len(tokens), state, logits))
        searched = max(len(data) - longest + 1, 0)
        data += piece
        tokens.append(token)
        hits = [(at, m) for m in marks if (at := data.find(m, searched)) >= 0]
        if hits:
            cut, mark = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            stopped, met = "stop", mark.decode()
            tokens, state, logits = _rewind(model, tokenizer, tokens, bytes(data), cut, ring)
            del data[cut:]
            break
        logits, state = model.forward([token], state)
        stream.send(data, _safe(data, marks))
        while ring and len(ring) > 1 and ring[1][0] <= len(data) - longest + 1:
            ring.popleft()
    stream.send(data, len(data), final=True)
    return Generated(tokens, data.decode("utf-8", "replace"), state, logits, stopped, met)


def _rewind(
    model: RWKV7,
    tokenizer: WorldTokenizer,
    tokens: list[int],
    data: bytes,
    cut: int,
    ring: deque[tuple[int, int, State, Tensor]],
) -> tuple[list[int], State, Tensor]:
    """Tokens, state and logits as if only ``data[:cut]`` had been said."""
    offset, count, state, logits = next(r for r in reversed(ring) if r[0] <= cut)
    rest = tokenizer.encode_bytes(data[offset:cut])
    if rest:
        logits, state = model.forward(rest, state)
    return tokens[:count] + rest, state, logits


def _safe(data: bytes | bytearray, marks: Sequence[bytes]) -> int:
    """How many bytes cannot be the beginning of a stop text that is still to come."""
    held = 0
    for mark in marks:
        for n in range(min(len(mark) - 1, len(data)), held, -1):
            if data.endswith(mark[:n]):
                held = n
                break
    return len(data) - held


class _Stream:
    """Sends bytes on once, as text."""

    def __init__(self, decoder: StreamDecoder, on_text: Callable[[str], None] | None) -> None:
        self._decoder, self._on_text, self._sent = decoder, on_text, 0

    def send(self, data: bytes | bytearray, until: int, final: bool = False) -> None:
        if self._on_text is None:
            return
        text = ""
        if until > self._sent:
            text = self._decoder.feed_bytes(bytes(data[self._sent : until]))
            self._sent = until
        if final:
            text += self._decoder.flush()
        if text:
            self._on_text(text)
