"""``decomposition`` of one layer's ``down_proj`` of a model that is open. Changes no weights.

The inputs are positions of some rows of text. For the last layer what follows the matrix is the
final norm and W_U alone, so that is all that is run; for the others the whole model, with what the
layer's MLP writes exchanged.

Glossary: as in ``decomposition``; h (P, D) the residual that leaves the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.components import Cancel, Progress
from rwkvedit.transformer.decomposition import STEPS, Decomposition, Linear, Runner, decompose

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

POSITIONS, ROWS = 64, 4
"""Of one step: positions of the last layer's, whole rows of another's."""


def decompose_layer(
    session: ModelSession,
    layer: int,
    rows: Sequence[Sequence[int]],
    count: int,
    seed: int = 0,
    steps: int = STEPS,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Decomposition:
    """``count`` components of a layer's ``down_proj``, important or not by what ``rows`` say.

    UsageError on no rows, fewer than one component, or too few steps.
    """
    layer = session.shape.layer(layer)
    rows = [list(row) for row in rows if len(row) > 1]
    if not rows:
        raise UsageError("no examples: give at least one text of two tokens or more")
    weight = session.model.down_proj(layer).detach().float()
    run = (_last if layer == session.n_layer - 1 else _through)(session, layer, rows, weight)
    return decompose(
        weight.cpu(), run, count, seed, steps, progress=progress, cancel=cancel
    )  # fmt: skip


def _last(
    session: ModelSession, layer: int, rows: Sequence[list[int]], weight: Tensor
) -> Runner:
    """Positions of all rows: logits of h + linear(x) - W x."""
    kept: dict[str, list[Tensor]] = {"ffn.key": [], "resid_out": []}
    for row in rows:
        taps = {
            f"blocks.{layer}.{site}": lambda x, some=some: some.append(x[0, 1:].detach().float())
            for site, some in kept.items()
        }
        session.run([row], taps=taps, logits="none")
    x, h = torch.cat(kept["ffn.key"]).cpu(), torch.cat(kept["resid_out"]).cpu()
    without = h - x @ weight.T.cpu()

    def run(linear: Linear, drawn: torch.Generator) -> Tensor:
        some = torch.randperm(len(x), generator=drawn)[:POSITIONS]
        return session.unembed((without[some] + linear(x[some])).to(session.device)).cpu()

    return run


def _through(
    session: ModelSession, layer: int, rows: Sequence[list[int]], weight: Tensor
) -> Runner:
    """Whole rows through the model."""

    def run(linear: Linear, drawn: torch.Generator) -> Tensor:
        chosen = torch.randperm(len(rows), generator=drawn)[:ROWS].tolist()
        seen: list[Tensor] = []

        def write(x: Tensor) -> Tensor:
            key = seen[0].float()
            other = linear(key.cpu()).to(key.device) - key @ weight.T
            return (x.float() + other).to(x.dtype)

        taps = {f"blocks.{layer}.ffn.key": seen.append, f"blocks.{layer}.ffn.out": write}
        batch = [rows[i] for i in chosen]
        found = session.run(batch, taps=taps, logits="all", grad=torch.is_grad_enabled())
        return torch.cat([logits[1:] for logits in found.logits]).cpu()

    return run
