"""``State``: all recurrent state of one conversation, as a value. Knows no weights and no tokens.

Glossary (``*batch`` is () for one conversation or (B,) for B of them):
    att_x   (*batch, L, D)         fp32   time-mix's previous input (after ln1)
    wkv     (*batch, L, H, N, N)   fp32   axes (head, value, key); read-out is ``wkv @ r``
    ffn_x   (*batch, L, D)         fp32   channel-mix's previous input (after ln2)

Nobody but the code that made a State's tensors writes into them: an edit makes a new State.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class State:
    """One conversation's memory, or a stack of B of them (see the module's glossary)."""

    att_x: Tensor
    wkv: Tensor
    ffn_x: Tensor

    def __post_init__(self) -> None:
        batch = tuple(self.wkv.shape[:-4])
        L, _, N, M = self.wkv.shape[-4:]
        assert N == M and len(batch) <= 1, f"wkv has shape {tuple(self.wkv.shape)}"
        for x in (self.att_x, self.ffn_x):
            assert x.shape[:-1] == (*batch, L), f"{tuple(x.shape)} beside {tuple(self.wkv.shape)}"

    # -- shape ------------------------------------------------------------------------------

    @property
    def batch(self) -> int | None:
        """B of a stack, None for one conversation."""
        return self.wkv.shape[0] if self.wkv.dim() == 5 else None

    @property
    def n_layer(self) -> int:
        return self.wkv.shape[-4]

    @property
    def n_head(self) -> int:
        return self.wkv.shape[-3]

    @property
    def head_size(self) -> int:
        return self.wkv.shape[-1]

    @property
    def n_embd(self) -> int:
        return self.att_x.shape[-1]

    @property
    def config(self) -> dict[str, int]:
        """{n_layer, n_head, head_size, n_embd}."""
        return {
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "head_size": self.head_size,
            "n_embd": self.n_embd,
        }

    @property
    def device(self) -> torch.device:
        return self.wkv.device

    @property
    def nbytes(self) -> int:
        """Bytes held by the three tensors."""
        return sum(x.numel() * x.element_size() for x in self.tensors())

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """(att_x, wkv, ffn_x)."""
        return self.att_x, self.wkv, self.ffn_x

    # -- new values from old ----------------------------------------------------------------

    @staticmethod
    def zeros(
        n_layer: int,
        n_head: int,
        head_size: int,
        n_embd: int,
        batch: int | None = None,
        device: torch.device | str = "cpu",
    ) -> State:
        lead = () if batch is None else (batch,)
        return State(
            torch.zeros(*lead, n_layer, n_embd, device=device),
            torch.zeros(*lead, n_layer, n_head, head_size, head_size, device=device),
            torch.zeros(*lead, n_layer, n_embd, device=device),
        )

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """B single states become one of batch B (copied)."""
        assert states and all(s.batch is None for s in states), "stack takes single states"
        return State(
            torch.stack([s.att_x for s in states]),
            torch.stack([s.wkv for s in states]),
            torch.stack([s.ffn_x for s in states]),
        )

    def unstack(self) -> list[State]:
        """The B single states of a stack (views; a single state gives a list of itself)."""
        return [self] if self.batch is None else [self[b] for b in range(self.batch)]

    def __getitem__(self, index: int) -> State:
        """Row ``index`` of a stack (views)."""
        if self.batch is None:
            raise IndexError("this State holds one conversation; there is nothing to index")
        return State(self.att_x[index], self.wkv[index], self.ffn_x[index])

    def expand(self, batch: int) -> State:
        """A single state repeated ``batch`` times without copying."""
        assert self.batch is None
        return State(*(x.expand(batch, *x.shape) for x in self.tensors()))

    def clone(self) -> State:
        return State(*(x.clone() for x in self.tensors()))

    def detach(self) -> State:
        return State(*(x.detach() for x in self.tensors()))

    def to(self, device: torch.device | str) -> State:
        return State(*(x.to(device) for x in self.tensors()))

    def replace(
        self,
        *,
        att_x: Tensor | None = None,
        wkv: Tensor | None = None,
        ffn_x: Tensor | None = None,
    ) -> State:
        """A State with the named tensors swapped; the rest is shared."""
        return State(
            self.att_x if att_x is None else att_x,
            self.wkv if wkv is None else wkv,
            self.ffn_x if ffn_x is None else ffn_x,
        )

    # -- comparing and measuring ------------------------------------------------------------

    def equal(self, other: State) -> bool:
        """Bit-exact equality of all three tensors (a zero and a minus zero differ)."""
        return all(
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
            for a, b in zip(self.tensors(), other.tensors(), strict=True)
        )

    def norm(self, layers: slice | Sequence[int] | None = None) -> Any:
        """Frobenius norm of ``wkv`` over the chosen layers: a float; (B,) tensor of a stack."""
        picked = self.wkv if layers is None else self.wkv[..., layers, :, :, :]
        if self.batch is None:
            return float(picked.detach().double().norm())
        return picked.flatten(1).double().norm(dim=1)

    def __repr__(self) -> str:
        lead = "" if self.batch is None else f"batch {self.batch}, "
        return (
            f"State({lead}{self.n_layer} layers, {self.n_head} heads of {self.head_size}, "
            f"width {self.n_embd}, {self.device})"
        )
