"""Methods that replay the conversation with the fact changed: O(T), in need of its tokens.

D is the replayed delta throughout: ``state(replay with the new fact) - state(replay as told)`` in
the edited layers, exact (what the oracle's state has and the live one lacks) when taken whole.
Earlier edits of the live state are in neither replay, so they stay.
"""

from __future__ import annotations

from torch import Tensor

from rwkvedit.recurrent.methods.hybrid import PROBE
from rwkvedit.recurrent.methods.registry import method, published
from rwkvedit.recurrent.oracle import replayed_delta
from rwkvedit.recurrent.spectrum import dominance, truncated
from rwkvedit.recurrent.workspace import Workspace


@method("uniform", searched=False, replays=True, source=published("hybrid-edit.cpp", "UNIFORM"))
def uniform(ws: Workspace) -> Tensor:
    """The full delta: the conversation replayed with the new fact, minus as it was.

    ``delta = state(replay with new) - state(replay as told)`` in the edited layers, every head
    alike. Exact at alpha = 1 and O(T): it costs two replays, and needs the conversation's tokens.
    """
    return replayed_delta(ws)


@method("r1-proj", searched=False, replays=True, source=published("calibrated-edit.cpp", "R1-PROJ"))
@method("full-r1", searched=False, replays=True, source=published("rank1-validate.cpp", "rank1"))
def full_r1(ws: Workspace) -> Tensor:
    """The rank-1 part of uniform's delta in every head: ``sigma1 u1 v1^T``.

    r1-proj is its other published name. What a later published table calls FULL-R1 is r1-wt here.
    """
    return truncated(replayed_delta(ws), 1)


@method("full-r2", searched=False, replays=True, source=published("rank1-validate.cpp", "rank2"))
def full_r2(ws: Workspace) -> Tensor:
    """The rank-2 part of uniform's delta in every head."""
    return truncated(replayed_delta(ws), 2)


@method("full-r4", searched=False, replays=True, source=published("rank1-validate.cpp", "rank4"))
def full_r4(ws: Workspace) -> Tensor:
    """The rank-4 part of uniform's delta in every head."""
    return truncated(replayed_delta(ws), 4)


@method("r1-wt", replays=True, source=published("calibrated-edit.cpp", "R1-WT; FULL-R1 later"))
def r1_wt(ws: Workspace) -> Tensor:
    """Uniform's delta, all ranks, each head weighted by how rank-1 it is.

    ``delta_h = (sigma1 / sum_i sigma_i)_h D_h``: weights in [1/N, 1] from the edit itself.
    """
    delta = replayed_delta(ws)
    return dominance(delta)[..., None, None] * delta


@method("calib", *PROBE, replays=True, source=published("calibrated-edit.cpp", "CALIB"))
def calib(ws: Workspace) -> Tensor:
    """Uniform's delta, each head weighted by how strongly it writes this value when probed.

    ``delta_h = (sigma1_h / max_g sigma1_g) D_h``, sigma1 of the live probe's delta and the maximum
    over the heads g of a layer.
    """
    sigma = ws.triples("probe", 1).sigma[..., 0]  # (l, H)
    weight = sigma / sigma.amax(-1, keepdim=True).clamp_min(1e-30)
    return weight[..., None, None] * replayed_delta(ws)


@method(
    "r-gated", replays=True, more="the questions asked once more",
    source=published("r-gated-edit.cpp", "R-gated"),
)
def r_gated(ws: Workspace) -> Tensor:
    """Uniform's delta, each address channel weighted by how much the fact's questions read it.

    ``delta_h[i, j] = D_h[i, j] |r_j| / max_m |r_m|`` with r the head's receptance where the value
    is answered (mean of |r| over the questions). It gates single channels of the basis the model
    happens to have, so it also bends the addresses that D was written at.
    """
    r = ws.receptances().abs().mean(0)  # (l, H, N)
    gate = r / r.amax(-1, keepdim=True).clamp_min(1e-30)
    return gate[..., None, :] * replayed_delta(ws)
