"""Where earlier states are read, on the CPU: addresses pulled back through WKV-7's transitions.

Knows numpy arrays only; :func:`addresses_ref` is what the kernel must equal.

Glossary (one row; l layers, T tokens, H heads of N, p positions asked for):
    r, w, kk, b   (l, T, H, N)   float32
    wanted        (p,)           positions whose reads are wanted
    addresses     (l, H, N, p)   x = A_1 ... A_t r_t,  A = diag(w) - kk b^T
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _pull_back(r, w, kk, b, wanted, out):
    layers, _, heads, n = r.shape
    x = np.empty(n, np.float32)
    for layer in range(layers):
        for h in range(heads):
            for column in range(len(wanted)):
                for i in range(n):
                    x[i] = r[layer, wanted[column], h, i]
                for t in range(wanted[column], -1, -1):
                    pulled = np.float32(0.0)
                    for i in range(n):
                        pulled += b[layer, t, h, i] * x[i]
                    for i in range(n):
                        x[i] = w[layer, t, h, i] * x[i] - pulled * kk[layer, t, h, i]
                for i in range(n):
                    out[layer, h, i, column] = x[i]


def addresses(r: Tensor, w: Tensor, kk: Tensor, b: Tensor, wanted: list[int]) -> Tensor:
    """(l, H, N, p) float32 on the CPU; arguments as in the glossary."""
    layers, _, heads, n = r.shape
    out = np.empty((layers, heads, n, len(wanted)), np.float32)
    nr, nw, nk, nb = (x.float().contiguous().numpy() for x in (r, w, kk, b))
    _pull_back(nr, nw, nk, nb, np.array(wanted, np.int64), out)
    return torch.from_numpy(out)


def addresses_ref(r: Tensor, w: Tensor, kk: Tensor, b: Tensor, wanted: list[int]) -> Tensor:
    """The same in plain torch, on any device."""
    columns = torch.stack([r[:, p] for p in wanted], -1).float()  # (l, H, N, p)
    at = torch.tensor(wanted, device=columns.device)
    for t in range(max(wanted), -1, -1):
        pulled = (b[:, t].unsqueeze(-2) @ columns) * kk[:, t].unsqueeze(-1)
        moved = w[:, t].unsqueeze(-1) * columns - pulled
        columns = torch.where(at >= t, moved, columns)
    return columns
