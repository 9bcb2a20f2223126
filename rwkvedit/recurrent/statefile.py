"""A State on disk: safetensors with a label that says whose it is. Knows no weights.

The label (see ``rwkvedit.files``) holds format ``rwkvedit-state``, version, model_digest,
tokenizer_digest, the axes of each tensor, and whatever provenance the caller adds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwkvedit import __version__
from rwkvedit.errors import FileFormatError
from rwkvedit.files import check_digest, load_tensors, save_tensors
from rwkvedit.recurrent.checkpoint import ModelConfig
from rwkvedit.recurrent.state import State

FORMAT = "rwkvedit-state"
VERSION = 1
AXES = {
    "att_x": ["layer", "channel"],
    "wkv": ["layer", "head", "value", "key"],
    "ffn_x": ["layer", "channel"],
}


def state_tensors(state: State, prefix: str = "") -> dict[str, Tensor]:
    """The three tensors under ``prefix`` + att_x, wkv, ffn_x (for files that hold several)."""
    return {f"{prefix}{name}": x for name, x in zip(AXES, state.tensors(), strict=True)}


def state_from_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    prefix: str = "",
) -> State:
    """A single State of this model's shape from a file's tensors; FileFormatError if not."""
    L, D, H, N = config.n_layer, config.n_embd, config.n_head, config.head_size
    parts = []
    for name, shape in (("att_x", (L, D)), ("wkv", (L, H, N, N)), ("ffn_x", (L, D))):
        t = tensors.get(prefix + name)
        if t is None:
            raise FileFormatError(f"{path}: expected a tensor {prefix + name}, found none")
        if tuple(t.shape) != shape or t.dtype != torch.float32:
            raise FileFormatError(
                f"{path}: {prefix + name} expected {shape} float32, "
                f"found {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
            )
        if not torch.isfinite(t).all():
            raise FileFormatError(f"{path}: {prefix + name} expected finite numbers, found NaN")
        parts.append(t)
    return State(*parts)


def save_state(
    path: str | Path,
    state: State,
    *,
    model_digest: str,
    tokenizer_digest: str,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write one conversation's State; ``extra`` (JSON-able) joins the label."""
    assert state.batch is None, "a state file holds one conversation"
    meta = {
        **(extra or {}),
        "format": FORMAT,
        "version": VERSION,
        "model_digest": model_digest,
        "tokenizer_digest": tokenizer_digest,
        "axes": AXES,
        "made": {"by": f"rwkvedit {__version__}", "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")},
    }
    return save_tensors(path, state_tensors(state), meta)


def load_state(
    path: str | Path,
    config: ModelConfig,
    *,
    model_digest: str,
    tokenizer_digest: str,
) -> tuple[State, dict[str, Any]]:
    """(State, label) of a file made with this model and tokenizer; FileFormatError otherwise."""
    tensors, meta = load_tensors(path, FORMAT, VERSION)
    check_digest(path, "model", model_digest, meta.get("model_digest"))
    check_digest(path, "tokenizer", tokenizer_digest, meta.get("tokenizer_digest"))
    if meta.get("axes") != AXES:
        raise FileFormatError(f"{path}: expected axes {AXES}, found {meta.get('axes')}")
    return state_from_tensors(path, tensors, config), meta
