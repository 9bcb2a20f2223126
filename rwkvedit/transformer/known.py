"""Facts on file, and which of them a model knows. Changes nothing, fetches nothing.

A fact is known when greedy decoding of the prompt gives exactly the attribute's tokens: one teacher
forced pass tells, since greedy decoding gives them if and only if each is the likeliest after those
before it. Files are lists of records as in the data of Meng et al. (2022), ``known_1000.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.errors import FileFormatError, UsageError
from rwkvedit.files import read_bytes
from rwkvedit.transformer.answers import find_subject

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

ROWS = 16
"""Prompts of one batch."""
EXPECTED = "expected a JSON list of facts, each with prompt, subject and attribute"


@dataclass(frozen=True)
class Fact:
    """``attribute`` is what follows ``prompt``, which names ``subject``."""

    prompt: str
    subject: str
    attribute: str


@dataclass(frozen=True)
class KnownFact:
    """A fact that the model completes by itself."""

    fact: Fact
    answer: list[int]
    """The attribute's tokens, with a space in front."""


def load_facts(path: str | Path) -> list[Fact]:
    """Facts from a JSON file; one twice in it counts once. FileFormatError on anything else.

    ``template`` with a ``{}`` serves in place of ``prompt``, ``ground_truth`` of ``attribute``.
    """
    try:
        rows = json.loads(read_bytes(path))
    except ValueError as error:
        raise FileFormatError(f"{path}: {EXPECTED}, found no JSON ({error})") from None
    if not isinstance(rows, list) or not rows:
        found = "an empty list" if rows == [] else type(rows).__name__
        raise FileFormatError(f"{path}: {EXPECTED}, found {found}")
    return list(dict.fromkeys(_fact(path, at, row) for at, row in enumerate(rows)))


def _fact(path: str | Path, at: int, row: Any) -> Fact:
    if not isinstance(row, Mapping):
        raise FileFormatError(f"{path}: {EXPECTED}, found {type(row).__name__} at {at}")
    subject, template = row.get("subject"), row.get("template")
    prompt, attribute = row.get("prompt"), row.get("attribute", row.get("ground_truth"))
    if prompt is None and isinstance(template, str) and isinstance(subject, str):
        prompt = template.replace("{}", subject)
    values = {"prompt": prompt, "subject": subject, "attribute": attribute}
    for name, value in values.items():
        if not isinstance(value, str) or not value.strip():
            raise FileFormatError(f"{path}: {EXPECTED}; the fact at {at} has no {name}")
    return Fact(str(prompt).rstrip(), str(subject), str(attribute).strip())


def known_facts(
    session: ModelSession,
    facts: Sequence[Fact],
    bos: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> list[KnownFact]:
    """The facts that the model completes by itself, in their order.

    A fact whose prompt does not name its subject, or does not fit into the model, is not known.
    ``progress(done, total)``; ``cancel`` is asked between batches and raises KeyboardInterrupt.
    """
    rows: dict[int, tuple[list[int], list[int]]] = {}
    for at, fact in enumerate(facts):
        ids = session.tokens(fact.prompt, bos)
        answer = session.vocabulary.encode(" " + fact.attribute)
        context = session.shape.context
        if context is not None and len(ids) + len(answer) > context:
            continue
        try:
            find_subject(session, ids, fact.subject)
        except UsageError:
            continue
        rows[at] = ids, answer
    order = sorted(rows, key=lambda at: sum(map(len, rows[at])))  # alike lengths: little padding
    known = {}
    for start in range(0, len(order), ROWS):
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        batch = order[start : start + ROWS]
        for at, so in zip(batch, _greedy(session, [rows[at] for at in batch]), strict=True):
            known[at] = so
        if progress is not None:
            progress(start + len(batch), len(order))
    return [KnownFact(facts[at], rows[at][1]) for at in sorted(rows) if known[at]]


def _greedy(session: ModelSession, rows: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
    """Does greedy decoding of each (prompt, answer) give the answer?"""
    seen: list[Tensor] = []
    site = f"blocks.{session.n_layer - 1}.resid_out"
    session.run(
        [[*ids, *answer[:-1]] for ids, answer in rows], taps={site: seen.append}, logits="none"
    )
    spans = [slice(len(ids) - 1, len(ids) + len(answer) - 1) for ids, answer in rows]
    h = torch.cat([seen[0][b, span] for b, span in enumerate(spans)])
    said = session.unembed(h).argmax(-1).split([len(answer) for _, answer in rows])
    return [best.tolist() == answer for best, (_, answer) in zip(said, rows, strict=True)]
