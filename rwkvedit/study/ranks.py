"""How flat a fact's change is: its singular values, and edits of its leading ranks.

``r1 = sigma1^2 / sum_i sigma_i^2`` per head of ``delta = wkv_new - wkv_old``; the effective rank is
the participation ratio ``(sum sigma_i^2)^2 / sum sigma_i^4``. A rank-k edit adds the k leading
singular triples of every head to the old state; the control adds as large a change in a random
direction of every head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.report.plots import Heatmaps, Lines, Panel, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, middle, share, signed, study
from rwkvedit.study.cases import gather

RANKS = (1, 2, 4, 8)

HEAD_COLUMNS = columns(
    ("layer", "layer"), ("head", "head"),
    ("r1", "r1", "share of the squared change in its first singular direction"),
    ("r2", "first two", "share in the first two"), ("r4", "first four", "share in the first four"),
    ("effective", "effective rank", "(sum sigma^2)^2 / sum sigma^4"),
    ("sigma1", "sigma1", "largest singular value"),
)
EDIT_COLUMNS = columns(
    ("rank", "rank"), ("layers", "layers"),
    ("norm", "norm kept", "norm of the edit as a share of the whole change's"),
    ("p_old", "P(old)", "at the fact's own question"), ("p_new", "P(new)"),
    ("flip", "flip", "share of worlds in which the new value is the likelier"),
    ("effect", "effect", "share of the log-odds moved"),
)


@study("rank", "How many directions of a head's state does a fact need?", min_layers=2)
def ranks(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    material, settings, caution = gather(loaded, options.lexicon, rng, options.worlds or 0)
    delta = material.delta
    _, L, H, N = delta.shape[:4]
    u, sigma, vt = torch.linalg.svd(delta)  # sigma (B, L, H, N)
    energy = sigma.double().square()
    total = energy.sum(-1).clamp_min(1e-300)
    within = energy.cumsum(-1) / total[..., None]
    effective = total.square() / energy.square().sum(-1).clamp_min(1e-300)
    rows = [
        {
            "layer": i, "head": h,
            **{f"r{k}": mean(within[:, i, h, min(k, N) - 1].cpu()) for k in (1, 2, 4)},
            "effective": mean(effective[:, i, h].cpu()), "sigma1": mean(sigma[:, i, h, 0].cpu()),
        }
        for i in range(L) for h in range(H)
    ]
    noise = torch.tensor(rng.standard_normal(tuple(delta.shape)), dtype=delta.dtype)
    noise = noise.to(delta.device)
    noise *= (sigma.norm(dim=-1) / noise.flatten(3).norm(dim=-1))[..., None, None]
    spans = {"upper": (L // 2, L), "all": (0, L)}
    edits = []
    for where, (a, b) in spans.items():
        for k in (*(k for k in RANKS if k < N), N):
            part = (u[..., :k] * sigma[..., None, :k]) @ vt[..., :k, :] if k < N else delta
            edits.append(edit_row(material, "full" if k == N else str(k), where, part, a, b))
        edits.append(edit_row(material, "random", where, noise, a, b))
    settings |= {"upper_layers": f"{L // 2}:{L}"}
    overall = mean((energy[..., 0].sum((1, 2)) / total.sum((1, 2))).cpu())
    return Finding(
        caution + sentence(rows, edits, overall, L),
        (Table(EDIT_COLUMNS, tuple(edits), "rank-k edits"),
         Table(HEAD_COLUMNS, tuple(rows), "each head")),
        pictures(rows, edits, L, H), {**settings, "r1_overall": overall},
    )


def edit_row(material: Any, rank: str, where: str, part: Tensor, a: int, b: int) -> dict:
    """Add ``part`` (B, L, H, N, N) to layers a:b of the old states and ask."""
    wkv = material.old.wkv.clone()
    wkv[:, a:b] += part[:, a:b]
    reading = material.patched(wkv)
    whole = material.delta[:, a:b].flatten(1).norm(dim=1)
    kept = part[:, a:b].flatten(1).norm(dim=1) / whole
    return {
        "rank": rank, "layers": where, "norm": mean(kept.cpu()), "p_old": mean(reading.p_old),
        "p_new": mean(reading.p_new), "flip": share(reading.flipped),
        "effect": mean(material.effect(reading)),
    }


def sentence(rows: list[dict], edits: list[dict], overall: dict, L: int) -> str:
    by = {(e["rank"], e["layers"]): e for e in edits}
    top = max(rows, key=lambda r: r["r1"]["mean"])
    low = min(rows, key=lambda r: r["r1"]["mean"])
    one, full, noise = by["1", "upper"], by["full", "upper"], by["random", "upper"]

    def effect(e: dict) -> float:
        return middle(e["effect"])

    enough = next((e["rank"] for e in edits if e["layers"] == "upper" and e["rank"] != "random"
                   and effect(e) >= 0.9 * effect(full)), "full")
    return (
        f"The first direction holds {overall['mean']:.0%} of the squared change (r1 from "
        f"{signed(low['r1']['mean'])} in layer {low['layer']} head {low['head']} to "
        f"{signed(top['r1']['mean'])} in layer {top['layer']} head {top['head']}); in layers "
        f"{L // 2}:{L} the rank-1 edit moves {signed(effect(one))} of the log-odds and flips "
        f"{one['flip']['mean']:.0%} of worlds against {signed(effect(full))} and "
        f"{full['flip']['mean']:.0%} for the whole change, a random change of equal norm moves "
        f"{signed(effect(noise))}, and rank {enough} is the first to reach nine tenths of it."
    )


def pictures(rows: list[dict], edits: list[dict], L: int, H: int) -> tuple[Lines, Heatmaps]:
    values = tuple(tuple(rows[i * H + h]["r1"]["mean"] for h in range(H)) for i in range(L))
    order = [e["rank"] for e in edits if e["layers"] == "all" and e["rank"] != "random"]
    series = tuple(
        Series.of(f"{where} layers", [e["effect"] for e in edits
                                      if e["layers"] == where and e["rank"] != "random"])
        for where in ("upper", "all")
    )
    noise = next(e for e in edits if e["rank"] == "random" and e["layers"] == "all")
    return (
        Lines(
            "edits", "Effect of adding the leading k directions of every head",
            "Two curves of effect against rank (" + ", ".join(order) + "): upper layers and all "
            "layers, with a random change of equal norm as a dashed line.",
            tuple(range(len(order))), series, "rank of the edit", "share of log-odds moved",
            level=None if noise["effect"]["mean"] is None
            else (noise["effect"]["mean"], "random change, equal norm"),
            x_names=tuple(order),
        ),
        Heatmaps(
            "r1", "r1: share of each head's change in its first direction",
            f"A matrix of {L} layers by {H} heads with r1 of each head.",
            (Panel("", values, tuple(map(str, range(H))), tuple(map(str, range(L)))),),
            "r1", "head", "layer", low=0.0, high=1.0,
        ),
    )
