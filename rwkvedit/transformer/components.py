"""Rank-one parts of an MLP's ``down_proj``: what each reads, what it writes, and where it fires.

A component is a read vector V (F,) and a write vector U (D,) with W = U V^T + the rest: for an
input x (F,) it writes (V.x) U. Three sources give the same value: a neuron (exact: V = e_c,
U = W[:, c]), a singular triple of W (exact, dense), and a decomposition that was trained
(``decomposition``) or stored (``stored``). Changes no weights.

(V, U) and (-V, -U) are the same component. ``Component.signed`` fixes the sign by activations:
most of the activation at fire positions is positive. Until it has seen any, a neuron has V = +e_c,
and a singular triple the sign that makes V's largest entry positive.

Glossary: D residual width, F MLP width, V.x a component's activation at a position, N rows, T
tokens of a row; a *fire position* is one where |V.x| is at least ``threshold``. The first token of
a row is never counted: it is an attention sink in many models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwkvedit.errors import UsageError

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

ROWS = 16
"""Rows of one forward pass."""
SHARE, FEWEST = 0.05, 8
"""A component that fires at more than SHARE of the positions is no switch; fewer than FEWEST
positions say nothing."""
FLOOR = 1e-2
"""Activations below this share of the weakest fire's count as this much: squared ReLU gives 0."""
EXPECTED = (
    "say LAYER.NEURON like 3.17, svd:LAYER.RANK, random:LAYER.SEED, or FILE:LAYER.NUMBER of a "
    "decomposition"
)

Progress = Callable[[int, int], None]
Cancel = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Component:
    """One read vector and one write vector of a layer's ``down_proj``."""

    name: str
    """As ``component`` reads it: ``29.805``, ``svd:29.0``."""
    layer: int
    read: Tensor
    """V (F,) fp32."""
    write: Tensor
    """U (D,) fp32."""

    def flipped(self) -> Component:
        """The same component with the other sign."""
        return replace(self, read=-self.read, write=-self.write)

    def signed(self, values: Tensor, threshold: float) -> tuple[Component, Tensor]:
        """The sign that makes the activation at fire positions positive on the whole.

        Returns the component and ``values`` in that sign.
        """
        total = float(values[values.abs() >= threshold].sum())
        return (self, values) if total >= 0 else (self.flipped(), -values)


def neuron(session: ModelSession, layer: int, at: int) -> Component:
    """Neuron ``at`` of a layer: V = e_c, U = W[:, c]."""
    layer = session.shape.layer(layer)
    weight = session.model.down_proj(layer).detach().float()  # (D, F)
    if not 0 <= at < weight.shape[1]:
        raise UsageError(f"no component {layer}.{at}: a layer has neurons 0 to {weight.shape[1]-1}")
    read = torch.zeros(weight.shape[1], device=weight.device)
    read[at] = 1.0
    return Component(f"{layer}.{at}", layer, read, weight[:, at].clone())


def singular(session: ModelSession, layer: int, rank: int) -> Component:
    """Singular triple ``rank`` of a layer (0 the largest): V the right vector, U sigma times the
    left one."""
    layer = session.shape.layer(layer)
    left, sigma, right = torch.linalg.svd(
        session.model.down_proj(layer).detach().double(), full_matrices=False
    )
    if not 0 <= rank < len(sigma):
        raise UsageError(f"no component svd:{layer}.{rank}: ranks run from 0 to {len(sigma) - 1}")
    read, write = right[rank], left[:, rank] * sigma[rank]
    sign = float(read[read.abs().argmax()].sign())
    return Component(
        f"svd:{layer}.{rank}", layer, (sign * read).float(), (sign * write).float()
    )  # fmt: skip


def random_component(session: ModelSession, layer: int, seed: int) -> Component:
    """A baseline: a random unit V, and U = W V, which is what W writes for it."""
    layer = session.shape.layer(layer)
    weight = session.model.down_proj(layer).detach().float()
    read = random_reads(weight.shape[1], 1, seed)[:, 0].to(weight.device)
    return Component(f"random:{layer}.{seed}", layer, read, weight @ read)


def random_reads(f: int, count: int, seed: int) -> Tensor:
    """(F, count) random unit read vectors."""
    found = torch.randn(f, count, generator=torch.Generator().manual_seed(seed))
    return found / found.norm(dim=0)


def component(session: ModelSession, text: str) -> Component:
    """A component by its name; UsageError says what a name looks like.

    Raises FileFormatError where a decomposition's file is damaged or for another model.
    """
    head, colon, tail = text.strip().rpartition(":")
    layer, dot, at = tail.partition(".")
    if not dot or not layer.isdigit() or not at.isdigit():
        raise UsageError(f"no component '{text}': {EXPECTED}")
    numbers = int(layer), int(at)
    if not colon:
        return neuron(session, *numbers)
    if head == "svd":
        return singular(session, *numbers)
    if head == "random":
        return random_component(session, *numbers)
    if not Path(head).expanduser().exists():
        raise UsageError(f"no component '{text}': there is no file {head}; {EXPECTED}")
    from rwkvedit.transformer.stored import load_components

    parts = load_components(session, head)
    chosen = parts.get(numbers[0])
    if chosen is None or numbers[1] >= chosen.count:
        there = ", ".join(f"{k} ({p.count} components)" for k, p in sorted(parts.items()))
        raise UsageError(f"no component '{text}': {head} has layers {there}")
    return chosen.component(numbers[1], text.strip())


@dataclass(frozen=True, eq=False)
class Firing:
    """Where one component fires in some rows."""

    values: Tensor
    """(N, T) fp32: V.x, padding 0."""
    threshold: float
    rows: list[list[int]]

    @property
    def counted(self) -> Tensor:
        """(N, T) bool: every position but the first of a row and padding."""
        lengths = torch.tensor([len(row) for row in self.rows])[:, None]
        at = torch.arange(self.values.shape[1])[None]
        return (at > 0) & (at < lengths)

    @property
    def fires(self) -> Tensor:
        """(N, T) bool."""
        return self.counted & (self.values.abs() >= self.threshold)

    @property
    def share(self) -> float:
        """Of the counted positions."""
        return float(self.fires.sum() / max(1, int(self.counted.sum())))

    @property
    def agreement(self) -> float:
        """The share of fire positions at which V.x is positive."""
        found = self.values[self.fires]
        return float((found > 0).float().mean()) if len(found) else math.nan

    @property
    def mean(self) -> float:
        """The mean of V.x at fire positions."""
        found = self.values[self.fires]
        return float(found.mean()) if len(found) else math.nan


def keys(
    session: ModelSession,
    rows: Sequence[Sequence[int]],
    layers: Sequence[int],
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> dict[int, Tensor]:
    """{layer: (N, T, F)} what enters ``down_proj``, as the weights are now; padding is 0.

    fp16 where several layers are asked for (values beyond its range do not occur after SwiGLU,
    GELU or squared ReLU of normed inputs, and are refused), else fp32.
    """
    longest = max(map(len, rows))
    kind = torch.float32 if len(layers) == 1 else torch.float16
    out = {
        layer: torch.zeros(len(rows), longest, session.shape.d_ffn, dtype=kind) for layer in layers
    }
    for at in range(0, len(rows), ROWS):
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        batch = [list(row) for row in rows[at : at + ROWS]]

        def keep(layer: int, at: int = at, batch: list[list[int]] = batch) -> Callable:
            def tap(x: Tensor) -> None:
                for b, row in enumerate(batch):
                    out[layer][at + b, : len(row)] = x[b, : len(row)].to(kind).cpu()

            return tap

        taps = {f"blocks.{layer}.ffn.key": keep(layer) for layer in layers}
        session.run(batch, taps=taps, logits="none")
        if progress is not None:
            progress(min(at + ROWS, len(rows)), len(rows))
    return out


def firing(
    session: ModelSession,
    part: Component,
    rows: Sequence[Sequence[int]],
    threshold: float | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> tuple[Component, Firing]:
    """Where a component fires, and the component in the sign that its fires fix.

    ``threshold`` None: the widest gap (see ``gap``). UsageError on no rows.
    """
    if not rows:
        raise UsageError("no examples: give at least one text in which the component may fire")
    x = keys(session, rows, [part.layer], progress, cancel)[part.layer]
    values = x @ part.read.cpu()  # (N, T)
    seen = Firing(values, math.inf, [list(row) for row in rows])
    level = gap(values[seen.counted])[0] if threshold is None else threshold
    part, values = part.signed(values * seen.counted, level)
    return part, Firing(values, level, seen.rows)


def gap(values: Tensor) -> tuple[float, float]:
    """(threshold, ratio): where sorted |V.x| (n,) falls most, and by how much.

    Between FEWEST and SHARE of the values: the place after which |V.x| falls by the largest
    factor within a tenth of the fires more. The threshold is the geometric mean of both sides.
    """
    n = len(values)
    most = max(1, int(SHARE * n))
    sizes = values.abs().sort(descending=True).values
    first = min(FEWEST, most)
    at = torch.arange(first, most + 1)
    after = torch.clamp(at + torch.clamp(at // 10, min=3), max=n - 1)
    ratio = sizes[at - 1] / torch.maximum(sizes[after], FLOOR * sizes[at - 1]).clamp(min=1e-12)
    best = int(ratio.argmax())
    here, there = float(sizes[at[best] - 1]), float(sizes[after[best]])
    if here <= 0.0:
        return math.inf, 1.0
    return math.sqrt(here * max(there, here * FLOOR)), float(ratio[best])
