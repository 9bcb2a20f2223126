"""Deltas that the controls' questions cannot see: constrained least squares on read addresses.

Glossary (per head; see ``rwkvedit.recurrent.reading``):
    R_t     (N, p)   addresses at which the edited fact's own questions read
    R_c     (N, q)   addresses at which the controls' questions read
    D       (N, N)   the delta to be cleaned (the live probe's)
"""

from __future__ import annotations

import torch
from rwkvedit_kernels.dispatch import addresses
from torch import Tensor

from rwkvedit.recurrent.methods.hybrid import PROBE
from rwkvedit.recurrent.methods.registry import method
from rwkvedit.recurrent.reading import read_addresses
from rwkvedit.recurrent.workspace import Workspace

#: Ridge, as a share of the mean squared address; below .1 the solution bends to the few addresses
#: it was given and fails in other wordings of the same questions (measured: flip 1.00 -> .91).
RIDGE = 0.3
#: Weight of the controls against the target in the least squares.
GUARD = 1.0
#: The same where that was too little: of 8 worlds of another seed in which one of ten edits in a
#: row had been refused or lost, all ten held in 4 with it (in 7, controls' ends being watched too).
FIRM = 10.0


def question_addresses(ws: Workspace) -> tuple[Tensor, Tensor | None]:
    """R_t (l, H, N, p) and R_c (l, H, N, q), or None without controls; one batched forward,
    of the upper layers only where lower ones are shared.

    Read are the positions from the end of a question to the last token of its value but one:
    those that decide whether, and what, the model answers.
    """
    rows: list[list[int]] = []
    spots: list[list[int]] = []
    for ask in ws.asks:
        rows.append([*ask.tokens, *ws.said_new[:-1]])
        spots.append(list(range(len(ask.prompt) - 1, len(rows[-1]))))
    for control in ws.controls:
        rows.append([*control.ask.tokens, *control.value[:-1]])
        spots.append(list(range(len(control.ask.prompt) - 1, len(rows[-1]))))
    if ws.shares:
        upper = ws.hi - ws.lo
        found = [
            addresses(at.r[:upper], at.w[:upper], at.kk[:upper], at.b[:upper], wanted)
            for at, wanted in zip(ws.sites(rows), spots, strict=True)
        ]
    else:
        ws.check()
        ws.forwards += 1
        ws.spent += sum(map(len, rows))
        found, _ = read_addresses(ws.model, rows, spots, ws.state, (ws.lo, ws.hi))
    n = len(ws.asks)
    return torch.cat(found[:n], -1), torch.cat(found[n:], -1) if ws.controls else None


@method(
    "nullspace", *PROBE, guarded=True, more="one forward of the questions and controls",
    source="after MEMIT, arXiv:2210.07229, equation 14",
)
def nullspace(ws: Workspace) -> Tensor:
    """The live probe's delta, bent so that the controls' questions do not read it.

    Per head the X of least squares with a ridge (normal equations in closed form)::

        min_X ||X R_t - D R_t||^2 + g ||X R_c||^2 + l ||X||^2
        X = D R_t R_t^T (R_t R_t^T + g R_c R_c^T + l I)^-1

    After MEMIT's preserved keys (Meng et al. 2023, arXiv:2210.07229, equation 14), with the state's
    read addresses in the place of keys. Refuses nothing: without controls it only drops what the
    fact's own questions never read.
    """
    return unseen(ws, ws.delta("probe"))


@method(
    "nullspace-firm", *PROBE, guarded=True, more="one forward of the questions and controls",
    source="after MEMIT, arXiv:2210.07229, equation 14",
)
def nullspace_firm(ws: Workspace) -> Tensor:
    """The same with the controls weighing ten times as much: for what they still read of it.

    :func:`nullspace` with g = 10.
    """
    return unseen(ws, ws.delta("probe"), FIRM)


def unseen(ws: Workspace, delta: Tensor, guard: float = GUARD) -> Tensor:
    """``delta`` (l, H, N, N), bent as :func:`nullspace` says, g = ``guard``."""
    own, others = question_addresses(ws)
    wanted = own @ own.transpose(-1, -2)  # (l, H, N, N)
    scale = wanted.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    system = wanted + RIDGE * scale * torch.eye(wanted.shape[-1], device=wanted.device)
    if others is not None:
        system = system + guard * (others @ others.transpose(-1, -2))
    return torch.linalg.solve(system, wanted @ delta.transpose(-1, -2)).transpose(-1, -2)
