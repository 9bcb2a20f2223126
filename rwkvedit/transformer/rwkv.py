"""Our own RWKV-7 behind the interface that sessions run: time-mix is its attention, channel-mix its
MLP with ``ffn.value`` as ``down_proj``; the State stands where a key-value cache would.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.hooks import Hooks
from rwkvedit.recurrent.model import LN_EPS, RWKV7
from rwkvedit.transformer.blocks import Logits
from rwkvedit.transformer.hooks import Shape, TapTable
from rwkvedit.transformer.kvcache import StateCache
from rwkvedit.transformer.model import FinalNorm, Model


class RwkvModel(Model):
    """An RWKV-7 as ``HFModel`` is a transformer."""

    kind = "rwkv7"
    architecture = "rwkv7"

    def __init__(self, model: RWKV7) -> None:
        self.model = model
        self._digest = model.digest  # the checkpoint's own, until a weight is changed
        c = model.config
        self.shape = Shape(c.n_layer, c.n_embd, c.n_head, c.n_ffn, c.vocab_size, weights=False)

    @property
    def embedding(self) -> Tensor:
        """(V, D): the input embedding with ln0 folded in, which is what enters layer 0."""
        return self.model.embedding

    @property
    def unembedding(self) -> Tensor:
        """(V, D): ``head.weight``."""
        return self.model.weights["head.weight"]

    def weights_changed(self, digest: str | None = None) -> None:
        """As ``Model.weights_changed``, and the packed copies go too."""
        super().weights_changed(digest)
        self.model.__dict__.pop("packed", None)

    def named_weights(self) -> dict[str, Tensor]:
        return self.model.weights

    def down_proj(self, layer: int) -> Tensor:
        """(D, F): ``ffn.value.weight``, the weights themselves."""
        return self.model.weights[self.down_proj_name(layer)]

    def down_proj_name(self, layer: int) -> str:
        return f"blocks.{layer}.ffn.value.weight"

    def norm(self, h: Tensor) -> Tensor:
        """``ln_out`` over (..., D); its statistics come from ``h`` itself."""
        z = self.model.weights
        return F.layer_norm(h.float(), h.shape[-1:], z["ln_out.weight"], z["ln_out.bias"], LN_EPS)

    def final_norm(self) -> FinalNorm:
        """The final norm's parameters."""
        z = self.model.weights
        return FinalNorm(z["ln_out.weight"], z["ln_out.bias"], LN_EPS, True)

    def project(self, h: Tensor) -> Tensor:
        """(..., D) to (..., V) through the head alone, fp32."""
        return F.linear(h.to(self.dtype), self.unembedding).float()

    def run(
        self,
        rows: list[list[int]],
        taps: TapTable,
        cache: Any,
        logits: Logits,
        keep: bool,
        start: int = 0,
    ) -> tuple[Tensor | list[Tensor] | None, StateCache | None]:
        """As ``HFModel.run``; ``start`` must be 0, since layer 0's values reach every layer."""
        if start:
            raise UsageError("RWKV-7 runs from layer 0: its values flow into every later layer")
        state = None if cache is None else cache.expand(len(rows)).state
        hooks = Hooks()
        for layer, site in taps:
            hooks.add(f"blocks.{layer}.{site}", _through(taps, layer, site))
        got, after = self.model.forward(
            rows, state, full=logits == "all", hooks=hooks if len(hooks) else None
        )
        before = 0 if cache is None else cache.length
        return (
            None if logits == "none" else got,
            StateCache(after, before + len(rows[0])) if keep else None,
        )


def _through(taps: TapTable, layer: int, site: str) -> Any:
    return lambda x: taps(layer, site, x)
