"""Reading the residual stream in the vocabulary: logit lens, direct logits, embedding neighbours.

The lens applies the final norm to each layer's own residual, so the norm's statistics are that
layer's (reusing the last layer's would be wrong); the raw projections apply no norm at all.
Numbers only; what they mean is for the reader.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.builtin import Record
from rwkvedit.transformer.hooks import Layers, Positions, position
from rwkvedit.transformer.results import (
    Attribution,
    LensResult,
    LensRow,
    Neighbor,
    Projection,
    Race,
    TopToken,
    Track,
)

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession, Prompt


def positions_of(positions: Positions, length: int) -> list[int]:
    """Absolute positions: None is the last, ``all`` every one; UsageError out of range."""
    if positions is None:
        return [length - 1]
    if isinstance(positions, str):
        if positions != "all":
            raise UsageError(f"no positions {positions!r}: give numbers, 'all' or None (the last)")
        return list(range(length))
    if isinstance(positions, Iterable):
        found = [position(p, length) for p in positions]
        if not found:
            raise UsageError("no positions given: None is the last row, 'all' every row")
        return found
    return [position(positions, length)]


def residuals(
    session: ModelSession, ids: list[int], layers: list[int], at: list[int], hooks: Any = ()
) -> Tensor:
    """(len(layers), len(at), D): the residual after each layer."""
    record = Record(layers)
    session.run(ids, (*hooks, record), logits="none")
    return torch.stack([record.tensors_of(f"blocks.{i}.resid_out")[0][0, at] for i in layers])


def logit_lens(
    session: ModelSession,
    prompt: Prompt,
    layers: Layers = None,
    positions: Positions = None,
    top: int = 5,
    hooks: Any = (),
    bos: bool | None = None,
) -> LensResult:
    """The ``top`` tokens after every layer at ``positions`` (None: the last one)."""
    ids = session.tokens(prompt, bos)
    rows, at = session.shape.layers(layers), positions_of(positions, len(ids))
    h = residuals(session, ids, rows, at, hooks)
    out = []
    for i, layer in enumerate(rows):  # a layer at a time: (positions, V) is the largest tensor
        logits = session.unembed(h[i])
        log_p = logits.log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        values, best = log_p.topk(min(top, logits.shape[-1]), -1)
        out.append([
            LensRow(
                layer,
                p,
                [
                    TopToken(t, session.piece(t), float(np.exp(v)), float(logits[j, t]))
                    for t, v in zip(best[j].tolist(), values[j].tolist(), strict=True)
                ],
                float(entropy[j]),
            )
            for j, p in enumerate(at)
        ])  # fmt: skip
    return LensResult(ids, [session.piece(t) for t in ids], rows, at, out)


def track_race(
    session: ModelSession,
    prompt: Prompt,
    tokens: Iterable[int | str],
    layers: Layers = None,
    position_: int = -1,
    hooks: Any = (),
    bos: bool | None = None,
) -> Race:
    """Probability, logit and rank of several tokens after every layer, by the lens."""
    wanted = [session.token_id(t) for t in tokens]
    if not wanted:
        raise UsageError("no tokens to follow: give one or more")
    ids = session.tokens(prompt, bos)
    rows, at = session.shape.layers(layers), position(position_, len(ids))
    h = residuals(session, ids, rows, [at], hooks)[:, 0]
    logits = session.unembed(h)  # (L, V)
    chosen = logits[:, wanted]  # (L, n)
    p = logits.log_softmax(-1)[:, wanted].exp()
    rank = torch.stack([(logits > chosen[:, j : j + 1]).sum(-1) for j in range(len(wanted))], 1)
    tracks = [
        Track(t, session.piece(t), rows, *(x[:, j].cpu().numpy() for x in (p, chosen, rank)))
        for j, t in enumerate(wanted)
    ]
    return Race(tracks, rows, [wanted[j] for j in chosen.argmax(-1).tolist()])


def embedding_neighbors(session: ModelSession, what: Any, k: int = 10) -> list[Neighbor]:
    """The ``k`` tokens whose input embeddings lie closest by cosine to a token or a (D,) vector.

    A token's own row is left out.
    """
    own: int | None = None
    if isinstance(what, str | int | np.integer) and not isinstance(what, bool):
        own = session.token_id(what if isinstance(what, str) else int(what))
        vector = session.model.embedding[own].float()
    else:
        vector = session.shape.vector(what).to(session.device)
    if k < 1:
        raise UsageError(f"{k} neighbours: expected 1 or more")
    table = session.model.embedding.float()
    norms = table.norm(dim=1) * vector.norm()
    cosine = (table @ vector) / norms.clamp_min(1e-12)
    if own is not None:
        cosine[own] = -torch.inf
    values, ids = cosine.topk(min(k, len(cosine) - (own is not None)))
    return [
        Neighbor(i, session.piece(i), v) for i, v in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def project_through_unembed(session: ModelSession, vector: Any, k: int = 10) -> Projection:
    """W_U @ vector, with no norm: which tokens a residual vector promotes and suppresses."""
    x = session.shape.vector(vector).to(session.device)
    logits = session.model.project(x)
    order = torch.argsort(logits, descending=True)
    k = min(k, len(logits))

    def named(ids: Tensor) -> list[tuple[int, str, float]]:
        return [(i, session.piece(i), float(logits[i])) for i in ids.tolist()]

    return Projection(logits.cpu().numpy(), named(order[:k]), named(order.flip(0)[:k]))


def direct_logits(
    session: ModelSession,
    prompt: Prompt,
    token: int | str | None = None,
    position_: int = -1,
    bos: bool | None = None,
) -> Attribution:
    """What every attention and MLP adds to a token's raw logit (None: the model's own answer)."""
    ids = session.tokens(prompt, bos)
    at = position(position_, len(ids))
    record = Record(None, ("resid_in", "att.out", "ffn.out", "resid_out"))
    run = session.run(ids, [record], logits="all" if token is None else "none")
    if token is None:
        assert isinstance(run.logits, list)
        token = int(run.logits[0][at].argmax())
    t = session.token_id(token)
    row = session.model.unembedding[t].float()
    n = session.shape.n_layer

    def dot(name: str) -> float:
        return float(record.tensors_of(name)[0][0, at].float() @ row)

    return Attribution(
        t,
        session.piece(t),
        at,
        dot("blocks.0.resid_in"),
        np.array([dot(f"blocks.{i}.att.out") for i in range(n)]),
        np.array([dot(f"blocks.{i}.ffn.out") for i in range(n)]),
        dot(f"blocks.{n - 1}.resid_out"),
    )
