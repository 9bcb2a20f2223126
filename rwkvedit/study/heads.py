"""Which heads hold the fact: how far each moved, and what each moves.

Per head the distance is ``|wkv_new - wkv_old|`` (Frobenius), also as a share of ``|wkv_old|``;
``sigma1`` is the largest singular value of that difference. Heads are patched one at a time, and
cumulatively in each world's own order of sigma1, against a random order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.recurrent.spectrum import top_triples
from rwkvedit.report.plots import Heatmaps, Lines, Panel, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, middle, rank_of, share, signed, study
from rwkvedit.study.cases import Material, gather

MOST = 64  # heads patched one at a time (those of largest mean sigma1)
HOLDS = 0.9


def with_heads(material: Material, mask: Tensor) -> Tensor:
    """wkv with the heads of ``mask`` (B or 1, L, H) from the new state."""
    return torch.where(mask[..., None, None], material.new.wkv, material.old.wkv)


def counts(total: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to all heads."""
    steps = {1, 2, 3, *(2**i for i in range(2, 20)), *(3 * 2**i for i in range(1, 20)), total}
    return sorted(k for k in steps if k <= total)


def top_mask(score: Tensor, k: int) -> Tensor:
    """(B, L, H) booleans: each world's ``k`` heads of highest ``score`` (B, L, H)."""
    flat = score.flatten(1)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask.scatter_(1, flat.topk(k, dim=1).indices, True)
    return mask.view(score.shape)


HEAD_COLUMNS = columns(
    ("layer", "layer"), ("head", "head"),
    ("distance", "distance", "Frobenius norm of the head's change"),
    ("relative", "of state", "the same as a share of the head's state norm"),
    ("share", "share", "share of the whole change's squared norm"),
    ("cosine", "cosine", "cosine of the head's old and new state"),
    ("sigma1", "sigma1", "largest singular value of the change"),
    ("p_new", "P(new)", "with this head alone patched"),
    ("effect", "effect", "share of the log-odds moved by this head alone"),
)
CUMULATIVE = columns(
    ("heads", "heads", "how many heads are patched"), ("order", "order"),
    ("p_old", "P(old)"), ("p_new", "P(new)"), ("flip", "flip"),
    ("effect", "effect", "share of the log-odds moved"),
)


@study("heads", "Which heads change with a fact, and which of them change the answer?")
def heads(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    material, settings, caution = gather(loaded, options.lexicon, rng, options.worlds or 0)
    old, delta = material.old.wkv, material.delta
    B, L, H = delta.shape[:3]
    sigma = top_triples(delta, 1).sigma[..., 0]  # (B, L, H)
    distance = delta.flatten(3).norm(dim=-1)
    size = old.flatten(3).norm(dim=-1)
    part = distance.square() / distance.square().sum((1, 2), keepdim=True)
    cosine = torch.cosine_similarity(old.flatten(3), material.new.wkv.flatten(3), dim=-1)
    tried = sigma.mean(0).flatten().topk(min(MOST, L * H)).indices.tolist()
    rows, effects = [], {}
    for at in range(L * H):
        layer, head = divmod(at, H)
        row: dict[str, Any] = {"layer": layer, "head": head}
        for name, values in (("distance", distance), ("relative", distance / size),
                             ("share", part), ("cosine", cosine), ("sigma1", sigma)):
            row[name] = mean(values[:, layer, head].cpu().numpy())
        row |= {"p_new": None, "effect": None}
        if at in tried:
            mask = torch.zeros(1, L, H, dtype=torch.bool, device=old.device)
            mask[0, layer, head] = True
            reading = material.patched(with_heads(material, mask))
            effects[layer, head] = material.effect(reading)
            row |= {"p_new": mean(reading.p_new), "effect": mean(effects[layer, head])}
        rows.append(row)
    noise = torch.tensor(rng.random((B, L, H)), device=old.device)
    orders = []
    for order, score in (("sigma1", sigma), ("random", noise)):
        for k in counts(L * H):
            reading = material.patched(with_heads(material, top_mask(score, k)))
            orders.append({
                "heads": k, "order": order, "p_old": mean(reading.p_old),
                "p_new": mean(reading.p_new), "flip": share(reading.flipped),
                "effect": mean(material.effect(reading)),
            })
    settings |= {"heads": L * H, "heads_patched_alone": len(tried)}
    return Finding(
        caution + sentence(rows, orders, L * H), (
            Table(HEAD_COLUMNS, tuple(rows), "each head"),
            Table(CUMULATIVE, tuple(orders), "heads patched together"),
        ), pictures(rows, orders, L, H), settings,
    )


def sentence(rows: list[dict], orders: list[dict], total: int) -> str:
    patched = [r for r in rows if rank_of(r["effect"]) > -np.inf]
    best = max(rows, key=lambda r: rank_of(r["effect"]))
    far = max(rows, key=lambda r: r["distance"]["mean"])
    link = np.corrcoef([r["sigma1"]["mean"] for r in patched],
                       [r["effect"]["mean"] for r in patched])[0, 1] if len(patched) > 2 else None
    need = {
        order: next((o["heads"] for o in orders if o["order"] == order
                     and middle(o["effect"]) >= HOLDS), None)
        for order in ("sigma1", "random")
    }
    said = "; ".join(
        f"{order} order needs {k if k else 'more than all'} of {total} heads for {signed(HOLDS)}"
        for order, k in need.items())
    linked = "" if link is None else f", sigma1 and effect correlate {signed(float(link))}"
    return (
        f"No head moves more alone than layer {best['layer']} head {best['head']} "
        f"({signed(best['effect'])} of the log-odds); the farthest to move is layer "
        f"{far['layer']} head {far['head']} ({far['share']['mean']:.0%} of the squared "
        f"change){linked}; patched together, {said}."
    )


def pictures(rows: list[dict], orders: list[dict], L: int, H: int) -> tuple[Heatmaps, Lines]:
    def matrix(key: str) -> tuple[tuple[float | None, ...], ...]:
        return tuple(
            tuple((rows[i * H + h][key] or {"mean": None})["mean"] for h in range(H))
            for i in range(L)
        )

    names = tuple(map(str, range(H))), tuple(map(str, range(L)))
    ks = tuple(o["heads"] for o in orders if o["order"] == "sigma1")
    return (
        Heatmaps(
            "each", "Each head: its share of the change, and its effect when patched alone",
            f"Two matrices of {L} layers by {H} heads: the share of the squared change that each "
            "head holds, and the share of the log-odds that patching it alone moves.",
            (Panel("share of the change", matrix("share"), *names),
             Panel("effect alone", matrix("effect"), *names)),
            "share", "head", "layer", low=0.0,
        ),
        Lines(
            "cumulative", "Heads patched together, by sigma1 and in random order",
            "Two curves of effect against the number of heads patched, log scale: in order of "
            "sigma1 and in random order; both end at all heads.",
            ks, tuple(
                Series.of(f"{name} order", [o["effect"] for o in orders if o["order"] == name])
                for name in ("sigma1", "random")),
            "heads patched", "share of log-odds moved", x_log=True, level=(1.0, "all"),
        ),
    )
