"""Methods that read the live state with a probe: addresses from there, values told beforehand."""

from __future__ import annotations

from torch import Tensor

from rwkvedit.recurrent.methods.registry import method, published
from rwkvedit.recurrent.spectrum import rotate_onto
from rwkvedit.recurrent.workspace import Workspace

TOLD = ("told-old", "told-new")
PROBE = ("probe-old", "probe-new")


@method("hyb-u", *TOLD, *PROBE, calibrated=True, source=published("hybrid-edit.cpp", "HYB-U"))
def hyb_u(ws: Workspace) -> Tensor:
    """Value directions from the calibration, addresses and strengths from the live probe.

    Per head, with k = the tokens of the longer value (k = 1 is the published HYB-U)::

        U, _, _     = svd_k(state(told new) - state(told old))     offline
        Up, Sp, Vp  = svd_k(probe new - probe old)                 online
        delta       = (U R) diag(Sp) Vp^T,   R = polar(U^T Up)

    R generalises the alignment of signs by sign(<u1_offline, u1_probe>) to k directions.
    """
    offline, online = ws.triples("told", ws.rank), ws.triples("probe", ws.rank)
    k = min(offline.u.shape[-1], online.u.shape[-1])
    u, up = offline.u[..., :k], online.u[..., :k]
    u = u @ rotate_onto(u, up)
    return (u * online.sigma[..., None, :k]) @ online.v[..., :k].transpose(-1, -2)


@method("hyb-uv", *TOLD, *PROBE, calibrated=True, source=published("hybrid-edit.cpp", "HYB-UV"))
def hyb_uv(ws: Workspace) -> Tensor:
    """As hyb-u with the strengths, too, from the calibration: only the addresses are online.

    ``delta = U diag(S_offline) (Vp R^T)^T`` with R as in hyb-u.
    """
    offline, online = ws.triples("told", ws.rank), ws.triples("probe", ws.rank)
    k = min(offline.u.shape[-1], online.u.shape[-1])
    u = offline.u[..., :k]
    v = online.v[..., :k] @ rotate_onto(u, online.u[..., :k]).transpose(-1, -2)
    return (u * offline.sigma[..., None, :k]) @ v.transpose(-1, -2)


@method("probe", *PROBE, source="ours: ONLINE at full rank, told as a chat tells it")
def probe(ws: Workspace) -> Tensor:
    """The whole difference of the live probe's two branches; no calibration.

    ``delta = wkv(live + told words + new) - wkv(live + told words + old)``.
    """
    return ws.delta("probe")


@method("online", *PROBE, source=published("hybrid-edit.cpp", "ONLINE"))
def online(ws: Workspace) -> Tensor:
    """The probe's leading part alone: values, too, as the live state writes them.

    ``delta = U diag(s) V^T``, the k leading triples of probe's delta per head, with k = the tokens
    of the longer value (k = 1 is what was published).
    """
    return ws.triples("probe", ws.rank).matrix()


@method("token", "token-old", "token-new", source=published("token-delta.cpp", "token-level delta"))
def token(ws: Workspace) -> Tensor:
    """What the value's own tokens write, told from a fresh state up to the value and no further.

    With S the state before the value's first token, ``delta = (S_new - S) - (S_old - S)``; S
    drops out. Neither what follows the value nor the conversation has a part in it.
    """
    return ws.delta("token")
