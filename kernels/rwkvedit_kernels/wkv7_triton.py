"""WKV-7 on a GPU in Triton: prefill of any length (one token is a length of one) and its backward.

Knows tensors, not layers. ``wkv7_ref`` next door is what it must equal; where there is no GPU the
same kernels run under Triton's interpreter (``TRITON_INTERPRET=1`` before the first import).

One program owns one (row, head) and a stretch of ``BV`` values (rows of the state): the rows of S
never meet in the recurrence, so they can be spread over programs; the key axis stays whole.

    r, w, k, v, a, b   (B, T, H, N)   w in (0, 1); a = -kk; b = kk * a
    state, end         (B, H, N, N)   axes (value, key), float32
    kept               (B, H, T, N, N)  with ``keep``: the state before each token, for the backward
    S <- S diag(w) + (S a) b^T + v k^T,  y = S r
"""

# Triton's own annotations take x[:, None] for an index of a constant.
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable


@triton.jit
def _forward(
    r_ptr, w_ptr, k_ptr, v_ptr, a_ptr, b_ptr, state_ptr, lengths_ptr, y_ptr, end_ptr, kept_ptr,
    T, H, N: tl.constexpr, NP: tl.constexpr, BV: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)  # row * H + head
    row = pair // H
    head = pair % H
    key = tl.arange(0, NP)  # NP is N rounded up to a power of two
    value = tl.program_id(1) * BV + tl.arange(0, BV)
    in_key = key < N
    in_value = value < N
    inside = in_value[:, None] & in_key[None, :]
    square = pair * N * N + value[:, None] * N + key[None, :]
    s = tl.load(state_ptr + square, mask=inside, other=0.0).to(tl.float32)
    length = T
    if HAS_LENGTHS:
        length = tl.minimum(T, tl.load(lengths_ptr + row).to(tl.int32))
    for t in range(T):
        at = ((row * T + t) * H + head) * N
        live = t < length
        r = tl.load(r_ptr + at + key, mask=in_key, other=0.0).to(tl.float32)
        w = tl.load(w_ptr + at + key, mask=in_key, other=0.0).to(tl.float32)
        k = tl.load(k_ptr + at + key, mask=in_key, other=0.0).to(tl.float32)
        a = tl.load(a_ptr + at + key, mask=in_key, other=0.0).to(tl.float32)
        b = tl.load(b_ptr + at + key, mask=in_key, other=0.0).to(tl.float32)
        v = tl.load(v_ptr + at + value, mask=in_value, other=0.0).to(tl.float32)
        if KEEP:
            before = (pair * T + t) * N * N + value[:, None] * N + key[None, :]
            tl.store(kept_ptr + before, s, mask=inside)
        removed = tl.sum(s * a[None, :], axis=1)
        new = s * w[None, :] + removed[:, None] * b[None, :] + v[:, None] * k[None, :]
        y = tl.sum(new * r[None, :], axis=1)
        s = tl.where(live, new, s)
        tl.store(y_ptr + at + value, tl.where(live, y, 0.0), mask=in_value)
    tl.store(end_ptr + square, s, mask=inside)


@triton.jit
def _backward(
    r_ptr, w_ptr, k_ptr, v_ptr, a_ptr, b_ptr, kept_ptr, dy_ptr, dend_ptr,
    dr_ptr, dw_ptr, dk_ptr, dv_ptr, da_ptr, db_ptr, dstate_ptr,
    T, H, N: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """One program a (row, head): gradients of key-axis vectors sum over all values.

    With G = dL/dS after token t (dy_t r_t^T added): dr = S_t^T dy, dw = sum_i G * S_{t-1},
    dv = G k, dk = G^T v, db = G^T (S_{t-1} a), da = S_{t-1}^T (G b),
    and G before token t is G diag(w) + (G b) a^T.
    """
    pair = tl.program_id(0).to(tl.int64)
    row = pair // H
    head = pair % H
    key = tl.arange(0, NP)
    inner = key < N
    inside = inner[:, None] & inner[None, :]
    square = key[:, None] * N + key[None, :]
    g = tl.load(dend_ptr + pair * N * N + square, mask=inside, other=0.0)
    for step in range(T):
        t = T - 1 - step
        at = ((row * T + t) * H + head) * N + key
        r = tl.load(r_ptr + at, mask=inner, other=0.0)
        w = tl.load(w_ptr + at, mask=inner, other=0.0)
        k = tl.load(k_ptr + at, mask=inner, other=0.0)
        v = tl.load(v_ptr + at, mask=inner, other=0.0)
        a = tl.load(a_ptr + at, mask=inner, other=0.0)
        b = tl.load(b_ptr + at, mask=inner, other=0.0)
        dy = tl.load(dy_ptr + at, mask=inner, other=0.0)
        old = tl.load(kept_ptr + (pair * T + t) * N * N + square, mask=inside, other=0.0)
        removed = tl.sum(old * a[None, :], axis=1)
        new = old * w[None, :] + removed[:, None] * b[None, :] + v[:, None] * k[None, :]
        tl.store(dr_ptr + at, tl.sum(new * dy[:, None], axis=0), mask=inner)
        g += dy[:, None] * r[None, :]
        tl.store(dw_ptr + at, tl.sum(g * old, axis=0), mask=inner)
        tl.store(dk_ptr + at, tl.sum(g * v[:, None], axis=0), mask=inner)
        tl.store(dv_ptr + at, tl.sum(g * k[None, :], axis=1), mask=inner)
        tl.store(db_ptr + at, tl.sum(g * removed[:, None], axis=0), mask=inner)
        gb = tl.sum(g * b[None, :], axis=1)
        tl.store(da_ptr + at, tl.sum(old * gb[:, None], axis=0), mask=inner)
        g = g * w[None, :] + gb[:, None] * a[None, :]
    tl.store(dstate_ptr + pair * N * N + square, g, mask=inside)


def _run(
    ins: tuple[Tensor, ...], state: Tensor, lengths: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    B, T, H, N = ins[0].shape
    y = torch.empty(B, T, H, N, dtype=torch.float32, device=state.device)
    end = torch.empty(B, H, N, N, dtype=torch.float32, device=state.device)
    kept = end.new_empty((B, H, T, N, N) if keep else (1,))
    padded = triton.next_power_of_2(N)
    values = min(16, padded)  # keeps S in registers: 16 x 64 floats a program
    ends = lengths if lengths is not None else end.new_zeros(1, dtype=torch.int64)
    grid = (B * H, triton.cdiv(N, values))
    launch: Any = _forward
    launch[grid](
        *ins, state, ends, y, end, kept, T, H, N=N, NP=padded, BV=values,
        HAS_LENGTHS=lengths is not None, KEEP=keep, num_warps=4,
    )  # fmt: skip
    return y, end, kept


def wkv7_triton(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor,
    state: Tensor | None = None, lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run T tokens. Returns float32 (y (B, T, H, N), final state (B, H, N, N)); no gradients.

    With ``lengths`` (B,) a row's state stands still after its own length and its y is zero there.
    """
    B, _, H, N = r.shape
    if state is None:
        state = torch.zeros(B, H, N, N, device=r.device)
    ins = tuple(x.detach().contiguous() for x in (r, w, k, v, a, b))
    y, end, _ = _run(ins, state.detach().contiguous(), lengths, keep=False)
    return y, end


class _Wkv7(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *six, state = (x.detach().float().contiguous() for x in inputs)
        y, end, kept = _run(tuple(six), state, None, keep=True)
        ctx.save_for_backward(*six, kept)
        ctx.dtypes = [x.dtype for x in inputs]
        return y, end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_end: Tensor) -> tuple[Tensor, ...]:
        *six, kept = ctx.saved_tensors
        B, T, H, N = six[0].shape
        grads = [torch.empty_like(x) for x in six]
        d_state = torch.empty(B, H, N, N, dtype=torch.float32, device=dy.device)
        launch: Any = _backward
        launch[(B * H,)](
            *six, kept, dy.float().contiguous(), d_end.float().contiguous(), *grads, d_state,
            T, H, N=N, NP=triton.next_power_of_2(N), num_warps=8,
        )  # fmt: skip
        return tuple(g.to(d) for g, d in zip((*grads, d_state), ctx.dtypes, strict=True))


def wkv7_triton_differentiable(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As ``wkv7_triton`` without lengths; gradients reach all six inputs and the initial state.

    Keeps every token's state for the backward: B * T * H * N * N * 4 bytes.
    """
    B, _, H, N = r.shape
    if state is None:
        state = torch.zeros(B, H, N, N, device=r.device)
    return _Wkv7.apply(r, w, k, v, a, b, state)  # type: ignore[return-value]
