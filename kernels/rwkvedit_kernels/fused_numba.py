"""One RWKV-7 forward pass as a single nogil job shared by a few threads.

It knows nothing about files, hooks or gradients: packed weights, tokens and states in, logits and
fresh states out. Glossary (B sequences, M tokens of all sequences laid end to end, L layers,
D width, H heads of size N, F channel-mix width, V vocabulary, R positions whose logits are wanted):

    x        (M, D)  residual stream
    r k v    (M, D)  receptance, key, value
    w        (M, D)  decay in (0, 1): exp(-exp(-0.5) * sigmoid(w0 + tanh(xw @ w1) @ w2))
    kk       (M, D)  removal key, unit length per head
    b        (M, D)  kk * a, a = in-context learning rate
    g        (M, D)  gate
    hidden   (M, Hs) first stage of the four low-rank maps (w, a, g, v)
    S        (N, N)  one head's state, axes (value, key):
                     S <- S * w + (S @ -kk) b^T + v k^T,  y = S @ r

The pass is a fixed list of phases; a phase is cut into chunks that do not depend on one another.
Threads draw tickets (one atomic counter); a ticket names a chunk, and its holder waits until all
chunks of earlier phases are done. The lowest unfinished ticket never waits, so one thread alone
completes the job and a late or stalled helper costs time, never a deadlock.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit, types  # pyright: ignore[reportPrivateImportUsage]
from numba.extending import overload

from .simd import (
    COLS,
    MAX_ROWS,
    atomic_add,
    atomic_load,
    exp32,
    float32_at,
    linger,
    load,
    ring,
    sigmoid32,
    spin_hint,
    store,
    tanh32,
    tile_rows,
    wait_until,
    warm_until,
    widen_bfloat16,
    yield_processor,
)
from .wkv7_simd import has_columns, step_columns, step_rows, transpose

# Kinds of phases
EMBED, MIX, PREPARE, WKV, PREPARE_WKV, OUT, FFN_KEY, FFN_VALUE, HEAD = range(9)

# Where the D-wide vectors of one layer lie in ``small`` (units of D)
(
    LN1_W, LN1_B, LN2_W, LN2_B, X_R, X_W, X_K, X_V, X_A, X_G, W0, A0, V0, K_K, K_A, R_K,
    LNX_W, LNX_B, FFN_X_K,
) = range(19)  # fmt: skip
LAYER_VECTORS = 19
# ... and behind the layers
LN0_W, LN0_B, LNO_W, LNO_B = range(4)

# Columns of the integer table of one layer
T_MIX, T_MIX_BLOCKS, T_OUT, T_KEY, T_VALUE = range(5)
T_LORA = 5  # four each: packed offset, padded rank, column in ``hidden``; order w, a, g, v
LAYER_INTS = T_LORA + 12

# Scalars handed to the worker
(
    S_LAYERS, S_D, S_H, S_N, S_F, S_V, S_DP, S_FP, S_HS, S_BLOCK, S_ROWS, S_TILE, S_SEQS,
    S_WANTED, S_PHASES, S_HEAD, S_MIX_MAX,
) = range(17)  # fmt: skip
SCALARS = 17

# Words of ``ctrl``, the busy ones a cache line apart
C_TICKET, C_DONE = 0, 8
C_ROUND, C_INSIDE, C_PRESENT, C_CALLED, C_COMING = 16, 24, 32, 40, 48
CONTROLS = 56

_DECAY = np.float32(-0.606531)  # -exp(-0.5), as the rwkv package rounds it
_LN_EPS = np.float32(1e-5)
_LNX_EPS = np.float32(64e-5)
_NORM_EPS = np.float32(1e-12)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)

_WARM = 384 << 10  # bytes of weights fetched while waiting: less than a core's own cache
_TRANSPOSE_FROM = 32  # tokens of one sequence in a pass
_FAST = {"reassoc", "contract", "nsz"}  # NaN and infinity keep their meaning


def _widen(value):
    """A name for numba to overload by type, as below; only compiled functions call it."""
    raise NotImplementedError("_widen runs in compiled functions only")


@overload(_widen, inline="always")
def _widen_overload(value):
    """An embedding element as float32, whatever the table is stored in."""
    if value == types.uint16:
        return lambda value: widen_bfloat16(value)
    return lambda value: value


@njit(nogil=True, fastmath=_FAST)
def layer_norm(src, at, n, weight, w_at, b_at, dst, to):
    """dst[to:to+n] = LayerNorm(src[at:at+n]) with weight[w_at:], weight[b_at:]."""
    total = _ZERO
    for i in range(n):
        total += load(src, at + i)
    mean = total / np.float32(n)
    square = _ZERO
    for i in range(n):
        d = load(src, at + i) - mean
        square += d * d
    scale = _ONE / np.sqrt(square / np.float32(n) + _LN_EPS)
    for i in range(n):
        t = (load(src, at + i) - mean) * scale
        store(dst, to + i, t * load(weight, w_at + i) + load(weight, b_at + i))


@njit(nogil=True, fastmath=_FAST)
def _gate_out(y, n, r, k, v, g, at, small, lw, lb, rk, out, to):
    """Group norm of one head's read-out, the bonus r.k.r_k v, and the gate."""
    total = _ZERO
    for i in range(n):
        total += y[i]
    mean = total / np.float32(n)
    square = _ZERO
    bonus = _ZERO
    for i in range(n):
        d = y[i] - mean
        square += d * d
        bonus += load(r, at + i) * load(k, at + i) * load(small, rk + i)
    scale = _ONE / np.sqrt(square / np.float32(n) + _LNX_EPS)
    for i in range(n):
        normed = (y[i] - mean) * scale * load(small, lw + i) + load(small, lb + i)
        store(out, to + i, (normed + bonus * load(v, at + i)) * load(g, at + i))


@njit(nogil=True, fastmath=_FAST)
def _finish_head(small, base, h, n, d, m, layer, vec, wlo, alo, glo, vlo, k, v, vf, w, kk, b, g):
    """From low-rank outputs to decay, removal key, rate and gate, for one row of one head.

    vec holds four stretches of n (at wlo, alo, glo, vlo): the second-stage outputs.
    """
    at = m * d + h * n
    col = base + h * n
    for i in range(n):
        rate = sigmoid32(load(small, col + W0 * d + i) + load(vec, wlo + i))
        store(w, at + i, exp32(_DECAY * rate))
    norm = _ZERO
    for i in range(n):
        t = load(k, at + i) * load(small, col + K_K * d + i)
        store(kk, at + i, t)
        norm += t * t
    inverse = _ONE / max(np.sqrt(norm), _NORM_EPS)
    for i in range(n):
        a = sigmoid32(load(small, col + A0 * d + i) + load(vec, alo + i))
        t = load(kk, at + i) * inverse
        store(kk, at + i, t)
        store(b, at + i, t * a)
        store(vec, alo + i, a)
    for i in range(n):
        lift = _ONE + (load(vec, alo + i) - _ONE) * load(small, col + K_A * d + i)
        store(k, at + i, load(k, at + i) * lift)
    for i in range(n):
        store(g, at + i, load(vec, glo + i))
    if layer == 0:
        for i in range(n):
            store(vf, at + i, load(v, at + i))
    else:
        for i in range(n):
            mix = sigmoid32(load(small, col + V0 * d + i) + load(vec, vlo + i))
            here = load(v, at + i)
            store(v, at + i, here + (load(vf, at + i) - here) * mix)


@njit(nogil=True, fastmath=_FAST)
def _lerp(ln, ln_at, previous, p_at, small, mu, n, dst, to):
    for i in range(n):
        here = load(ln, ln_at + i)
        store(dst, to + i, here + (load(previous, p_at + i) - here) * load(small, mu + i))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def run_pass(
    weights, emb, small, scalars, table, mix_meta, phases, ctrl,
    tokens, row_seq, starts, wanted, needed, source, parents,
    att_in, wkv_in, ffn_in, att_out, wkv_out, ffn_out, logits,
    x, r, k, v, vf, w, kk, b, g, y, hidden, f,
    finish,
):  # fmt: skip
    """Takes tickets until none are left; with ``finish`` also waits for the last chunk.

    All arrays are flat. ``tokens``, ``row_seq`` (M,); ``starts`` (B + 1,) first row of each
    sequence; ``wanted`` (R,) rows whose logits are asked for; ``needed`` (Q,) rows, in order, that
    the last layer's channel-mix is to run for (with the row before each, for its shift);
    ``parents`` (B,) the sequence whose end each goes on from (one of an earlier WKV phase), or -1;
    ``source`` (B,) which row of the incoming state it starts from otherwise; ``ctrl`` (CONTROLS,)
    zeros; ``phases`` (phases, 8) as ``PackedModel.plan`` makes them.
    """
    d, heads, n = scalars[S_D], scalars[S_H], scalars[S_N]
    dp, fp, hs = scalars[S_DP], scalars[S_FP], scalars[S_HS]
    vocab = scalars[S_V]
    block, rows, tile = scalars[S_BLOCK], scalars[S_ROWS], scalars[S_TILE]
    layers, wanted_rows = scalars[S_LAYERS], scalars[S_WANTED]
    state_row = layers * d
    layer_stride = LAYER_VECTORS * d
    tail = layers * layer_stride

    normed = np.empty((tile + 1) * d, np.float32)  # LayerNorm of the tile's rows, one row ahead
    mixed = np.zeros(tile * dp, np.float32)  # token-shifted input of one product
    out = np.empty(MAX_ROWS * COLS, np.float32)
    lora = np.empty(4 * MAX_ROWS * n, np.float32)
    square = np.empty(n * n, np.float32)
    ahead = np.empty(d, np.float32)  # LayerNorm of the last row of a sequence's parent
    head_y = np.empty(n, np.float32)
    have_phase, have_tile, have_mu = -1, -1, -1  # what normed and mixed hold

    phase, base = 0, 0
    while True:
        ticket = atomic_add(ctrl, C_TICKET, 1)
        while phase < scalars[S_PHASES] and ticket >= base + phases[phase, 2]:
            base += phases[phase, 2]
            phase += 1
        if phase == scalars[S_PHASES]:
            if finish:
                wait_until(ctrl, C_DONE, base)
            return
        chunk = ticket - base
        kind, layer, per_chunk = phases[phase, 0], phases[phase, 1], phases[phase, 3]
        splits = phases[phase, 4]
        vectors = layer * layer_stride
        this_tile = chunk // splits
        part = chunk % splits
        if phases[phase, 6]:  # a wait is time to fetch the weights that this chunk begins with
            stride = per_chunk * phases[phase, 6]
            warm_until(ctrl, C_DONE, base, weights, phases[phase, 5] + part * stride,
                       min(stride, _WARM // weights.itemsize))  # fmt: skip
        wait_until(ctrl, C_DONE, base)
        picked = phases[phase, 7] != 0  # m counts needed rows, not all
        m0 = this_tile * tile
        m1 = min(m0 + tile, needed.size if picked else rows)

        if kind == EMBED:
            for m in range(m0, m1):
                at = tokens[m] * d
                for i in range(d):
                    normed[i] = _widen(load(emb, at + i))
                layer_norm(normed, 0, d, small, tail + LN0_W * d, tail + LN0_B * d, x, m * d)

        elif kind in (MIX, FFN_KEY):
            if kind == MIX:
                ln_w, ln_b = vectors + LN1_W * d, vectors + LN1_B * d
                last_in, last_out = att_in, att_out
                first_block, blocks = table[layer, T_MIX], table[layer, T_MIX_BLOCKS]
            else:
                ln_w, ln_b = vectors + LN2_W * d, vectors + LN2_B * d
                last_in, last_out = ffn_in, ffn_out
                first_block, blocks = table[layer, T_KEY], fp // COLS
            if have_phase != phase or have_tile != this_tile:
                have_phase, have_tile, have_mu = phase, this_tile, -1
                if m0 > 0:
                    row = needed[m0 - 1] if picked else m0 - 1
                    layer_norm(x, row * d, d, small, ln_w, ln_b, normed, 0)
                for m in range(m0, m1):
                    row = needed[m] if picked else m
                    layer_norm(x, row * d, d, small, ln_w, ln_b, normed, (m - m0 + 1) * d)
            if part == 0:
                for m in range(m0, m1):
                    row = needed[m] if picked else m
                    if starts[row_seq[row] + 1] == row + 1:
                        to = row_seq[row] * state_row + layer * d
                        src = (m - m0 + 1) * d
                        for i in range(d):
                            store(last_out, to + i, load(normed, src + i))
            for blk in range(part * per_chunk, min((part + 1) * per_chunk, blocks)):
                if kind == MIX:
                    mu, dest, col = (
                        mix_meta[layer, blk, 0], mix_meta[layer, blk, 1], mix_meta[layer, blk, 2],
                    )  # fmt: skip
                else:
                    mu, dest, col = FFN_X_K, 99, blk * COLS
                if mu != have_mu:
                    have_mu = mu
                    for m in range(m0, m1):
                        src = (m - m0 + 1) * d
                        to = (m - m0) * dp
                        row = needed[m] if picked else m
                        parent = parents[row_seq[row]]
                        if starts[row_seq[row]] == row and parent >= 0:
                            layer_norm(x, (starts[parent + 1] - 1) * d, d, small, ln_w, ln_b,
                                       ahead, 0)  # fmt: skip
                            _lerp(normed, src, ahead, 0, small, vectors + mu * d, d, mixed, to)
                        elif starts[row_seq[row]] == row:
                            before = source[row_seq[row]] * state_row + layer * d
                            _lerp(normed, src, last_in, before, small, vectors + mu * d, d,
                                  mixed, to)  # fmt: skip
                        elif picked and (m == 0 or needed[m - 1] != row - 1):
                            # only there for the next row's shift: its own output is not read
                            _lerp(normed, src, normed, src, small, vectors + mu * d, d, mixed, to)
                        else:
                            _lerp(normed, src, normed, src - d, small, vectors + mu * d, d,
                                  mixed, to)  # fmt: skip
                w_at = first_block + blk * dp * block
                many = min(COLS, d - col)
                for s0 in range(m0, m1, MAX_ROWS):
                    count = min(MAX_ROWS, m1 - s0)
                    tile_rows(weights, w_at, mixed, (s0 - m0) * dp, dp, dp, count, out)
                    for q in range(count):
                        m = s0 + q
                        if dest == 0:
                            for i in range(many):
                                store(r, m * d + col + i, load(out, q * COLS + i))
                        elif dest == 1:
                            for i in range(many):
                                store(k, m * d + col + i, load(out, q * COLS + i))
                        elif dest == 2:
                            for i in range(many):
                                store(v, m * d + col + i, load(out, q * COLS + i))
                        elif dest == 3:  # w
                            for i in range(COLS):
                                store(hidden, m * hs + col + i, tanh32(load(out, q * COLS + i)))
                        elif dest == 5:  # g
                            for i in range(COLS):
                                store(hidden, m * hs + col + i, sigmoid32(load(out, q * COLS + i)))
                        elif dest == 99:
                            for i in range(COLS):
                                t = max(load(out, q * COLS + i), _ZERO)
                                store(f, m * fp + col + i, t * t)
                        else:  # a, v
                            for i in range(COLS):
                                store(hidden, m * hs + col + i, load(out, q * COLS + i))

        elif kind in (PREPARE, PREPARE_WKV):
            blocks = (n + COLS - 1) // COLS
            for h in range(part * per_chunk, min((part + 1) * per_chunk, heads)):
                for s0 in range(m0, m1, MAX_ROWS):
                    count = min(MAX_ROWS, m1 - s0)
                    for which in range(4):
                        if which == 3 and layer == 0:
                            continue
                        rank = table[layer, T_LORA + 4 + which]
                        w_at = table[layer, T_LORA + which] + h * blocks * rank * block
                        from_col = table[layer, T_LORA + 8 + which]
                        for blk in range(blocks):
                            tile_rows(weights, w_at + blk * rank * block, hidden,
                                      s0 * hs + from_col, hs, rank, count, out)  # fmt: skip
                            many = min(COLS, n - blk * COLS)
                            for q in range(count):
                                to = (which * MAX_ROWS + q) * n + blk * COLS
                                for i in range(many):
                                    store(lora, to + i, load(out, q * COLS + i))
                    step = MAX_ROWS * n
                    for q in range(count):
                        _finish_head(small, vectors, h, n, d, s0 + q, layer, lora, q * n,
                                     step + q * n, 2 * step + q * n, 3 * step + q * n,
                                     k, v, vf, w, kk, b, g)  # fmt: skip
                if kind == PREPARE_WKV:
                    for m in range(m0, m1):
                        at = m * d + h * n
                        seq = row_seq[m]
                        s_at = ((source[seq] * layers + layer) * heads + h) * n * n
                        o_at = ((seq * layers + layer) * heads + h) * n * n
                        step_rows(wkv_in, s_at, wkv_out, o_at, n, w, k, kk, b, v, r, at, head_y)
                        _gate_out(head_y, n, r, k, v, g, at, small,
                                  vectors + LNX_W * d + h * n, vectors + LNX_B * d + h * n,
                                  vectors + R_K * d + h * n, y, m * dp + h * n)  # fmt: skip

        elif kind == WKV:
            seq = phases[phase, 5] + chunk // heads
            h = chunk % heads
            parent = parents[seq]
            s_at = ((source[seq] * layers + layer) * heads + h) * n * n
            p_at = ((parent * layers + layer) * heads + h) * n * n
            o_at = ((seq * layers + layer) * heads + h) * n * n
            upright = starts[seq + 1] - starts[seq] < _TRANSPOSE_FROM or not has_columns(n)
            if not upright and parent >= 0:
                transpose(wkv_out, p_at, square, 0, n)
            elif not upright:
                transpose(wkv_in, s_at, square, 0, n)
            for m in range(starts[seq], starts[seq + 1]):
                at = m * d + h * n
                if not upright:
                    step_columns(square, n, w, k, kk, b, v, r, at, head_y)
                elif m == starts[seq] and parent >= 0:
                    step_rows(wkv_out, p_at, wkv_out, o_at, n, w, k, kk, b, v, r, at, head_y)
                elif m == starts[seq]:
                    step_rows(wkv_in, s_at, wkv_out, o_at, n, w, k, kk, b, v, r, at, head_y)
                else:
                    step_rows(wkv_out, o_at, wkv_out, o_at, n, w, k, kk, b, v, r, at, head_y)
                _gate_out(head_y, n, r, k, v, g, at, small,
                          vectors + LNX_W * d + h * n, vectors + LNX_B * d + h * n,
                          vectors + R_K * d + h * n, y, m * dp + h * n)  # fmt: skip
            if not upright:
                transpose(square, 0, wkv_out, o_at, n)

        elif kind in (OUT, FFN_VALUE):
            shift = 0  # of a row within ``values``
            if kind == FFN_VALUE:
                values, stride, w_first = f, fp, table[layer, T_VALUE]
            elif picked:
                values, stride, w_first, shift = mixed, dp, table[layer, T_OUT], m0
                if have_phase != phase or have_tile != this_tile:
                    have_phase, have_tile, have_mu = phase, this_tile, -1
                    for m in range(m0, m1):
                        for i in range(dp):
                            store(mixed, (m - m0) * dp + i, load(y, needed[m] * dp + i))
            else:
                values, stride, w_first = y, dp, table[layer, T_OUT]
            blocks = (d + COLS - 1) // COLS
            for blk in range(part * per_chunk, min((part + 1) * per_chunk, blocks)):
                col = blk * COLS
                many = min(COLS, d - col)
                w_at = w_first + blk * stride * block
                for s0 in range(m0, m1, MAX_ROWS):
                    count = min(MAX_ROWS, m1 - s0)
                    tile_rows(weights, w_at, values, (s0 - shift) * stride, stride, stride, count,
                              out)  # fmt: skip
                    for q in range(count):
                        row = needed[s0 + q] if picked else s0 + q
                        for i in range(many):
                            at = row * d + col + i
                            store(x, at, load(x, at) + load(out, q * COLS + i))

        else:  # HEAD
            m1 = min(m0 + tile, wanted_rows)
            if have_phase != phase or have_tile != this_tile:
                have_phase, have_tile = phase, this_tile
                for m in range(m0, m1):
                    layer_norm(x, wanted[m] * d, d, small, tail + LNO_W * d, tail + LNO_B * d,
                               mixed, (m - m0) * dp)  # fmt: skip
            blocks = (vocab + COLS - 1) // COLS
            for blk in range(part * per_chunk, min((part + 1) * per_chunk, blocks)):
                col = blk * COLS
                many = min(COLS, vocab - col)
                w_at = scalars[S_HEAD] + blk * dp * block
                for s0 in range(m0, m1, MAX_ROWS):
                    count = min(MAX_ROWS, m1 - s0)
                    tile_rows(weights, w_at, mixed, (s0 - m0) * dp, dp, dp, count, out)
                    for q in range(count):
                        for i in range(many):
                            store(logits, (s0 + q) * vocab + col + i, load(out, q * COLS + i))

        atomic_add(ctrl, C_DONE, 1)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def work(
    weights, emb, small, scalars, table, mix_meta, phases, ctrl,
    tokens, row_seq, starts, wanted, needed, source, parents,
    att_in, wkv_in, ffn_in, att_out, wkv_out, ffn_out, logits,
    x, r, k, v, vf, w, kk, b, g, y, hidden, f,
    bell, turn, finish,
):  # fmt: skip
    """One pass as a job of ``pool``'s."""
    if finish:
        ring(bell)
    run_pass(
        weights, emb, small, scalars, table, mix_meta, phases, ctrl,
        tokens, row_seq, starts, wanted, needed, source, parents,
        att_in, wkv_in, ffn_in, att_out, wkv_out, ffn_out, logits,
        x, r, k, v, vf, w, kk, b, g, y, hidden, f, finish,
    )  # fmt: skip
    if not finish:
        linger(bell, turn)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def work_on(
    weights, emb, small, scalars, table, mix_meta, phases, ctrl,
    tokens, row_seq, starts, needed, source, parents, at, sizes,
    x, r, k, v, vf, w, kk, b, g, y, hidden, f,
    bell, finish,
):  # fmt: skip
    """Passes of one token a sequence, one after another, whose helpers stay inside between them.

    What changes from pass to pass lies behind addresses: ``at`` (7,) of att_in, wkv_in, ffn_in,
    att_out, wkv_out, ffn_out and logits, ``sizes`` (7,) their elements. The caller's ``ctrl`` lives
    on: C_ROUND is odd while a pass is open, C_INSIDE counts the helpers that may touch what the
    addresses name, C_PRESENT those that need not be called and C_COMING those that were (C_CALLED
    of them for this pass) and are on their way. The caller returns when none is inside, so it does
    wait for a helper that was held up there; a helper goes in by counting itself and then looking
    again whether the round is still on.
    """
    if finish:
        ctrl[C_TICKET] = 0
        ctrl[C_DONE] = 0
        if ctrl[C_CALLED]:
            atomic_add(ctrl, C_COMING, ctrl[C_CALLED])
            ring(bell)
        atomic_add(ctrl, C_ROUND, 1)
    else:
        atomic_add(ctrl, C_COMING, -1)
        atomic_add(ctrl, C_PRESENT, 1)
    seen, looks, rung = -1, 0, atomic_load(bell, 0)
    while True:
        turn = atomic_load(ctrl, C_ROUND)
        if turn % 2 == 0 or turn == seen:
            looks += 1
            if looks > atomic_load(bell, 1) or atomic_load(bell, 0) != rung:
                atomic_add(ctrl, C_PRESENT, -1)
                return
            spin_hint()
            continue
        if not finish:
            atomic_add(ctrl, C_INSIDE, 1)
        if finish or atomic_load(ctrl, C_ROUND) == turn:
            run_pass(
                weights, emb, small, scalars, table, mix_meta, phases, ctrl,
                tokens, row_seq, starts, row_seq, needed, source, parents,
                carray(float32_at(at[0]), sizes[0]), carray(float32_at(at[1]), sizes[1]),
                carray(float32_at(at[2]), sizes[2]), carray(float32_at(at[3]), sizes[3]),
                carray(float32_at(at[4]), sizes[4]), carray(float32_at(at[5]), sizes[5]),
                carray(float32_at(at[6]), sizes[6]),
                x, r, k, v, vf, w, kk, b, g, y, hidden, f, finish,
            )  # fmt: skip
        if finish:
            atomic_add(ctrl, C_ROUND, 1)
            looks = 0
            while atomic_load(ctrl, C_INSIDE) > 0:
                looks += 1
                if looks < 4000:
                    spin_hint()
                else:
                    yield_processor()
            return
        atomic_add(ctrl, C_INSIDE, -1)
        seen, looks, rung = turn, 0, atomic_load(bell, 0)
