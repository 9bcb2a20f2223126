"""Donor-free methods: no second conversation to copy from, only calibrated directions.

Per head, with U, s, V the k leading triples of the calibration's delta (the fact told alone, old
against new; k = the tokens of the longer value, and k = 1 is what was published) and S the live
state::

    remove   S - (S V) V^T                nothing is read along the addresses any more
    add      S + U diag(s) V^T            the difference of the values is written there
    both     S - (S V) V^T + U diag(s) V^T

Heads whose sigma1 lies under a threshold are left alone: their addresses are noise, and to project
along them would forget something else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvedit.recurrent.methods.isolated import ALONE
from rwkvedit.recurrent.methods.registry import method, published
from rwkvedit.recurrent.spectrum import Triples
from rwkvedit.recurrent.workspace import Workspace

#: The threshold on sigma1: this quantile of the edited heads' (published: swept over 0 to .95).
QUANTILE = 0.5


def strong_heads(sigma: Tensor, quantile: float = QUANTILE) -> Tensor:
    """(l, H) bool: heads whose ``sigma`` (l, H) reaches the quantile. ``quantile`` 0 keeps all."""
    return sigma >= torch.quantile(sigma.flatten().float(), quantile)


def removal(live: Tensor, v: Tensor) -> Tensor:
    """``-(S V) V^T`` of states (l, H, N, N) along orthonormal addresses (l, H, N, k)."""
    return -(live @ v) @ v.transpose(-1, -2)


def _directions(ws: Workspace) -> tuple[Triples, Tensor]:
    """Leading triples of the fact told alone, and the heads that take part (l, H, 1, 1)."""
    triples = ws.triples("alone", ws.rank)
    return triples, strong_heads(triples.sigma[..., 0])[..., None, None]


@method(
    "donor-free-remove", *ALONE, searched=False,
    source=published("donor-free.cpp", "remove only"),
)
def donor_free_remove(ws: Workspace) -> Tensor:
    """The live state's read-out along the fact's addresses projected out: ``-(S V) V^T``.

    Exact at alpha = 1. Forgets whatever else is read there, and writes nothing.
    """
    triples, strong = _directions(ws)
    return removal(ws.state.wkv[ws.layers], triples.v) * strong


@method("donor-free-add", *ALONE, source=published("donor-free.cpp", "add only"))
def donor_free_add(ws: Workspace) -> Tensor:
    """The values' difference written at the fact's addresses: ``U diag(s) V^T``, strong heads only.

    isolate's delta at rank k without the heads under the threshold.
    """
    triples, strong = _directions(ws)
    return triples.matrix() * strong


@method("donor-free", *ALONE, source=published("donor-free.cpp", "donor-free"))
def donor_free(ws: Workspace) -> Tensor:
    """Both: what is read at the fact's addresses projected out, the values' difference written.

    ``delta = -(S V) V^T + U diag(s) V^T``; alpha scales both, as published. What is written is
    the *difference* new - old, so that the removal also takes the part both values share.
    """
    triples, strong = _directions(ws)
    live = ws.state.wkv[ws.layers]
    return (removal(live, triples.v) + triples.matrix()) * strong
