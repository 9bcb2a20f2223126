"""Records of CounterFact's shape, and which of them a model knows. Edits nothing.

A record (flat, as in the single-rephrase form of Meng et al. 2022's CounterFact): ``prompt`` names
``subject`` and is to go on with ``target_new`` in place of ``ground_truth``; ``rephrase_prompt``
asks the same; ``locality_prompt`` is about another subject with the answer
``locality_ground_truth``.

Groups: ``known`` (greedy decoding of the prompt gives the true object), ``preferred`` (the true
object is likelier than the new one, which most known records are too), ``all``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkvedit.config import cache_dir
from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.evaluate.saying import Asked, say
from rwkvedit.files import atomic_write, read_bytes
from rwkvedit.transformer.answers import find_subject
from rwkvedit.transformer.value import Request, target_ids

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

GROUPS = ("known", "preferred", "all")
BATCH = 64
EXPECTED = "expected a JSON list of records, each with"


@dataclass(frozen=True)
class Record:
    """One record."""

    prompt: str
    subject: str
    target_new: str
    ground_truth: str
    rephrase_prompt: str
    locality_prompt: str
    locality_ground_truth: str

    def request(self) -> Request:
        return Request(self.prompt, self.subject, self.target_new)


def load_records(path: str | Path) -> tuple[list[Record], str]:
    """(records, sha256 of the file). FileFormatError on anything else."""
    data = read_bytes(path)
    names = [f.name for f in fields(Record)]
    try:
        rows = json.loads(data)
    except ValueError as error:
        raise FileFormatError(f"{path}: {EXPECTED} {', '.join(names)} ({error})") from None
    if not isinstance(rows, list) or not rows:
        raise FileFormatError(f"{path}: {EXPECTED} {', '.join(names)}; found none")
    out = []
    for at, row in enumerate(rows):
        values = [row.get(name) if isinstance(row, dict) else None for name in names]
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, str) or not value.strip():
                raise FileFormatError(f"{path}: {EXPECTED} {name}; the record at {at} has none")
        out.append(Record(*(str(value).rstrip() for value in values)))
    return out, hashlib.sha256(data).hexdigest()


def select(
    session: ModelSession,
    records: Sequence[Record],
    digest: str,
    group: str,
    n: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    last: bool = False,
) -> list[int]:
    """The first ``n`` records of ``group`` in the order of ``seed`` (``last``: from its end).

    Fewer where there are not so many. What was found out about a record is kept in the cache
    folder. ``progress(found, n)``; ``cancel`` true raises KeyboardInterrupt.
    """
    if group not in GROUPS:
        raise UsageError(f"no group {group!r}: choose {', '.join(GROUPS)}")
    order = np.random.default_rng(seed).permutation(len(records)).tolist()
    if last:
        order.reverse()
    file = cache_dir() / "counterfact" / session.edits.base_digest[:16] / f"{digest[:16]}.json"
    flags: dict[str, list[bool]] = {}
    with suppress(RwkvEditError, ValueError, OSError):
        if file.exists():
            flags = json.loads(file.read_text(encoding="utf-8"))
    found: list[int] = []
    at = 0
    while at < len(order) and len(found) < n:
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        part = order[at : at + BATCH]
        at += BATCH
        unknown = [i for i in part if str(i) not in flags]
        if unknown:
            flags.update(zip(map(str, unknown), _flags(session, [records[i] for i in unknown]),
                             strict=True))  # fmt: skip
            with suppress(RwkvEditError):
                atomic_write(file, json.dumps(flags))
        for i in part:
            usable, known, preferred = flags[str(i)]
            if usable and {"known": known, "preferred": preferred, "all": True}[group]:
                found.append(i)
        if progress is not None:
            progress(min(n, len(found)), n)
    return found[:n]


def _flags(session: ModelSession, records: Sequence[Record]) -> list[list[bool]]:
    """[usable, known, preferred] of each record, with the weights as they are."""
    asked: list[Asked] = []
    usable = []
    for record in records:
        ids = session.tokens(record.prompt)
        try:
            find_subject(session, ids, record.subject)
            fits = record.target_new.strip().lower() != record.ground_truth.strip().lower()
        except UsageError:
            fits = False
        usable.append(fits)
        asked += [
            Asked(ids, target_ids(session, ids, text))
            for text in (record.ground_truth, record.target_new)
        ]
    said = say(session, asked)
    return [
        [ok, said[2 * i].greedy, said[2 * i].logp > said[2 * i + 1].logp]
        for i, ok in enumerate(usable)
    ]
