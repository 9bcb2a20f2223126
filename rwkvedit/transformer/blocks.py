"""Transformer blocks of each family, run by transformers and looked into at seven sites.

Without taps a forward pass is transformers' own. With taps, only the layers that are looked into
run ``_composed``: the same modules in the same order, with a tap between any two, put on for one
call and always taken off. So a tap can replace the residual itself, exactly.

Glossary: as in ``hooks``; W_E (V, D) input embedding, W_U (V, D) output embedding (unembedding),
down_proj (D, F) the MLP's second matrix.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rwkvedit.errors import UnavailableError
from rwkvedit.transformer.hooks import Shape, TapTable
from rwkvedit.transformer.kvcache import KVCache
from rwkvedit.transformer.model import FinalNorm, Model

Logits = str
"""``last`` (each row's last position), ``all`` or ``none``."""


@dataclass(frozen=True)
class Family:
    """Where the parts of a block are called what."""

    name: str
    base: str
    layers: str
    embed: str
    final_norm: str
    attention: str
    attention_norm: str
    mlp_norm: str
    down: str
    transposed: bool = False
    """Is ``down`` stored as (F, D), as GPT-2's Conv1D is?"""


LLAMA = Family(
    "Llama", "model", "layers", "embed_tokens", "norm",
    "self_attn", "input_layernorm", "post_attention_layernorm", "down_proj",
)  # fmt: skip
GPT2 = Family("GPT-2", "transformer", "h", "wte", "ln_f", "attn", "ln_1", "ln_2", "c_proj", True)
NEOX = Family(
    "GPT-NeoX", "gpt_neox", "layers", "embed_in", "final_layer_norm",
    "attention", "input_layernorm", "post_attention_layernorm", "dense_4h_to_h",
)  # fmt: skip

FAMILIES = {
    "llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "smollm3": LLAMA,
    "gpt2": GPT2, "gpt_neox": NEOX,
}  # fmt: skip
"""transformers' model types whose blocks are exactly one of the three."""


def family_of(model_type: str, where: object) -> Family:
    """The blocks of an architecture; UnavailableError names it and what is supported."""
    if model_type not in FAMILIES:
        raise UnavailableError(
            f"{where}: architecture {model_type!r} is not supported; supported are "
            f"{', '.join(FAMILIES)} and RWKV-7"
        )
    return FAMILIES[model_type]


class HFModel(Model):
    """A causal language model of transformers behind the interface that sessions run."""

    kind = "transformer"

    def __init__(self, model: Any, where: object = "model") -> None:
        config = model.config
        self.family = family_of(config.model_type, where)
        self.architecture = config.model_type
        self.model = model.eval().requires_grad_(False)
        self.base = getattr(model, self.family.base)
        self.layers = list(getattr(self.base, self.family.layers))
        down = self.down_proj(0)
        self.shape = Shape(
            n_layer=len(self.layers),
            d_model=down.shape[0],
            n_head=config.num_attention_heads,
            d_ffn=down.shape[1],
            vocab_size=self.embedding.shape[0],
            context=getattr(config, "max_position_embeddings", None),
        )
        signature = inspect.signature(type(self.layers[0]).forward)
        self._block_arguments = list(signature.parameters)[2:]
        taken = inspect.signature(type(self.base).forward).parameters
        self._cache_argument = "cache" if "cache" in taken else "past_key_values"  # since 5.24

    @property
    def embedding(self) -> Tensor:
        """W_E (V, D)."""
        return getattr(self.base, self.family.embed).weight

    @property
    def unembedding(self) -> Tensor:
        """W_U (V, D); the same tensor as W_E where the two are tied."""
        return self.model.get_output_embeddings().weight

    def named_weights(self) -> dict[str, Tensor]:
        """Every parameter by transformers' name (a tied one once)."""
        return dict(self.model.named_parameters())

    def down_proj(self, layer: int) -> Tensor:
        """(D, F), the weights themselves (GPT-2: a transposed view); writing changes the model."""
        weight = getattr(self.layers[layer].mlp, self.family.down).weight
        return weight.t() if self.family.transposed else weight

    def down_proj_name(self, layer: int) -> str:
        """The name of ``down_proj`` in ``named_weights``."""
        f = self.family
        return f"{f.base}.{f.layers}.{layer}.mlp.{f.down}.weight"

    def norm(self, h: Tensor) -> Tensor:
        """The final norm over (..., D); its statistics come from ``h`` itself."""
        return getattr(self.base, self.family.final_norm)(h)

    def final_norm(self) -> FinalNorm:
        """The final norm's parameters."""
        norm = getattr(self.base, self.family.final_norm)
        centred = isinstance(norm, torch.nn.LayerNorm)
        eps = norm.eps if centred else norm.variance_epsilon
        return FinalNorm(norm.weight, getattr(norm, "bias", None), eps, centred)

    def project(self, h: Tensor) -> Tensor:
        """(..., D) to (..., V) through W_U alone, fp32."""
        return self.model.get_output_embeddings()(h.to(self.dtype)).float()

    def run(
        self,
        rows: list[list[int]],
        taps: TapTable,
        cache: Any,
        logits: Logits,
        keep: bool,
        start: int = 0,
    ) -> tuple[Tensor | list[Tensor] | None, KVCache | None]:
        """Right-padded rows; logits fp32: (B, V) for ``last``, a list of (T_b, V) for ``all``.

        Layers before ``start`` are passed by: a tap must say what enters ``start``.
        """
        lengths = [len(r) for r in rows]
        longest = max(lengths)
        ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows], device=self.device)
        past = None if cache is None else cache.expand(len(rows)).to_transformers()
        if past is None and keep:
            from transformers.cache_utils import DynamicCache

            past = DynamicCache()
        with self._tapped(taps), self._passing_by(start):
            kept = {self._cache_argument: past, "use_cache": past is not None}
            out = self.base(input_ids=ids, **kept)
        h = out.last_hidden_state  # (B, T, D), after the final norm
        after = KVCache.from_transformers(past) if keep else None
        if logits == "none":
            return None, after
        if logits == "last":
            ends = torch.tensor([n - 1 for n in lengths], device=self.device)
            return self.project(h[torch.arange(len(rows), device=self.device), ends]), after
        return [self.project(h[b, :n]) for b, n in enumerate(lengths)], after

    @contextmanager
    def _tapped(self, taps: TapTable) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in sorted({layer for layer, site in taps if site != "ffn.key"}):
                block = self.layers[layer]
                block.forward = self._composed(layer, taps)
                stack.callback(block.__dict__.pop, "forward", None)
            for layer in {layer for layer, site in taps if site == "ffn.key"}:
                down = getattr(self.layers[layer].mlp, self.family.down)
                handle = down.register_forward_pre_hook(_activation(layer, taps))
                stack.callback(handle.remove)
            if any(site == "att.weights" for _, site in taps):
                before = self.model.config._attn_implementation
                self.model.set_attn_implementation("eager")
                stack.callback(self.model.set_attn_implementation, before)
            yield

    @contextmanager
    def _passing_by(self, start: int) -> Iterator[None]:
        with ExitStack() as stack:
            for block in self.layers[:start]:
                block.forward = lambda h, *args, **kwargs: h
                stack.callback(block.__dict__.pop, "forward", None)
            yield

    def _composed(self, layer: int, tap: TapTable) -> Callable[..., Tensor]:
        """A block's forward out of its own parts, with a tap at every site."""
        block, f, names = self.layers[layer], self.family, self._block_arguments
        attention, norm = getattr(block, f.attention), getattr(block, f.attention_norm)
        mlp, mlp_norm = block.mlp, getattr(block, f.mlp_norm)
        parallel = getattr(block, "use_parallel_residual", False)

        def forward(h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            kwargs.update(zip(names, args, strict=False))
            h = tap(layer, "resid_in", h)
            out, weights, *_ = attention(norm(h), **kwargs)
            if tap.has(layer, "att.weights"):
                tap(layer, "att.weights", weights)
            out = tap(layer, "att.out", out)
            untouched = h + out
            mid = tap(layer, "resid_mid", untouched)
            ffn = tap(layer, "ffn.out", mlp(mlp_norm(h if parallel else mid)))
            # where nothing replaced the middle, add up in the block's own order: same bits
            after = ffn + out + h if parallel and mid is untouched else mid + ffn
            return tap(layer, "resid_out", after)

        return forward


def _activation(layer: int, tap: TapTable) -> Callable[..., tuple[Tensor]]:
    def pre_hook(module: Any, args: Sequence[Tensor]) -> tuple[Tensor]:
        return (tap(layer, "ffn.key", args[0]),)

    return pre_hook
