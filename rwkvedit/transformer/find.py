"""Finding components: by what they write, and by how they fire; random ones always beside.

Two questions are asked of every neuron of some layers, and of equally many random read vectors:

    writes    output PMI: log of P(a token set) where the component fires over P of it everywhere,
              in nats, the mean over positions of the model's own probabilities
    fires     contrast: the lower quartile of |V.x| at fire positions over its quartic mean
              elsewhere, (mean |V.x|^4)^(1/4), which a few near-misses make large; 100 at most

Knows no edits. Glossary: as in ``components``; P positions, F neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.components import (
    FEWEST,
    FLOOR,
    ROWS,
    Cancel,
    Progress,
    gap,
    keys,
    random_reads,
)

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

QUANTILE = 0.98
"""Of |V.x|: a component fires at the positions above it, where PMI is asked."""
AGREE = 0.95
"""Of its fires, the share that must have one sign for a component to be listed by contrast."""
EXAMPLES = 5


@dataclass(frozen=True)
class Found:
    """One component, and why it is listed."""

    name: str
    score: float
    threshold: float
    fires: int
    examples: list[str]
    """Texts that end at fire positions, the strongest first."""
    writes: list[str]
    """The tokens that U promotes most, directly, in the sign that its fires fix."""

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class Findings:
    """The best of each layer's neurons together, and the best of equally many random vectors."""

    by: str
    found: list[Found]
    random: list[float]
    """Scores of the best random components: what chance gives."""
    searched: int
    positions: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "found": [f.to_json() for f in self.found]}


def find(
    session: ModelSession,
    rows: Sequence[Sequence[int]],
    layers: Sequence[int],
    tokens: Sequence[int] = (),
    top: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Findings:
    """The best neurons of ``layers`` in ``rows``: by PMI with ``tokens``, else by contrast."""
    rows = [list(row) for row in rows if len(row) > 1]
    if not rows:
        raise UsageError("no examples: give at least one text of two tokens or more")
    seen = keys(session, rows, layers, progress, cancel)
    wanted = torch.tensor([i > 0 for row in rows for i in range(len(row))])
    said = _probability(session, rows, tokens, cancel)[wanted] if tokens else None
    flat = [(n, t) for n, row in enumerate(rows) for t in range(len(row))]
    flat = [place for place, so in zip(flat, wanted.tolist(), strict=True) if so]
    best: list[tuple[float, int, int, float, float]] = []
    chance: list[float] = []
    for layer in layers:
        x = torch.cat([seen[layer][n, : len(row)] for n, row in enumerate(rows)]).float()[wanted]
        scores, levels, signs = _scores(x, said)
        for at in scores.argsort(descending=True)[:top].tolist():
            best.append((float(scores[at]), layer, at, float(levels[at]), float(signs[at])))
        noise = x @ random_reads(x.shape[1], x.shape[1], seed + layer)
        chance += _scores(noise, said)[0].sort(descending=True).values[:top].tolist()
    best.sort(reverse=True)
    found = [
        _describe(session, rows, flat, seen[layer], score, layer, at, level, sign)
        for score, layer, at, level, sign in best[:top]
    ]
    return Findings(
        "writes" if tokens else "fires", found, sorted(chance, reverse=True)[:top],
        sum(session.shape.d_ffn for _ in layers), len(flat),
    )  # fmt: skip


def _scores(x: Tensor, said: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(scores, thresholds, signs) (F,) of the columns of x (P, F)."""
    sizes = x.abs()
    if said is None:
        return _contrast(x, sizes)
    level = torch.quantile(sizes, QUANTILE, dim=0) if len(x) < 1 << 14 else (
        sizes.kthvalue(int(QUANTILE * len(x)), dim=0).values)  # fmt: skip
    fires = (sizes >= level) & (sizes > 0)
    count = fires.sum(0)
    mean = (fires * said[:, None]).sum(0) / count.clamp(min=1)
    score = torch.log((mean + 1e-12) / (said.mean() + 1e-12))
    score = torch.where(count >= FEWEST, score, torch.full_like(score, -torch.inf))
    return score, level, (x * fires).sum(0).sign()


def _contrast(x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = []
    for c in range(x.shape[1]):
        level, _ = gap(x[:, c])
        fires = sizes[:, c] >= level
        count, total = int(fires.sum()), x[fires, c].sum()
        if count < FEWEST:
            out.append((-torch.inf, level, 1.0))
            continue
        agree = float((x[fires, c] * total.sign() > 0).float().mean())
        rest = sizes[~fires, c].pow(4).mean().pow(0.25)
        low = torch.quantile(sizes[fires, c], 0.25)
        contrast = float(low / torch.maximum(rest, FLOOR * low).clamp(min=1e-12))
        score = contrast if agree >= AGREE else -torch.inf
        out.append((score, level, float(total.sign())))
    scores, levels, signs = zip(*out, strict=True)
    return torch.tensor(scores), torch.tensor(levels), torch.tensor(signs)


def _probability(
    session: ModelSession,
    rows: list[list[int]],
    tokens: Sequence[int],
    cancel: Cancel | None,
) -> Tensor:
    """(positions,) P of any of ``tokens`` next, the rows one behind another."""
    chosen = torch.tensor(sorted(set(tokens)))
    out = []
    for at in range(0, len(rows), ROWS):
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        run = session.run(rows[at : at + ROWS], logits="all")
        out += [logits.softmax(-1)[:, chosen.to(logits.device)].sum(-1).cpu()
                for logits in run.logits]  # fmt: skip
    return torch.cat(out)


def _describe(
    session: ModelSession,
    rows: list[list[int]],
    flat: list[tuple[int, int]],
    seen: Tensor,
    score: float,
    layer: int,
    at: int,
    level: float,
    sign: float,
) -> Found:
    values = torch.stack([seen[n, t, at] for n, t in flat]).float().abs()
    order = values.argsort(descending=True)[:EXAMPLES].tolist()
    texts = [session.text(rows[flat[i][0]][max(0, flat[i][1] - 5) : flat[i][1] + 1]) for i in order]
    write = session.model.down_proj(layer)[:, at].detach().float() * (sign or 1.0)
    promoted = session.project_through_unembed(write.cpu().numpy(), EXAMPLES).top
    return Found(
        f"{layer}.{at}", score, level, int((values >= level).sum()), texts,
        [piece for _, piece, _ in promoted],
    )  # fmt: skip
