"""``ModelSession``: one model, and everything that can be asked of it.

The same interface for transformers and for our own RWKV-7. Prompts are text or token ids; a BOS is
put in front only where it is asked for. Arrays go in and come out as numpy; ``run`` is the torch
level below (batches, caches, gradients) that the locating and editing methods stand on. Prints
nothing, loads nothing (``loading.open_session`` does).

Glossary: L layers, D residual width, F MLP width, V vocabulary, T tokens of a prompt, B prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkvedit.errors import UsageError
from rwkvedit.transformer import lens
from rwkvedit.transformer.answers import Expect
from rwkvedit.transformer.blocks import HFModel
from rwkvedit.transformer.builtin import Record, Steer, ZeroAblate
from rwkvedit.transformer.crown import CrownResult
from rwkvedit.transformer.crown import crown as find_crown
from rwkvedit.transformer.generate import generate_with_hooks
from rwkvedit.transformer.hooks import Fn, Hook, Layers, Positions, as_numpy, need_weights
from rwkvedit.transformer.kvcache import NO_SURGERY, KVCache
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
from rwkvedit.transformer.running import Prompt, RunningSession
from rwkvedit.transformer.rwkv import RwkvModel
from rwkvedit.transformer.trace import TraceResult
from rwkvedit.transformer.trace import trace as causal_trace
from rwkvedit.transformer.vocabulary import Vocabulary
from rwkvedit.transformer.weights import WeightEdits


class ModelSession(RunningSession):
    """A model that can be looked into. See the module's docstring and ``hooks`` for the words."""

    def __init__(
        self,
        model: HFModel | RwkvModel,
        vocabulary: Vocabulary,
        name: str,
        path: Path | None = None,
        bos: bool = False,
    ) -> None:
        super().__init__(model, vocabulary, name, path, bos)
        self.edits = WeightEdits(self)
        """Changes of weights: applied, live, and taken back bit for bit."""

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

    # -- where a fact lives -----------------------------------------------------------------

    def crown(
        self,
        prompt: Prompt,
        expect: Expect = None,
        layers: Layers = None,
        bos: bool | None = None,
    ) -> CrownResult:
        """Which layer's MLP, zeroed at the last position, most suppresses the answer."""
        return find_crown(self, prompt, expect, layers, bos)

    def trace(
        self, prompt: Prompt, subject: str, expect: Expect = None, **settings: Any
    ) -> TraceResult:
        """Causal trace of one fact; ``settings`` are those of ``trace.trace``."""
        return causal_trace(self, prompt, subject, expect, **settings)

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
