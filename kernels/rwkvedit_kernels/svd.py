"""The leading singular triple of every matrix in a batch. Knows nothing of models or edits.

    A    (*lead, M, N)   matrices; float32 (float64 keeps its precision on the torch path)
    u    (*lead, M)      left vector, unit length    (for a State's head: value direction)
    s    (*lead,)        largest singular value
    v    (*lead, N)      right vector, unit length   (address direction)

Power iteration on A^T A. A matrix that has not settled after a few rounds goes on with a high
power of its Gram matrix, made by repeated squaring. Every answer is checked:
``|A^T u - s v| <= TOLERANCE * s`` and, unless s^2 alone outweighs all other directions together,
that a second start finds nothing larger. What fails goes to ``torch.linalg.svd``.
A matrix of zeros has s = 0 and unit vectors. Signs are arbitrary but repeatable.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .dispatch import backend_for, threads
from .pool import run_job
from .simd import (
    COLS,
    LANES,
    MAX_ROWS,
    UNROLL,
    atomic_add,
    load,
    ring,
    store,
    tile_rows,
    wait_until,
)

TOLERANCE = 1e-5  # |A^T u - s v| / s accepted in float32
_FIRST_ROUNDS = 14  # plain rounds; a delta of rank one needs two, most deltas ten
_SQUARINGS = 4  # then rounds with (A^T A)^16
_LAST_ROUNDS = 40
_CHUNK = 8  # matrices a ticket
_FAST = {"reassoc", "contract", "nsz"}
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_TINY = np.float32(1e-37)
_SAFE_LOW, _SAFE_HIGH = np.float32(1e-12), np.float32(1e12)  # sums of squares that need no scaling


class Triple(NamedTuple):
    """``A ~ s * u v^T`` (see the module's glossary)."""

    u: Tensor
    s: Tensor
    v: Tensor

    def matrix(self) -> Tensor:
        """The rank-one matrix, (*lead, M, N)."""
        return self.s[..., None, None] * self.u[..., :, None] * self.v[..., None, :]


def top1(a: Tensor) -> Triple:
    """The leading singular triple of each matrix. Raises ValueError on NaN or infinity."""
    if a.dim() < 2 or 0 in a.shape[-2:]:
        raise ValueError(f"expected matrices (*lead, M, N), found shape {tuple(a.shape)}")
    a = a.detach()
    lead, (m, n) = a.shape[:-2], a.shape[-2:]
    flat = a.reshape(-1, m, n)
    if flat.shape[0] == 0:
        return Triple(a.new_empty(*lead, m), a.new_empty(lead), a.new_empty(*lead, n))
    if a.dtype == torch.float32 and backend_for(a.device) == "numba":
        u, s, v, bad = _top1_numba(flat.contiguous())
    else:
        u, s, v, bad = _top1_torch(flat if a.dtype == torch.float64 else flat.float())
    if not bool(torch.isfinite(s).all()):
        raise ValueError("a matrix holds NaN or infinity: there is no singular vector to find")
    if bool(bad.any()):
        left, values, right = torch.linalg.svd(flat[bad].to(s.dtype), full_matrices=False)
        u[bad], s[bad], v[bad] = left[..., 0], values[..., 0], right[..., 0, :]
    return Triple(u.view(*lead, m), s.view(lead), v.view(*lead, n))


def rank_k(a: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k leading triples by ``torch.linalg.svd``.

    u (*lead, M, k), s (*lead, k), v (*lead, N, k); k beyond min(M, N) gives all there are.
    """
    if k < 1:
        raise ValueError(f"the rank is at least 1, not {k}")
    if not bool(torch.isfinite(a).all()):
        raise ValueError("a matrix holds NaN or infinity: there is no singular vector to find")
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    return u[..., :k], s[..., :k], vt[..., :k, :].transpose(-1, -2)


def energy(a: Tensor) -> Tensor:
    """Sum of all squared singular values of each matrix (its squared Frobenius norm), (*lead,)."""
    return a.square().sum((-1, -2))


def _starts(n: int) -> np.ndarray:
    """Two fixed directions (2, N) that no matrix met in practice is orthogonal to."""
    return np.random.default_rng(7).standard_normal((2, n)).astype(np.float32)


# -- torch: any device, and the reference --------------------------------------------------------


def _top1_torch(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``_top1_numba`` in plain torch, every matrix the full number of squarings."""
    tiny = torch.finfo(a.dtype).tiny
    scale = a.abs().amax((-1, -2), keepdim=True)
    unit = a / scale.clamp_min(tiny)
    gram = unit.transpose(-1, -2) @ unit
    power = gram
    for _ in range(_SQUARINGS):
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(tiny)[..., None, None]
        power = power @ power
    power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(tiny)[..., None, None]
    start = torch.from_numpy(_starts(a.shape[-1])).to(a)
    x = start.T.expand(a.shape[0], -1, -1)  # (B, N, 2): both starts at once
    for _ in range(_LAST_ROUNDS // 2):
        x, _ = torch.linalg.qr(power @ x)
    x = gram @ x
    x = x / x.norm(dim=-2, keepdim=True).clamp_min(tiny)
    lengths = (unit @ x).norm(dim=-2)  # (B, 2)
    best = lengths.argmax(-1)
    v = x[torch.arange(len(x), device=x.device), :, best]
    y = (unit @ v.unsqueeze(-1)).squeeze(-1)
    s = y.norm(dim=-1)
    u = y / s.clamp_min(tiny).unsqueeze(-1)
    back = (u.unsqueeze(-2) @ unit).squeeze(-2)
    tolerance = TOLERANCE if a.dtype == torch.float32 else TOLERANCE * 1e-6
    bad = ~((back - s.unsqueeze(-1) * v).norm(dim=-1) <= tolerance * s)
    s = s * scale.flatten()
    zero = scale.flatten() == 0
    if bool(zero.any()):
        u[zero], v[zero] = torch.zeros_like(u[zero]), torch.zeros_like(v[zero])
        u[zero, 0], v[zero, 0], s[zero] = 1, 1, 0
        bad = bad & ~zero
    return u, s, v, bad


# -- numba ---------------------------------------------------------------------------------------


def _top1_numba(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, M, N) float32 -> u, s, v and which of them failed the check."""
    count, m, n = a.shape
    u = np.empty(count * m, np.float32)
    s = np.empty(count, np.float32)
    v = np.empty(count * n, np.float32)
    bad = np.zeros(count, np.bool_)
    workers = min(threads(), 1 + count // (4 * _CHUNK))
    args = (
        a.numpy().reshape(-1), count, m, n, _starts(n).reshape(-1), u, s, v, bad,
        np.zeros(16, np.int64),
    )  # fmt: skip
    run_job(_solve, args, workers)
    return (
        torch.from_numpy(u).view(count, m),
        torch.from_numpy(s),
        torch.from_numpy(v).view(count, n),
        torch.from_numpy(bad),
    )


@njit(nogil=True, fastmath=_FAST)
def _norm(x, n):
    total = _ZERO
    for i in range(n):
        total += x[i] * x[i]
    return np.sqrt(total)


@njit(nogil=True, fastmath=_FAST)
def _energy(a, size):
    total = _ZERO
    for i in range(size):
        total += a[i] * a[i]
    return total


@njit(nogil=True, fastmath=_FAST)
def _round(a, m, n, v, y, z):
    """y = A v and z = A^T y in one pass over the rows of A."""
    for j in range(n):
        z[j] = _ZERO
    for i in range(m):
        row = i * n
        dot = _ZERO
        for j in range(n):
            dot += load(a, row + j) * v[j]
        y[i] = dot
        for j in range(n):
            z[j] += dot * load(a, row + j)


@njit(nogil=True, fastmath=_FAST)
def _plain_rounds(a, m, n, v, y, z, rounds):
    """Power iteration from unit v; returns (s, |A^T u - s v| / s), with v's A v left in y.

    Stops early once the residual is well under the tolerance, or when the pace at which it
    shrinks promises nothing in the rounds that are left.
    """
    s, residual = _ZERO, _ONE
    goal = np.float32(0.5 * TOLERANCE)
    for done in range(rounds):
        before = residual
        _round(a, m, n, v, y, z)
        s = _norm(y, m)
        if not s > _TINY:  # zero, or NaN
            return s, _ONE
        square = s * s
        off = _ZERO
        for j in range(n):
            d = z[j] - square * v[j]
            off += d * d
        residual = np.sqrt(off) / square
        if residual <= goal:
            return s, residual
        if done >= 3 and residual * (residual / before) ** (rounds - done) > goal:
            break
        length = _norm(z, n)
        for j in range(n):
            v[j] = z[j] / length
    _round(a, m, n, v, y, z)
    s = _norm(y, m)
    off = _ZERO
    for j in range(n):
        d = z[j] - s * s * v[j]
        off += d * d
    return s, np.sqrt(off) / (s * s)


@njit(nogil=True, fastmath=_FAST)
def _product(left, right, n, k, blocks, out, target):
    """target (n, n) = left (n, k) @ right (n, k)^T packed in blocks of 32 columns of k rows."""
    for blk in range(blocks):
        many = min(COLS, n - blk * COLS)
        for i0 in range(0, n, MAX_ROWS):
            count = min(MAX_ROWS, n - i0)
            tile_rows(right, blk * k * COLS, left, i0 * k, k, k, count, out)
            for q in range(count):
                for c in range(many):
                    store(target, (i0 + q) * n + blk * COLS + c, load(out, q * COLS + c))


@njit(nogil=True, fastmath=_FAST)
def _pack_columns(source, k, n, pad, blocks, right):
    """The rows of source (k, n) as blocks of 32 columns, each (pad, 32)."""
    for blk in range(blocks):
        many = min(COLS, n - blk * COLS)
        for i in range(k):
            for c in range(many):
                store(right, (blk * pad + i) * COLS + c, load(source, i * n + blk * COLS + c))


@njit(nogil=True, fastmath=_FAST)
def _high_power(a, m, n, left, right, out, power):
    """power (n, n) = (A^T A)^(2^_SQUARINGS), scaled to trace one."""
    blocks = (n + COLS - 1) // COLS
    left[:] = _ZERO
    right[:] = _ZERO
    pad = (m + UNROLL - 1) // UNROLL * UNROLL
    for i0 in range(0, m, LANES):  # left (n, pad) = A^T, in squares that stay in cache
        for j0 in range(0, n, LANES):
            for i in range(i0, min(i0 + LANES, m)):
                for j in range(j0, min(j0 + LANES, n)):
                    store(left, j * pad + i, load(a, i * n + j))
    _pack_columns(a, m, n, pad, blocks, right)
    _product(left, right, n, pad, blocks, out, power)
    pad = (n + UNROLL - 1) // UNROLL * UNROLL
    if pad != n or m != n:
        left[:] = _ZERO
        right[:] = _ZERO
    for step in range(_SQUARINGS + 1):
        trace = _ZERO
        for j in range(n):
            trace += power[j * n + j]
        scale = _ONE / trace
        for j in range(n * n):
            power[j] *= scale
        if step < _SQUARINGS:  # symmetric: its rows are its columns
            for j in range(n):
                for i in range(n):
                    store(left, j * pad + i, load(power, j * n + i))
            _pack_columns(power, n, n, pad, blocks, right)
            _product(left, right, n, pad, blocks, out, power)


@njit(nogil=True, fastmath=_FAST)
def _power_rounds(power, n, v, z, rounds):
    """v <- normalised power @ v until it stands still."""
    for _ in range(rounds):
        for i in range(n):
            total = _ZERO
            for j in range(n):
                total += load(power, i * n + j) * v[j]
            z[i] = total
        length = _norm(z, n)
        if not length > _TINY:
            return
        moved = _ZERO
        inverse = _ONE / length
        for j in range(n):
            t = z[j] * inverse
            d = t - v[j]
            moved += d * d
            v[j] = t
        if moved < np.float32(1e-13):
            return


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _solve(matrices, count, m, n, starts, u, s, v, bad, ctrl, bell, turn, finish):
    if finish:
        ring(bell)
    size = m * n
    pad = (max(m, n) + UNROLL - 1) // UNROLL * UNROLL
    blocks = (n + COLS - 1) // COLS
    scaled = np.empty(size, np.float32)
    x = np.empty(n, np.float32)
    other = np.empty(n, np.float32)
    y = np.empty(m, np.float32)
    z = np.empty(n, np.float32)
    left = np.empty(n * pad, np.float32)
    right = np.empty(blocks * COLS * pad, np.float32)
    power = np.empty(n * n, np.float32)
    out = np.empty(MAX_ROWS * COLS, np.float32)
    tolerance = np.float32(TOLERANCE)
    chunks = (count + _CHUNK - 1) // _CHUNK
    while True:
        ticket = atomic_add(ctrl, 0, 1)
        if ticket >= chunks:
            if finish:
                wait_until(ctrl, 8, chunks)
            return
        for index in range(ticket * _CHUNK, min((ticket + 1) * _CHUNK, count)):
            at = index * size
            for j in range(n):
                v[index * n + j] = _ZERO
            for i in range(m):
                u[index * m + i] = _ZERO
            u[index * m] = _ONE
            v[index * n] = _ONE
            a, largest = matrices[at : at + size], _ONE
            energy_ = _energy(a, size)
            if not (energy_ > _SAFE_LOW and energy_ < _SAFE_HIGH):
                # scaled by its largest entry, nothing over- or underflows when squared
                largest = _ZERO
                clean = _ZERO  # stays zero unless something is NaN or infinite
                for i in range(size):
                    largest = max(largest, abs(a[i]))
                    clean += a[i] * _ZERO
                s[index] = clean
                if clean != _ZERO or largest == _ZERO:
                    continue
                if largest < _TINY:
                    bad[index] = True
                    continue
                for i in range(size):
                    scaled[i] = a[i] / largest
                a = scaled
                energy_ = _energy(a, size)
            for j in range(n):
                x[j] = starts[j]
            length = _norm(x, n)
            for j in range(n):
                x[j] /= length
            found, residual = _plain_rounds(a, m, n, x, y, z, _FIRST_ROUNDS)
            certain = found * found >= np.float32(0.5) * energy_
            if residual > tolerance or not certain:
                _high_power(a, m, n, left, right, out, power)
                _power_rounds(power, n, x, z, _LAST_ROUNDS)
                found, residual = _plain_rounds(a, m, n, x, y, z, 2)
                if found * found < np.float32(0.5) * energy_:
                    # something as strong may have hidden from the first start
                    dot = _ZERO
                    for j in range(n):
                        other[j] = starts[n + j]
                        dot += other[j] * x[j]
                    for j in range(n):
                        other[j] -= dot * x[j]
                    length = _norm(other, n)
                    for j in range(n):
                        other[j] /= max(length, _TINY)
                    _power_rounds(power, n, other, z, _LAST_ROUNDS)
                    second, off = _plain_rounds(a, m, n, other, y, z, 2)
                    if second > found:
                        found, residual = second, off
                        for j in range(n):
                            x[j] = other[j]
                    _round(a, m, n, x, y, z)
            bad[index] = not residual <= tolerance
            s[index] = found * largest
            scale = _ONE / found
            for i in range(m):
                u[index * m + i] = y[i] * scale
            for j in range(n):
                v[index * n + j] = x[j]
        atomic_add(ctrl, 8, 1)
