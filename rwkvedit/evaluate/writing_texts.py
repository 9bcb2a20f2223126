"""The texts in which components are looked for, edited and measured, each disjoint from the others.

For transformers: ``find`` is the corpus of the key statistics; ``examples`` and ``other`` are
documents of ``samples.jsonl``, 311 texts of up to 96 tokens that SmolLM2-135M-Instruct wrote after
30 openings (temperature 0.9, top-p 0.95, seed 1; prose, lists and dialogue, whose statements are
not true), and examples also of ``counted``, a seeded generator of sentences with numbers in them,
since some of the sharpest components fire where a number begins. For RWKV-7: chats of the embedded
model's own generator, from three seeds that its training did not use. Or a text of the user's own,
cut into thirds.

Rows are WIDTH tokens wide and unique.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkvedit.errors import UsageError
from rwkvedit.transformer.statistics import corpus_text

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

Row = list[int]
WIDTH = 32
FIND, EXAMPLES, OTHER = 100, 1200, 60
"""The most rows of each kind."""
NATURAL, COUNTED = 60, 130
"""Documents among the examples: written by a model, and counted."""
EVERY = 6
"""One document in so many is other text."""
SEEDS = (9_000_001, 9_000_002, 9_000_003)
"""Of the generator: find, examples, other."""


@dataclass(frozen=True)
class Texts:
    """Rows of tokens by what they are for."""

    find: list[Row]
    examples: list[Row]
    """To train on and to hold out: those in which the component fires."""
    other: list[Row]
    """For the global divergence."""
    source: str
    digest: str
    """sha256 (hex) of all rows."""


def texts(session: ModelSession, source: str | Path | None = None) -> Texts:
    """The rows for a model; ``source`` a UTF-8 text file of one's own. UsageError on too little."""
    if source is not None:
        text, name = corpus_text(source)
        rows = cut(session, [text])
        third = len(rows) // 3
        parts, name = (rows[:third], rows[third : 2 * third], rows[2 * third :]), name
    elif session.kind == "rwkv7":
        parts = tuple(cut(session, chats(seed, 20 if seed != SEEDS[1] else 300)) for seed in SEEDS)
        name = "chats of the embedded model's generator"
    else:
        written = samples()
        other = written[EVERY - 1 :: EVERY]
        examples = [text for i, text in enumerate(written) if i % EVERY != EVERY - 1][:NATURAL]
        examples += counted(SEEDS[1], COUNTED)
        parts = (cut(session, [corpus_text(None)[0]]), cut(session, examples), cut(session, other))
        name = "samples of SmolLM2, and sentences with numbers"
    seen: set[tuple[int, ...]] = set()
    kept = [_unique(rows, seen)[:most]
            for rows, most in zip(parts, (FIND, EXAMPLES, OTHER), strict=True)]  # fmt: skip
    if not all(kept):
        raise UsageError(
            f"too little text: {name} has {sum(map(len, parts))} rows of {WIDTH} tokens, and "
            "finding, editing and measuring need one each at least"
        )
    sha = hashlib.sha256(json.dumps(kept).encode()).hexdigest()
    find, edit, other_rows = kept
    return Texts(find, edit, other_rows, name, sha)


def samples() -> list[str]:
    """The texts that ship."""
    file = importlib.resources.files("rwkvedit.evaluate") / "samples.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


PLACES = ("harbour", "library", "old mill", "stadium", "town hall", "lighthouse", "museum", "farm",
          "railway station", "hospital", "observatory", "market")  # fmt: skip
THINGS = ("chairs", "boats", "books", "apples", "visitors", "lamps", "letters", "sheep", "tickets",
          "bottles", "trees", "windows")  # fmt: skip
PEOPLE = ("Maria", "the mayor", "my uncle", "a farmer", "the captain", "Mr. Novak", "the teacher",
          "our guide", "the librarian", "Ann", "a young engineer", "the old clerk")  # fmt: skip
SENTENCES = (
    "The {place} is {n} metres long and was opened in {year}.",
    "On that day {who} counted {n} {thing} near the {place}.",
    "In {year}, {who} bought {n} {thing} and kept them for {m} years.",
    "It takes {m} minutes to walk from the {place} to the {other}.",
    "There were {n} {thing} in the {place}, but {who} had seen only {m} of them.",
    "According to {who}, the {place} lost about {n} {thing} in {year}.",
    "At {m} o'clock {who} closed the {place} and went home.",
    "The road behind the {place} is quiet, and {who} likes to sit there in the evening.",
    "{who} wrote a long letter about the {place} and never sent it.",
    "Nobody knows who built the {place}, though {who} has a theory.",
)


def counted(seed: int, documents: int) -> list[str]:
    """Short documents of SENTENCES, most of which hold numbers."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(documents):
        said = []
        for at in rng.choice(len(SENTENCES), size=5, replace=False):
            place, other = rng.choice(PLACES, size=2, replace=False)
            text = SENTENCES[at].format(
                place=place, other=other, who=rng.choice(PEOPLE), thing=rng.choice(THINGS),
                n=int(rng.integers(12, 980)), m=int(rng.integers(2, 60)),
                year=int(rng.integers(1790, 2020)),
            )  # fmt: skip
            said.append(text[:1].upper() + text[1:])
        out.append(" ".join(said))
    return out


def chats(seed: int, count: int) -> list[str]:
    """Documents of the embedded model's training generator, in words."""
    from rwkvedit.models.catalog import embedded_folder
    from rwkvedit.models.tokenizer import WorldTokenizer
    from rwkvedit.train.corpus import STAGES
    from rwkvedit.train.documents import Writer
    from rwkvedit.train.words import Words

    tokenizer = WorldTokenizer.from_file(embedded_folder() / "vocab.txt")
    writer = Writer(Words(tokenizer), np.random.default_rng(seed))
    return [
        "".join(text for text, _ in writer.document(STAGES[1], 192).pieces) for _ in range(count)
    ]


def cut(session: ModelSession, documents: Iterable[str]) -> list[Row]:
    """Whole rows of WIDTH tokens of each document (of less, where a model reads less)."""
    width = min(WIDTH, session.shape.context or WIDTH)
    rows: list[Row] = []
    for document in documents:
        ids = session.vocabulary.encode(document)
        rows += [ids[at : at + width] for at in range(0, len(ids) - width + 1, width)]
    return rows


def _unique(rows: Sequence[Row], seen: set[tuple[int, ...]]) -> list[Row]:
    """Rows that no earlier kind has, each once."""
    out = []
    for row in rows:
        if tuple(row) not in seen:
            seen.add(tuple(row))
            out.append(row)
    return out
