"""WKV-7 over whole sequences on the CPU: forward, and a backward that recomputes from checkpoints.

Knows numpy arrays only; ``wkv7_autograd`` makes it differentiable for torch and ``wkv7_ref`` is
what it must equal. Everything is float32 and C-contiguous.

Glossary (shapes as in ``wkv7_ref``):
    r, w, k, v, a, b   (B, T, H, N)
    s0, s_end          (B, H, N, N)             axes (value, key)
    kept               (B, H, ceil(T/CHUNK), N, N)   the state before every CHUNK-th token
    G                  (N, N)                   dLoss/dS while walking backwards

One thread owns one (row, head) pair: its N x N state stays in the first-level cache. Rows of the
state are taken four at a time so that each load of a key-axis vector serves four rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable

CHUNK = 16
_ROWS = 4


@cache
def _kernels(N: int) -> tuple[Any, Any]:
    """Compile forward and backward with the head size N (a multiple of 4) as a constant."""
    f32 = np.float32

    @register_jitable(inline="always")  # a dispatcher in the closure would defeat the cache
    def advance(old, new, r, w, k, v, a, b, sa, y):
        """Read ``old``, write the next state to ``new`` (may be the same array)."""
        for i in range(0, N, 4):
            d0 = f32(0.0)
            d1 = f32(0.0)
            d2 = f32(0.0)
            d3 = f32(0.0)
            for j in range(N):
                aj = a[j]
                d0 += old[i, j] * aj
                d1 += old[i + 1, j] * aj
                d2 += old[i + 2, j] * aj
                d3 += old[i + 3, j] * aj
            sa[i] = d0
            sa[i + 1] = d1
            sa[i + 2] = d2
            sa[i + 3] = d3
            v0 = v[i]
            v1 = v[i + 1]
            v2 = v[i + 2]
            v3 = v[i + 3]
            y0 = f32(0.0)
            y1 = f32(0.0)
            y2 = f32(0.0)
            y3 = f32(0.0)
            for j in range(N):
                wj = w[j]
                bj = b[j]
                kj = k[j]
                rj = r[j]
                s = old[i, j] * wj + d0 * bj + v0 * kj
                new[i, j] = s
                y0 += s * rj
                s = old[i + 1, j] * wj + d1 * bj + v1 * kj
                new[i + 1, j] = s
                y1 += s * rj
                s = old[i + 2, j] * wj + d2 * bj + v2 * kj
                new[i + 2, j] = s
                y2 += s * rj
                s = old[i + 3, j] * wj + d3 * bj + v3 * kj
                new[i + 3, j] = s
                y3 += s * rj
            y[i] = y0
            y[i + 1] = y1
            y[i + 2] = y2
            y[i + 3] = y3

    @numba.njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
    def forward(r, w, k, v, a, b, s0, lengths, y, s_end, kept):
        B, T, H = r.shape[0], r.shape[1], r.shape[2]
        keep = kept.shape[2] > 0
        for p in numba.prange(B * H):
            n = p // H
            h = p % H
            S = np.empty((N, N), f32)
            sa = np.empty(N, f32)
            S[:, :] = s0[n, h]
            length = min(T, lengths[n])
            for t in range(length):
                if keep and t % CHUNK == 0:
                    kept[n, h, t // CHUNK] = S
                advance(
                    S, S, r[n, t, h], w[n, t, h], k[n, t, h], v[n, t, h],
                    a[n, t, h], b[n, t, h], sa, y[n, t, h],
                )  # fmt: skip
            for t in range(length, T):
                for j in range(N):
                    y[n, t, h, j] = f32(0.0)
            s_end[n, h] = S

    @numba.njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
    def backward(r, w, k, v, a, b, kept, dy, ds_end, dr, dw, dk, dv, da, db, ds0):
        B, T, H = r.shape[0], r.shape[1], r.shape[2]
        for p in numba.prange(B * H):
            n = p // H
            h = p % H
            G = np.empty((N, N), f32)
            G[:, :] = ds_end[n, h]
            past = np.empty((CHUNK + 1, N, N), f32)  # past[c] is the state before token first + c
            sa = np.empty((CHUNK, N), f32)
            junk = np.empty(N, f32)
            adr = np.empty(N, f32)
            adw = np.empty(N, f32)
            adk = np.empty(N, f32)
            ada = np.empty(N, f32)
            adb = np.empty(N, f32)
            for c in range(kept.shape[2] - 1, -1, -1):
                first = c * CHUNK
                size = min(CHUNK, T - first)
                past[0] = kept[n, h, c]
                for q in range(size):
                    t = first + q
                    advance(
                        past[q], past[q + 1], r[n, t, h], w[n, t, h], k[n, t, h], v[n, t, h],
                        a[n, t, h], b[n, t, h], sa[q], junk,
                    )  # fmt: skip
                for q in range(size - 1, -1, -1):
                    t = first + q
                    before = past[q]
                    after = past[q + 1]
                    rt = r[n, t, h]
                    wt = w[n, t, h]
                    kt = k[n, t, h]
                    vt = v[n, t, h]
                    at = a[n, t, h]
                    bt = b[n, t, h]
                    gt = dy[n, t, h]
                    st = sa[q]
                    dvt = dv[n, t, h]
                    for j in range(N):
                        adr[j] = f32(0.0)
                        adw[j] = f32(0.0)
                        adk[j] = f32(0.0)
                        ada[j] = f32(0.0)
                        adb[j] = f32(0.0)
                    for i in range(0, N, 2):
                        g0 = gt[i]
                        g1 = gt[i + 1]
                        e0 = f32(0.0)
                        e1 = f32(0.0)
                        m0 = f32(0.0)
                        m1 = f32(0.0)
                        for j in range(N):
                            x0 = G[i, j] + g0 * rt[j]
                            x1 = G[i + 1, j] + g1 * rt[j]
                            G[i, j] = x0
                            G[i + 1, j] = x1
                            e0 += x0 * kt[j]
                            e1 += x1 * kt[j]
                            m0 += x0 * bt[j]
                            m1 += x1 * bt[j]
                        dvt[i] = e0
                        dvt[i + 1] = e1
                        v0 = vt[i]
                        v1 = vt[i + 1]
                        s0 = st[i]
                        s1 = st[i + 1]
                        for j in range(N):
                            x0 = G[i, j]
                            x1 = G[i + 1, j]
                            p0 = before[i, j]
                            p1 = before[i + 1, j]
                            adr[j] += g0 * after[i, j] + g1 * after[i + 1, j]
                            adw[j] += x0 * p0 + x1 * p1
                            adk[j] += x0 * v0 + x1 * v1
                            adb[j] += x0 * s0 + x1 * s1
                            ada[j] += m0 * p0 + m1 * p1
                            G[i, j] = x0 * wt[j] + m0 * at[j]
                            G[i + 1, j] = x1 * wt[j] + m1 * at[j]
                    for j in range(N):
                        dr[n, t, h, j] = adr[j]
                        dw[n, t, h, j] = adw[j]
                        dk[n, t, h, j] = adk[j]
                        da[n, t, h, j] = ada[j]
                        db[n, t, h, j] = adb[j]
            ds0[n, h] = G

    return forward, backward


def _pad(x: np.ndarray, axes: int, to: int) -> np.ndarray:
    """Zero-pad the last ``axes`` axes of x to length ``to``."""
    width = [(0, 0)] * (x.ndim - axes) + [(0, to - n) for n in x.shape[-axes:]]
    return np.pad(x, width)


def _as_f32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)


def wkv7_forward(
    r: np.ndarray,
    w: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    state: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    *,
    keep: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run every row to its own length. Returns (y, final state, kept checkpoints).

    ``lengths`` (B,) freezes a row's state after its length; its y is zero from there.
    ``kept`` has no chunks unless ``keep``; a backward pass needs them (and full lengths).
    """
    B, T, H, N = r.shape
    M = -(-N // _ROWS) * _ROWS
    if M != N:
        r, w, k, v, a, b = (_pad(x, 1, M) for x in (r, w, k, v, a, b))
        state = None if state is None else _pad(state, 2, M)
    r, w, k, v, a, b = (_as_f32(x) for x in (r, w, k, v, a, b))
    s0 = np.zeros((B, H, M, M), np.float32) if state is None else _as_f32(state)
    if lengths is None:
        lengths = np.full(B, T, np.int64)
    y = np.empty((B, T, H, M), np.float32)
    s_end = np.empty((B, H, M, M), np.float32)
    kept = np.empty((B, H, -(-T // CHUNK) if keep else 0, M, M), np.float32)
    _kernels(M)[0](r, w, k, v, a, b, s0, np.asarray(lengths, np.int64), y, s_end, kept)
    if M != N:
        y = np.ascontiguousarray(y[..., :N])
        s_end = np.ascontiguousarray(s_end[..., :N, :N])
    return y, s_end, kept


def wkv7_backward(
    r: np.ndarray,
    w: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    kept: np.ndarray,
    dy: np.ndarray,
    d_state: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Gradients (dr, dw, dk, dv, da, db, d_state0) from dy and the final state's gradient."""
    B, _, H, N = r.shape
    M = kept.shape[-1]
    if d_state is None:
        d_state = np.zeros((B, H, N, N), np.float32)
    if M != N:
        r, w, k, v, a, b, dy = (_pad(x, 1, M) for x in (r, w, k, v, a, b, dy))
        d_state = _pad(d_state, 2, M)
    ins = tuple(_as_f32(x) for x in (r, w, k, v, a, b))
    outs = tuple(np.empty_like(ins[0]) for _ in range(6))
    ds0 = np.empty((B, H, M, M), np.float32)
    _kernels(M)[1](*ins, kept, _as_f32(dy), _as_f32(d_state), *outs, ds0)
    if M != N:
        outs = tuple(np.ascontiguousarray(x[..., :N]) for x in outs)
        ds0 = np.ascontiguousarray(ds0[..., :N, :N])
    return (*outs, ds0)
