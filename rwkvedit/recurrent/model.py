"""RWKV-7 (x070): tokens and a State in, logits and a new State out. Knows no text and no files.

Formulas: arXiv:2503.14456, as computed by BlinkDL's ``rwkv`` 0.8.32 (which the tests compare with).
Linear maps run in the weights' type; the residual stream, norms and the recurrence are fp32.

Glossary (per layer; B rows, T tokens, D = H*N wide):
    x         (B, T, D)      residual stream
    xx        (B, T, D)      after ln1 / ln2; the shift mixes it with the previous token's
    r k v     (B, T, H, N)   receptance, key, value
    w         (B, T, H, N)   decay, exp(-exp(-1/2) sigmoid(.)) in (0.545, 1)
    a         (B, T, H, N)   in-context learning rate in (0, 1)
    kk, b     (B, T, H, N)   unit removal key; b = kk * a
    wkv       (B, H, N, N)   axes (value, key): S <- S diag(w) + (S @ -kk) b^T + v k^T
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import overload

import torch
from rwkvedit_kernels.dispatch import backend_for, wkv7
from rwkvedit_kernels.packed import PackedModel
from torch import Tensor
from torch.nn import functional as F

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.checkpoint import Checkpoint, ModelConfig
from rwkvedit.recurrent.hooks import Hooks, Tap
from rwkvedit.recurrent.state import State

DECAY_SCALE = math.exp(-0.5)
LN_EPS = 1e-5
LN_X_EPS = 64e-5  # the same for every head size, as in the official code
CHUNK = 512  # tokens run at once in a prefill; bounds memory, not results

_PACKED_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_MATRICES = (
    "receptance.weight", "key.weight", "value.weight", "output.weight",
    ".w1", ".w2", ".a1", ".a2", ".v1", ".v2", ".g1", ".g2",
)  # fmt: skip


class RWKV7:
    """The native engine. Its weights are never changed; all that moves is in the State."""

    backend = "native"

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        time_state: Tensor | None = None,
    ) -> None:
        self.config: ModelConfig = checkpoint.config
        self.digest: str = checkpoint.digest
        self.device = torch.device(device)
        self.dtype = dtype
        self.parameters = checkpoint.parameters
        self.weights: dict[str, Tensor] = {
            name: self._place(name, t) for name, t in checkpoint.tensors.items()
        }
        """Official names; matrices in ``dtype`` as (out, in), LoRA as (in, rank), vectors fp32."""
        z = self.weights
        table = F.layer_norm(
            checkpoint.tensors["emb.weight"].to(self.device, torch.float32),
            (self.config.n_embd,),
            z["blocks.0.ln0.weight"],
            z["blocks.0.ln0.bias"],
            LN_EPS,
        )
        self.embedding = table.to(dtype)
        """(V, D): the embedding with ln0 folded in."""
        tuned = checkpoint.time_state if time_state is None else time_state
        self.time_state = None if tuned is None else tuned.to(self.device, torch.float32)
        """(L, H, N, N) tuned initial state, or None."""
        self._layers = [self._layer(i) for i in range(self.config.n_layer)]
        self._hooks: list[Hooks] = []
        c = self.config
        self._wkv_shape = (c.n_layer, c.n_head, c.head_size, c.head_size)
        self._shift_shape = (c.n_layer, c.n_embd)

    def _place(self, name: str, t: Tensor) -> Tensor:
        matrix = name in ("emb.weight", "head.weight") or name.endswith(_MATRICES)
        return t.to(self.device, self.dtype if matrix else torch.float32).contiguous()

    def _layer(self, i: int) -> dict[str, Tensor]:
        """Layer i's weights under short names, with the six shift vectors side by side."""
        head = f"blocks.{i}."
        p = {k[len(head) :]: t for k, t in self.weights.items() if k.startswith(head)}
        p["att.mix"] = torch.stack([p[f"att.x_{c}"] for c in "rwkvag"])  # (6, D)
        p["att.r_k"] = p["att.r_k"].reshape(self.config.n_head, self.config.head_size)
        return p

    # -- states and hooks -------------------------------------------------------------------

    def zero_state(self, batch: int | None = None) -> State:
        """The state before any token: zeros, or the tuned initial state."""
        c = self.config
        state = State.zeros(c.n_layer, c.n_head, c.head_size, c.n_embd, batch, self.device)
        if self.time_state is None:
            return state
        wkv = self.time_state if batch is None else self.time_state.expand_as(state.wkv)
        return state.replace(wkv=wkv.clone())

    @contextmanager
    def hooked(self, hooks: Hooks) -> Iterator[RWKV7]:
        """Every forward inside the block passes through ``hooks``; they always come off."""
        Tap(self.config.n_layer, hooks)
        self._hooks.append(hooks)
        try:
            yield self
        finally:
            self._hooks.remove(hooks)

    # -- forward ----------------------------------------------------------------------------

    @overload
    def forward(
        self, tokens: Sequence[int], state: State | None = None, *,
        full: bool = False, tails: Sequence[int] | None = None, hooks: Hooks | None = None,
    ) -> tuple[Tensor, State]: ...  # fmt: skip

    @overload
    def forward(
        self, tokens: Sequence[Sequence[int]], state: State | None = None, *,
        full: bool = False, tails: Sequence[int] | None = None, hooks: Hooks | None = None,
    ) -> tuple[Tensor | list[Tensor], State]: ...  # fmt: skip

    def forward(self, tokens, state=None, *, full=False, tails=None, hooks=None):  # type: ignore[no-untyped-def]
        """Run tokens from a state.

        ``tokens`` list[int]: logits (V,) of the last position, or (T, V) with ``full``; ``state``
        is a single State (the zero state when None).
        ``tokens`` list[list[int]], lengths may differ: logits (B, V) of each prompt's own last
        token, or with ``full`` a list of (T_b, V), or with ``tails`` (one number a prompt) a list
        of (tails[b], V), of its last positions; ``state`` is a stack of B or one state for all.
        Returns (logits fp32, new State); each row's new state stands after its own last token and
        the caller's State is untouched. ``hooks`` see one call of T tokens (see ``hooks.py``).
        Gradients flow from the state and from hooks' values when torch's grad mode is on; logits
        are in nats before softmax. Raises UsageError on no tokens, a token outside the vocabulary,
        or a State of another shape.
        """
        if state is not None and tails is None and not hooks and self._is_decode(tokens, state):
            logits, *after = self.packed.step_one(tokens[0], *state.tensors())
            return (logits[None] if full else logits), State(*after)
        prompts, single = as_prompts(tokens, self.config.vocab_size)
        state = self._start(state, len(prompts), single)
        tap = Tap(self.config.n_layer, hooks, *self._hooks) if hooks or self._hooks else None
        grad = torch.is_grad_enabled() and (
            bool(tap) or any(x.requires_grad for x in state.tensors())
        )
        with torch.set_grad_enabled(grad):
            if tap is None and not grad and self.fused:
                logits, *after = self.packed.forward(
                    prompts, *state.tensors(), full=full, tails=tails
                )
                state = State(*after)
            else:
                logits, state = self._run(
                    prompts, state, full or tails is not None, tap, grad)
                if tails is not None:
                    logits = [x[len(x) - n :] for x, n in zip(logits, tails, strict=True)]
        return (logits[0], state[0]) if single else (logits, state)

    __call__ = forward

    def _is_decode(self, tokens: object, state: State) -> bool:
        """Is this one valid token after one state of this model's, with nothing looking inside?"""
        return (
            type(tokens) is list and len(tokens) == 1 and type(tokens[0]) is int
            and 0 <= tokens[0] < self.config.vocab_size
            and not self._hooks
            and state.wkv.shape == self._wkv_shape and state.att_x.shape == self._shift_shape
            and state.ffn_x.shape == self._shift_shape
            and not any(x.requires_grad or x.device.type != "cpu" for x in state.tensors())
            and self.fused
        )

    @property
    def fused(self) -> bool:
        """Can a whole pass run as one CPU kernel, when nothing looks inside?"""
        return self.dtype in _PACKED_TYPES and backend_for(self.device) == "numba"

    @cached_property
    def packed(self) -> PackedModel:
        """The weights as the CPU kernel wants them, made on first use."""
        dtype = None if self.dtype == torch.float32 else self.dtype
        return PackedModel(self.weights, dtype)

    def _start(self, state: State | None, batch: int, single: bool) -> State:
        """The state as a stack of ``batch``, on this device, of this model's shape."""
        if state is None:
            return self.zero_state(batch)
        c = self.config
        want = {k: getattr(c, k) for k in state.config}
        if state.config != want:
            raise UsageError(f"State of another shape: expected {want}, found {state.config}")
        if state.device != self.device:
            state = state.to(self.device)
        if state.batch is None:
            return state.expand(batch)
        if single or state.batch != batch:
            expected = "a single State" if single else f"a State of batch {batch}"
            raise UsageError(f"expected {expected} for these tokens, found batch {state.batch}")
        return state

    def _run(
        self, prompts: list[list[int]], state: State, full: bool, tap: Tap | None, grad: bool
    ) -> tuple[Tensor | list[Tensor], State]:
        """Prefill of right-padded prompts, CHUNK tokens at a time where nothing looks inside."""
        lengths = [len(p) for p in prompts]
        longest = max(lengths)
        whole = tap is not None or grad
        padded = torch.tensor([p + [0] * (longest - len(p)) for p in prompts], device=self.device)
        size = longest if whole else CHUNK
        pieces: list[Tensor] = []
        last: Tensor | None = None
        for start in range(0, longest, size):
            here = [min(max(n - start, 0), size) for n in lengths]
            x, state = self._span(padded[:, start : start + size], here, state, tap)
            if full:
                pieces.append(self.unembed(x))
                continue
            ends = torch.tensor([max(n - 1, 0) for n in here], device=self.device)
            ended = x[torch.arange(len(prompts), device=self.device), ends]
            live = torch.tensor([n > 0 for n in here], device=self.device).unsqueeze(1)
            last = ended if last is None else torch.where(live, ended, last)
        if full:
            rows = torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]
            return [rows[b, :n] for b, n in enumerate(lengths)], state
        assert last is not None
        return self.unembed(last), state

    def _span(
        self, ids: Tensor, lengths: list[int], state: State, tap: Tap | None
    ) -> tuple[Tensor, State]:
        """All layers over (B, T) ids; row b counts ``lengths[b]`` tokens. Returns (x, State)."""
        T = ids.shape[1]
        even = all(n == T for n in lengths)
        ends = None if even else torch.tensor(lengths, device=self.device)
        x = self.embedding[ids].float()
        v_first: Tensor | None = None
        att, wkv, ffn = [], [], []
        for i, p in enumerate(self._layers):
            if tap:
                x = tap(i, "resid_in", x)
            xx = F.layer_norm(x, x.shape[-1:], p["ln1.weight"], p["ln1.bias"], LN_EPS)
            past = torch.cat([state.att_x[:, i].unsqueeze(1), xx], 1)  # (B, T + 1, D)
            out, after, v_first = self._time_mix(
                i, p, xx, past[:, :-1], v_first, state.wkv[:, i], ends, tap
            )
            att.append(_at(past, ends))
            wkv.append(after)
            x = x + out
            if tap:
                x = tap(i, "resid_mid", x)
            xx = F.layer_norm(x, x.shape[-1:], p["ln2.weight"], p["ln2.bias"], LN_EPS)
            past = torch.cat([state.ffn_x[:, i].unsqueeze(1), xx], 1)
            k = _linear(xx + (past[:, :-1] - xx) * p["ffn.x_k"], p["ffn.key.weight"])
            k = torch.relu(k).square()
            if tap:
                k = tap(i, "ffn.key", k)
            out = _linear(k, p["ffn.value.weight"])
            if tap:
                out = tap(i, "ffn.out", out)
            ffn.append(_at(past, ends))
            x = x + out
            if tap:
                x = tap(i, "resid_out", x)
        return x, State(torch.stack(att, 1), torch.stack(wkv, 1), torch.stack(ffn, 1))

    def _time_mix(
        self,
        i: int,
        p: dict[str, Tensor],
        xx: Tensor,
        prev: Tensor,
        v_first: Tensor | None,
        wkv: Tensor,
        ends: Tensor | None,
        tap: Tap | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (out (B, T, D), wkv after (B, H, N, N), v_first (B, T, H, N))."""
        H, N = self.config.n_head, self.config.head_size
        B, T, D = xx.shape
        heads = (B, T, H, N)
        shift = prev - xx
        xr, xw, xk, xv, xa, xg = (xx + shift * m for m in p["att.mix"])
        r = _linear(xr, p["att.receptance.weight"]).view(heads)
        k = _linear(xk, p["att.key.weight"]).view(heads)
        v = _linear(xv, p["att.value.weight"]).view(heads)
        decay = p["att.w0"] + _lora(torch.tanh(_low(xw, p["att.w1"])), p["att.w2"])
        w = torch.exp(-DECAY_SCALE * torch.sigmoid(decay)).view(heads)
        a = torch.sigmoid(p["att.a0"] + _lora(_low(xa, p["att.a1"]), p["att.a2"])).view(heads)
        g = _lora(torch.sigmoid(_low(xg, p["att.g1"])), p["att.g2"])
        if v_first is not None:
            mix = torch.sigmoid(p["att.v0"] + _lora(_low(xv, p["att.v1"]), p["att.v2"]))
            v = v + (v_first - v) * mix.view(heads)
        if tap:
            r, w, a = tap(i, "att.r", r), tap(i, "att.w", w), tap(i, "att.a", a)
        kk = F.normalize(k * p["att.k_k"].view(H, N), dim=-1)
        k = k * (1 + (a - 1) * p["att.k_a"].view(H, N))
        if tap:
            k, v, kk = tap(i, "att.k", k), tap(i, "att.v", v), tap(i, "att.kk", kk)
            wkv = tap(i, "att.wkv_before", wkv)
        b = kk * a
        if tap:
            b = tap(i, "att.b", b)
        y, after = wkv7(r, w, k, v, -kk, b, wkv, ends)
        if tap:
            after = tap(i, "att.wkv_after", after)
        y = F.group_norm(
            y.reshape(B * T, D), H, p["att.ln_x.weight"], p["att.ln_x.bias"], LN_X_EPS
        ).view(B, T, D)
        bonus = (r * k * p["att.r_k"]).sum(-1, keepdim=True) * v
        out = _linear((y + bonus.view(B, T, D)) * g, p["att.output.weight"])
        if tap:
            out = tap(i, "att.out", out)
        return out, after, v if v_first is None else v_first

    def unembed(self, x: Tensor) -> Tensor:
        """(..., D) residual stream to (..., V) logits, through ln_out."""
        z = self.weights
        x = F.layer_norm(x, x.shape[-1:], z["ln_out.weight"], z["ln_out.bias"], LN_EPS)
        return _linear(x, z["head.weight"])

    def step(self, ids: list[int], state: State) -> tuple[Tensor, State]:
        """One token for each of B rows: no hooks, no gradients. Returns (logits (B, V), State)."""
        if self.fused:
            logits, *after = self.packed.step(ids, *state.tensors())
            return logits, State(*after)
        x, state = self._span(torch.tensor(ids, device=self.device).unsqueeze(1), [1], state, None)
        return self.unembed(x[:, 0]), state


def as_prompts(tokens: object, vocab_size: int) -> tuple[list[list[int]], bool]:
    """(prompts, was it a single list?); UsageError on empty lists and foreign ids."""
    if isinstance(tokens, Tensor):
        tokens = tokens.tolist()
    rows = list(tokens) if isinstance(tokens, Sequence) else [tokens]  # type: ignore[list-item]
    single = not rows or not isinstance(rows[0], Sequence | Tensor)
    prompts: list[list[int]] = [rows] if single else [list(r) for r in rows]  # type: ignore
    for b, prompt in enumerate(prompts):
        if not prompt:
            where = "" if single else f" in row {b}"
            raise UsageError(f"no tokens{where}: a forward pass needs at least one")
        for token in prompt:
            if not isinstance(token, int) or not 0 <= token < vocab_size:
                raise UsageError(
                    f"token {token!r} is outside the model's vocabulary (0 to {vocab_size - 1})"
                )
    return prompts, single


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight^T in the weight's type, back in fp32."""
    if weight.dtype == torch.float32:
        return F.linear(x, weight)
    return F.linear(x.to(weight.dtype), weight).float()


def _low(x: Tensor, down: Tensor) -> Tensor:
    """The narrow half of a LoRA: x (..., D) @ (D, rank), fp32."""
    return x @ down if down.dtype == torch.float32 else (x.to(down.dtype) @ down).float()


_lora = _low


def _at(past: Tensor, ends: Tensor | None) -> Tensor:
    """Row b of ``past`` (B, T + 1, D) at its own end; index 0 is what came before the call."""
    if ends is None:
        return past[:, -1]
    return past[torch.arange(len(past), device=past.device), ends]
