"""What a session answered, as data for scripts and blocks for eyes. Asks no model, prints nothing.

Each function takes a result of ``rwkvedit.transformer`` and gives ``(data, blocks)``. Tokens are
shown with quotes, so that the blank in front of most of them can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rwkvedit.repl.result import Block, Grid, Table, Text
from rwkvedit.transformer.results import (
    Attribution,
    ForwardResult,
    LensResult,
    Neighbor,
    Projection,
    Race,
    TopToken,
    Track,
)

View = tuple[dict[str, Any], list[Block]]
TOP = 5
LEAST = 1e-4  # less likely tokens are left out of a comparison


def shown(piece: str, token: int | None = None) -> str:
    """A token's text in quotes, or ``#ID`` where it is no whole character by itself."""
    whole = token is None or "\N{REPLACEMENT CHARACTER}" not in piece
    return repr(piece) if whole else f"#{token}"


def visible(text: str) -> str:
    """What a model wrote, with letters that would command the terminal spelled out."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def p(value: float) -> str:
    """A probability, three digits after the point; never "0.000" for what is not nothing."""
    return f"{value:.3f}" if value >= 0.0005 or value == 0 else f"{value:.0e}"


def tops(tokens: Sequence[TopToken]) -> str:
    return "  ".join(f"{shown(t.piece, t.id)} {p(t.p)}" for t in tokens)


def at(positions: Sequence[int], pieces: Sequence[str]) -> list[str]:
    """``3 ' France'`` for every position."""
    return [f"{i} {shown(pieces[i])}" for i in positions]


def compared(runs: dict[str, ForwardResult], k: int = TOP) -> View:
    """The likeliest tokens of several forward passes beside each other, with P in each."""
    ids: dict[int, str] = {}
    for run in runs.values():
        ids |= {t.id: t.piece for t in run.top(k)}
    probs = {name: run.probs for name, run in runs.items()}
    most = {i: max(float(each[i]) for each in probs.values()) for i in ids}
    order = [i for i in sorted(ids, key=lambda i: -most[i])[: k + 2] if most[i] > LEAST]
    rows = tuple((shown(ids[i], i), *(p(float(each[i])) for each in probs.values())) for i in order)
    data = {name: [t.to_json() for t in run.top(k)] for name, run in runs.items()}
    return data, [Table(("token", *runs), rows)]


def lens(result: LensResult) -> View:
    """One position: the likeliest tokens of each layer. Several: the first of each, as a grid."""
    data = {
        "tokens": result.pieces,
        "ids": result.tokens,
        "layers": result.layers,
        "positions": result.positions,
        "rows": [
            [
                {
                    "layer": row.layer,
                    "position": row.position,
                    "top": [t.to_json() for t in row.top],
                    "entropy": row.entropy,
                }
                for row in layer
            ]
            for layer in result.rows
        ],
    }
    heads = at(result.positions, result.pieces)
    if len(result.positions) == 1:
        rows = tuple((row.layer, tops(row.top), row.entropy) for (row,) in result.rows)
        table = Table(("layer", "likeliest next", "nats"), rows)
        return data, [Text(f"after {heads[0]}"), table]
    grid = Grid(
        "layer",
        tuple(map(str, result.layers)),
        tuple(heads),
        tuple(
            tuple(f"{shown(c.top[0].piece, c.top[0].id)} {c.top[0].p:.2f}" for c in row)
            for row in result.rows
        ),
    )
    return data, [grid]


def race(result: Race, where: str) -> View:
    """P of each token after every layer, and who is ahead."""
    names = {t.token: shown(t.piece, t.token) for t in result.tracks}
    tracks = [
        {
            "id": t.token,
            "token": t.piece,
            "p": t.p.tolist(),
            "logit": t.logit.tolist(),
            "rank": t.rank.tolist(),
        }
        for t in result.tracks
    ]
    data = {"layers": result.layers, "tracks": tracks, "leader": result.leader}
    rows = tuple(
        (names[result.leader[i]], *(_placed(t, i) for t in result.tracks))
        for i in range(len(result.layers))
    )
    columns = ("ahead", *(names[t.token] for t in result.tracks))
    grid = Grid("layer", tuple(map(str, result.layers)), columns, rows)
    return data, [Text(f"after {where}: P and rank (#0 is the likeliest)"), grid]


def _placed(track: Track, i: int) -> str:
    return f"{p(float(track.p[i]))} #{track.rank[i]}"


def attribution(result: Attribution, where: str) -> View:
    """What each part adds to a raw logit."""
    data = {
        "token": {"id": result.token, "token": result.piece},
        "position": result.position,
        "embedding": result.embedding,
        "attention": result.attention.tolist(),
        "mlp": result.mlp.tolist(),
        "total": result.total,
    }
    rows = tuple(
        (layer, float(a), float(m))
        for layer, (a, m) in enumerate(zip(result.attention, result.mlp, strict=True))
    )
    head = f"raw logit of {shown(result.piece, result.token)} after {where}: {result.total:.2f}"
    parts = (
        f"embedding {result.embedding:.2f}, attention {result.attention.sum():.2f}, "
        f"MLPs {result.mlp.sum():.2f}"
    )
    return data, [Text(f"{head}\n{parts}"), Table(("layer", "attention", "mlp"), rows)]


def neighbors(found: Sequence[Neighbor]) -> View:
    data = {"neighbors": [{"id": n.id, "token": n.piece, "cosine": n.cosine} for n in found]}
    rows = tuple((shown(n.piece, n.id), n.cosine) for n in found)
    return data, [Table(("token", "cosine"), rows)]


def projection(found: Projection) -> View:
    """What a vector does to the logits, with no norm."""

    def listed(rows: list[tuple[int, str, float]]) -> list[dict[str, Any]]:
        return [{"id": i, "token": piece, "logit": value} for i, piece, value in rows]

    data = {"promotes": listed(found.top), "suppresses": listed(found.bottom)}
    rows = tuple(
        (shown(a[1], a[0]), a[2], shown(b[1], b[0]), b[2])
        for a, b in zip(found.top, found.bottom, strict=True)
    )
    return data, [Table(("promotes", "logit", "suppresses", "logit"), rows)]


def captured(arrays: dict[str, np.ndarray], layers: list[int], pieces: list[str]) -> View:
    """The lengths of what passed, a row a layer and a column a position."""
    norms = [np.linalg.norm(x, axis=-1).tolist() for x in arrays.values()]
    data = {"tokens": pieces, "layers": layers, "norms": norms}
    grid = Grid(
        "layer",
        tuple(map(str, layers)),
        tuple(at(range(len(pieces)), pieces)),
        tuple(tuple(f"{x:.1f}" for x in row) for row in norms),
    )
    return data, [grid]


def attention(weights: np.ndarray, pieces: list[str]) -> View:
    """One head: how much each position (row) looks at those before it."""
    names = at(range(len(pieces)), pieces)
    rows = tuple(
        tuple(f"{w:.2f}" if j <= i else "" for j, w in enumerate(row))
        for i, row in enumerate(weights)
    )
    data = {"tokens": pieces, "weights": weights.tolist()}
    return data, [Grid("", tuple(names), tuple(names), rows)]
