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

import torch
from torch import Tensor

from rwkvedit.recurrent.state import State


@dataclass(frozen=True)
class Midway:
    """One row, run up to ``layer`` (excluded)."""

    layer: int
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


def below(model: Any, rows: Sequence[Sequence[int]], state: State, layer: int) -> list[Midway]:
    """The layers under ``layer`` over each row, all from one state (its own is not changed)."""
    x, v_first = model.packed.below(rows, layer, *(t[None] for t in state.tensors()))
    lengths = [len(row) for row in rows]
    pieces = zip(x.split(lengths), v_first.split(lengths), strict=True)
    return [Midway(layer, a, b) for a, b in pieces]


def above(
    model: Any, rows: Sequence[Midway], states: State, owner: Sequence[int], tails: Sequence[int],
    sites: bool = False,
) -> tuple[list[Tensor], list[Sites]]:
    """The rest of the layers; row b goes on from state ``owner[b]`` of a stack.

    Returns logits (tails[b], V) of each row's last positions, and with ``sites`` what the rows
    read and wrote.
    """
    lengths = [len(row) for row in rows]
    logits, found = model.packed.above(
        torch.cat([row.x for row in rows]), torch.cat([row.v_first for row in rows]), lengths,
        owner, rows[0].layer, *states.tensors(), tails=tails, sites=sites,
    )
    if not sites:
        return logits, []
    by_row = zip(*(found[name].split(lengths, 1) for name in ("r", "w", "kk", "b")), strict=True)
    return logits, [Sites(*parts) for parts in by_row]
