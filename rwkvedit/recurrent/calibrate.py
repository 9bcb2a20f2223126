"""Calibrations: what telling one value rather than another writes into every head.

A calibration is fitted offline by telling the same sentence with each of n values, as a user's turn
with its acknowledgement, from one start state. Per head the n states are centred and projected on
their K shared address directions; what remains are *write vectors*, one per value and address:

    D_c     = S(told c) - mean_c S(told c)                     (N, N)
    address = top-K eigenvectors of sum_c D_c^T D_c            (N, K)
    write_c = D_c @ address                                    (N, K)

so that the delta of any pair of stored values is ``(write_new - write_old) @ address.T`` and its
SVD is that of an (N, K) matrix. Two values make the classic pair: ``u1, sigma1, v1`` of its delta.

Tensors: writes (n, L, H, N, K) and address (L, H, N, K), fp32 in memory, fp16 in files.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.facts import KINDS, Fact
from rwkvedit.recurrent.pairs import Pair
from rwkvedit.recurrent.spectrum import Triples, top_triples
from rwkvedit.recurrent.state import State

#: The acknowledgement the embedded model was trained to give most often.
ACKNOWLEDGEMENT = "Got it."
#: Address directions kept per head; a value of k tokens writes at k addresses.
ADDRESSES = 3


@dataclass(frozen=True)
class Calibration:
    """Write vectors of ``values`` under one telling (``told`` + value + ``closing``).

    ``start`` says from which state it was fitted (``fresh`` or ``live``). Bound to a model and a
    tokenizer by their digests; :meth:`pair` is what an edit takes from it.
    """

    name: str
    kind: str
    told: str
    closing: str
    values: tuple[str, ...]
    writes: Tensor
    address: Tensor
    model_digest: str
    tokenizer_digest: str
    start: str = "fresh"
    created: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[int, int, int]:
        """(L, H, N)."""
        L, H, N, _ = self.address.shape
        return L, H, N

    def holds(self, pair: Pair) -> bool:
        """Does it know both values, told as this pair tells them?"""
        same = self.kind == pair.kind if self.kind else (
            (self.told, self.closing) == (pair.told, pair.closing)
        )
        return same and all(name in self.values for name in pair.names)

    def pair(self, old: str, new: str, layers: slice, rank: int = 1) -> Triples:
        """u (l, H, N, k), sigma (l, H, k), v (l, H, N, k) of telling ``new`` instead of ``old``."""
        at = {value: i for i, value in enumerate(self.values)}
        write = (self.writes[at[new]] - self.writes[at[old]])[layers].float()  # (l, H, N, K)
        u, sigma, wt = torch.linalg.svd(write, full_matrices=False)
        v = self.address[layers].float() @ wt.transpose(-1, -2)
        k = min(rank, write.shape[-1])
        return Triples(u[..., :k], sigma[..., :k], v[..., :k])

    def meta(self) -> dict[str, Any]:
        """The JSON label of the file (design: provenance travels with the tensors)."""
        return {
            "format": "rwkvedit-calibration", "version": 1, "name": self.name, "kind": self.kind,
            "told": self.told, "closing": self.closing, "values": list(self.values),
            "model_digest": self.model_digest, "tokenizer_digest": self.tokenizer_digest,
            "start": self.start, "created": self.created,
            "axes": {"writes": "(value, layer, head, value direction, address)",
                     "address": "(layer, head, key, address)"},
            "write_norms": [round(float(w.float().norm()), 4) for w in self.writes],
            **self.extra,
        }


def told_turn(loaded: Any, statement: str) -> list[int]:
    """``statement`` told as a user's turn, acknowledged and closed."""
    return loaded.template.encode_turn(loaded.tokenizer, statement, ACKNOWLEDGEMENT)


def fit_calibration(
    loaded: Any,
    tellings: Mapping[str, str],
    *,
    kind: str = "",
    told: str = "",
    closing: str = ".",
    name: str = "",
    state: State | None = None,
    batch: int = 16,
) -> Calibration:
    """Tell every sentence of ``tellings`` (value's name -> statement) and factor what it writes.

    ``state`` is the start (None: a fresh one). ``told`` and ``closing`` are kept for pairs that no
    kind explains, which match by them. Raises UsageError with fewer than two values and
    RwkvEditError if the model cannot tell them apart (equal states).
    """
    values = list(tellings)
    if len(set(tellings.values())) < 2:
        raise UsageError("a calibration needs at least two different values")
    start = state if state is not None else loaded.model.zero_state()
    turns = [told_turn(loaded, tellings[value]) for value in values]
    wkv = torch.cat(
        [loaded.model.forward(turns[i : i + batch], start)[1].wkv.cpu()
         for i in range(0, len(turns), batch)]
    )  # (n, L, H, N, N)
    centred = wkv - wkv.mean(0)
    if not bool(torch.isfinite(centred).all()) or float(centred.norm()) == 0.0:
        raise RwkvEditError("the model hears no difference between these values")
    # stacked along rows, one SVD gives the addresses all values share
    tall = centred.permute(1, 2, 0, 3, 4).flatten(2, 3)  # (L, H, n*N, N)
    address = top_triples(tall, min(ADDRESSES, tall.shape[-1])).v  # (L, H, N, K)
    writes = centred @ address  # (n, L, H, N, K)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Calibration(
        name or (kind or told), kind, told, closing, tuple(values), writes, address,
        loaded.model.digest, loaded.tokenizer.digest, "fresh" if state is None else "live", today,
    )


def fit_pair(loaded: Any, pair: Pair, state: State | None = None) -> Calibration:
    """The calibration of one edit's two values, told as the edit tells them."""
    old, new = pair.names
    tellings = {old: pair.statement(pair.old), new: pair.statement(pair.new)}
    return fit_calibration(
        loaded, tellings, kind=pair.kind, told=pair.told, closing=pair.closing,
        name=f"{pair.told}{pair.old} to{pair.new}", state=state,
    )


def fit_kind(
    loaded: Any, kind: str, values: Sequence[str], entity: str = "", thing: str = "hat",
    name: str = "", state: State | None = None,
) -> Calibration:
    """One calibration for many values of a kind, told of a stand-in entity.

    Any two of its values make a pair, whoever the edit is about. Raises UsageError for an unknown
    kind.
    """
    if kind not in KINDS:
        raise UsageError(f"no kind of fact called {kind}; there are {', '.join(KINDS)}")
    spec = KINDS[kind]
    who = entity or ("the box" if spec.subject == "object" else "Sam")
    facts = [Fact(kind, who, v, thing if spec.has_thing else "") for v in values]
    tellings = {fact.value: fact.statement() for fact in facts}
    return fit_calibration(loaded, tellings, kind=kind, name=name or kind, state=state)
