"""WKV-7 as a differentiable torch operation on the CPU, running the numba kernels.

Knows tensors and gradients, not layers. Once differentiable: a second derivative is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rwkvedit_kernels import wkv7_numba


def _np(x: Tensor) -> np.ndarray:
    return x.detach().float().contiguous().numpy()


class _Wkv7(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        keep = any(ctx.needs_input_grad)
        ins = [_np(x) for x in (r, w, k, v, a, b)]
        y, end, kept = wkv7_numba.wkv7_forward(*ins, _np(state), keep=keep)
        if keep:
            saved = [x.detach().float().contiguous() for x in (r, w, k, v, a, b)]
            ctx.save_for_backward(*saved, torch.from_numpy(kept))
            ctx.dtypes = [x.dtype for x in (r, w, k, v, a, b, state)]
        return torch.from_numpy(y), torch.from_numpy(end)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_state: Tensor) -> tuple[Tensor, ...]:
        *ins, kept = ctx.saved_tensors
        grads = wkv7_numba.wkv7_backward(
            *(x.numpy() for x in ins), kept.numpy(), _np(dy), _np(d_state)
        )
        return tuple(torch.from_numpy(g).to(d) for g, d in zip(grads, ctx.dtypes, strict=True))


def wkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """WKV-7 over (B, T, H, N) CPU tensors. Returns fp32 (y (B,T,H,N), final state (B,H,N,N)).

    Gradients reach all six inputs and the initial state.
    """
    B, _, H, N = r.shape
    if state is None:
        state = torch.zeros(B, H, N, N)
    return _Wkv7.apply(r, w, k, v, a, b, state)  # type: ignore[return-value]
