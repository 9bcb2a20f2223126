"""Edits that replace one component's write vector: what it reads stays, what it writes is new.

    delta W = (new U - old U) V^T

Analytic, from no examples: new U = alpha * unit * e / ||e||, e the target's row of W_U. The scale
of V (so of U) is arbitrary, and so is that of W_U; ``unit`` therefore is the mean length of the
residual stream at fire positions over the mean V.x there, both known with the component: at
alpha = 1 an average fire writes a vector as long as the residual it is added to. (In terms of
|emb|, the mean length of W_U's rows, it is a / |emb| * e with a = alpha * unit * |emb| / ||e||.) A
negative alpha pushes the target away.

Trained, from a few examples: U alone by Adam, cross-entropy at fire positions + KEEP * KL(before ||
after) at the other positions of the same sequences.

``u_replaced`` is the edit as a hook that always comes off; ``delta_of`` is the same as a change of
weights, for ``session.edits`` and ``.lqpatch`` files. Glossary: as in ``components``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.components import Component, Firing
from rwkvedit.transformer.effects import Effects, Place
from rwkvedit.transformer.hooks import Fn, Hook, Shape, finite
from rwkvedit.transformer.weights import RankOne

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

ALPHAS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)
STEPS, RATE, KEEP = 60, 0.025, 1.0
"""Of training: Adam's steps, how far one of them goes in units of ``unit_of``, and the weight of
the KL term."""
FIRES, RESTS = 16, 24
"""Positions of one step: so many fire positions and so many others, drawn anew at each."""

Cancel = Callable[[], bool]


class RankOneHook(Hook):
    """Adds (right . x) left to what a layer's MLP writes, x what enters its down_proj."""

    def __init__(self, layer: int, left: Tensor, right: Tensor, what: str) -> None:
        self.layers, self.what = layer, what
        self.layer, self.left, self.right = layer, left, right

    def check(self, shape: Shape) -> None:
        super().check(shape)
        if (self.left.numel(), self.right.numel()) != (shape.d_model, shape.d_ffn):
            raise UsageError(
                f"{self.what}: made for another model: it writes {self.left.numel()} numbers and "
                f"reads {self.right.numel()}, expected {shape.d_model} and {shape.d_ffn}"
            )

    def taps(self, shape: Shape) -> list[tuple[int, str, Fn]]:
        seen: list[Tensor] = []

        def read(x: Tensor) -> None:
            seen[:] = [x.float() @ self.right.to(x.device)]

        def write(x: Tensor) -> Tensor:
            return (x.float() + seen[0][..., None] * self.left.to(x.device)).to(x.dtype)

        return [(self.layer, "ffn.key", read), (self.layer, "ffn.out", write)]


@contextmanager
def u_replaced(
    session: ModelSession, part: Component, new_u: Tensor
) -> Iterator[ModelSession]:
    """Every run inside the block writes ``new_u`` (D,) where the component wrote its U.

    Replaces: V.x is read as it is, old U is taken out, new U put in. The weights are never
    written. UsageError where another edit, adapter or change of weights sits on the layer.
    """
    with attached(session, RankOneHook(
        part.layer, checked(session, new_u) - part.write.to(session.device), part.read,
        f"the write vector of {part.name}",
    )):  # fmt: skip
        yield session


@contextmanager
def attached(session: ModelSession, hook: RankOneHook) -> Iterator[ModelSession]:
    """``hook`` on every run inside the block, alone on its layer."""
    free(session, hook.layer)
    with session.hooked(hook):
        yield session


def free(session: ModelSession, layer: int) -> None:
    """UsageError where a change sits on ``layer``: two would be measured as one."""
    for hook in session.hooks:
        if isinstance(hook, RankOneHook) and hook.layer == layer:
            raise UsageError(f"layer {layer}: {hook.what} is still on: leave its block first")
    if any(delta.layer == layer for delta in session.edits.live):
        raise UsageError(
            f"layer {layer}'s weights are changed already: /undo or /restore takes that out first"
        )


def checked(session: ModelSession, new_u: Tensor) -> Tensor:
    """(D,) fp32 on the session's device; UsageError on another width, NaN or infinity."""
    return session.shape.vector(new_u, "the new write vector").to(session.device)


def analytic(
    session: ModelSession, part: Component, target: int, alpha: float, unit: float
) -> Tensor:
    """(D,): alpha * unit * unembed(target) / ||unembed(target)||; for ``unit`` see ``unit_of``."""
    row = session.model.unembedding[session.shape.token(target)].detach().float()
    return finite(alpha, "alpha") * unit * row / row.norm()


def unit_of(session: ModelSession, part: Component, seen: Firing, rows: int = 32) -> float:
    """||residual leaving the layer|| over V.x, means over fire positions of some rows.

    UsageError where the component does not fire.
    """
    chosen = [n for n in range(len(seen.rows)) if bool(seen.fires[n].any())][:rows]
    if not chosen:
        raise UsageError(f"no examples: {part.name} fires nowhere in the texts given")
    kept: list[Tensor] = []
    session.run(
        [seen.rows[n] for n in chosen], logits="none",
        taps={f"blocks.{part.layer}.resid_out": lambda x: kept.append(x.detach().float().cpu())},
    )  # fmt: skip
    fires = seen.fires[chosen][:, : kept[0].shape[1]]
    length = kept[0].norm(dim=-1)[fires].mean()
    return float(length / seen.values[chosen][:, : fires.shape[1]][fires].mean())


def delta_of(part: Component, new_u: Tensor) -> RankOne:
    """The edit as a change of weights."""
    return RankOne(part.layer, (new_u.cpu() - part.write.cpu()).float(), part.read.cpu().float())


def trained(
    world: Effects,
    part: Component,
    target: int,
    fires: Sequence[Place],
    rests: Sequence[Place],
    unit: float,
    seed: int = 0,
    steps: int = STEPS,
    keep: float = KEEP,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """(D,): a new U by gradient, V held; for ``unit`` see ``unit_of``. UsageError without a fire
    position."""
    if not fires:
        raise UsageError(
            f"no examples: {part.name} fires nowhere in the texts given (/components show says "
            "where it does)"
        )
    free(world.session, world.layer)
    old, right = part.write, part.read[None]
    left = torch.zeros(1, len(old), requires_grad=True)  # new U - old U
    rate = RATE * abs(unit) / len(old) ** 0.5
    optimiser = torch.optim.Adam([left], lr=rate)
    generator, weight = torch.Generator().manual_seed(seed), torch.tensor([keep])
    for step in range(steps):
        decayed(optimiser, rate, step, steps)
        optimiser.zero_grad()
        loss(world, left, right, target, fires, rests, generator, weight).backward()
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
    return old + left.detach()[0]


def decayed(optimiser: torch.optim.Optimizer, rate: float, step: int, steps: int) -> None:
    """Adam's rate at a step: held, then linearly to a tenth over the last half."""
    late = max(0.0, 2 * step / steps - 1)
    for group in optimiser.param_groups:
        group["lr"] = rate * (1 - 0.9 * late)


def loss(
    world: Effects,
    left: Tensor,
    right: Tensor,
    target: int,
    fires: Sequence[Place],
    rests: Sequence[Place],
    generator: torch.Generator,
    keep: Tensor,
) -> Tensor:
    """Cross-entropy at fire positions + keep[k] * KL(before || after) at others, over 1 + keep[k],
    summed over K changes: left (K, D), right (K, F).

    One forward pass over FIRES and RESTS positions that ``generator`` draws. What was before is
    worked out without the change.
    """
    if world.cancel is not None and world.cancel():
        raise KeyboardInterrupt
    some, other = drawn(fires, FIRES, generator), drawn(rests, RESTS, generator)
    return world.losses(some, other, left, right, target, (1 / (1 + keep), keep / (1 + keep)))


def drawn(places: Sequence[Place], count: int, generator: torch.Generator) -> list[Place]:
    """``count`` of ``places`` without replacement; all of them where they are fewer."""
    if len(places) <= count:
        return list(places)
    order = torch.randperm(len(places), generator=generator)[:count]
    return [places[i] for i in order.tolist()]
