"""The built-in hooks: Noop, Record, ZeroAblate, Steer, Composite. They work on tensors, in place of
numpy, so that they cost next to nothing; they never write into what they are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.hooks import (
    CALLBACKS,
    SITES,
    Call,
    Fn,
    Hook,
    Layers,
    Positions,
    Shape,
    as_numpy,
    canonical,
    check_positions,
    finite,
    need_weights,
    site_name,
)

PARTS = {"residual": "resid_out", "attention": "att.out", "mlp": "ffn.out"}


class Noop(Hook):
    """Every callback is called and does nothing: what hooks themselves cost."""

    def __init__(self, layers: Layers = None, weights: bool = False) -> None:
        """``weights`` asks for attention weights too (and so for eager attention)."""
        self.layers = layers
        self.weights = weights

    def taps(self, shape: Shape) -> list[tuple[int, str, Fn]]:
        return [
            (layer, site, lambda x: None)
            for layer in shape.layers(self.layers)
            for site in CALLBACKS.values()
            if site != "att.weights" or self.weights
        ]


class Record(Hook):
    """Keeps what passes. ``record["blocks.3.resid_out"]`` is numpy, (B, T, D) for a residual.

    Names and aliases as in ``hooks``. Several calls (generation) are joined along T, but for
    attention weights, of which ``calls(name)`` gives one array a call. ``clear`` forgets.
    """

    def __init__(self, layers: Layers = None, sites: str | tuple[str, ...] = "resid_out") -> None:
        names = (sites,) if isinstance(sites, str) else tuple(sites)
        self.layers = layers
        self.sites = tuple(site_name(name) for name in names)
        self._shape: Shape | None = None
        self._kept: dict[tuple[int, str], list[Tensor]] = {}

    def check(self, shape: Shape) -> None:
        super().check(shape)
        for site in self.sites:
            need_weights(shape, site)
        self._shape = shape

    def taps(self, shape: Shape) -> list[tuple[int, str, Fn]]:
        return [
            (layer, site, self._kept.setdefault((layer, site), []).append)
            for layer in shape.layers(self.layers)
            for site in self.sites
        ]

    def clear(self) -> None:
        for kept in self._kept.values():
            kept.clear()

    def calls(self, name: str) -> list[np.ndarray]:
        """What passed at ``name``, one array a forward call."""
        return [as_numpy(x) for x in self.tensors_of(name)]

    def tensors_of(self, name: str) -> list[Tensor]:
        """The same as torch tensors, on the model's device."""
        if self._shape is None:
            raise UsageError("nothing was recorded: run a session with this hook first")
        key = canonical(name, self._shape)
        if not self._kept.get(key):
            raise UsageError(
                f"nothing was recorded at {name}: {', '.join(self) or 'nothing at all'}"
            )
        return self._kept[key]

    def __getitem__(self, name: str) -> np.ndarray:
        found = self.calls(name)
        return found[0] if len(found) == 1 else np.concatenate(found, 1)

    def __iter__(self) -> Iterator[str]:
        """The names that were recorded, in the order of the forward pass."""
        for layer, site in sorted(self._kept, key=lambda k: (k[0], SITES.index(k[1]))):
            if self._kept[layer, site]:
                yield f"blocks.{layer}.{site}"

    def __len__(self) -> int:
        return sum(1 for _ in self)


class ZeroAblate(Hook):
    """Zeroes the whole residual after a layer, or one sublayer's contribution to it.

    ``part`` is residual, attention or mlp; ``positions`` is ``all`` rows, None (the last row) or
    numbers.
    """

    def __init__(
        self, layers: Layers, part: str = "residual", positions: Positions = "all"
    ) -> None:
        if part not in PARTS:
            raise UsageError(f"no part {part!r}: choose {', '.join(PARTS)}")
        self.layers, self.part, self.positions = layers, part, positions
        self._masks: dict[tuple[int, torch.device], Tensor] = {}

    def check(self, shape: Shape) -> None:
        super().check(shape)
        self.positions = check_positions(self.positions, shape)

    def check_call(self, call: Call) -> None:
        call.check(self.positions, "zero-ablate")

    def begin(self, call: Call) -> None:
        self.call, self._masks = call, {}

    def taps(self, shape: Shape) -> list[tuple[int, str, Fn]]:
        return [(i, PARTS[self.part], self._zero) for i in shape.layers(self.layers)]

    def _zero(self, x: Tensor) -> Tensor | None:
        key = (x.shape[1], x.device)
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = self.call.mask(self.positions, x.shape[1], x.device)
        return x.masked_fill(mask, 0.0)


@dataclass(frozen=True)
class _Push:
    layer: int
    vector: Any
    alpha: float
    positions: Positions


class Steer(Hook):
    """Adds ``alpha * vector`` to the residual after a layer: ``Steer().add(layer, vector, alpha)``.

    ``positions`` None is the last row (while generating, every newest row), ``all``, or numbers.
    """

    def __init__(
        self,
        layer: int | None = None,
        vector: Any = None,
        alpha: float = 1.0,
        positions: Positions = None,
    ) -> None:
        self._asked: list[_Push] = []
        self._pushes: list[_Push] = []
        if layer is not None:
            self.add(layer, vector, alpha, positions)

    def add(
        self, layer: int, vector: Any, alpha: float = 1.0, positions: Positions = None
    ) -> Steer:
        """One more push; returns self. Layer, width and type are checked at registration."""
        self._asked.append(_Push(layer, vector, finite(alpha, "alpha"), positions))
        return self

    def check(self, shape: Shape) -> None:
        if not self._asked:
            raise UsageError("nothing to steer: Steer().add(layer, vector, alpha)")
        self._pushes = [
            _Push(
                shape.layer(p.layer),
                shape.vector(p.vector, "steering vector"),
                p.alpha,
                check_positions(p.positions, shape),
            )
            for p in self._asked
        ]

    def check_call(self, call: Call) -> None:
        for push in self._pushes:
            call.check(push.positions, "steer")

    def taps(self, shape: Shape) -> list[tuple[int, str, Fn]]:
        return [(p.layer, "resid_out", self._adder(p)) for p in self._pushes]

    def _adder(self, push: _Push) -> Fn:
        def add(x: Tensor) -> Tensor:
            mask = self.call.mask(push.positions, x.shape[1], x.device)
            vector = (push.alpha * push.vector).to(dtype=x.dtype, device=x.device)
            return torch.where(mask, x + vector, x)

        return add


class Composite(Hook):
    """Several hooks as one; at each site they run in order."""

    def __init__(self, *hooks: Hook) -> None:
        for hook in hooks:
            if not isinstance(hook, Hook):
                raise UsageError(
                    f"{hook!r:.60} is not a hook: derive from rwkvedit.transformer.Hook"
                )
        self.hooks = hooks

    def check(self, shape: Shape) -> None:
        for hook in self.hooks:
            hook.check(shape)

    def check_call(self, call: Call) -> None:
        for hook in self.hooks:
            hook.check_call(call)

    def begin(self, call: Call) -> None:
        self.call = call
        for hook in self.hooks:
            hook.begin(call)

    def taps(self, shape: Shape) -> list[tuple[int, str, Fn]]:
        return [tap for hook in self.hooks for tap in hook.taps(shape)]
