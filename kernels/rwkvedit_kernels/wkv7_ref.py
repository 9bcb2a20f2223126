"""The WKV-7 recurrence in plain torch, one token at a time: what every fast kernel must equal.

Knows nothing of layers, weights or devices; works in the dtype it is handed (float64 in tests).

Glossary (arXiv:2503.14456, section 4; here a = -kk and b = kk * iclr):
    r, w, k, v, a, b   (B, T, H, N)    receptance, decay in (0, 1), key, value, removal, replacement
    state              (B, H, N, N)    axes (head, value, key)
    y                  (B, T, H, N)    read-out, S_t @ r_t
"""

from __future__ import annotations

import torch
from torch import Tensor


def wkv7_step(
    state: Tensor, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: ``S <- S diag(w) + (S a) b^T + v k^T`` and ``y = S r``.

    ``state`` is (..., N, N) with axes (value, key); the rest are (..., N). Returns (y, new state).
    """
    sa = (state * a.unsqueeze(-2)).sum(-1)  # (..., N) value axis
    state = (
        state * w.unsqueeze(-2)
        + sa.unsqueeze(-1) * b.unsqueeze(-2)
        + v.unsqueeze(-1) * k.unsqueeze(-2)
    )
    return (state * r.unsqueeze(-2)).sum(-1), state


def wkv7_ref(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run T tokens. Returns (y (B, T, H, N), final state (B, H, N, N)); differentiable throughout.

    With ``lengths`` (B,) a row's state stands still after its own length and its y is zero there.
    """
    B, T, H, N = r.shape
    if state is None:
        state = r.new_zeros(B, H, N, N)
    ys = []
    for t in range(T):
        y, after = wkv7_step(state, r[:, t], w[:, t], k[:, t], v[:, t], a[:, t], b[:, t])
        if lengths is not None:
            live = (t < lengths).view(B, 1, 1)
            y = torch.where(live, y, torch.zeros_like(y))
            after = torch.where(live.unsqueeze(-1), after, state)
        state = after
        ys.append(y)
    return (torch.stack(ys, 1) if ys else torch.empty_like(v)), state
