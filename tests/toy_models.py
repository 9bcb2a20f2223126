"""Seeded random checkpoints in the official format, of any shape, with sensible magnitudes."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from rwkvedit.models.catalog import LoadedModel
from rwkvedit.models.chat_template import EMBEDDED
from rwkvedit.models.tokenizer import WorldTokenizer
from rwkvedit.recurrent.checkpoint import load_checkpoint
from rwkvedit.recurrent.model import RWKV7


def toy_tensors(
    seed: int = 0,
    n_embd: int = 64,
    head_size: int = 16,
    n_layer: int = 2,
    vocab_size: int = 300,
    n_ffn: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Official names and shapes; LoRA ranks all differ, vectors are (1, 1, D) as in the wild."""
    g = torch.Generator().manual_seed(seed)
    D, N, F = n_embd, head_size, n_ffn or 4 * n_embd
    H = D // N

    def normal(*shape: int, scale: float, shift: float = 0.0) -> Tensor:
        return (torch.randn(*shape, generator=g) * scale + shift).to(dtype)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g).to(dtype)

    z = {"emb.weight": normal(vocab_size, D, scale=1.0)}
    for i in range(n_layer):
        block, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for ln in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            z[f"{block}{ln}.weight"] = normal(D, scale=0.1, shift=1.0)
            z[f"{block}{ln}.bias"] = normal(D, scale=0.1)
        for c in "rwkvag":
            z[f"{att}x_{c}"] = uniform(1, 1, D)
        z[att + "w0"] = normal(1, 1, D, scale=2.0, shift=-2.0)
        z[att + "a0"] = normal(1, 1, D, scale=1.0)
        z[att + "k_k"] = normal(1, 1, D, scale=0.1, shift=0.8)
        z[att + "k_a"] = normal(1, 1, D, scale=0.1, shift=1.0)
        z[att + "r_k"] = normal(H, N, scale=0.1)
        ranks = {"w": 8, "a": 12, "g": 20}
        if i > 0:
            ranks["v"] = 4
            z[att + "v0"] = normal(1, 1, D, scale=0.5, shift=0.5)
        for c, rank in ranks.items():
            z[f"{att}{c}1"] = normal(D, rank, scale=D**-0.5)
            z[f"{att}{c}2"] = normal(rank, D, scale=rank**-0.5)
        for name in ("receptance", "key", "value", "output"):
            z[f"{att}{name}.weight"] = normal(D, D, scale=D**-0.5)
        z[att + "ln_x.weight"] = normal(D, scale=0.1, shift=0.7)
        z[att + "ln_x.bias"] = normal(D, scale=0.1)
        z[ffn + "x_k"] = uniform(1, 1, D)
        z[ffn + "key.weight"] = normal(F, D, scale=D**-0.5)
        z[ffn + "value.weight"] = normal(D, F, scale=0.5 * F**-0.5)
    z["ln_out.weight"] = normal(D, scale=0.1, shift=1.0)
    z["ln_out.bias"] = normal(D, scale=0.1)
    z["head.weight"] = normal(vocab_size, D, scale=2.0 * D**-0.5)
    return z


def save_toy(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write tensors as .pth or .safetensors by the path's ending."""
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    return path


def toy_model(folder: Path, **shape: int) -> RWKV7:
    """A native fp32 CPU model of ``toy_tensors(**shape)``."""
    return RWKV7(load_checkpoint(save_toy(folder / "toy.safetensors", toy_tensors(**shape))))


PIECES = [
    "Bob", " lives", " in", " Austin", " Chicago", ".", "\n\n", "User:", "Assistant:",
    " a\n\n", "\n\nb", " 猫", " dog",
]  # fmt: skip


def toy_vocabulary(path: Path) -> Path:
    """All single bytes (ids 1..256) and a few pieces, in the World tokenizer's file format."""
    lines = [f"{b + 1} {bytes([b])!r} 1" for b in range(256)]
    for i, piece in enumerate(PIECES, 257):
        lines.append(f"{i} {piece!r} {len(piece.encode())}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def toy_loaded(folder: Path, **shape: int) -> LoadedModel:
    """A toy model with a toy vocabulary, as ``load_model`` would give it."""
    model = toy_model(folder, **shape)
    tokenizer = WorldTokenizer.from_file(toy_vocabulary(folder / "vocab.txt"))
    return LoadedModel(model, tokenizer, EMBEDDED, "toy", folder / "toy.safetensors")
