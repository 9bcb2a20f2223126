"""The editing methods: each turns a workspace into a delta. One function, one registry entry.

All deltas are (l, H, N, N) over the edited layers, axes (layer, head, value, key); the edit is
``wkv + alpha * delta``. ``auto`` is a name for the chat's default, not a method of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.oracle import replayed_delta
from rwkvedit.recurrent.spectrum import rotate_onto, top_triples
from rwkvedit.recurrent.workspace import Workspace


@dataclass(frozen=True)
class Method:
    """``needs`` are the workspace rows it reads; ``searched`` says if ``--ratio auto`` searches a
    strength (a replayed delta is exact at 1)."""

    name: str
    delta: Callable[[Workspace], Tensor]
    needs: tuple[str, ...]
    calibrated: bool
    searched: bool

    @property
    def summary(self) -> str:
        return (self.delta.__doc__ or "").strip().splitlines()[0]

    def rows(self, ws: Workspace) -> tuple[str, ...]:
        """The rows still to run: none of the calibration's when a saved one stands in."""
        saved = self.calibrated and ws.calibration is not None
        return tuple(n for n in self.needs if not (saved and n.startswith("told")))


METHODS: dict[str, Method] = {}

#: What the chat's ``auto`` tries, in order, until one holds; the report names the one used.
AUTO = ("hyb-u", "probe", "isolate")
#: The same for values of several tokens, whose deltas are of higher rank: the probe whole first
#: (measured: KL of controls to the oracle .004 nats against hyb-u's .035).
AUTO_SEVERAL = ("probe", "hyb-u", "isolate")

TOLD = ("told-old", "told-new")
PROBE = ("probe-old", "probe-new")


def method(name: str, *needs: str, calibrated: bool = False, searched: bool = True):
    """Register a delta function under ``name``."""

    def add(function: Callable[[Workspace], Tensor]) -> Callable[[Workspace], Tensor]:
        METHODS[name] = Method(name, function, needs, calibrated, searched)
        return function

    return add


def find_method(name: str) -> Method:
    """Raises UsageError with the list of methods."""
    if name not in METHODS:
        known = ", ".join(("auto", *METHODS))
        raise UsageError(f"no method called {name}; there are {known}")
    return METHODS[name]


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


@method("isolate", "alone-old", "alone-new")
def isolate(ws: Workspace) -> Tensor:
    """The fact told alone, new minus old, as an acknowledged chat turn from a fresh state.

    The conversation, which both tellings would share, has cancelled: ``delta = state(new alone) -
    state(old alone)``, all ranks.
    """
    return ws.delta("alone")


@method("uniform", searched=False)
def uniform(ws: Workspace) -> Tensor:
    """The full delta: the conversation replayed with the new fact, minus as it was.

    ``delta = state(replay with new) - state(live)`` in the edited layers, every head alike. Exact
    at alpha = 1 and O(T): it costs a replay, and needs the conversation's tokens.
    """
    return replayed_delta(ws)


@method("full-r1", searched=False)
def full_r1(ws: Workspace) -> Tensor:
    """The rank-1 part of uniform's delta in every head: ``sigma1 u1 v1^T``."""
    return top_triples(replayed_delta(ws), 1).matrix()
