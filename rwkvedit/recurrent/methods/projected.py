"""Methods that read their strength off the live state by projecting it on the edit. Not offered.

Glossary (D iso-uni's delta, S the live state's edited layers, both (l, H, N, N); <,> the sum of
products):
    c     one number     <S, D> / <D, D> over all heads: how much of D the state already holds
    c_h   (l, H)         the same in one head

Documented failures, kept for ``bench state``: a state is full of other facts, which share D's
directions, so that c measures the conversation's length and loudness rather than the fact, and a
head that answers to D is not a head that remembers it. Their strengths are what they define, so
none is searched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvedit.recurrent.methods.isolated import BARE
from rwkvedit.recurrent.methods.registry import method, published
from rwkvedit.recurrent.workspace import Workspace

#: ``||edit|| / ||state||`` of the published adaptive edits.
RATIO = 0.20


def _projected(ws: Workspace) -> tuple[Tensor, Tensor]:
    """(D, c_h (l, H))."""
    delta = ws.delta("bare")
    live = ws.state.wkv[ws.layers]
    return delta, (live * delta).sum((-2, -1)) / delta.square().sum((-2, -1)).clamp_min(1e-20)


@method(
    "glob-proj", *BARE, searched=False, offered=False,
    source=published("projection-alpha.cpp", "GLOB-PROJ"),
)
def glob_proj(ws: Workspace) -> Tensor:
    """The bare sentence's delta, as strong as the whole state's projection on it: ``|c| D``."""
    delta, _ = _projected(ws)
    live = ws.state.wkv[ws.layers]
    return (live * delta).sum().abs() / delta.square().sum().clamp_min(1e-20) * delta


@method(
    "head-proj", *BARE, searched=False, offered=False,
    source=published("projection-alpha.cpp", "HEAD-PROJ"),
)
def head_proj(ws: Workspace) -> Tensor:
    """The bare sentence's delta, each head as strong as its projection: ``|c_h| D_h``."""
    delta, c = _projected(ws)
    return c.abs()[..., None, None] * delta


@method(
    "head-sign", *BARE, searched=False, offered=False,
    source=published("projection-alpha.cpp", "HEAD-SIGN"),
)
def head_sign(ws: Workspace) -> Tensor:
    """As head-proj with the projection's sign: ``c_h D_h``.

    A head that holds the old value has c_h < 0 and is pushed back towards it.
    """
    delta, c = _projected(ws)
    return c[..., None, None] * delta


@method(
    "proj-norm", *BARE, searched=False, offered=False,
    source=published("projection-alpha.cpp", "PROJ-NORM"),
)
def proj_norm(ws: Workspace) -> Tensor:
    """A fifth of the state's norm, shared among heads by their projections.

    ``delta_h = a (|c_h| / mean |c_h|) D_h``, ``a = 0.20 ||S|| / ||D||``.
    """
    delta, c = _projected(ws)
    weight = c.abs() / c.abs().mean().clamp_min(1e-20)
    a = RATIO * ws.state.wkv[ws.layers].norm() / delta.norm().clamp_min(1e-20)
    return a * weight[..., None, None] * delta


@method(
    "slerp", *BARE, searched=False, offered=False,
    source=published("calibrated-edit.cpp", "SL+A") + " after slerp-edit.cpp",
)
def slerp(ws: Workspace) -> Tensor:
    """Each head turned towards the edit on the sphere of its own norm.

    ``S'_h = ||S_h|| (S_h + a D_h) / ||S_h + a D_h||``, ``a = 0.20 ||S|| / ||D||``, and
    ``delta = S' - S``. To make room for the new value at a fixed norm, every other fact shrinks.
    """
    delta = ws.delta("bare")
    live = ws.state.wkv[ws.layers]
    target = live + RATIO * live.norm() / delta.norm().clamp_min(1e-20) * delta

    def norm(x: Tensor) -> Tensor:
        return x.norm(dim=(-2, -1), keepdim=True)

    size, reached = norm(live), norm(target)
    turned = torch.where(reached > 1e-12, target * size / reached.clamp_min(1e-12), live)
    return torch.where(size > 1e-12, turned, target) - live
