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


def _forward(six: list[np.ndarray], state: np.ndarray, keep: bool) -> tuple[np.ndarray, ...]:
    r, w, k, v, a, b = six
    return wkv7_numba.wkv7_forward(r, w, k, v, a, b, state, keep=keep)


def _backward(
    six: list[np.ndarray], kept: np.ndarray, dy: np.ndarray, d_state: np.ndarray
) -> tuple[np.ndarray, ...]:
    r, w, k, v, a, b = six
    return wkv7_numba.wkv7_backward(r, w, k, v, a, b, kept, dy, d_state)


class _Wkv7(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *six, state = inputs
        keep = any(ctx.needs_input_grad)
        ins = [x.detach().float().contiguous() for x in six]
        y, end, kept = _forward([x.numpy() for x in ins], _np(state), keep)
        if keep:
            ctx.save_for_backward(*ins, torch.from_numpy(kept))
            ctx.dtypes = [x.dtype for x in inputs]
        return torch.from_numpy(y), torch.from_numpy(end)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_state: Tensor) -> tuple[Tensor, ...]:
        *ins, kept = ctx.saved_tensors
        grads = _backward([x.numpy() for x in ins], kept.numpy(), _np(dy), _np(d_state))
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
