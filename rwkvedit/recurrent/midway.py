"""Rows whose lower layers have been run: what an edit of the upper ones leaves as it is.

Knows no facts. An edit changes the wkv of layers ``layer`` and up, so a question asked of the
edited state says the same below them as before: that half is run once and shared by every strength
that is tried.

Glossary (T tokens of one row, D width, H heads of N, L layers, l = those from ``layer`` on):
    x         (T, D)        residual stream where ``layer`` begins
    v_first   (T, D)        layer 0's values, which later layers mix in
    sites     (l, T, H, N)  r, w, kk and b of the layers above, on the state the row was read from
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.recurrent.state import State


@dataclass(frozen=True)
class Midway:
    """One row, run up to ``layer`` (excluded)."""

    layer: int
    tokens: tuple[int, ...]
    x: Tensor
    v_first: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Sites:
    """Where and what one row's positions read and wrote, each (l, T, H, N)."""

    r: Tensor
    w: Tensor
    kk: Tensor
    b: Tensor


def below(
    model: Any, rows: Sequence[tuple[int, ...]], state: State, layer: int
) -> tuple[list[Midway], int]:
    """The layers under ``layer`` over each row, all from one state (its own is not changed), and
    how many positions were run: those that rows begin with alike count once."""
    x, v_first, run = model.packed.below(rows, layer, *(t[None] for t in state.tensors()))
    lengths = [len(row) for row in rows]
    pieces = zip(rows, x.split(lengths), v_first.split(lengths), strict=True)
    return [Midway(layer, *piece) for piece in pieces], run


def above(
    model: Any, rows: Sequence[Midway], states: State, owner: Sequence[int], tails: Sequence[int],
    sites: bool = False,
) -> tuple[Tensor, np.ndarray, list[Sites], int]:
    """The rest of the layers; row b goes on from state ``owner[b]`` of a stack.

    Returns logits (R, V) of the rows' last ``tails[b]`` positions, each once, and which of the R
    every such position is; with ``sites`` what the rows read and wrote; and how many positions were
    run.
    """
    logits, places, found, run = model.packed.above(
        torch.cat([row.x for row in rows]), torch.cat([row.v_first for row in rows]),
        [row.tokens for row in rows], owner, rows[0].layer, *states.tensors(),
        tails=tails, sites=sites,
    )
    if not sites:
        return logits, places, [], run
    lengths = [len(row) for row in rows]
    by_row = zip(*(found[name].split(lengths, 1) for name in ("r", "w", "kk", "b")), strict=True)
    return logits, places, [Sites(*parts) for parts in by_row], run
