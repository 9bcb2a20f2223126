"""Seeded RWKV-7 weights of any official shape, for timing; they have never seen a word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rwkvedit.recurrent.checkpoint import Checkpoint, ModelConfig


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: layers, width and vocabulary (head size 64, channel mix 4 x width)."""

    n_layer: int
    n_embd: int
    vocab_size: int = 65536
    head_size: int = 64


SHAPES = {
    "tiny": Shape(2, 64, 256, 16),
    "0.1B": Shape(12, 768),
    "0.4B": Shape(24, 1024),
    "1.5B": Shape(24, 2048),
    "2.9B": Shape(32, 2560),
    "7.2B": Shape(32, 4096),
}
"""The official releases' shapes, and one for tests."""


def low_ranks(width: int) -> dict[str, int]:
    """Ranks of the four low-rank maps at a width (RWKV-LM, RWKV-v7/train_temp/src/model.py)."""

    def rank(value: float) -> int:
        return max(32, round(value / 32) * 32)

    return {
        "w": rank(1.8 * width**0.5),
        "a": rank(1.8 * width**0.5),
        "v": rank(1.3 * width**0.5),
        "g": rank(0.6 * width**0.8),
    }


def seeded_checkpoint(
    shape: Shape,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Random weights under the official names, scaled so that activations stay of order one."""
    g = torch.Generator(device).manual_seed(seed)
    d, n, layers = shape.n_embd, shape.head_size, shape.n_layer
    heads, ffn = d // n, 4 * d

    def normal(*size: int, scale: float, shift: float = 0.0) -> Tensor:
        values = torch.empty(*size, device=device, dtype=dtype)
        return values.normal_(shift, scale, generator=g)

    def uniform(*size: int) -> Tensor:
        return torch.empty(*size, device=device, dtype=dtype).uniform_(generator=g)

    z: dict[str, Tensor] = {
        "emb.weight": normal(shape.vocab_size, d, scale=1.0),
        "head.weight": normal(shape.vocab_size, d, scale=d**-0.5),
        "ln_out.weight": normal(d, scale=0.1, shift=1.0),
        "ln_out.bias": normal(d, scale=0.1),
    }
    for i in range(layers):
        block, att, mix = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for norm in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            z[f"{block}{norm}.weight"] = normal(d, scale=0.1, shift=1.0)
            z[f"{block}{norm}.bias"] = normal(d, scale=0.1)
        for letter in "rwkvag":
            z[f"{att}x_{letter}"] = uniform(d)
        for letter, rank in low_ranks(d).items():
            if letter == "v" and i == 0:
                continue
            z[f"{att}{letter}1"] = normal(d, rank, scale=d**-0.5)
            z[f"{att}{letter}2"] = normal(rank, d, scale=rank**-0.5)
            if letter != "g":
                z[f"{att}{letter}0"] = normal(d, scale=1.0)
        z[att + "k_k"] = normal(d, scale=0.1, shift=0.85)
        z[att + "k_a"] = normal(d, scale=0.1, shift=1.0)
        z[att + "r_k"] = normal(heads, n, scale=0.1)
        for name in ("receptance", "key", "value", "output"):
            z[f"{att}{name}.weight"] = normal(d, d, scale=d**-0.5)
        z[att + "ln_x.weight"] = normal(d, scale=0.1, shift=0.7)
        z[att + "ln_x.bias"] = normal(d, scale=0.1)
        z[mix + "x_k"] = uniform(d)
        z[mix + "key.weight"] = normal(ffn, d, scale=d**-0.5)
        z[mix + "value.weight"] = normal(d, ffn, scale=0.5 * ffn**-0.5)
    config = ModelConfig(layers, d, heads, n, ffn, shape.vocab_size)
    return Checkpoint(z, config, f"seeded-{seed}", Path(f"seeded-{seed}"))
