"""What the models behind a session have in common: where they are, and a digest that follows the
weights. How each runs is its own (``blocks.HFModel``, ``rwkv.RwkvModel``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rwkvedit.recurrent.checkpoint import tensors_digest
from rwkvedit.transformer.hooks import Shape


@dataclass(frozen=True)
class FinalNorm:
    """weight * (h - mean, where ``centred``) / sqrt(variance + eps) + bias."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool


class Model:
    """Base of ``HFModel`` and ``RwkvModel``."""

    kind: str
    architecture: str
    shape: Shape
    _digest: str | None = None

    @property
    def embedding(self) -> Tensor:
        """W_E (V, D), as its rows enter layer 0."""
        raise NotImplementedError

    def named_weights(self) -> dict[str, Tensor]:
        """Every weight by its name in the file it came from (a tied one once)."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def digest(self) -> str:
        """sha256 (hex) over the weights as they are in memory, or the file's own until then."""
        if self._digest is None:
            self._digest = tensors_digest(self.named_weights())
        return self._digest

    def weights_changed(self, digest: str | None = None) -> None:
        """Forget what was worked out from the weights; ``digest`` is theirs where it is known."""
        self._digest = digest
