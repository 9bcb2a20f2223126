"""Second moments of the keys of an MLP: which directions a layer's weights are used for already.

A key is what enters ``down_proj`` (RWKV-7: ``ffn.value``). C = E[k k^T], uncentred, over the
tokens of a corpus: the one that ships (``corpus.txt``, sampled from SmolLM2-135M-Instruct at
temperature 0.8: prose of many kinds, whose statements are not true) or the user's own. An update
along C^-1 k is the one that least disturbs the keys of the corpus: Meng et al., "Locating and
Editing Factual Associations in GPT" (2022), equation 2.
Changes no weights for longer than a call; results are kept in the user's cache folder.

Glossary: F MLP width, n tokens counted, C (F, F) fp32, k (F,) a key.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwkvedit.config import cache_dir
from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.files import load_tensors, read_bytes, save_tensors

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

FORMAT, VERSION = "second-moments", 1
SHIPPED = "shipped"
TOKENS = 9000
"""Tokens of a corpus that are used where nothing else is said."""
CHUNK = 64
"""Tokens of one row: the keys of a document's first tokens are rare in real text."""
ROWS = 16
RIDGE = 0.05
"""Added to C's diagonal, times its mean: a corpus of fewer tokens than F leaves C singular."""

Progress = Callable[[int, int], None]
Cancel = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Moments:
    """C of one layer, and where it comes from."""

    layer: int
    c: Tensor
    """(F, F) fp32 on the CPU: the mean of k k^T."""
    tokens: int
    """n: how many keys were counted."""
    corpus: str
    """``shipped`` or the file's name."""
    corpus_digest: str
    """sha256 (hex) of the text."""
    model_digest: str
    """Of the base weights."""

    def whiten(self, k: Tensor, ridge: float = RIDGE) -> Tensor:
        """(C + ridge * mean(diag C) * I)^-1 k for (F,) or columns (F, m), in float64."""
        c = self.c.double()
        c = c + torch.eye(len(c), dtype=c.dtype) * (ridge * float(c.diagonal().mean()))
        rhs = k.detach().double().cpu()
        factor = torch.linalg.cholesky(c)
        columns = rhs if rhs.dim() == 2 else rhs[:, None]
        solved = torch.cholesky_solve(columns, factor)
        return solved if rhs.dim() == 2 else solved[:, 0]

    def to_json(self) -> dict[str, object]:
        """What a report says of it."""
        return {
            "layer": self.layer, "tokens": self.tokens, "corpus": self.corpus,
            "corpus_digest": self.corpus_digest,
        }  # fmt: skip


def second_moments(
    session: ModelSession,
    layers: Iterable[int],
    source: str | Path | None = None,
    tokens: int = TOKENS,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> dict[int, Moments]:
    """{layer: Moments} of the base weights, from the cache where they are there.

    ``source`` None is the corpus that ships; else a UTF-8 text file, of which the first ``tokens``
    are used. Layers above the highest are not run. ``progress(done, total)`` counts tokens;
    ``cancel`` true raises KeyboardInterrupt between batches. UsageError on an empty text.
    """
    wanted = sorted({session.shape.layer(layer) for layer in layers})
    if tokens < 1:
        raise UsageError(f"statistics take a number of tokens from 1 on, not {tokens}")
    text, name = corpus_text(source)
    corpus = hashlib.sha256(text.encode()).hexdigest()
    label = {
        "model_digest": session.edits.base_digest, "corpus": name, "corpus_digest": corpus,
        "tokens_asked": tokens, "chunk": CHUNK,
    }  # fmt: skip
    found = {}
    for layer in wanted:
        cached = _cached(label, layer, session.shape.d_ffn)
        if cached is not None:
            found[layer] = cached
    missing = [layer for layer in wanted if layer not in found]
    if missing:
        live = session.edits.live
        session.edits.restore()
        try:
            sums, n = _collect(session, missing, chunks(session, text, tokens), progress, cancel)
        finally:
            session.edits.set(live)
        for layer in missing:
            c = (sums[layer] / n).float().cpu()
            found[layer] = Moments(layer, c, n, name, corpus, str(label["model_digest"]))
            with suppress(RwkvEditError):  # a full or read-only cache only costs time
                save_tensors(
                    _file(label, layer), {"c": c},
                    {**label, "format": FORMAT, "version": VERSION, "layer": layer, "tokens": n},
                )  # fmt: skip
    return found


def corpus_text(source: str | Path | None) -> tuple[str, str]:
    """(text, name) of a corpus; UsageError where it is no text."""
    if source is None:
        file = importlib.resources.files("rwkvedit.transformer") / "corpus.txt"
        return file.read_text(encoding="utf-8"), SHIPPED
    try:
        text = read_bytes(source).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: expected UTF-8 text for statistics ({error})") from None
    if not text.strip():
        raise UsageError(f"{source}: expected text for statistics, found none")
    return text, Path(source).name


def chunks(session: ModelSession, text: str, tokens: int) -> list[list[int]]:
    """The first ``tokens`` ids of a text in rows of CHUNK, paragraph by paragraph."""
    ids: list[int] = []
    for paragraph in text.split("\n\n"):
        ids += session.vocabulary.encode(paragraph.strip() + "\n\n")
        if len(ids) >= tokens:
            break
    ids = ids[:tokens]
    width = min(CHUNK, session.shape.context or CHUNK)
    return [ids[at : at + width] for at in range(0, len(ids), width)]


class _Enough(Exception):
    """The highest layer asked for has been seen."""


def _collect(
    session: ModelSession,
    layers: Sequence[int],
    rows: list[list[int]],
    progress: Progress | None,
    cancel: Cancel | None,
) -> tuple[dict[int, Tensor], int]:
    """({layer: sum of k k^T (F, F)}, number of keys)."""
    f = session.shape.d_ffn
    sums = {layer: torch.zeros(f, f, device=session.device) for layer in layers}
    done, total, lengths = 0, sum(map(len, rows)), [0]

    def counting(layer: int) -> Callable[[Tensor], None]:
        def tap(k: Tensor) -> None:
            kept = torch.cat([k[b, :n] for b, n in enumerate(lengths)]).float()  # (n, F)
            sums[layer].addmm_(kept.T, kept)
            if layer == layers[-1] and session.kind != "rwkv7":
                raise _Enough

        return tap

    taps = {f"blocks.{layer}.ffn.key": counting(layer) for layer in layers}
    for at in range(0, len(rows), ROWS):
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        batch = rows[at : at + ROWS]
        lengths[:] = map(len, batch)
        with suppress(_Enough):
            session.run(batch, taps=taps, logits="none")
        done += sum(lengths)
        if progress is not None:
            progress(done, total)
    return sums, total


def _file(label: dict[str, object], layer: int) -> Path:
    what = f"{str(label['corpus_digest'])[:12]}-{label['tokens_asked']}-{layer}.safetensors"
    return cache_dir() / "statistics" / str(label["model_digest"])[:16] / what


def _cached(label: dict[str, object], layer: int, f: int) -> Moments | None:
    try:
        tensors, meta = load_tensors(_file(label, layer), FORMAT, VERSION)
        c = tensors["c"]
    except (FileFormatError, RwkvEditError, KeyError):
        return None
    if any(meta.get(k) != v for k, v in label.items()) or tuple(c.shape) != (f, f):
        return None
    return Moments(
        layer, c, int(meta["tokens"]), str(meta["corpus"]), str(meta["corpus_digest"]),
        str(meta["model_digest"]),
    )  # fmt: skip
