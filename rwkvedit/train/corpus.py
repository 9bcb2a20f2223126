"""Batches of training text: documents laid end to end in rows, by a curriculum of STAGES.

Knows nothing of the network, and what a document says only by its pieces and their weights: text
of little weight is mostly left out of the loss, which also saves the output layer's work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwkvedit.models.tokenizer import WorldTokenizer
from rwkvedit.train.documents import ANSWER, Document, Writer
from rwkvedit.train.words import Words

# Text pieces are kept in the loss with this probability, at TEXT / KEEP weight.
KEEP = 0.2
STAGES = (
    # until, row lengths with odds, most entities, most facts each, rate of everything but telling
    (0.10, ((96, 1.0),), 3, 1, 0.0),
    (0.30, ((192, 1.0),), 5, 2, 1.0),
    (0.55, ((256, 0.8), (384, 0.2)), 7, 2, 1.0),
    (0.80, ((256, 0.5), (512, 0.5)), 7, 3, 1.0),
    (1.01, ((256, 0.2), (512, 0.25), (1280, 0.35), (2304, 0.2)), 7, 3, 1.0),
)


@dataclass
class Batch:
    """``tokens`` and ``targets`` (B, T) int64, ``weights`` (B, T) float32, the stage's name."""

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    stage: str


_WORD = re.compile(r" ?[A-Za-z]+|'[a-z]| ?[0-9]+|\n+|[^\S\n]*[^\sA-Za-z0-9]|\s")


class Corpus:
    """Endless batches for one tokenizer; ``state_dict`` resumes exactly."""

    def __init__(self, tokenizer: WorldTokenizer, seed: int, batch_tokens: int = 4096) -> None:
        self.tokenizer, self.batch_tokens = tokenizer, batch_tokens
        self.rng = np.random.default_rng(seed)
        self.writer = Writer(Words(tokenizer), self.rng)
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """As the tokenizer does; words are cached (no token spans a word's end)."""
        ids: list[int] = []
        for word in _WORD.findall(text):
            known = self._cache.get(word)
            if known is None:
                known = self.tokenizer.encode(word)
                if len(self._cache) < 200_000:
                    self._cache[word] = known
            ids.extend(known)
        return ids

    def _tokens(self, doc: Document) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in doc.pieces:
            if text:
                piece = self.encode(text)
                ids.extend(piece)
                weights.extend([weight] * len(piece))
        ids.append(0)
        weights.append(ANSWER)
        return ids, weights

    def _row(self, stage: tuple, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length + 1:
            doc_ids, doc_weights = self._tokens(
                self.writer.document(stage, length - len(ids) if ids else length))
            ids.extend(doc_ids)
            weights.extend(doc_weights)
        row = np.array(ids[: length + 1], dtype=np.int64)
        weight = np.array(weights[1 : length + 1], dtype=np.float32)
        thin = weight < 0.2  # plain text: keep some positions, at more weight
        kept = self.rng.random(length) < KEEP
        weight[thin & ~kept] = 0.0
        weight[thin & kept] /= KEEP
        return row[:-1], row[1:], weight

    def batch(self, progress: float) -> Batch:
        """The next batch; ``progress`` in [0, 1] chooses the stage."""
        index = next(i for i, stage in enumerate(STAGES) if progress < stage[0])
        stage = STAGES[index]
        lengths, odds = zip(*stage[1], strict=True)
        length = int(lengths[int(self.rng.choice(len(lengths), p=odds))])
        rows = [self._row(stage, length) for _ in range(max(1, self.batch_tokens // length))]
        tokens, targets, weights = (np.stack(part) for part in zip(*rows, strict=True))
        return Batch(tokens, targets, weights, f"{index}:{length}")

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
