"""A small stochastic decomposition of one matrix into rank-one components, trained here.

After "Stochastic Parameter Decomposition" (Bushnaq, Braun, Sharkey 2025), written anew: W is
approximated by sum_c U_c V_c^T, and a small gate for each component says from V_c.x how causally
important it is for this input, CI in [0, 1]. Three losses:

    faithfulness   ||W - sum_c U_c V_c^T||^2 / ||W||^2, alone for the first WARM steps
    minimality     mean over inputs of sum_c (CI + eps)^p, p annealed from 2 to 0.3
    stochastic     KL(model || model with component c scaled by CI + (1 - CI) r), r uniform in
                   [0, 1] anew for each input and component: what is unimportant may be removed by
                   any amount without changing the prediction

Knows no model: ``run`` gives logits as a function of what stands in the matrix's place.

Glossary: D_out x F the matrix W, C components, P inputs, x (P, F), V (F, C), U (C, D_out).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rwkvedit.errors import UsageError

Linear = Callable[[Tensor], Tensor]
"""(..., F) to (..., D_out)."""
Runner = Callable[[Linear, torch.Generator], Tensor]
"""Logits (P, classes) of one batch, the same batch for generators in the same state."""

STEPS, WARM, RATE = 3000, 200, 0.2
"""RATE: Adam's, times the rms of what V and U begin as. A small one leaves the components where
the warm-up happened to put them, which any invertible mixture of the true ones satisfies."""
MINIMALITY, STOCHASTIC, FAITHFUL = 3e-2, 1.0, 1.0
EPS, P_FIRST, P_LAST = 1e-6, 2.0, 0.3
HIDDEN = 8
LEAK = 0.01
"""The slope of the gates outside [0, 1], so that they can come back."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """V and U of one matrix, and how well they add up to it."""

    v: Tensor
    """(F, C) fp32."""
    u: Tensor
    """(C, D_out) fp32."""
    faithfulness: float
    """||W - (V U)^T||^2 / ||W||^2."""
    reconstruction: float
    """The last step's stochastic KL, nats."""
    active: Tensor
    """(C,): mean importance over the last batch."""

    @property
    def remainder(self) -> float:
        return self.faithfulness**0.5


class Gates(torch.nn.Module):
    """A tiny MLP for each component, from its inner activation V_c.x (P, C) to CI before its
    clipping (P, C)."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        super().__init__()
        self.w1 = torch.nn.Parameter(torch.randn(count, HIDDEN, generator=generator))
        self.b1 = torch.nn.Parameter(torch.zeros(count, HIDDEN))
        self.w2 = torch.nn.Parameter(torch.randn(count, HIDDEN, generator=generator) / HIDDEN**0.5)
        self.b2 = torch.nn.Parameter(torch.full((count,), 0.5))

    def forward(self, inner: Tensor) -> Tensor:
        hidden = torch.nn.functional.gelu(inner[..., None] * self.w1 + self.b1)
        return (hidden * self.w2).sum(-1) + self.b2


def lower(x: Tensor) -> Tensor:
    """Clip to [0, 1], leaking a gradient below 0: what masks are made of."""
    return torch.where(x < 0, LEAK * (x - x.detach()), x.clamp(max=1.0))


def upper(x: Tensor) -> Tensor:
    """Clip to [0, 1], growing slowly above 1: what minimality pulls down."""
    return torch.where(x > 1, 1 + LEAK * (x - 1), x.clamp(min=0.0))


def decompose(
    weight: Tensor,
    run: Runner,
    count: int,
    seed: int = 0,
    steps: int = STEPS,
    minimality: float = MINIMALITY,
    rate: float = RATE,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Decomposition:
    """``count`` components of ``weight`` (D_out, F): twice what is expected, or more, since what
    is not needed falls silent (``active`` near 0) and a crowded start leaves some mixed.

    UsageError on fewer than one component, or no step after the warm-up.
    """
    if count < 1 or steps <= WARM:
        raise UsageError(f"a decomposition takes a component or more and over {WARM} steps")
    weight = weight.detach().float()
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(weight.shape[1], count, generator=generator)
    v = (v / v.norm(dim=0)).requires_grad_()
    u = torch.randn(count, weight.shape[0], generator=generator) * (
        weight.norm() / (count * weight.shape[0]) ** 0.5)  # fmt: skip
    u.requires_grad_()
    gates = Gates(count, generator)
    first = [rate * _rms(v), rate * _rms(u), rate]
    optimiser = torch.optim.Adam(
        [{"params": p, "lr": r} for p, r in zip(([v], [u], gates.parameters()), first, strict=True)]
    )
    size = weight.pow(2).sum()
    importance, kl = torch.zeros(1, count), torch.zeros(())
    for step in range(steps):
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        faithful = (weight - (v @ u).T).pow(2).sum() / size
        loss = FAITHFUL * faithful
        if step >= WARM:
            share = (step - WARM) / max(1, steps - 1 - WARM)
            for group, begun in zip(optimiser.param_groups, first, strict=True):
                group["lr"] = begun * (1 - share) ** 0.5
            p = P_FIRST + (P_LAST - P_FIRST) * share
            batch = generator.get_state()
            with torch.no_grad():
                target = run(lambda x: x @ weight.T, generator).log_softmax(-1)
            seen: list[Tensor] = []

            noises = torch.Generator().manual_seed(seed * 1_000_003 + step)

            def masked(
                x: Tensor, seen: list[Tensor] = seen, noises: torch.Generator = noises
            ) -> Tensor:
                inner = x @ v  # (..., C)
                gate = gates(inner)
                seen.append(upper(gate).reshape(-1, count))
                ci = lower(gate)
                noise = torch.rand(ci.shape, generator=noises)
                return (inner * (ci + (1 - ci) * noise)) @ u

            generator.set_state(batch)
            now = run(masked, generator).log_softmax(-1)
            kl = (target.exp() * (target - now)).sum(-1).mean()
            importance = torch.cat(seen)
            minimal = (importance + EPS).pow(p).sum(-1).mean()
            loss = loss + STOCHASTIC * kl + minimality * minimal
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
    with torch.no_grad():
        error = float((weight - (v @ u).T).pow(2).sum() / size)
    return Decomposition(
        v.detach(), u.detach(), error, float(kl.detach()), importance.detach().mean(0)
    )  # fmt: skip


def _rms(x: Tensor) -> float:
    return float(x.detach().pow(2).mean().sqrt())
