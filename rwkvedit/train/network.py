"""The trainable RWKV-7 (x070): official parameter names and shapes, official initialisation.

Knows nothing of corpora, optimisers or files. The engine that answers users is
``rwkvedit.recurrent``; this module exists to be differentiated quickly on two CPU cores.

Glossary:
    B, T, D, H, N, V    rows, tokens, width, heads, head size, vocabulary
    x                   (B, T, D) fp32   residual stream
    v_first             (B, T, D)        values of layer 0, mixed into every later layer
    r, w, k, v, a, b    (B, T, H, N)     see rwkvedit_kernels.wkv7_ref

Initialisation follows RWKV-LM, ``RWKV-v7/train_temp/src/model.py``; formulas follow the ``rwkv``
package's x070 (w = exp(-exp(-1/2) * sigmoid(.)); ln_x eps is head_size * 1e-5).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, cast

import torch
from rwkvedit_kernels.wkv7_autograd import wkv7 as wkv7_cpu
from rwkvedit_kernels.wkv7_ref import wkv7_ref
from torch import Tensor, nn
from torch.nn import functional as F

DECAY_SCALE = math.exp(-0.5)
HEAD_CHUNK = 512  # rows of logits alive at a time; 512 x V stays near the caches


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a network. ``n_embd`` is a multiple of ``head_size``; ``n_ffn`` is 4 x n_embd."""

    vocab_size: int
    n_embd: int = 256
    n_layer: int = 6
    head_size: int = 64
    tie: bool = True

    @property
    def n_head(self) -> int:
        return self.n_embd // self.head_size

    @property
    def n_ffn(self) -> int:
        return 4 * self.n_embd

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def lora_rank(factor: float, width: int) -> int:
    """The official rank suggestion: factor * sqrt(width), to the nearest 32, at least 32."""
    return max(32, int(round(factor * width**0.5 / 32) * 32))


def _orthogonal(rows: int, cols: int, scale: float, g: torch.Generator) -> Tensor:
    gain = math.sqrt(rows / cols) if rows > cols else 1.0
    return nn.init.orthogonal_(torch.empty(rows, cols), gain * scale, generator=g)


class TimeMix(nn.Module):
    """Parameters of one layer's attention; the arithmetic is in the functions below."""

    def __init__(self, cfg: NetworkConfig, layer: int, g: torch.Generator) -> None:
        super().__init__()
        D, H, N, L = cfg.n_embd, cfg.n_head, cfg.head_size, cfg.n_layer
        depth = layer / max(1, L - 1)  # 0 at the first layer, 1 at the last
        fade = 1.0 - layer / L  # 1 at the first layer, almost 0 at the last
        channel = torch.arange(D, dtype=torch.float32)
        ramp = (channel / D).view(1, 1, D)
        for name, power in (("r", 0.2), ("w", 0.9), ("k", 0.7), ("v", 0.7), ("a", 0.9), ("g", 0.2)):
            setattr(self, f"x_{name}", nn.Parameter(1.0 - ramp.pow(power * fade)))

        linear = channel / (D - 1) - 0.5
        half = (N - 1) / 2
        zigzag = (channel % N - half) / half
        zigzag = zigzag * zigzag.abs()
        speed = -6.0 + 6.0 * (channel / (D - 1)) ** (1.0 + depth**0.3)
        rank_wa, rank_v, rank_g = (lora_rank(f, D) for f in (2.5, 1.7, 5.0))

        def lora(name: str, rank: int, bias: Tensor | None) -> None:
            if bias is not None:
                setattr(self, f"{name}0", nn.Parameter(bias.view(1, 1, D)))
            setattr(self, f"{name}1", nn.Parameter(torch.zeros(D, rank)))
            setattr(self, f"{name}2", nn.Parameter(_orthogonal(rank, D, 0.1, g)))

        lora("w", rank_wa, speed + 0.5 + zigzag * 2.5)
        lora("a", rank_wa, -0.19 + zigzag * 0.3 + linear * 0.4)
        if layer > 0:
            lora("v", rank_v, 0.73 - linear * 0.4)
        lora("g", rank_g, None)
        self.k_k = nn.Parameter((0.71 - linear * 0.1).view(1, 1, D))
        self.k_a = nn.Parameter(torch.full((1, 1, D), 1.02))
        self.r_k = nn.Parameter(torch.full((H, N), -0.04))

        for name, bound in (("receptance", 0.5), ("key", 0.05), ("value", 0.5), ("output", 0.0)):
            matrix = nn.Linear(D, D, bias=False)
            with torch.no_grad():
                edge = bound / D**0.5
                matrix.weight.uniform_(-edge, edge, generator=g)
            setattr(self, name, matrix)
        self.ln_x = nn.GroupNorm(H, D, eps=N * 1e-5)
        with torch.no_grad():
            self.ln_x.weight.fill_(((1 + layer) / L) ** 0.7)


class ChannelMix(nn.Module):
    """Parameters of one layer's feed-forward: key (4D, D), value (D, 4D), shift x_k."""

    def __init__(self, cfg: NetworkConfig, layer: int, g: torch.Generator) -> None:
        super().__init__()
        D = cfg.n_embd
        fade = 1.0 - layer / cfg.n_layer
        ramp = (torch.arange(D, dtype=torch.float32) / D).view(1, 1, D)
        self.x_k = nn.Parameter(1.0 - ramp.pow(fade**4))
        self.key = nn.Linear(D, cfg.n_ffn, bias=False)
        self.value = nn.Linear(cfg.n_ffn, D, bias=False)
        with torch.no_grad():
            edge = 0.5 / D**0.5
            self.key.weight.uniform_(-edge, edge, generator=g)
            self.value.weight.zero_()


class Block(nn.Module):
    """One layer's parameters: ln0 (layer 0 only), ln1, att, ln2, ffn."""

    def __init__(self, cfg: NetworkConfig, layer: int, g: torch.Generator) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(cfg.n_embd)
        self.ln1 = nn.LayerNorm(cfg.n_embd)
        self.ln2 = nn.LayerNorm(cfg.n_embd)
        self.att = TimeMix(cfg, layer, g)
        self.ffn = ChannelMix(cfg, layer, g)


def _shift(x: Tensor) -> Tensor:
    """The previous token's row minus this one; before the first token stands zero. (B, T, D)"""
    return F.pad(x, (0, 0, 1, -1)) - x


def _mm(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight^T in the compute type carried by x."""
    return F.linear(x, weight.to(x.dtype))


def mix_in(x: Tensor, v_first: Tensor | None, p: dict[str, Tensor], N: int, dtype: torch.dtype):
    """Residual (B, T, D) to the recurrence's six inputs, plus the gate and the value for reuse.

    Returns fp32 (r, w, k, v, a, b) each (B, T, D), and g (B, T, D) in the compute dtype.
    """
    B, T, D = x.shape
    h = F.layer_norm(x, (D,), p["ln1.weight"], p["ln1.bias"])
    dx = _shift(h)

    def lerp(name: str) -> Tensor:
        return (h + dx * p[f"att.x_{name}"]).to(dtype)

    def low_rank(y: Tensor, name: str, middle: Callable[[Tensor], Tensor] | None) -> Tensor:
        y = _mm(y, p[f"att.{name}1"].t())
        if middle is not None:
            y = middle(y)
        return _mm(y, p[f"att.{name}2"].t())

    xv = lerp("v")
    r = _mm(lerp("r"), p["att.receptance.weight"]).float()
    k = _mm(lerp("k"), p["att.key.weight"]).float()
    v = _mm(xv, p["att.value.weight"]).float()
    w = torch.exp(
        -DECAY_SCALE * torch.sigmoid(p["att.w0"] + low_rank(lerp("w"), "w", torch.tanh).float())
    )
    iclr = torch.sigmoid(p["att.a0"] + low_rank(lerp("a"), "a", None).float())
    g = low_rank(lerp("g"), "g", torch.sigmoid)
    if v_first is not None:
        v = v + (v_first - v) * torch.sigmoid(p["att.v0"] + low_rank(xv, "v", None).float())
    kk = (k * p["att.k_k"]).view(B, T, D // N, N)
    kk = (kk * torch.rsqrt((kk * kk).sum(-1, keepdim=True).clamp_min(1e-24))).view(B, T, D)
    k = k * (1 + (iclr - 1) * p["att.k_a"])
    return r, w, k, v, -kk, kk * iclr, g


def mix_out(
    x: Tensor,
    y: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    p: dict[str, Tensor],
    N: int,
    dtype: torch.dtype,
) -> Tensor:
    """Normalise the read-out per head, add the current token's bonus, gate, project, then ffn."""
    B, T, D = x.shape
    H = D // N
    yh = y.view(B, T, H, N)
    mean = yh.mean(-1, keepdim=True)
    centred = yh - mean
    var = (centred * centred).mean(-1, keepdim=True)
    y = (centred * torch.rsqrt(var + N * 1e-5)).view(B, T, D)
    y = y * p["att.ln_x.weight"] + p["att.ln_x.bias"]
    bonus = ((r * k).view(B, T, H, N) * p["att.r_k"]).sum(-1, keepdim=True) * v.view(B, T, H, N)
    y = (y + bonus.view(B, T, D)) * g.float()
    x = x + _mm(y.to(dtype), p["att.output.weight"]).float()
    h = F.layer_norm(x, (D,), p["ln2.weight"], p["ln2.bias"])
    h = (h + _shift(h) * p["ffn.x_k"]).to(dtype)
    h = torch.relu(_mm(h, p["ffn.key.weight"]))
    return x + _mm(h * h, p["ffn.value.weight"]).float()


class _SelectedLoss(torch.autograd.Function):
    """Weighted cross-entropy through the head, a chunk of rows at a time, gradients on the way.

    Logits never exist for more than HEAD_CHUNK rows; backward only scales what forward found.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, head: Tensor, targets: Tensor, weights: Tensor):
        # h (n, D) compute dtype, head (V, D), targets (n,), weights (n,) fp32 summing to one
        n, dtype = h.shape[0], h.dtype
        W = head.to(dtype)
        dh = torch.empty_like(h)
        dW = torch.zeros(head.shape, dtype=torch.float32, device=h.device)
        losses = torch.empty(n, device=h.device)
        hits = torch.empty(n, dtype=torch.bool, device=h.device)
        for i in range(0, n, HEAD_CHUNK):
            rows = slice(i, i + HEAD_CHUNK)
            t = targets[rows].unsqueeze(1)
            z = (h[rows] @ W.t()).float()  # (rows, V)
            top, best = z.max(1, keepdim=True)
            z.sub_(top)
            at = z.gather(1, t)
            total = z.exp_().sum(1, keepdim=True)
            losses[rows] = (total.log() - at).squeeze(1)
            hits[rows] = (best == t).squeeze(1)
            scale = weights[rows].unsqueeze(1)
            z.mul_(scale / total).scatter_add_(1, t, -scale)
            dz = z.to(dtype)
            dh[rows] = dz @ W
            dW += dz.t() @ h[rows]
        ctx.save_for_backward(dh, dW)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(hits)
        return (losses * weights).sum(), hits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        dh, dW = ctx.saved_tensors
        return dh * grads[0].to(dh.dtype), (dW * grads[0]).to(ctx.head_dtype), None, None


@cache
def product_dtype(device: torch.device) -> torch.dtype:
    """The type to run matrix products in: bf16, or fp32 on a CPU without instructions for bf16,
    which works it out in software (40 times slower where measured).
    """
    if device.type != "cpu":
        return torch.bfloat16

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(256, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(4):  # the first warms up
            began = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - began)
        return min(times[1:])

    slow = seconds(torch.bfloat16) > 2 * seconds(torch.float32)
    return torch.float32 if slow else torch.bfloat16


def _recurrence(device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
    return wkv7_cpu if device.type == "cpu" else wkv7_ref


class Network(nn.Module):
    """RWKV-7 with its loss. ``state_dict`` carries the official names (``head`` absent when tied).

    ``dtype`` is the type matrix products run in; everything else is fp32.
    """

    def __init__(
        self,
        cfg: NetworkConfig,
        seed: int = 0,
        *,
        dtype: torch.dtype = torch.bfloat16,
        compile: bool = False,
    ) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.cfg = cfg
        self.dtype = dtype
        V, D = cfg.vocab_size, cfg.n_embd
        gain = 0.5 * math.sqrt(V / D) if V > D else 0.5
        head = nn.init.orthogonal_(torch.empty(V, D), gain, generator=g)
        self.emb = nn.Embedding(V, D)
        with torch.no_grad():
            if cfg.tie:
                self.emb.weight.copy_(head)
            else:
                self.emb.weight.uniform_(-1e-4, 1e-4, generator=g)
        self.blocks = nn.ModuleList(Block(cfg, i, g) for i in range(cfg.n_layer))
        self.ln_out = nn.LayerNorm(D)
        if not cfg.tie:
            self.head = nn.Linear(D, V, bias=False)
            with torch.no_grad():
                self.head.weight.copy_(head)
        self.set_compile(compile)

    def set_compile(self, on: bool) -> None:
        """Fuse the element-wise arithmetic with torch.compile (wants a C++ compiler), or not."""
        wrap = (lambda f: torch.compile(f, dynamic=True)) if on else (lambda f: f)
        self._mix_in: Callable[..., Any] = wrap(mix_in)
        self._mix_out: Callable[..., Any] = wrap(mix_out)

    @property
    def head_weight(self) -> Tensor:
        return self.emb.weight if self.cfg.tie else self.head.weight

    def features(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) int64 -> residual before ln_out (B, T, D) fp32."""
        B, T = tokens.shape
        D, H, N = self.cfg.n_embd, self.cfg.n_head, self.cfg.head_size
        x = F.embedding(tokens, self.emb.weight)
        x = cast(Block, self.blocks[0]).ln0(x)
        run = _recurrence(tokens.device)
        # token 0 ends a document: it wipes the state, as if what follows began a row
        inside = (tokens != 0).unsqueeze(-1).to(x.dtype)  # (B, T, 1)
        v_first = None
        for block in self.blocks:
            p = dict(block.named_parameters())
            r, w, k, v, a, b, g = self._mix_in(x, v_first, p, N, self.dtype)
            if v_first is None:
                v_first = v
            kept = (r, w * inside, k * inside, v, a * inside, b)
            y, _ = run(*(z.view(B, T, H, N) for z in kept))
            x = self._mix_out(x, y.view(B, T, D), r, k, v, g, p, N, self.dtype)
        return x

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> logits (B, T, V) fp32."""
        x = self.ln_out(self.features(tokens)).to(self.dtype)
        return _mm(x, self.head_weight).float()

    def loss(self, tokens: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean cross-entropy in nats over the positions whose weight is not zero.

        All (B, T). Returns (loss, hits): hits (n,) bool says whether the argmax was right at each
        weighted position in row-major order. Positions of weight zero never meet the head.
        """
        rows = weights.flatten().nonzero().squeeze(1)
        x = self.features(tokens).view(-1, self.cfg.n_embd)
        x = self.ln_out(x.index_select(0, rows)).to(self.dtype)
        picked = weights.flatten()[rows]
        return _SelectedLoss.apply(  # type: ignore[return-value]
            x, self.head_weight, targets.flatten()[rows], picked / picked.sum()
        )

    def export(self) -> dict[str, Tensor]:
        """Official names to fp32 tensors; a tied matrix is written twice, as emb and as head."""
        tensors = {n: p.detach().clone() for n, p in self.named_parameters()}
        tensors["head.weight"] = self.head_weight.detach().clone()
        return tensors

    def import_(self, tensors: dict[str, Tensor]) -> None:
        """Load official names in place; a tied network reads its one matrix from head.weight."""
        own = dict(self.named_parameters())
        for name, p in own.items():
            source = tensors["head.weight" if self.cfg.tie and name == "emb.weight" else name]
            if source.shape != p.shape:
                raise ValueError(f"{name}: expected {tuple(p.shape)}, found {tuple(source.shape)}")
            with torch.no_grad():
                p.copy_(source)
