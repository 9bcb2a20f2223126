"""Where in the state a question reads: each head's address as it stands before the question.

Knows no facts and no methods. A question's tokens move the state before the answer's position
reads it. In RWKV-7 the state's part in that is linear: with S0 the state the question starts from,

    y_T = S_T r_T,    S_T = S0 A_1 ... A_T + (what the question itself wrote)
    A_t = diag(w_t) - kk_t b_t^T                       (arXiv:2503.14456, section 3)

so position T reads S0 at the *address*  x = A_1 ... A_T r_T,  and an edit ``S0 + X`` changes its
read-out by exactly ``X x`` (in the first edited layer; in later ones as long as the layers below
it say the same). What an edit should change and what it must not touch are then linear conditions
on ``X``.

Glossary (l edited layers, H heads, N head size):
    addresses   (l, H, N, p)   fp32   columns: one per position asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rwkvedit_kernels.dispatch import addresses
from torch import Tensor

from rwkvedit.recurrent.hooks import Hooks
from rwkvedit.recurrent.state import State

_SITES = ("r", "w", "kk", "b")


def read_addresses(
    model: Any,
    rows: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    state: State,
    layers: tuple[int, int],
) -> tuple[list[Tensor], list[Tensor]]:
    """The addresses that ``rows`` read ``state`` at, and their logits.

    ``positions[i]`` are the positions of row i (0 = its first token) whose reads are wanted.
    Returns (addresses of each row (l, H, N, p_i), logits of each row (T_i, V)); one batched
    forward.
    """
    lo, hi = layers
    seen: dict[tuple[int, str], Tensor] = {}

    def keep(layer: int, site: str):
        def hook(x: Tensor) -> None:
            seen[layer, site] = x

        return hook

    hooks = Hooks()
    for layer in range(lo, hi):
        for site in _SITES:
            hooks.add(f"blocks.{layer}.att.{site}", keep(layer, site))
    with torch.no_grad():
        logits, _ = model.forward([list(row) for row in rows], state, full=True, hooks=hooks)
        r, w, kk, b = (
            torch.stack([seen[layer, site] for layer in range(lo, hi)], 1).float()
            for site in _SITES
        )  # (B, l, T, H, N)
        found = [addresses(r[row], w[row], kk[row], b[row], list(wanted))
                 for row, wanted in enumerate(positions)]
    return found, list(logits)
