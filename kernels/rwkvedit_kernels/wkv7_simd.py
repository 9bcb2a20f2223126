"""One WKV-7 step of one head in vector registers, for head sizes 16, 32, 64 (128: by rows only).

Two layouts of the head's state serve two uses. Rows (value, key) is how a ``State`` lies in
memory: good for a few tokens. Columns (key, value) needs no sums across a vector: about twice as
fast for each token, worth a transposition at both ends of a longer run.

    r w k z b v   flat float32 arrays; the head's n numbers start at ``at``. z is kk: the removal
                  key whose sign is applied here
    S <- S * w + (S @ -z) b^T + v k^T,  y = S @ r
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

from .simd import LANES, load, store

intrinsic: Any = _intrinsic  # callers omit the typing context that a checker would ask for
_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_VF = ir.VectorType(_F32, LANES)
_CONTRACT = ("contract",)
_ZERO = np.float32(0.0)


class _Emitter:
    """Vector loads, stores and fused products at element offsets."""

    def __init__(self, context, builder, sig, args):
        self.context, self.builder, self.sig, self.args = context, builder, sig, args

    def data(self, i: int, offset=None):
        value = self.context.make_array(self.sig.args[i])(self.context, self.builder, self.args[i])
        return value.data if offset is None else self.builder.gep(value.data, [offset])

    def at(self, pointer, offset):
        if isinstance(offset, int):
            offset = ir.Constant(_I64, offset)
        return self.builder.gep(pointer, [offset])

    def load(self, pointer, offset=0):
        where = self.builder.bitcast(self.at(pointer, offset), _VF.as_pointer())
        return self.builder.load(where, align=4)

    def store(self, value, pointer, offset=0):
        where = self.builder.bitcast(self.at(pointer, offset), _VF.as_pointer())
        self.builder.store(value, where, align=4)

    def scalar(self, pointer, offset=0):
        return self.builder.load(self.at(pointer, offset))

    def spread(self, scalar):
        undefined = ir.Constant(_VF, ir.Undefined)
        lane = self.builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
        first = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        return self.builder.shuffle_vector(lane, undefined, first)

    def madd(self, a, b, c):
        product = self.builder.fmul(a, b, flags=_CONTRACT)
        return self.builder.fadd(product, c, flags=_CONTRACT)

    def total(self, vector):
        """Sum of the lanes."""
        kind = ir.FunctionType(_F32, [_F32, _VF])
        reduce = cgutils.get_or_insert_function(
            self.builder.module, kind, "llvm.vector.reduce.fadd.v16f32"
        )
        zero = ir.Constant(_F32, 0.0)
        return self.builder.call(reduce, [zero, vector], fastmath=("reassoc",))


def _make_rows(n: int):
    parts = n // LANES

    @intrinsic
    def rows(typingctx, s, s_at, out, o_at, w, k, z, b, v, r, at, y):
        index = types.int64
        signature = types.void(s, index, out, index, w, k, z, b, v, r, index, y)

        def codegen(context, builder, sig, args):
            e = _Emitter(context, builder, sig, args)
            source, target = e.data(0, args[1]), e.data(2, args[3])
            value, read_out = e.data(8, args[10]), e.data(11)
            vectors = [
                [e.load(e.data(i, args[10]), p * LANES) for p in range(parts)]
                for i in (4, 5, 6, 7, 9)
            ]
            decay, key, removal, rate, receptance = vectors
            count = ir.Constant(_I64, n)
            with cgutils.for_range(builder, count) as loop:
                offset = builder.mul(loop.index, count)
                row, to = e.at(source, offset), e.at(target, offset)
                old = [e.load(row, p * LANES) for p in range(parts)]
                acc = builder.fmul(old[0], removal[0], flags=_CONTRACT)
                for p in range(1, parts):
                    acc = e.madd(old[p], removal[p], acc)
                removed = e.spread(builder.fneg(e.total(acc)))
                here = e.spread(e.scalar(value, loop.index))
                acc = None
                for p in range(parts):
                    new = builder.fmul(old[p], decay[p], flags=_CONTRACT)
                    new = e.madd(removed, rate[p], new)
                    new = e.madd(here, key[p], new)
                    e.store(new, to, p * LANES)
                    if acc is None:
                        acc = builder.fmul(new, receptance[p], flags=_CONTRACT)
                    else:
                        acc = e.madd(new, receptance[p], acc)
                builder.store(e.total(acc), e.at(read_out, loop.index))
            return context.get_dummy_value()

        return signature, codegen

    return rows


def _make_columns(n: int):
    parts = n // LANES

    @intrinsic
    def columns(typingctx, s, w, k, z, b, v, r, at, y):
        signature = types.void(s, w, k, z, b, v, r, types.int64, y)

        def codegen(context, builder, sig, args):
            e = _Emitter(context, builder, sig, args)
            state, read_out = e.data(0), e.data(8)
            decay, key, removal, rate, value, receptance = (e.data(i, args[7]) for i in range(1, 7))
            zero = ir.Constant(_VF, [0.0] * LANES)
            removed = [cgutils.alloca_once(builder, _VF) for _ in range(parts)]
            total = [cgutils.alloca_once(builder, _VF) for _ in range(parts)]
            for p in range(parts):
                builder.store(zero, removed[p])
                builder.store(zero, total[p])
            count = ir.Constant(_I64, n)
            with cgutils.for_range(builder, count) as loop:
                row = e.at(state, builder.mul(loop.index, count))
                c = e.spread(builder.fneg(e.scalar(removal, loop.index)))
                for p in range(parts):
                    sum_ = e.madd(e.load(row, p * LANES), c, builder.load(removed[p]))
                    builder.store(sum_, removed[p])
            here = [e.load(value, p * LANES) for p in range(parts)]
            with cgutils.for_range(builder, count) as loop:
                row = e.at(state, builder.mul(loop.index, count))
                wj, kj, bj, rj = (
                    e.spread(e.scalar(q, loop.index)) for q in (decay, key, rate, receptance)
                )
                for p in range(parts):
                    new = builder.fmul(e.load(row, p * LANES), wj, flags=_CONTRACT)
                    new = e.madd(builder.load(removed[p]), bj, new)
                    new = e.madd(here[p], kj, new)
                    e.store(new, row, p * LANES)
                    builder.store(e.madd(new, rj, builder.load(total[p])), total[p])
            for p in range(parts):
                e.store(builder.load(total[p]), read_out, p * LANES)
            return context.get_dummy_value()

        return signature, codegen

    return columns


_rows16, _rows32, _rows64, _rows128 = (_make_rows(n) for n in (16, 32, 64, 128))
_columns16, _columns32, _columns64 = (_make_columns(n) for n in (16, 32, 64))

_FAST = {"reassoc", "contract", "nsz"}  # NaN and infinity keep their meaning


@njit(nogil=True, fastmath=_FAST)
def step_rows(s, s_at, out, o_at, n, w, k, z, b, v, r, at, y):
    """One step on a state of axes (value, key): reads s, writes out (may be s itself) and y."""
    if n == 64:
        _rows64(s, s_at, out, o_at, w, k, z, b, v, r, at, y)
    elif n == 32:
        _rows32(s, s_at, out, o_at, w, k, z, b, v, r, at, y)
    elif n == 16:
        _rows16(s, s_at, out, o_at, w, k, z, b, v, r, at, y)
    elif n == 128:
        _rows128(s, s_at, out, o_at, w, k, z, b, v, r, at, y)
    else:
        for i in range(n):
            row, to = s_at + i * n, o_at + i * n
            removed = _ZERO
            for j in range(n):
                removed -= load(s, row + j) * load(z, at + j)
            value = load(v, at + i)
            total = _ZERO
            for j in range(n):
                new = load(s, row + j) * load(w, at + j) + removed * load(b, at + j)
                new += value * load(k, at + j)
                store(out, to + j, new)
                total += new * load(r, at + j)
            y[i] = total


@njit(nogil=True)
def has_columns(n):
    return n == 64 or n == 32 or n == 16


@njit(nogil=True)
def step_columns(s, n, w, k, z, b, v, r, at, y):
    """One step in place on a state of axes (key, value); only where ``has_columns(n)``."""
    if n == 64:
        _columns64(s, w, k, z, b, v, r, at, y)
    elif n == 32:
        _columns32(s, w, k, z, b, v, r, at, y)
    else:
        _columns16(s, w, k, z, b, v, r, at, y)


@njit(nogil=True)
def transpose(source, s_at, target, t_at, n):
    """target (n, n) = source (n, n)^T, in squares of 16 that stay in the nearest cache."""
    for i0 in range(0, n, LANES):
        for j0 in range(0, n, LANES):
            for i in range(i0, min(i0 + LANES, n)):
                for j in range(j0, min(j0 + LANES, n)):
                    store(target, t_at + j * n + i, load(source, s_at + i * n + j))
