"""``RunningSession``: one model, its words, what is hooked into it, and its forward pass in torch.

The level that the locating and editing methods stand on; ``session.ModelSession`` asks everything
else of it. Prompts are text or token ids; a BOS is put in front only where it is asked for.

Glossary: L layers, D residual width, V vocabulary, T tokens of a prompt, B prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.transformer.blocks import HFModel
from rwkvedit.transformer.hooks import Call, Fn, Hook, TapTable, Window, check_hook, table_of
from rwkvedit.transformer.kvcache import same_device
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


class RunningSession:
    """A model with hooks, run in torch. See ``hooks`` for the words."""

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

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The hooks of the blocks that are open now."""
        return tuple(self._hooks)

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
            ids = self.shape.tokens(prompt)
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
    def hooked(self, *hooks: Hook) -> Iterator[Self]:
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
        enter: tuple[int, Tensor] | None = None,
    ) -> Run:
        """Run one prompt or B of them (lengths may differ) through the model, in torch.

        ``taps`` maps site names (``blocks.3.ffn.out``, or a TransformerLens name) to functions of
        the (B, T, ...) tensor there, which return a replacement or None; every site but
        ``att.weights`` can be replaced, for each row of the batch by itself.
        ``cache`` is what came before (of one row, or of B), ``keep_cache`` returns what comes
        after (rows must then be equally long). ``logits`` is last, all or none. ``grad`` lets
        gradients flow from taps to logits. ``window``: see ``hooks.Window``.
        ``enter`` (layer, (B, T, D)) starts at that layer with that residual entering it: the layers
        below are not run (RWKV-7: layer 0 only), and no cache can be kept unless it is layer 0.
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
        start = 0 if enter is None else self._enter(enter, table, rows, keep_cache)
        if active:
            call = Call.of(offset, lengths, window)
            for hook in active:
                hook.check_call(call)
            for hook in active:
                hook.begin(call)
        with torch.set_grad_enabled(grad), one_line_when_out_of_memory():
            out, after = self.model.run(rows, table, cache, logits, keep_cache, start)
        return Run(rows, out, after)

    def _enter(
        self, enter: tuple[int, Tensor], table: TapTable, rows: list[list[int]], keep: bool
    ) -> int:
        """The layer to start at, with its residual in the table."""
        start, h = self.shape.layer(enter[0]), enter[1]
        want = (len(rows), max(map(len, rows)), self.d_model)
        if tuple(h.shape) != want:
            raise UsageError(f"the residual to enter has shape {tuple(h.shape)}, expected {want}")
        if start and keep:
            raise UsageError("a cache can be kept only of a run through every layer")
        table.first(start, "resid_in", lambda x: h)
        return start

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


@contextmanager
def one_line_when_out_of_memory() -> Iterator[None]:
    """RwkvEditError in place of whatever torch raises when memory runs out."""
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
