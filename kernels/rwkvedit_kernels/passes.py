"""One forward pass's rows: which state each sequence starts from, and the work areas between.

Knows a packed model's shapes and nothing of how its weights were packed. Work areas are kept from
one pass to the next on the same thread.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import fused_numba as fused
from .pool import run_job

if TYPE_CHECKING:
    from .packed import PackedModel

_HUGE_PAGE = 2 << 20
KEEP_SCRATCH = 64 << 20  # bytes of scratch a thread holds on to between passes
_local = threading.local()
_AREAS = ("x", "r", "k", "v", "vf", "w", "kk", "b", "g", "y", "hidden", "f")
NONE = np.zeros(0, np.int64)  # no rows


def _fresh(count: int) -> np.ndarray:
    """(count,) uninitialised float32; large ones start on a huge page, which is far cheaper to
    touch for the first time than hundreds of small ones (numpy asks the kernel for them)."""
    if count * 4 < 2 * _HUGE_PAGE:
        return np.empty(count, np.float32)
    raw = np.empty(count + _HUGE_PAGE // 4, np.float32)
    skip = (-raw.ctypes.data % _HUGE_PAGE) // 4
    return raw[skip : skip + count]


def fresh(shape: tuple[int, ...]) -> Tensor:
    """An uninitialised float32 tensor of the CPU's."""
    count = math.prod(shape)
    if count * 4 < 2 * _HUGE_PAGE:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    return torch.from_numpy(_fresh(count).reshape(shape))


def _scratch(sizes: list[int]) -> list[np.ndarray]:
    """Float32 work areas, reused by this thread's next pass. No late helper touches them: one
    that comes after the last ticket does nothing but linger."""
    kept, areas = getattr(_local, "areas", (None, []))
    if kept == sizes:
        return areas
    padded = [-(-size // 16) * 16 for size in sizes]
    total = sum(padded)
    arena = getattr(_local, "arena", None)
    if arena is None or arena.size < total:
        arena = _fresh(total)
        if total * 4 > KEEP_SCRATCH:
            return _cut(arena, sizes, padded)
        _local.arena = arena
    areas = _cut(arena, sizes, padded)
    _local.areas = sizes, areas
    return areas


def _cut(arena: np.ndarray, sizes: list[int], padded: list[int]) -> list[np.ndarray]:
    areas, at = [], 0
    for size, room in zip(sizes, padded, strict=True):
        areas.append(arena[at : at + size])
        at += room
    return areas


def _flat(tensor: Tensor) -> np.ndarray:
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.to(torch.float32).contiguous().numpy().reshape(-1)


@dataclass(frozen=True)
class Layout:
    """Rows of B sequences laid end to end: ``starts`` (B + 1,) first row of each, ``row_seq`` (M,)
    the sequence of each row."""

    rows: int
    starts: np.ndarray
    row_seq: np.ndarray

    @staticmethod
    def of(lengths: Sequence[int] | np.ndarray) -> Layout:
        starts = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        return Layout(int(starts[-1]), starts, np.repeat(np.arange(len(lengths)), lengths))


@lru_cache(8)
def one_each(count: int) -> Layout:
    """The layout of ``count`` sequences of one token."""
    return Layout.of([1] * count)


def work_areas(model: PackedModel, rows: int) -> dict[str, np.ndarray]:
    """This thread's, in the order of the kernel's arguments; flat (rows, width) each."""
    d = model.n_embd
    dp, fp, hs = (int(model.base[i]) for i in (fused.S_DP, fused.S_FP, fused.S_HS))
    widths = [d] * 9 + [dp, hs, fp]
    flat = _scratch([rows * width for width in widths])
    areas: dict[str, np.ndarray] = dict(zip(_AREAS, flat, strict=True))
    if dp != d:
        areas["y"][:] = 0  # a padded column must hold a number
    return areas


class Pass:
    """One pass's rows: where each sequence starts and which state, and the work areas between.

    A pass may be run a few layers at a time, as long as no other pass runs on this thread between.
    """

    def __init__(
        self, model: PackedModel, layout: Layout, source: np.ndarray,
        att_x: Tensor, wkv: Tensor, ffn_x: Tensor, parents: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.model, self.source = model, source
        self.parents = np.full(len(source), -1) if parents is None else parents
        self.rows, self.starts, self.row_seq = layout.rows, layout.starts, layout.row_seq
        self.seqs = len(layout.starts) - 1
        self.inputs = [_flat(att_x), _flat(wkv), _flat(ffn_x)]
        self.outputs = [_fresh(self.seqs * size) for size in model.state_sizes]
        self.areas = work_areas(model, self.rows)

    def needed(self, wanted: np.ndarray) -> np.ndarray:
        """Rows that the last layer's channel-mix must run for, in order: those ``wanted``, each
        sequence's last (its state, and its children's shift) and the one before each, which the
        shift mixes in."""
        read = np.union1d(wanted, self.starts[1:] - 1)
        return np.union1d(read, read[self.starts[self.row_seq[read]] < read] - 1)

    def run(
        self, scalars: np.ndarray, phases: np.ndarray, workers: int,
        tokens: np.ndarray, wanted: np.ndarray, needed: np.ndarray = NONE,
    ) -> Tensor:  # fmt: skip
        """Run a plan; returns the logits (R, V) of the ``wanted`` rows. ``needed`` is
        :meth:`needed`'s, for a plan that was made with their number."""
        model = self.model
        logits = _fresh(len(wanted) * model.vocab_size)
        args = (
            model.matrices, model.emb, model.small, scalars, model.table, model.meta, phases,
            np.zeros(fused.CONTROLS, np.int64), tokens, self.row_seq, self.starts, wanted, needed,
            self.source, self.parents, *self.inputs, *self.outputs, logits, *self.areas.values(),
        )  # fmt: skip
        run_job(fused.work, args, workers)
        return torch.from_numpy(logits.reshape(len(wanted), model.vocab_size))

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """The state after the pass: att_x, wkv, ffn_x."""
        att_x, wkv, ffn_x = (
            torch.from_numpy(a.reshape(self.seqs, *shape))
            for a, shape in zip(self.outputs, self.model.state_shapes, strict=True)
        )
        return att_x, wkv, ffn_x

    def area(self, name: str) -> Tensor:
        """A copy of a (M, D) work area."""
        return torch.from_numpy(self.areas[name].reshape(self.rows, -1).copy())

    def fill(self, name: str, values: Tensor) -> None:
        self.areas[name][:] = values.reshape(-1).numpy()
