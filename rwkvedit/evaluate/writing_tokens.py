"""Token by token, before and after an edit: what is likeliest, what moved most, how far.

Glossary: as in ``effects``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.transformer.effects import top_of

if TYPE_CHECKING:
    from rwkvedit.evaluate.writing import Sweep

TOP = 5


def tokens(sweep: Sweep, rows: Sequence[int], left: Tensor) -> dict[str, Any]:
    """``{"rows": [[token, ..], ..], "movers": [..]}`` of rows under one change.

    A token: ``text``, ``activation`` V.x, ``fires``, ``kl`` (before || after, nats, of what follows
    it), ``difference`` (change of log P of the token that does follow, nats; None at a row's end),
    ``before`` and ``after`` (the likeliest, with P), ``moved`` (the largest changes of P).
    ``movers``: over all the rows' other positions, the tokens whose P changed most in sum.
    """
    world, seen = sweep.world, sweep.seen
    shown, total = [], None
    for n in rows:
        places = [(n, t) for t in range(len(world.rows[n]))]
        with torch.no_grad():
            was = world.before(places)
            now = world.logits(places, left[None], sweep.part.read[None])[:, 0].log_softmax(-1)
        row = [_token(sweep, n, t, was[t], now[t]) for _, t in places]
        shown.append(row)
        others = [t for _, t in places if t > 0 and not seen.fires[n, t]]
        moved = (now[others].exp() - was[others].exp()).sum(0)
        total = moved if total is None else total + moved
    movers = [] if total is None else _moved(sweep, total)
    return {"rows": shown, "movers": movers}


def _token(sweep: Sweep, n: int, t: int, was: Tensor, now: Tensor) -> dict[str, Any]:
    row, piece = sweep.world.rows[n], sweep.session.piece
    follows = row[t + 1] if t + 1 < len(row) else None
    return {
        "text": piece(row[t]), "activation": float(sweep.seen.values[n, t]),
        "fires": bool(sweep.seen.fires[n, t]),
        "kl": max(0.0, float((was.exp() * (was - now)).sum())),
        "difference": None if follows is None else float(now[follows] - was[follows]),
        "before": top_of(was, piece, TOP), "after": top_of(now, piece, TOP),
        "moved": _moved(sweep, now.exp() - was.exp()),
    }  # fmt: skip


def _moved(sweep: Sweep, change: Tensor) -> list[tuple[str, float]]:
    """The TOP largest changes of P, signed."""
    order = change.abs().topk(TOP).indices.tolist()
    return [(sweep.session.piece(i), float(change[i])) for i in order]
