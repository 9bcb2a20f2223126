"""RWKV-7 weights packed for the CPU, and forward passes over them.

Knows the official tensor names and nothing about files, tokenizers or devices. A ``PackedModel``
is built once; ``forward`` runs any number of sequences of any lengths and ``step`` one token of
each. States are read, never written: what comes back is fresh.

    tokens  B lists of token ids            att_x, ffn_x  (B, L, D) float32
    logits  (R, V) float32                  wkv           (B, L, H, N, N) float32 (head, value, key)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from . import fused_numba as fused
from .decoder import Decoders
from .dispatch import threads as available_threads
from .passes import NONE, Layout, Pass
from .prefixes import Tree
from .simd import COLS, MAX_ROWS, UNROLL

LOW_RANK = "wagv"  # order of the four low-rank maps everywhere below
_LAYER_VECTORS = (
    "ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias",
    "att.x_r", "att.x_w", "att.x_k", "att.x_v", "att.x_a", "att.x_g",
    "att.w0", "att.a0", "att.v0", "att.k_k", "att.k_a", "att.r_k",
    "att.ln_x.weight", "att.ln_x.bias", "ffn.x_k",
)  # fmt: skip
_MAX_ROWS_PER_PASS = 1024  # bounds the scratch of a long prefill, and how long Ctrl-C waits
_BYTES_PER_WORKER = 4 << 20  # one more thread for each this many bytes of weights
_BYTES_PER_CHUNK = 256 << 10  # of the weights of one token: some 20 us of reading


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _astride(count: int, dtype: type) -> np.ndarray:
    """An uninitialised flat array that starts a quarter into a cache line.

    A vector load then touches two lines and so asks for each line early: streaming float32 from
    memory took 95 to 100% of the read bandwidth here, against 75 to 90% from the line's start.
    """
    size = np.dtype(dtype).itemsize
    raw = np.empty(count + 128 // size, dtype)
    skip = (-raw.ctypes.data % 64 + 16) // size
    return raw[skip : skip + count]


def _blocks(matrix: Tensor, k: int, dtype: torch.dtype) -> np.ndarray:
    """(outputs, inputs) -> flat packed blocks of 32 outputs; see ``simd`` for the layout."""
    rows, cols = matrix.shape
    padded = matrix.new_zeros(_round_up(rows, COLS), k)
    padded[:rows, :cols] = matrix
    if dtype == torch.bfloat16:
        bits = padded.to(torch.bfloat16).view(torch.int16).view(-1, 2, COLS // 2, k)
        pairs = bits.permute(0, 3, 2, 1).contiguous()  # low half first: little-endian words
        return pairs.view(torch.int32).flatten().numpy().view(np.uint32)
    blocks = padded.to(dtype).view(-1, COLS, k).transpose(1, 2).contiguous().flatten()
    return blocks.view(torch.uint16).numpy() if dtype == torch.float16 else blocks.numpy()


_STORAGE = {torch.float32: np.float32, torch.bfloat16: np.uint32, torch.float16: np.uint16}


def narrowest(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The smallest of bfloat16, float16 and float32 that holds every matrix exactly."""
    matrices = [t for t in weights.values() if t.dim() == 2]
    for dtype in (torch.bfloat16, torch.float16):
        if all(t.dtype == dtype or torch.equal(t, t.to(dtype).to(t.dtype)) for t in matrices):
            return dtype
    return torch.float32


def _tail_rows(
    at: np.ndarray, lengths: Sequence[int], tails: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that the prompts' last ``tails`` positions are, each once, and where each of those
    positions is among them; ``at`` is a tree's."""
    ends = np.cumsum(lengths)
    spots = np.concatenate([at[e - n : e] for e, n in zip(ends, tails, strict=True)])
    wanted, places = np.unique(spots, return_inverse=True)
    return wanted, places


class PackedModel:
    """RWKV-7 weights in the layout that ``fused_numba`` streams.

    ``weights`` maps official x070 names to CPU tensors of any float dtype. ``dtype``
    float32, bfloat16 or float16 is what the matrices are kept in (vectors and all arithmetic are
    float32); by default the narrowest that loses nothing.
    """

    def __init__(self, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        if dtype is None:
            dtype = narrowest(weights)
        if dtype not in _STORAGE:
            raise ValueError(f"packed weights are float32, bfloat16 or float16, not {dtype}")
        self.dtype = dtype
        half = dtype == torch.bfloat16
        get = weights.__getitem__
        self.n_layer = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("blocks."))
        self.vocab_size, self.n_embd = get("emb.weight").shape
        self.n_head, self.head_size = get("blocks.0.att.r_k").shape
        self.n_ffn = get("blocks.0.ffn.key.weight").shape[0]
        d, n, layers = self.n_embd, self.head_size, self.n_layer
        shift, wkv = (layers, d), (layers, self.n_head, n, n)
        self.state_shapes = (shift, wkv, shift)
        """Of one sequence's att_x, wkv and ffn_x."""
        self.state_sizes = tuple(math.prod(shape) for shape in self.state_shapes)
        dp, fp = _round_up(d, UNROLL), _round_up(self.n_ffn, COLS)
        block = COLS // 2 if half else COLS

        parts: list[np.ndarray] = []
        self._size = 0

        def add(matrix: Tensor, k: int) -> int:
            packed = _blocks(matrix, k, dtype)
            parts.append(packed)
            self._size += packed.size
            return self._size - packed.size

        small = torch.zeros(layers * fused.LAYER_VECTORS + 4, d)
        self.table = np.zeros((layers, fused.LAYER_INTS), np.int64)
        meta: list[list[tuple[int, int, int]]] = []
        hidden_width = 0
        mus = {"w": fused.X_W, "a": fused.X_A, "g": fused.X_G, "v": fused.X_V}
        for layer in range(layers):
            name = f"blocks.{layer}."
            for i, vector in enumerate(_LAYER_VECTORS):
                if (tensor := weights.get(name + vector)) is not None:
                    small[layer * fused.LAYER_VECTORS + i] = tensor.flatten().float()
            row = self.table[layer]
            row[fused.T_MIX] = self._size
            blocks: list[tuple[int, int, int]] = []
            # v's low-rank map reads the same mixture as the value matrix, so it follows it.
            for dest, (tensor_name, mu) in enumerate(
                (("receptance", fused.X_R), ("key", fused.X_K), ("value", fused.X_V))
            ):
                add(get(f"{name}att.{tensor_name}.weight"), dp)
                blocks += [(mu, dest, c) for c in range(0, d, COLS)]
            column = 0
            for which in (3, 0, 1, 2):  # v first
                letter = LOW_RANK[which]
                first = weights.get(f"{name}att.{letter}1")
                if first is None or (letter == "v" and layer == 0):
                    continue
                rank = _round_up(first.shape[1], COLS)
                add(first.t(), dp)
                row[fused.T_LORA + 4 + which] = rank
                row[fused.T_LORA + 8 + which] = column
                mu = mus[letter]
                blocks += [(mu, 3 + which, column + c) for c in range(0, rank, COLS)]
                column += rank
            hidden_width = max(hidden_width, column)
            row[fused.T_MIX_BLOCKS] = len(blocks)
            meta.append(blocks)
            for which, letter in enumerate(LOW_RANK):
                second = weights.get(f"{name}att.{letter}2")
                if second is None or (letter == "v" and layer == 0):
                    continue
                rank = int(row[fused.T_LORA + 4 + which])
                heads = second.t().reshape(self.n_head, n, -1)
                padded = heads.new_zeros(self.n_head, _round_up(n, COLS), heads.shape[2])
                padded[:, :n] = heads
                row[fused.T_LORA + which] = add(padded.flatten(0, 1), rank)
            row[fused.T_OUT] = add(get(f"{name}att.output.weight"), dp)
            row[fused.T_KEY] = add(get(f"{name}ffn.key.weight"), dp)
            row[fused.T_VALUE] = add(get(f"{name}ffn.value.weight"), fp)
        head_at = add(get("head.weight"), dp)
        tail = layers * fused.LAYER_VECTORS
        for i, vector in enumerate(("blocks.0.ln0.weight", "blocks.0.ln0.bias")):
            small[tail + i] = get(vector).float()
        for i, vector in enumerate(("ln_out.weight", "ln_out.bias")):
            small[tail + 2 + i] = get(vector).float()
        self.small = small.flatten().numpy()

        self.matrices = _astride(self._size, _STORAGE[dtype])
        at = 0
        for i, part in enumerate(parts):
            self.matrices[at : at + part.size] = part
            at += part.size
            parts[i] = part[:0]  # let go early: two copies of a large model at most
        most = max(len(blocks) for blocks in meta)
        self.meta = np.zeros((layers, most, 3), np.int64)
        for layer, blocks in enumerate(meta):
            self.meta[layer, : len(blocks)] = blocks
        emb = get("emb.weight").detach().contiguous()
        if half:
            self.emb = emb.to(torch.bfloat16).view(torch.uint16).flatten().numpy()
        else:
            self.emb = emb.float().flatten().numpy()

        base = np.zeros(fused.SCALARS, np.int64)
        base[fused.S_LAYERS], base[fused.S_D], base[fused.S_H] = layers, d, self.n_head
        base[fused.S_N], base[fused.S_F], base[fused.S_V] = n, self.n_ffn, self.vocab_size
        base[fused.S_DP], base[fused.S_FP], base[fused.S_HS] = dp, fp, hidden_width
        base[fused.S_BLOCK], base[fused.S_HEAD] = block, head_at
        self.base = base
        self.decoders = Decoders(self)

    @property
    def nbytes(self) -> int:
        """Bytes of matrices that one token reads (the embedding's one row left out)."""
        return self.matrices.nbytes

    def plan(
        self, rows: int, seqs: int, wanted: int, workers: int,
        layers: tuple[int, int] | None = None, embed: bool = True, needed: int = 0,
        levels: Sequence[int] = (),
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Scalars and the phase table: (kind, layer, chunks, blocks a chunk, column splits, where
        its weights begin, elements a block, only needed rows?); elements are 0 where nothing is to
        be fetched early. A WKV phase has its first sequence where others have their weights.

        ``layers`` (a, b), b excluded, limits the pass; ``needed`` is how many rows the last layer's
        channel-mix runs for (0: all); ``levels`` how many sequences may run side by side, then how
        many that go on from those, and so on (none: all side by side).
        """
        first, end = layers or (0, self.n_layer)
        tiles = -(-rows // (4 * MAX_ROWS))
        tile = _round_up(-(-rows // tiles), MAX_ROWS) if tiles > 1 else rows
        tiles = -(-rows // tile)
        phases: list[tuple[int, ...]] = []
        dp, fp, block = (int(self.base[i]) for i in (fused.S_DP, fused.S_FP, fused.S_BLOCK))

        def add(
            kind: int, layer: int, blocks: int, row_tiles: int = tiles, at: int = 0, k: int = 0,
            picked: bool = False,
        ) -> None:
            splits = 1
            if workers > 1:
                splits = -(-4 * workers // row_tiles)
                if rows == seqs:  # the last chunks' end is waited for: keep them short
                    size = blocks * k * block * self.matrices.itemsize
                    splits = max(splits, size // _BYTES_PER_CHUNK)
                splits = max(1, min(blocks, splits))
            per_chunk = -(-blocks // splits)
            splits = -(-blocks // per_chunk)
            phases.append(
                (kind, layer, row_tiles * splits, per_chunk, splits, at, k * block, int(picked)))

        if embed:
            add(fused.EMBED, 0, 1)
        for layer in range(first, end):
            at = [int(i) for i in self.table[layer]]
            add(fused.MIX, layer, at[fused.T_MIX_BLOCKS], at=at[fused.T_MIX], k=dp)
            if rows == seqs and len(levels) < 2:
                add(fused.PREPARE_WKV, layer, self.n_head)
            else:
                add(fused.PREPARE, layer, self.n_head)
                at_seq = 0
                for side in levels or (seqs,):
                    phases.append((fused.WKV, layer, side * self.n_head, 1, 1, at_seq, 0, 0))
                    at_seq += side
            outputs = -(-self.n_embd // COLS)
            picked = 0 < needed < rows and layer + 1 == self.n_layer
            some = -(-needed // tile) if picked else tiles
            add(fused.OUT, layer, outputs, some, at[fused.T_OUT], dp, picked)
            add(fused.FFN_KEY, layer, fp // COLS, some, at[fused.T_KEY], dp, picked)
            add(fused.FFN_VALUE, layer, outputs, some, at[fused.T_VALUE], fp, picked)
        if wanted:
            head = int(self.base[fused.S_HEAD])
            add(fused.HEAD, 0, -(-self.vocab_size // COLS), -(-wanted // tile), at=head, k=dp)
        scalars = self.base.copy()
        scalars[fused.S_ROWS], scalars[fused.S_TILE] = rows, tile
        scalars[fused.S_WANTED], scalars[fused.S_PHASES] = wanted, len(phases)
        return scalars, np.array(phases, np.int64)

    def run(
        self,
        tokens: np.ndarray,
        lengths: Sequence[int],
        wanted: np.ndarray,
        att_x: Tensor,
        wkv: Tensor,
        ffn_x: Tensor,
        threads: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass over sequences laid end to end; ``wanted`` names the rows to give logits for.

        The state holds one row a sequence, or a single row that all of them start from.
        """
        rows, seqs = len(tokens), len(lengths)
        workers = self._workers(threads)
        if seqs > 1 and wkv.stride(0) == 0:  # one state expanded over all of them
            att_x, wkv, ffn_x = att_x[:1], wkv[:1], ffn_x[:1]
        source = np.arange(seqs) if len(att_x) == seqs else np.zeros(seqs, np.int64)
        job = Pass(self, Layout.of(lengths), source, att_x, wkv, ffn_x)
        needed = job.needed(wanted)
        plan = self.plan(rows, seqs, len(wanted), workers, needed=len(needed))
        return job.run(*plan, workers, tokens, wanted, needed), *job.state()

    def _workers(self, threads: int | None) -> int:
        return min(threads or available_threads(), 1 + self.nbytes // _BYTES_PER_WORKER)

    def below(
        self, tokens: Sequence[Sequence[int]], layer: int,
        att_x: Tensor, wkv: Tensor, ffn_x: Tensor, threads: int | None = None,
    ) -> tuple[Tensor, Tensor, int]:  # fmt: skip
        """The layers under ``layer`` over B prompts laid end to end, all from the state's one row;
        what prompts begin with alike is run once.

        Returns what :meth:`above` goes on from: the residual stream and the first layer's values,
        both (M, D), and how many positions were run.
        """
        ids = [self._check(t) for t in tokens]
        tree = Tree.of(ids, [0] * len(ids))
        workers = self._workers(threads)
        job = self._tree_pass(tree, att_x, wkv, ffn_x)
        plan = self.plan(job.rows, job.seqs, 0, workers, (0, layer), levels=tree.levels)
        job.run(*plan, workers, np.concatenate(ids)[tree.picks], NONE)
        at = torch.from_numpy(tree.at)
        return job.area("x")[at], job.area("vf")[at], job.rows

    def above(
        self, x: Tensor, vf: Tensor, tokens: Sequence[Sequence[int]], source: Sequence[int],
        layer: int, att_x: Tensor, wkv: Tensor, ffn_x: Tensor, tails: Sequence[int],
        sites: bool = False, threads: int | None = None,
    ) -> tuple[Tensor, np.ndarray, dict[str, Tensor], int]:  # fmt: skip
        """``layer`` and all over it, from what :meth:`below` gave for B prompts laid end to end.

        ``source[b]`` names the row of the state that prompt b starts from; prompts that begin alike
        from the same row share that. Returns logits (R, V) of the prompts' last ``tails[b]``
        positions, each once; which row of those every such position has; with ``sites`` also ``r``,
        ``w``, ``kk`` and ``b`` as (layers, M, H, N); and how many positions were run.
        """
        workers = self._workers(threads)
        tree = Tree.of(tokens, source)
        job = self._tree_pass(tree, att_x, wkv, ffn_x)
        picks, at = torch.from_numpy(tree.picks), torch.from_numpy(tree.at)
        job.fill("x", x[picks])
        job.fill("vf", vf[picks])
        wanted, places = _tail_rows(tree.at, [len(t) for t in tokens], tails)
        needed = job.needed(wanted)
        seen: dict[str, list[Tensor]] = {name: [] for name in ("r", "w", "kk", "b")}
        first = layer
        if sites:  # a job a layer: the next one writes over what this one leaves
            for first in range(layer, self.n_layer):
                last = first + 1 == self.n_layer
                plan = self.plan(job.rows, job.seqs, len(wanted) if last else 0, workers,
                                 (first, first + 1), False, len(needed), tree.levels)  # fmt: skip
                logits = job.run(*plan, workers, NONE, wanted if last else NONE, needed)
                for name, kept in seen.items():
                    kept.append(job.area(name)[at].view(-1, self.n_head, self.head_size))
        else:
            plan = self.plan(job.rows, job.seqs, len(wanted), workers,
                             (layer, self.n_layer), False, len(needed), tree.levels)  # fmt: skip
            logits = job.run(*plan, workers, NONE, wanted, needed)
        found = {name: torch.stack(kept) for name, kept in seen.items() if kept}
        return logits, places, found, job.rows

    def _tree_pass(self, tree: Tree, att_x: Tensor, wkv: Tensor, ffn_x: Tensor) -> Pass:
        return Pass(self, tree.layout, tree.source, att_x, wkv, ffn_x, tree.parents)

    def step(
        self, tokens: Sequence[int], att_x: Tensor, wkv: Tensor, ffn_x: Tensor,
        threads: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """One token of each sequence: (logits (B, V), att_x, wkv, ffn_x)."""
        self._check(tokens)
        return self.decoders.run(tokens, att_x, wkv, ffn_x, self._workers(threads))

    def step_one(
        self, token: int, att_x: Tensor, wkv: Tensor, ffn_x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One token of one sequence, which is not checked; nothing has a batch axis."""
        return self.decoders.run((token,), att_x, wkv, ffn_x, self._workers(None), single=True)

    def forward(
        self, tokens: Sequence[Sequence[int]], att_x: Tensor, wkv: Tensor, ffn_x: Tensor,
        full: bool = False, tails: Sequence[int] | None = None, threads: int | None = None,
    ) -> tuple[list[Tensor] | Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """B prompts of their own lengths (at least one token each).

        Returns logits per prompt, (T_b, V) with ``full``, (tails[b], V) of its last positions with
        ``tails``, and otherwise (B, V) of the last tokens; and the new state. Long prompts run in
        passes of about a thousand rows.
        """
        seqs = len(tokens)
        ids = [self._check(t) for t in tokens]
        lengths = [len(t) for t in ids]
        if not seqs or min(lengths) == 0:
            raise ValueError("every prompt needs at least one token")
        if max(lengths) == 1 and seqs <= _MAX_ROWS_PER_PASS and tails in (None, [1] * seqs):
            logits, *state = self.step([int(row[0]) for row in ids], att_x, wkv, ffn_x, threads)
            pieces = list(logits.split(1)) if full or tails is not None else logits
            return pieces, state[0], state[1], state[2]
        span = max(1, _MAX_ROWS_PER_PASS // seqs) if sum(lengths) > _MAX_ROWS_PER_PASS else 0
        if tails is not None:
            return self._tails(ids, lengths, list(tails), att_x, wkv, ffn_x, threads)
        if not span:
            rows = np.arange(sum(lengths)) if full else np.cumsum(lengths) - 1
            logits, *state = self.run(
                np.concatenate(ids), lengths, rows, att_x, wkv, ffn_x, threads
            )
            pieces = list(logits.split(lengths)) if full else logits
            return pieces, state[0], state[1], state[2]
        state = [t.detach().float().expand(seqs, *t.shape[1:]).clone() for t in (att_x, wkv, ffn_x)]
        collected: list[list[Tensor]] = [[] for _ in range(seqs)]
        for at in range(0, max(lengths), span):
            live = [b for b in range(seqs) if lengths[b] > at]
            part = [ids[b][at : at + span] for b in live]
            sizes = [len(p) for p in part]
            ends = np.cumsum(sizes)
            last = [i for i, b in enumerate(live) if lengths[b] <= at + span]
            rows = np.arange(ends[-1]) if full else ends[last] - 1
            logits, *after = self.run(
                np.concatenate(part), sizes, rows, *(t[live] for t in state), threads=threads
            )
            for old, new in zip(state, after, strict=True):
                old[live] = new
            owners, widths = (live, sizes) if full else ([live[i] for i in last], [1] * len(last))
            for b, piece in zip(owners, logits.split(widths), strict=True):
                collected[b].append(piece)
        joined = [torch.cat(p) if full else p[-1][0] for p in collected]
        if not full:
            joined = torch.stack(joined)
        return joined, state[0], state[1], state[2]

    def _tails(
        self, ids: list[np.ndarray], lengths: list[int], tails: list[int],
        att_x: Tensor, wkv: Tensor, ffn_x: Tensor, threads: int | None,
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:  # fmt: skip
        """One pass whose output layer runs for each prompt's last ``tails[b]`` positions only; what
        prompts begin with alike, from one state, is run once."""
        if any(not 1 <= n <= m for n, m in zip(tails, lengths, strict=True)):
            raise ValueError("a tail is at least one position and at most the whole prompt")
        if len(ids) > 1 and wkv.stride(0) == 0:  # one state expanded over all of them
            att_x, wkv, ffn_x = att_x[:1], wkv[:1], ffn_x[:1]
        if len(wkv) not in (1, len(ids)):
            raise ValueError(f"a state of {len(wkv)} rows for {len(ids)} prompts")
        owner = [0] * len(ids) if len(wkv) == 1 else range(len(ids))
        tree = Tree.of(ids, owner)
        workers = self._workers(threads)
        job = self._tree_pass(tree, att_x, wkv, ffn_x)
        wanted, places = _tail_rows(tree.at, lengths, tails)
        needed = job.needed(wanted)
        plan = self.plan(
            job.rows, job.seqs, len(wanted), workers, needed=len(needed), levels=tree.levels)
        logits = job.run(*plan, workers, np.concatenate(ids)[tree.picks], wanted, needed)
        ends = torch.from_numpy(tree.ends)
        att_x, wkv, ffn_x = (x[ends] for x in job.state())
        return list(logits[torch.from_numpy(places)].split(tails)), att_x, wkv, ffn_x

    def _check(self, tokens: Sequence[int]) -> np.ndarray:
        ids = np.asarray(tokens, np.int64).reshape(-1)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            raise ValueError(f"token ids must be in 0..{self.vocab_size - 1}")
        return ids
