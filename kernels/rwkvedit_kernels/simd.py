"""Vector building blocks for numba code; they know nothing about RWKV.

LLVM vectorises plain numba loops well enough for element-wise work, but not a register-blocked
matrix product. The tile products here are emitted as LLVM IR over ``<16 x float>`` values, which
LLVM lowers to whatever the machine has (one AVX-512 register, two AVX2, four NEON).

    w        packed weights of 32 output columns: element (j, c) of a K x 32 block.
             float32: (K, 32). uint16: (K, 32), the bits of float16.
             uint32: (K, 16), a pair of bfloat16 in each word, column c in the low half and
             column c + 16 in the high half
    x        (rows, ldx) float32 inputs, read one scalar at a time and broadcast
    y        (rows, 32) float32 results, overwritten

K must be a multiple of ``UNROLL``; packing pads it with zeros.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

LANES = 16
COLS = 2 * LANES  # output columns of a packed block
UNROLL = 8  # K is padded to a multiple of this

intrinsic: Any = _intrinsic  # callers omit the typing context that a checker would ask for
_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_VF = ir.VectorType(_F32, LANES)
_VI = ir.VectorType(_I32, LANES)
_VH = ir.VectorType(ir.HalfType(), LANES)
_CONTRACT = ("contract",)  # lets a multiply and an add become one fused instruction


def _has_wide_registers() -> bool:
    return bool(llvm.get_host_cpu_features().get("avx512f", False))


# Rows of x held in registers at once: 12 x 2 accumulators fit AVX-512's 32 registers.
# Narrower machines spill beyond 2.
MAX_ROWS = 12 if _has_wide_registers() else 2


# One row streams its weights from memory, and the processor's own look-ahead ends at every page.
# Asking for lines this far ahead of use took float32 from 82% to 99% of what one core can read
# here; pairs of bfloat16 lost by it.
_AHEAD = 4096  # bytes
_LINE = 64  # bytes of a cache line
_INTO_L2 = 2  # llvm.prefetch's locality: the second-level cache


def _emit_prefetch(builder, pointer, offset: int) -> None:
    """Ask for the cache line ``offset`` bytes behind ``pointer``; no fault, wherever that is."""
    byte = ir.IntType(8)
    kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    where = builder.gep(builder.bitcast(pointer, byte.as_pointer()), [ir.Constant(_I64, offset)])
    read, data = ir.Constant(_I32, 0), ir.Constant(_I32, 1)
    builder.call(function, [where, read, ir.Constant(_I32, _INTO_L2), data])


def _splat_int(value: int) -> ir.Constant:
    return ir.Constant(_VI, [value] * LANES)


def _make_tile(rows: int, unroll: int):
    """The intrinsic ``tile(w, w_at, x, x_at, ldx, K, y, y_at)`` for a fixed number of rows."""

    @intrinsic
    def tile(typingctx, w, w_at, x, x_at, ldx, k, y, y_at):
        index = types.int64
        signature = types.void(w, index, x, index, index, index, y, index)
        bfloat16, float16 = w.dtype == types.uint32, w.dtype == types.uint16

        def codegen(context, builder, sig, args):
            w_arr, w_off, x_arr, x_off, row_stride, count, y_arr, y_off = args

            def pointer(value, ty, offset):
                return builder.gep(context.make_array(ty)(context, builder, value).data, [offset])

            w_ptr = pointer(w_arr, sig.args[0], w_off)
            x_ptr = pointer(x_arr, sig.args[2], x_off)
            y_ptr = pointer(y_arr, sig.args[6], y_off)
            # One row has few accumulators: separate chains hide the latency of the fused add.
            chains = unroll if rows == 1 else 1
            acc = [
                [[cgutils.alloca_once(builder, _VF) for _ in range(2)] for _ in range(rows)]
                for _ in range(chains)
            ]
            zero = ir.Constant(_VF, [0.0] * LANES)
            for chain in acc:
                for row in chain:
                    for slot in row:
                        builder.store(zero, slot)
            x_rows = [
                builder.gep(x_ptr, [builder.mul(row_stride, ir.Constant(_I64, row))])
                for row in range(rows)
            ]
            undefined = ir.Constant(_VF, ir.Undefined)
            first_lane = ir.Constant(_VI, [0] * LANES)

            def load_vector(ptr, ty):
                return builder.load(builder.bitcast(ptr, ty.as_pointer()), align=4)

            def columns(j):
                """The two vectors of 16 weights at position j."""
                if bfloat16:
                    at = builder.gep(w_ptr, [builder.mul(j, ir.Constant(_I64, LANES))])
                    pair = load_vector(at, _VI)
                    low = builder.shl(pair, _splat_int(16))
                    high = builder.and_(pair, _splat_int(0xFFFF0000))
                    return builder.bitcast(low, _VF), builder.bitcast(high, _VF)
                at = builder.gep(w_ptr, [builder.mul(j, ir.Constant(_I64, COLS))])
                upper = builder.gep(at, [ir.Constant(_I64, LANES)])
                if float16:
                    return tuple(
                        builder.fpext(
                            builder.load(builder.bitcast(q, _VH.as_pointer()), align=2), _VF
                        )
                        for q in (at, upper)
                    )
                return load_vector(at, _VF), load_vector(upper, _VF)

            start, step = ir.Constant(_I64, 0), ir.Constant(_I64, unroll)
            with cgutils.for_range_slice(builder, start, count, step, inc=True) as (j, _):
                if rows == 1 and not bfloat16 and not float16:
                    here = builder.gep(w_ptr, [builder.mul(j, ir.Constant(_I64, COLS))])
                    for line in range(0, unroll * COLS * 4, _LINE):
                        _emit_prefetch(builder, here, _AHEAD + line)
                for u in range(unroll):
                    at = builder.add(j, ir.Constant(_I64, u))
                    weights = columns(at)
                    for row in range(rows):
                        scalar = builder.load(builder.gep(x_rows[row], [at]))
                        lane = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
                        spread = builder.shuffle_vector(lane, undefined, first_lane)
                        for half in range(2):
                            slot = acc[u % chains][row][half]
                            product = builder.fmul(weights[half], spread, flags=_CONTRACT)
                            total = builder.fadd(builder.load(slot), product, flags=_CONTRACT)
                            builder.store(total, slot)
            for row in range(rows):
                for half in range(2):
                    total = builder.load(acc[0][row][half])
                    for chain in range(1, chains):
                        total = builder.fadd(total, builder.load(acc[chain][row][half]))
                    at = builder.gep(y_ptr, [ir.Constant(_I64, row * COLS + half * LANES)])
                    builder.store(total, builder.bitcast(at, _VF.as_pointer()), align=4)
            return context.get_dummy_value()

        return signature, codegen

    return tile


_tile1 = _make_tile(1, 8)
_tile2 = _make_tile(2, 4)
_tile4 = _make_tile(4, 2)
_tile8 = _make_tile(8, 2)
_tile12 = _make_tile(12, 1)


if MAX_ROWS >= 12:

    @njit(nogil=True, inline="never")
    def tile_rows(w, w_at, x, x_at, ldx, k, rows, y):
        """y (rows, 32) = x (rows, K) @ w (K, 32) for any number of rows up to 12."""
        done = 0
        if rows == 12:
            _tile12(w, w_at, x, x_at, ldx, k, y, 0)
            return
        if rows - done >= 8:
            _tile8(w, w_at, x, x_at + done * ldx, ldx, k, y, done * COLS)
            done += 8
        if rows - done >= 4:
            _tile4(w, w_at, x, x_at + done * ldx, ldx, k, y, done * COLS)
            done += 4
        if rows - done >= 2:
            _tile2(w, w_at, x, x_at + done * ldx, ldx, k, y, done * COLS)
            done += 2
        if rows - done >= 1:
            _tile1(w, w_at, x, x_at + done * ldx, ldx, k, y, done * COLS)

else:

    @njit(nogil=True, inline="never")
    def tile_rows(w, w_at, x, x_at, ldx, k, rows, y):
        """y (rows, 32) = x (rows, K) @ w (K, 32) for one or two rows."""
        if rows == 2:
            _tile2(w, w_at, x, x_at, ldx, k, y, 0)
        else:
            _tile1(w, w_at, x, x_at, ldx, k, y, 0)


@intrinsic
def load(typingctx, array, index):
    """array[index] for an index known to lie inside.

    Numba's own indexing also serves negative indices, and that test keeps LLVM from vectorising
    a loop over ``start + i``.
    """

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.int64), codegen


@intrinsic
def store(typingctx, array, index, value):
    """array[index] = value for an index known to lie inside; see ``load``."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        builder.store(args[2], builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64, array.dtype), codegen


@intrinsic
def _power_of_two(typingctx, n):
    """2**n for an integral float32 n in -126..127, by writing the exponent bits."""

    def codegen(context, builder, sig, args):
        biased = builder.add(builder.fptosi(args[0], _I32), ir.Constant(_I32, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(_I32, 23)), _F32)

    return types.float32(types.float32), codegen


@intrinsic
def widen_bfloat16(typingctx, bits):
    """The float32 whose upper half is these 16 bits."""

    def codegen(context, builder, sig, args):
        wide = builder.shl(builder.zext(args[0], _I32), ir.Constant(_I32, 16))
        return builder.bitcast(wide, _F32)

    return types.float32(types.uint16), codegen


_LOG2E = np.float32(1.44269504)
_LN2_HI = np.float32(0.693359375)
_LN2_LO = np.float32(-2.12194440e-4)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_EXP_MAX = np.float32(88.0)
_EXP_MIN = np.float32(-87.0)
_P0 = np.float32(1.9875691500e-4)
_P1 = np.float32(1.3981999507e-3)
_P2 = np.float32(8.3334519073e-3)
_P3 = np.float32(4.1665795894e-2)
_P4 = np.float32(1.6666665459e-1)
_P5 = np.float32(5.0000001201e-1)


@njit(nogil=True)
def exp32(x):
    """exp in float32 that LLVM can vectorise (Cephes expf, within 2 ulp; NaN stays NaN)."""
    x = _EXP_MAX if x > _EXP_MAX else x
    x = _EXP_MIN if x < _EXP_MIN else x
    n = np.floor(x * _LOG2E + _HALF)
    r = x - n * _LN2_HI
    r = r - n * _LN2_LO
    p = _P0 * r + _P1
    p = p * r + _P2
    p = p * r + _P3
    p = p * r + _P4
    p = p * r + _P5
    return (p * r * r + r + _ONE) * _power_of_two(n)


@njit(nogil=True)
def sigmoid32(x):
    return _ONE / (_ONE + exp32(-x))


@njit(nogil=True)
def tanh32(x):
    """tanh in float32, absolute error below 2e-7."""
    t = exp32(-np.float32(2.0) * abs(x))
    y = (_ONE - t) / (_ONE + t)
    return y if x >= np.float32(0.0) else -y


@intrinsic
def atomic_add(typingctx, array, index, value):
    """array[index] += value as one indivisible act; returns what was there before."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, array, index):
    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "seq_cst", align=8)

    return types.int64(array, types.int64), codegen


@intrinsic
def float32_at(typingctx, address):
    """The float32 memory that begins at an address, for ``numba.carray``."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(types.float32)(types.int64), codegen


@intrinsic
def spin_hint(typingctx):
    """Tells the processor that this thread is waiting in a loop."""

    def codegen(context, builder, sig, args):
        machine = platform.machine()
        if machine in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(
                cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), []
            )
        elif machine in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [_I32])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(), codegen


if sys.platform == "win32":

    @njit(nogil=True)
    def yield_processor():
        spin_hint()

else:
    _sched_yield = types.ExternalFunction("sched_yield", types.int32())

    @njit(nogil=True)
    def yield_processor():
        """Lets another thread have this core."""
        _sched_yield()


@intrinsic
def _prefetch(typingctx, array, index):
    """Ask for the cache line of array[index]."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        _emit_prefetch(builder, builder.gep(data, [args[1]]), 0)
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@njit(nogil=True)
def warm_until(ctrl, index, value, array, start, count):
    """While ctrl[index] < value, read array[start : start + count] into the cache ahead of use.

    Sooner done than the wait is over: returns, and the caller waits.
    """
    line = _LINE // array.itemsize
    at, end = start, min(start + count, array.size)
    while at < end and atomic_load(ctrl, index) < value:
        for _ in range(8):
            _prefetch(array, at)
            at += line


@njit(nogil=True)
def wait_until(array, index, value):
    """Returns once array[index] >= value; polite to other threads after a short spin."""
    spins = 0
    while atomic_load(array, index) < value:
        spins += 1
        if spins < 4000:
            spin_hint()
        else:
            yield_processor()


@njit(nogil=True)
def ring(bell):
    """Tell the helpers that linger that the next job is theirs to fetch."""
    atomic_add(bell, 0, 1)


@njit(nogil=True, cache=True)
def linger(bell, turn):
    """A helper's wait for the job after number ``turn``, of at most bell[1] looks at bell[0].

    To wake a sleeping thread takes a good part of a small model's token, and it may be woken on
    its waker's own core.
    """
    for _ in range(atomic_load(bell, 1)):
        if atomic_load(bell, 0) != turn:
            return
        spin_hint()
