"""The baseline of write-vector edits: a rank-one LoRA on the same matrix.

W + B A, A (1, F) and B (D, 1) both trained (Hu et al. 2021: A random, B zero), on cross-entropy at
fire positions + lambda * KL(before || after) elsewhere, both of one forward pass; what was before
is worked out with the adapter off. Adapters that differ in lambda alone are trained beside each
other on the same positions, which shares the model's work between them.

Glossary: as in ``effects``; K adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.effects import Effects, Place
from rwkvedit.transformer.weights import RankOne
from rwkvedit.transformer.write_vectors import RankOneHook, attached, decayed, free, loss

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

COUNTS = (1, 8, 64, 256, None)
"""Examples; None is all there are."""
LAMBDAS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
STEPS, RATE = 60, 0.03
"""Adam's steps and rate; A starts at entries of 1 / sqrt(F) and x is scaled to rms 1 for it, B in
units of the layer's mean write."""


@dataclass(frozen=True, eq=False)
class Lora:
    """One trained adapter."""

    layer: int
    left: Tensor
    """B (D,)."""
    right: Tensor
    """A (F,)."""
    examples: int
    weight: float
    """lambda."""

    @property
    def delta(self) -> RankOne:
        """The adapter merged into the weights."""
        return RankOne(self.layer, self.left, self.right)


@contextmanager
def lora_on(session: ModelSession, adapter: Lora) -> Iterator[ModelSession]:
    """Every run inside the block passes through the adapter; UsageError over another edit."""
    hook = RankOneHook(adapter.layer, adapter.left, adapter.right, "a LoRA")
    with attached(session, hook):
        yield session


def train(
    world: Effects,
    target: int,
    fires: Sequence[Place],
    rests: Sequence[Place],
    examples: int,
    scale: tuple[float, float],
    lambdas: Sequence[float] = LAMBDAS,
    seed: int = 0,
    steps: int = STEPS,
    rate: float = RATE,
    progress: Callable[[int, int], None] | None = None,
) -> list[Lora]:
    """An adapter for each lambda. ``scale``: (rms of x, rms of what the layer's MLP writes).

    Parameters are kept in those units, so that one rate suits any layer. UsageError without a
    fire position.
    """
    if not fires:
        raise UsageError("no examples: the component fires nowhere in the texts given")
    free(world.session, world.layer)
    session, k = world.session, len(lambdas)
    generator = torch.Generator().manual_seed(seed)
    f, d = session.shape.d_ffn, session.d_model
    start = torch.randn(1, f, generator=generator) / f**0.5
    a = start.repeat(k, 1).requires_grad_()
    b = torch.zeros(k, d, requires_grad=True)
    weights = torch.tensor(lambdas)
    optimiser = torch.optim.Adam([a, b], lr=rate)
    for step in range(steps):
        decayed(optimiser, rate, step, steps)
        optimiser.zero_grad()
        left, right = b * scale[1], a / scale[0]
        loss(world, left, right, target, fires, rests, generator, weights).backward()
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
    return [
        Lora(world.layer, (b[i] * scale[1]).detach(), (a[i] / scale[0]).detach(), examples, w)
        for i, w in enumerate(lambdas)
    ]
