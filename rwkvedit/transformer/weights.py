"""Changes of weights that can always be taken back: one ledger of deltas for each session.

The weights are a function of the *set* of deltas that are live: base + their sum, added up in
float64 in order of their digests and rounded once. So applying and reversing is exact in any
order, which adding and subtracting in float32 is not, and nothing live is the base bit for bit.
Only ``down_proj`` of the layers named (RWKV-7: ``ffn.value``) is ever written. Knows no editing
method and no files.

Glossary: D residual width, F MLP width, W = down_proj(layer) (D, F); a delta is added to W.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
REST = "rest"
"""Weights of no layer, in ``layer_norms``: embeddings, the final norm, the head."""


@dataclass(frozen=True, eq=False)
class RankOne:
    """W + left right^T."""

    layer: int
    left: Tensor
    """(D,) fp32: what is written."""
    right: Tensor
    """(F,) fp32: the key to which it answers, already divided by whatever normalises it."""
    kind = "rank_one"

    def matrix(self) -> Tensor:
        """(D, F) float64."""
        return torch.outer(self.left.double(), self.right.double())

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.left, self.right

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.numel(), self.right.numel()

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of layer, kind and numbers: what makes two deltas the same."""
        return _digest(self)


@dataclass(frozen=True, eq=False)
class Dense:
    """W + delta."""

    layer: int
    delta: Tensor
    """(D, F) fp32."""
    kind = "dense"

    def matrix(self) -> Tensor:
        """(D, F) float64."""
        return self.delta.double()

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return (self.delta,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.delta.shape[0], self.delta.shape[1]

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of layer, kind and numbers: what makes two deltas the same."""
        return _digest(self)


Delta = RankOne | Dense


@dataclass(frozen=True)
class Change:
    """What a call of the ledger did."""

    layers: list[int]
    """Layers whose weights were written."""
    relative: dict[int, float]
    """Layer: ||W - base|| / ||base|| (Frobenius) as it is now; 0.0 for one that was restored."""

    @property
    def relative_change(self) -> float:
        """The largest of ``relative``."""
        return max(self.relative.values(), default=0.0)


class WeightEdits:
    """The ledger of a session (``session.edits``): which deltas are live, and the base weights.

    Every method that writes either does all of what it says or leaves the weights as they were,
    Ctrl-C and running out of memory included.
    """

    def __init__(self, session: ModelSession) -> None:
        self._session = session
        self._live: dict[str, Delta] = {}
        self._base: dict[int, Tensor] = {}
        """Copies of the base weights of the layers that live deltas change."""
        self._base_digest: str | None = None

    @property
    def live(self) -> tuple[Delta, ...]:
        """The deltas in force, in the order in which they came. A value: give it to ``set``."""
        return tuple(self._live.values())

    @property
    def base_digest(self) -> str:
        """``session.digest`` as it is with nothing live."""
        return self._base_digest if self._live and self._base_digest else self._session.digest

    def base(self, layer: int) -> Tensor:
        """(D, F): the layer's weights with nothing live (do not write into it)."""
        layer = self._session.shape.layer(layer)
        found = self._base.get(layer)
        return self._session.model.down_proj(layer) if found is None else found

    def relative_change(self, layer: int) -> float:
        """||W - base|| / ||base|| of one layer as it is now."""
        base = self.base(layer).double()
        now = self._session.model.down_proj(self._session.shape.layer(layer)).double()
        return float((now - base).norm() / base.norm())

    def apply(self, *deltas: Delta) -> Change:
        """Add ``deltas`` to what is live. UsageError on one that is live already."""
        for delta in deltas:
            if delta.digest in self._live:
                raise UsageError(f"this change of layer {delta.layer} is applied already")
        return self.set([*self.live, *deltas])

    def remove(self, *deltas: Delta) -> Change:
        """Take ``deltas`` out again, whatever came after them. UsageError on one not live."""
        gone = {delta.digest for delta in deltas}
        missing = gone - self._live.keys()
        if missing:
            layers = sorted({d.layer for d in deltas if d.digest in missing})
            raise UsageError(
                f"nothing to reverse: this change of layer {', '.join(map(str, layers))} is not "
                "applied"
            )
        return self.set([d for d in self.live if d.digest not in gone])

    def restore(self) -> Change:
        """Take everything out: the base weights, bit for bit."""
        return self.set([])

    @contextmanager
    def applied(self, *deltas: Delta) -> Iterator[Change]:
        """``deltas`` on top of what is live, inside the block only."""
        before = self.live
        change = self.apply(*deltas)
        try:
            yield change
        finally:
            self.set(before)

    def set(self, deltas: Iterable[Delta]) -> Change:
        """Make exactly ``deltas`` live.

        UsageError on a wrong layer or shape, on NaN or infinity, and on one delta twice.
        """
        wanted: dict[str, Delta] = {}
        for delta in deltas:
            self._check(delta)
            if delta.digest in wanted:
                raise UsageError(f"the same change of layer {delta.layer} is there twice")
            wanted[delta.digest] = delta
        changed = {d.layer for d in [*wanted.values(), *self._live.values()]
                   if (d.digest in wanted) != (d.digest in self._live)}  # fmt: skip
        if self._base_digest is None or not self._live:
            self._base_digest = self._session.digest
        done: list[int] = []
        try:
            for layer in sorted(changed):
                done.append(layer)
                self._write(layer, wanted)
        except BaseException as error:
            for layer in done:
                self._write(layer, self._live)
            self._after(self._live)
            if isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise RwkvEditError(
                    "out of memory while changing weights: they are as they were"
                ) from error
            raise
        self._live = wanted
        if changed:
            self._after(wanted)
        relative = {layer: self.relative_change(layer) for layer in sorted(changed)}
        return Change(sorted(changed), relative)

    def adopt(self, base: Mapping[int, Tensor], deltas: Iterable[Delta], digest: str) -> bool:
        """Take over a history from elsewhere: these weights are ``base`` with ``deltas`` live.

        ``digest`` is the base weights' own. False, and nothing is taken over, unless base and
        deltas give the weights in memory bit for bit. Raises as ``set`` does.
        """
        assert not self._live
        live = {d.digest: d for d in deltas}
        for delta in live.values():
            self._check(delta)
        if {d.layer for d in live.values()} != set(base):
            return False
        for layer, weight in base.items():
            now = self._session.model.down_proj(layer)
            if weight.dtype != now.dtype or weight.shape != now.shape:
                return False
            if not torch.equal(_sum(weight.to(now.device), layer, live), now):
                return False
        self._base = {k: v.to(self._session.device).clone() for k, v in base.items()}
        self._live, self._base_digest = live, digest
        return True

    def _write(self, layer: int, wanted: Mapping[str, Delta]) -> None:
        """One layer's weights as ``wanted`` says; its base is kept while any delta needs it."""
        weight = self._session.model.down_proj(layer)
        with torch.no_grad():
            if any(d.layer == layer for d in wanted.values()):
                base = self._base.setdefault(layer, weight.detach().clone())
                weight.copy_(_sum(base, layer, wanted))
            elif layer in self._base:
                weight.copy_(self._base[layer])

    def _after(self, live: Mapping[str, Delta]) -> None:
        needed = {d.layer for d in live.values()}
        self._base = {layer: base for layer, base in self._base.items() if layer in needed}
        self._session.model.weights_changed(None if live else self._base_digest)

    def _check(self, delta: Delta) -> None:
        layer = self._session.shape.layer(delta.layer)
        want = tuple(self._session.model.down_proj(layer).shape)
        if delta.shape != want:
            raise UsageError(
                f"a change of layer {layer} has shape {delta.shape}, expected {want}: "
                "it was made for another model"
            )
        if not all(bool(torch.isfinite(part).all()) for part in delta.parts):
            raise UsageError(f"a change of layer {layer} holds NaN or infinity")


def layer_norms(session: ModelSession) -> dict[int | str, float]:
    """Frobenius norm of every weight of each layer together, and of the ``rest``; fp64 sums.

    Taken before and after, they show which layers moved (see ``moved``).
    """
    squares: dict[int | str, float] = {}
    for name, tensor in session.model.named_weights().items():
        found = _LAYER.search(name)
        where = int(found.group(1)) if found else REST
        norm = float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64))
        squares[where] = squares.get(where, 0.0) + norm * norm
    return {where: math.sqrt(x) for where, x in squares.items()}


def moved(before: Mapping[Any, float], after: Mapping[Any, float]) -> dict[Any, float]:
    """{layer: change of its norm, relative} where ``layer_norms`` differ at all."""
    return {k: (after[k] - before[k]) / before[k] for k in before if after[k] != before[k]}


def _sum(base: Tensor, layer: int, deltas: Mapping[str, Delta]) -> Tensor:
    """``base`` with every delta of ``layer``, in order of digest, rounded once."""
    total = base.double()
    for digest in sorted(deltas):
        if deltas[digest].layer == layer:
            total = total + deltas[digest].matrix().to(total.device)
    return total.to(base.dtype)


def _digest(delta: Delta) -> str:
    sha = hashlib.sha256(f"{delta.kind}\0{delta.layer}\0{delta.shape}\0".encode())
    for part in delta.parts:
        sha.update(part.detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
