"""Where numbers come from: the ``meta`` that every document carries."""

from __future__ import annotations

from typing import Any

import torch

from rwkvedit import __version__


def meta_of(loaded: Any, seed: int | None, command: str, seconds: float) -> dict[str, Any]:
    """Version, model and its digest, device, dtype, threads, seed, command and seconds."""
    model = loaded.model
    return {
        "version": __version__,
        "model": loaded.name,
        "model_digest": model.digest,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "command": command,
        "seconds": round(seconds, 3),
    }
