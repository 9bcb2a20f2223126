"""Methods that read the live state with a probe: addresses from there, values told beforehand."""

from __future__ import annotations

from torch import Tensor

from rwkvedit.recurrent.methods.registry import method
from rwkvedit.recurrent.spectrum import rotate_onto
from rwkvedit.recurrent.workspace import Workspace

TOLD = ("told-old", "told-new")
PROBE = ("probe-old", "probe-new")


@method("hyb-u", *TOLD, *PROBE, calibrated=True)
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


@method("hyb-uv", *TOLD, *PROBE, calibrated=True)
def hyb_uv(ws: Workspace) -> Tensor:
    """As hyb-u with the strengths, too, from the calibration: only the addresses are online.

    ``delta = U diag(S_offline) (Vp R^T)^T`` with R as in hyb-u.
    """
    offline, online = ws.triples("told", ws.rank), ws.triples("probe", ws.rank)
    k = min(offline.u.shape[-1], online.u.shape[-1])
    u = offline.u[..., :k]
    v = online.v[..., :k] @ rotate_onto(u, online.u[..., :k]).transpose(-1, -2)
    return (u * offline.sigma[..., None, :k]) @ v.transpose(-1, -2)


@method("probe", *PROBE)
def probe(ws: Workspace) -> Tensor:
    """The whole difference of the live probe's two branches; no calibration.

    ``delta = wkv(live + told words + new) - wkv(live + told words + old)``.
    """
    return ws.delta("probe")
