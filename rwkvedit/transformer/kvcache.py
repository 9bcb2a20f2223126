"""A transformer's key-value cache as a value, and surgery on it. Knows no model.

Glossary (B rows, G key-value heads, S cached tokens, N head width):
    keys, values   (B, G, S, N)   of one layer; keys as cached, that is after rotary embedding

Nobody writes into a cache's tensors: surgery gives a new cache that shares what did not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.state import State
from rwkvedit.transformer.hooks import as_numpy


@dataclass(frozen=True, eq=False)
class KVCache:
    """What a transformer remembers of the tokens before: one (keys, values) pair a layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Cached tokens."""
        return self.layers[0][0].shape[2]

    @property
    def batch(self) -> int:
        return self.layers[0][0].shape[0]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)

    def keys(self, layer: int) -> np.ndarray:
        """(B, G, S, N), read only."""
        return as_numpy(self.layers[self._layer(layer)][0])

    def values(self, layer: int) -> np.ndarray:
        """(B, G, S, N), read only."""
        return as_numpy(self.layers[self._layer(layer)][1])

    def expand(self, batch: int) -> KVCache:
        """A cache of one row as ``batch`` equal rows (views)."""
        if self.batch == batch:
            return self
        if self.batch != 1:
            raise UsageError(f"a cache of {self.batch} rows cannot serve {batch}")
        return KVCache(
            tuple((k.expand(batch, *k.shape[1:]), v.expand(batch, *v.shape[1:]))
                  for k, v in self.layers)
        )  # fmt: skip

    def repeat(self, times: int) -> KVCache:
        """All rows, then all rows again, ``times`` times (copied)."""
        return KVCache(
            tuple((k.repeat(times, 1, 1, 1), v.repeat(times, 1, 1, 1)) for k, v in self.layers)
        )

    def crop(self, length: int) -> KVCache:
        """Only the first ``length`` tokens (views)."""
        if not 0 < length <= self.length:
            raise UsageError(f"no {length} tokens to keep: the cache holds {self.length}")
        return KVCache(tuple((k[:, :, :length], v[:, :, :length]) for k, v in self.layers))

    def clone_layer_from(self, donor: KVCache, layer: int) -> KVCache:
        """This cache with one whole layer of ``donor``, which must hold as many tokens."""
        i = self._layer(layer)
        self._like(donor, i)
        if donor.length != self.length:
            raise UsageError(
                f"the donor holds {donor.length} tokens and this cache {self.length}: give the "
                "positions to clone (clone_layer_position_range)"
            )
        k, v = donor.layers[i]
        return self._with(i, k.clone(), v.clone())

    def clone_layer_position_range(
        self, donor: KVCache, layer: int, start: int, stop: int
    ) -> KVCache:
        """This cache with positions ``start`` to ``stop`` (excluded) of one layer of ``donor``."""
        i = self._layer(layer)
        self._like(donor, i)
        shortest = min(self.length, donor.length)
        for name, at in (("start", start), ("stop", stop)):
            if isinstance(at, bool) or not isinstance(at, int | np.integer):
                raise UsageError(f"{name} {at!r}: expected a whole number")
        if not 0 <= start < stop <= shortest:
            raise UsageError(
                f"no positions {start}:{stop}: the donor holds {donor.length} tokens and this "
                f"cache {self.length}, so ranges lie within 0:{shortest}"
            )
        k, v = (t.clone() for t in self.layers[i])
        k[:, :, start:stop] = donor.layers[i][0][:, :, start:stop]
        v[:, :, start:stop] = donor.layers[i][1][:, :, start:stop]
        return self._with(i, k, v)

    def _with(self, i: int, k: Tensor, v: Tensor) -> KVCache:
        return KVCache((*self.layers[:i], (k, v), *self.layers[i + 1 :]))

    def _layer(self, layer: int) -> int:
        n = len(self.layers)
        if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 0 <= layer < n:
            raise UsageError(f"no layer {layer!r}: the cache has layers 0 to {n - 1}")
        return int(layer)

    def _like(self, donor: object, i: int) -> None:
        if not isinstance(donor, KVCache):
            raise UsageError(f"expected a key-value cache as donor, found {type(donor).__name__}")
        if len(donor.layers) != len(self.layers):
            raise UsageError(
                f"the donor has {len(donor.layers)} layers and this cache {len(self.layers)}"
            )
        mine, theirs = self.layers[i][0], donor.layers[i][0]
        if (mine.shape[:2], mine.shape[3]) != (theirs.shape[:2], theirs.shape[3]):
            raise UsageError(
                f"the donor's layer {i} has shape {tuple(theirs.shape)} and this cache's "
                f"{tuple(mine.shape)} (rows, heads, tokens, head width)"
            )
        if mine.dtype != theirs.dtype:
            raise UsageError(f"the donor is {theirs.dtype} and this cache {mine.dtype}")

    def to_transformers(self) -> Any:
        """A ``DynamicCache`` that starts from these tensors; running it leaves them alone."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        cache = DynamicCache()
        for k, v in self.layers:
            layer = DynamicLayer()
            layer.lazy_initialization(k, v)
            layer.keys, layer.values = k, v
            cache.layers.append(layer)
        return cache

    @classmethod
    def from_transformers(cls, cache: Any) -> KVCache:
        return cls(tuple((layer.keys, layer.values) for layer in cache.layers))


@dataclass(frozen=True, eq=False)
class StateCache:
    """RWKV-7's counterpart: its whole memory is a State, the same size after any token."""

    state: State
    """A stack of B rows."""
    length: int

    @property
    def batch(self) -> int:
        return self.state.batch or 1

    def expand(self, batch: int) -> StateCache:
        if self.batch == batch:
            return self
        if self.batch != 1:
            raise UsageError(f"a state of {self.batch} rows cannot serve {batch}")
        return StateCache(self.state[0].expand(batch), self.length)

    def repeat(self, times: int) -> StateCache:
        """All rows, then all rows again, ``times`` times."""
        return StateCache(State.stack(self.state.unstack() * times), self.length)

    def clone_layer_from(self, donor: object, layer: int) -> StateCache:
        raise UsageError(NO_SURGERY)

    def clone_layer_position_range(
        self, donor: object, layer: int, start: int, stop: int
    ) -> StateCache:
        raise UsageError(NO_SURGERY)


Cache = KVCache | StateCache

NO_SURGERY = (
    "RWKV-7 has no key-value cache to operate on: its tokens are folded into one state without "
    "positions (edit that with the chat's /edit)"
)


def same_device(cache: Cache, device: torch.device) -> None:
    """UsageError when a cache of another device is handed in."""
    at = cache.layers[0][0].device if isinstance(cache, KVCache) else cache.state.device
    if at.type != device.type:
        raise UsageError(f"the cache lies on {at} and the model on {device}")
