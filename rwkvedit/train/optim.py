"""Muon for the blocks' big matrices, AdamW for everything else, and the learning-rate schedule.

Knows parameter names and shapes, not what they compute. Muon: Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/ (Nesterov momentum, five quintic Newton-Schulz steps
with the coefficients given there, update scaled by sqrt(max(1, rows / cols))).
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor, nn

MUON_LR = 0.02
MUON_MOMENTUM = 0.95
MUON_DECAY = 0.01
ADAM_LR = 2e-3
ADAM_BETAS = (0.9, 0.99)
ADAM_EPS = 1e-10
ADAM_DECAY = 0.05
_NS = (3.4445, -4.7750, 2.0315)
_MUON_ENDINGS = (
    "att.receptance.weight",
    "att.key.weight",
    "att.value.weight",
    "att.output.weight",
    "ffn.key.weight",
    "ffn.value.weight",
)


def orthogonalise(g: Tensor, dtype: torch.dtype = torch.bfloat16, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly: g (M, rows, cols) -> same shape in ``dtype``."""
    x = g.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).to(x.dtype) + 1e-7)
    a, b, c = _NS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. Matrices of one shape go through Newton-Schulz together."""

    def __init__(
        self, params: list[Tensor], lr: float, momentum: float, weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:  # fmt: skip
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "scale": 1.0}
        )
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, beta = group["lr"], group["momentum"]
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, params in shapes.items():
                updates = []
                for p in params:
                    grad = cast(Tensor, p.grad)
                    state = self.state[p]
                    if not state:
                        state["momentum"] = torch.zeros_like(p)
                    m = state["momentum"]
                    m.lerp_(grad, 1 - beta)
                    updates.append(torch.lerp(grad, m, beta))
                directions = orthogonalise(torch.stack(updates), self.dtype)
                size = lr * math.sqrt(max(1.0, shape[0] / shape[1]))
                for p, d in zip(params, directions.unbind(), strict=True):
                    p.mul_(1 - lr * group["weight_decay"])
                    p.add_(d.to(p.dtype), alpha=-size)


class Optimizers:
    """The pair as one: ``step``, ``zero_grad``, ``set_multiplier``, ``state_dict``."""

    def __init__(
        self, network: nn.Module, lr_scale: float = 1.0, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        muon: list[Tensor] = []
        plain: list[Tensor] = []
        fast: list[Tensor] = []
        decayed: list[Tensor] = []
        for name, p in network.named_parameters():
            if name.endswith(_MUON_ENDINGS):
                muon.append(p)
            elif name.endswith("att.w0"):
                fast.append(p)
            elif p.squeeze().ndim >= 2 and name.endswith(".weight"):
                decayed.append(p)
            else:
                plain.append(p)
        groups = [
            {"params": plain, "weight_decay": 0.0, "scale": 1.0},
            {"params": fast, "weight_decay": 0.0, "scale": 2.0},
            {"params": decayed, "weight_decay": ADAM_DECAY, "scale": 1.0},
        ]
        self.params = muon + plain + fast + decayed
        self.muon = Muon(muon, MUON_LR, MUON_MOMENTUM, MUON_DECAY, dtype)
        self.adam = torch.optim.AdamW(
            groups, lr=ADAM_LR, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True
        )
        self.lr_scale = lr_scale

    def set_multiplier(self, m: float) -> None:
        """Scale every rate by m (the schedule) and by ``lr_scale``."""
        for group in self.muon.param_groups:
            group["lr"] = MUON_LR * m * self.lr_scale
        for group in self.adam.param_groups:
            group["lr"] = ADAM_LR * m * self.lr_scale * group["scale"]

    def step(self, clip: float = 1.0) -> float:
        """Clip the global gradient norm, step both, return the norm; skip when it is not finite."""
        norm = float(nn.utils.clip_grad_norm_(self.params, clip))
        if math.isfinite(norm):
            self.muon.step()
            self.adam.step()
        return norm

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def multiplier(progress: float, step: int, warmup: int = 100) -> float:
    """The schedule: linear warm-up over steps, flat to 40% of the budget, linear down to 3%."""
    hold, floor = 0.4, 0.03
    fall = 1.0 - (1.0 - floor) * max(0.0, min(1.0, (progress - hold) / (1.0 - hold)))
    return min(1.0, (step + 1) / warmup) * fall
