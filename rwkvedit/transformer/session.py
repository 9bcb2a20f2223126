"""``ModelSession``: one model, what is hooked into it, and everything that can be asked of it.

The same interface for transformers and for our own RWKV-7. Prompts are text or token ids; a BOS is
put in front only where it is asked for. Arrays go in and come out as numpy; ``run`` is the torch
level below (batches, caches, gradients) that the locating and editing methods stand on. Prints
nothing, loads nothing (``loading.open_session`` does).

Glossary: L layers, D residual width, F MLP width, V vocabulary, T tokens of a prompt, B prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.transformer import lens
from rwkvedit.transformer.blocks import HFModel
from rwkvedit.transformer.builtin import Record, Steer, ZeroAblate
from rwkvedit.transformer.generate import generate_with_hooks
from rwkvedit.transformer.hooks import (
    Call,
    Fn,
    Hook,
    Layers,
    Positions,
    Window,
    as_numpy,
    check_hook,
    need_weights,
    table_of,
)
from rwkvedit.transformer.kvcache import NO_SURGERY, KVCache, same_device
from rwkvedit.transformer.patching import patch_activations
from rwkvedit.transformer.results import (
    Attribution,
    ForwardResult,
    Generation,
    LensResult,
    Neighbor,
    PatchResult,
    Projection,
    Race,
    Track,
)
from rwkvedit.transformer.rwkv import RwkvModel
from rwkvedit.transformer.vocabulary import Vocabulary

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Run:
    """One ``run``: tensors on the model's device."""

    tokens: list[list[int]]
    logits: Any
    """fp32: (B, V) for ``last``, a list of (T_b, V) for ``all``, None for ``none``."""
    cache: Any = None
    """A KVCache (StateCache for RWKV-7) after the run, when it was asked to be kept."""


class ModelSession:
    """A model that can be looked into. See the module's docstring and ``hooks`` for the words."""

    def __init__(
        self,
        model: HFModel | RwkvModel,
        vocabulary: Vocabulary,
        name: str,
        path: Path | None = None,
        bos: bool = False,
    ) -> None:
        self.model = model
        """Weights and forward pass: ``embedding``, ``unembedding``, ``down_proj(layer)``, ..."""
        self.vocabulary = vocabulary
        self.name = name
        self.path = path
        self.shape = model.shape
        """Sizes: n_layer, d_model, n_head, d_ffn, vocab_size, context; and checks against them."""
        self.kind: str = model.kind
        """``transformer`` or ``rwkv7``."""
        self.architecture: str = model.architecture
        self.bos = bos
        """Does text get a BOS in front when a call does not say? (False unless opened so.)"""
        if bos:
            vocabulary.bos_id()
        self._hooks: list[Hook] = []

    # -- sizes and words --------------------------------------------------------------------

    @property
    def n_layer(self) -> int:
        return self.shape.n_layer

    @property
    def d_model(self) -> int:
        return self.shape.d_model

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def parameters(self) -> int:
        return sum(t.numel() for t in self.model.named_weights().values())

    @property
    def end_ids(self) -> set[int]:
        """The tokens that end a text."""
        return self.vocabulary.end_ids

    @property
    def digest(self) -> str:
        """sha256 (hex) over the weights as they are in memory; ``weights_changed`` renews it."""
        return self.model.digest

    def weights_changed(self) -> None:
        """Say so after writing into a weight: digests and packed copies are made anew."""
        self.model.weights_changed()

    def tokens(self, prompt: Prompt, bos: bool | None = None) -> list[int]:
        """Ids of a prompt; UsageError when there are none.

        Text gets a BOS in front when ``bos`` (None: the session's own setting) says so; ids are
        taken as they are, and ``bos=True`` puts one in front of them too.
        """
        if isinstance(prompt, str):
            ids = self.vocabulary.encode(prompt)
            bos = self.bos if bos is None else bos
        else:
            ids = [self.shape.token(t) for t in prompt]
        if not ids:
            raise UsageError(f"the prompt {prompt!r} has no tokens: give at least one word")
        return [self.vocabulary.bos_id(), *ids] if bos else ids

    def token_id(self, token: int | str) -> int:
        """One token's id; UsageError shows how a text of several tokens is split."""
        if not isinstance(token, str):
            return self.shape.token(token)
        return self.vocabulary.single(token)

    def piece(self, token: int) -> str:
        """One token's text."""
        return self.vocabulary.piece(token)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        return [self.piece(t) for t in tokens]

    def text(self, tokens: Sequence[int]) -> str:
        return self.vocabulary.decode(tokens)

    def check_length(self, tokens: int) -> None:
        """UsageError when the model cannot read that many tokens."""
        if self.shape.context is not None and tokens > self.shape.context:
            raise UsageError(
                f"{tokens} tokens do not fit: {self.name} reads {self.shape.context} at most"
            )

    # -- hooks and the torch level ----------------------------------------------------------

    @contextmanager
    def hooked(self, *hooks: Hook) -> Iterator[ModelSession]:
        """Every run inside the block passes through ``hooks``; they always come off.

        Raises UsageError at once on a wrong layer, width or type; a position that a run does not
        have is refused when that run starts, before anything is computed.
        """
        for hook in hooks:
            check_hook(hook, self.shape)
        before = list(self._hooks)
        self._hooks.extend(hooks)
        try:
            yield self
        finally:
            self._hooks[:] = before

    def run(
        self,
        tokens: Prompt | Sequence[Prompt],
        hooks: Sequence[Hook] = (),
        *,
        taps: Mapping[str, Fn] | None = None,
        cache: Any = None,
        logits: str = "last",
        keep_cache: bool = False,
        grad: bool = False,
        window: Window | None = None,
    ) -> Run:
        """Run one prompt or B of them (lengths may differ) through the model, in torch.

        ``taps`` maps site names (``blocks.3.ffn.out``, or a TransformerLens name) to functions of
        the (B, T, ...) tensor there, which return a replacement or None; every site but
        ``att.weights`` can be replaced, for each row of the batch by itself.
        ``cache`` is what came before (of one row, or of B), ``keep_cache`` returns what comes
        after (rows must then be equally long). ``logits`` is last, all or none. ``grad`` lets
        gradients flow from taps to logits. ``window``: see ``hooks.Window``.
        Raises UsageError before anything is computed.
        """
        rows = self._rows(tokens)
        offset = 0 if cache is None else cache.length
        if cache is not None:
            same_device(cache, self.device)
        lengths = tuple(map(len, rows))
        if keep_cache and len(set(lengths)) > 1:
            raise UsageError("a cache can be kept only of prompts that are equally long")
        self.check_length(offset + max(lengths))
        if logits not in ("last", "all", "none"):
            raise UsageError(f"no logits {logits!r}: choose last, all or none")
        active = [*self._hooks, *hooks]
        table = table_of(self.shape, active, taps)
        if active:
            call = Call.of(offset, lengths, window)
            for hook in active:
                hook.check_call(call)
            for hook in active:
                hook.begin(call)
        with torch.set_grad_enabled(grad), _one_line_when_out_of_memory():
            out, after = self.model.run(rows, table, cache, logits, keep_cache)
        return Run(rows, out, after)

    def _rows(self, tokens: Any) -> list[list[int]]:
        many = not isinstance(tokens, str) and len(tokens) > 0 and not isinstance(
            tokens[0], int | np.integer
        )  # fmt: skip
        return [self.tokens(p) for p in tokens] if many else [self.tokens(tokens)]

    def unembed(self, h: Tensor) -> Tensor:
        """(..., D) residual to (..., V) fp32 logits: the final norm of ``h`` itself, then W_U."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and h.requires_grad):
            return self.model.project(self.model.norm(h.to(self.device)))

    def prefill(self, prompt: Prompt, hooks: Sequence[Hook] = (), bos: bool | None = None) -> Any:
        """What the model remembers after a prompt: a KVCache, or a StateCache for RWKV-7."""
        ids = self.tokens(prompt, bos)
        return self.run(ids, hooks, logits="none", keep_cache=True).cache

    # -- forward passes ---------------------------------------------------------------------

    def forward(
        self,
        prompt: Prompt,
        hooks: Sequence[Hook] = (),
        *,
        taps: Mapping[str, Fn] | None = None,
        cache: Any = None,
        bos: bool | None = None,
    ) -> ForwardResult:
        """One prompt to the logits of its last position."""
        ids = self.tokens(prompt, bos)
        run = self.run(ids, hooks, taps=taps, cache=cache)
        return ForwardResult(ids, run.logits[0].cpu().numpy(), self.piece)

    def capture_residuals(
        self, prompt: Prompt, layers: Layers = None, bos: bool | None = None
    ) -> dict[int, np.ndarray]:
        """The residual after each layer: {layer: (T, D)}. No logits are computed."""
        record = Record(layers)
        self.run(self.tokens(prompt, bos), [record], logits="none")
        return {i: record[f"blocks.{i}.resid_out"][0] for i in self.shape.layers(layers)}

    def forward_with_capture(
        self,
        prompt: Prompt,
        layers: Layers = None,
        sites: str | tuple[str, ...] = "resid_out",
        hooks: Sequence[Hook] = (),
        bos: bool | None = None,
    ) -> tuple[ForwardResult, dict[str, np.ndarray]]:
        """The forward pass and what passed: {``blocks.{i}.{site}``: (T, D), or (H, T, T)}.

        Names are the official ones (see ``hooks``); ``sites`` may be TransformerLens's.
        """
        record = Record(layers, sites)
        result = self.forward(prompt, [*hooks, record], bos=bos)
        return result, {name: record[name][0] for name in record}

    def attention_pattern(
        self, prompt: Prompt, layer: int, head: int | None = None, bos: bool | None = None
    ) -> np.ndarray:
        """(T, T) attention weights of one head, or (H, T, T) of all; rows are queries."""
        need_weights(self.shape, "att.weights")
        layer = self.shape.layer(layer)
        chosen = None if head is None else self.shape.head(head)
        _, got = self.forward_with_capture(prompt, layer, "att.weights", bos=bos)
        weights = got[f"blocks.{layer}.att.weights"]
        return weights if chosen is None else weights[chosen]

    def forward_ablate(
        self,
        prompt: Prompt,
        layers: Layers,
        part: str = "residual",
        positions: Positions = "all",
        bos: bool | None = None,
    ) -> ForwardResult:
        """A forward pass with the residual, or one sublayer's contribution to it, zeroed."""
        return self.forward(prompt, [ZeroAblate(layers, part, positions)], bos=bos)

    def forward_steer(
        self,
        prompt: Prompt,
        layer: int,
        vector: Any,
        alpha: float = 1.0,
        positions: Positions = None,
        bos: bool | None = None,
    ) -> ForwardResult:
        """A forward pass with ``alpha * vector`` added after ``layer`` (None: at the last row)."""
        return self.forward(prompt, [Steer(layer, vector, alpha, positions)], bos=bos)

    def patch_activations(
        self,
        donor: Prompt,
        recipient: Prompt,
        layer: int,
        position: int = -1,
        donor_position: int | None = None,
        site: str = "resid_out",
        bos: bool | None = None,
    ) -> PatchResult:
        """``recipient`` with the donor's activation at (layer, position); see ``patching``."""
        return patch_activations(self, donor, recipient, layer, position, donor_position, site, bos)

    def generate_with_hooks(
        self,
        prompt: Prompt,
        hooks: Sequence[Hook] = (),
        max_new_tokens: int = 20,
        *,
        sampler: Any = None,
        stop_ids: Collection[int] | None = None,
        kv_cache: bool = True,
        cache: Any = None,
        bos: bool | None = None,
        on_text: Callable[[str], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Generation:
        """Write text with hooks active on every step; see ``generate``."""
        return generate_with_hooks(
            self, prompt, hooks, max_new_tokens, sampler=sampler, stop_ids=stop_ids,
            kv_cache=kv_cache, cache=cache, bos=bos, on_text=on_text, cancel=cancel,
        )  # fmt: skip

    # -- cache surgery ----------------------------------------------------------------------

    def clone_layer_from(self, recipient: Any, donor: Any, layer: int) -> KVCache:
        """``recipient`` with one layer's keys and values of ``donor``: a new cache."""
        return self._operable(recipient).clone_layer_from(donor, layer)

    def clone_layer_position_range(
        self, recipient: Any, donor: Any, layer: int, start: int, stop: int
    ) -> KVCache:
        """``recipient`` with positions start:stop of one layer of ``donor``: a new cache."""
        return self._operable(recipient).clone_layer_position_range(donor, layer, start, stop)

    def _operable(self, cache: Any) -> KVCache:
        if self.kind == "rwkv7":
            raise UsageError(NO_SURGERY)
        if not isinstance(cache, KVCache):
            raise UsageError(
                f"expected a key-value cache (see session.prefill), found {type(cache).__name__}"
            )
        return cache

    # -- the vocabulary's view --------------------------------------------------------------

    def logit_lens(
        self,
        prompt: Prompt,
        layers: Layers = None,
        positions: Positions = None,
        top: int = 5,
        hooks: Sequence[Hook] = (),
        bos: bool | None = None,
    ) -> LensResult:
        """The likeliest tokens after every layer, the final norm recomputed for each."""
        return lens.logit_lens(self, prompt, layers, positions, top, hooks, bos)

    def track_token(
        self,
        prompt: Prompt,
        token: int | str,
        layers: Layers = None,
        position: int = -1,
        hooks: Sequence[Hook] = (),
        bos: bool | None = None,
    ) -> Track:
        """One token's probability, logit and rank after every layer."""
        return self.track_race(prompt, [token], layers, position, hooks, bos).tracks[0]

    def track_race(
        self,
        prompt: Prompt,
        tokens: Sequence[int | str],
        layers: Layers = None,
        position: int = -1,
        hooks: Sequence[Hook] = (),
        bos: bool | None = None,
    ) -> Race:
        """The same for several tokens, and which of them leads after every layer."""
        return lens.track_race(self, prompt, tokens, layers, position, hooks, bos)

    def embedding_neighbors(self, what: Any, k: int = 10) -> list[Neighbor]:
        """The tokens closest by cosine in W_E to a token (its id or text) or a (D,) vector."""
        return lens.embedding_neighbors(self, what, k)

    def project_through_unembed(self, vector: Any, k: int = 10) -> Projection:
        """W_U @ vector with no norm: what a residual vector does to the logits directly."""
        return lens.project_through_unembed(self, vector, k)

    def direct_logits(
        self,
        prompt: Prompt,
        token: int | str | None = None,
        position: int = -1,
        bos: bool | None = None,
    ) -> Attribution:
        """What each attention and MLP adds to a token's raw logit (None: the model's answer)."""
        return lens.direct_logits(self, prompt, token, position, bos)

    def embedding_for(self, token: int | str) -> np.ndarray:
        """(D,): the token's row of W_E (RWKV-7: with ln0 applied, as it enters layer 0)."""
        return as_numpy(self.model.embedding[self.token_id(token)]).copy()

    def unembedding_for(self, token: int | str) -> np.ndarray:
        """(D,): the token's row of W_U."""
        return as_numpy(self.model.unembedding[self.token_id(token)]).copy()


@contextmanager
def _one_line_when_out_of_memory() -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RwkvEditError(OUT_OF_MEMORY) from error
    except RuntimeError as error:
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise RwkvEditError(OUT_OF_MEMORY) from error
        raise


OUT_OF_MEMORY = (
    "out of memory: use a shorter prompt or fewer prompts at once; the session is as it was"
)
