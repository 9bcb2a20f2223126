"""Where two matched prompts part: cosines of the residual, time-mix and channel-mix by layer.

By default a pair is one conversation with the old and with the new value, its question asked; it is
read at the value's last token, at the end of the telling turn, and before the answer's value, and
beside it stand pairs of unlike worlds. With ``--a`` and ``--b`` line i of one file is matched with
line i of the other and read at the last token.

    residual      blocks.{i}.resid_out   (D,)   the stream after layer i
    time-mix      blocks.{i}.att.out     (D,)   what the recurrence adds to it
    channel-mix   blocks.{i}.ffn.out     (D,)   what the feed-forward adds to it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.hooks import Hooks
from rwkvedit.report.plots import Lines, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, signed, study
from rwkvedit.study.cases import gather, spans
from rwkvedit.study.prompts import prompt_sets

SITES = {"residual": "resid_out", "time-mix": "att.out", "channel-mix": "ffn.out"}

COLUMNS = columns(
    ("place", "read at"), ("pairs", "pairs"), ("layer", "layer"),
    *((name, name, "mean cosine of the two prompts' vectors") for name in SITES),
)


def read_sites(
    loaded: Any, rows: Sequence[Sequence[int]], at: Sequence[Sequence[int]],
    sites: Sequence[str] = tuple(SITES.values()),
) -> Tensor:
    """(B, places, sites, L, D) of each row at its positions ``at`` (equally many each)."""
    L = loaded.model.config.n_layer
    out = []
    for part in spans(loaded, len(rows)):
        positions = torch.tensor([list(p) for p in at[part]], device=loaded.model.device)
        seen: dict[str, Tensor] = {}

        def reader(name: str, seen: dict = seen, positions: Tensor = positions) -> Any:
            def read(x: Tensor) -> None:
                index = positions[..., None].expand(*positions.shape, x.shape[-1])
                seen[name] = x.gather(1, index).float()
            return read

        names = [[f"blocks.{i}.{site}" for i in range(L)] for site in sites]
        hooks = Hooks({name: reader(name) for group in names for name in group})
        loaded.model.forward([list(r) for r in rows[part]], hooks=hooks)
        out.append(torch.stack(
            [torch.stack([seen[name] for name in group], 2) for group in names], 2))
    return torch.cat(out)


@study("similarity", "At which layers do two prompts that differ in one fact part?", worlds=30)
def similarity(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    if options.a and options.b:
        a, b = prompt_sets(loaded, options.a, options.b)
        if len(a) != len(b):
            raise UsageError(
                f"matched prompts need as many lines in each file: {options.a} has {len(a)} and "
                f"{options.b} {len(b)}"
            )
        places: tuple[str, ...] = ("last token",)
        rows = [p.tokens for p in a], [p.tokens for p in b]
        at = tuple([[len(r) - 1] for r in side] for side in rows)
        settings: dict[str, Any] = {"a": options.a, "b": options.b, "pairs": len(a)}
        caution = ""
    else:
        material, settings, caution = gather(loaded, options.lexicon, rng, options.worlds or 0)
        places = ("value", "turn's end", "answer")
        rows = tuple([[*getattr(c, f"{which}_tokens"), *c.ask] for c in material.cases]
                     for which in ("old", "new"))
        one = [[c.value_at[-1], c.turn_end - 1, len(r) - 1]
               for c, r in zip(material.cases, rows[0], strict=True)]
        at = one, one
    left, right = (read_sites(loaded, r, p) for r, p in zip(rows, at, strict=True))
    table = []
    for kind, other in (("matched", right), ("unlike", right.roll(1, 0))):
        cosine = torch.cosine_similarity(left, other, dim=-1).cpu().numpy()  # (B, places, 3, L)
        table += [
            {"place": place, "pairs": kind, "layer": i,
             **{name: mean(cosine[:, p, s, i]) for s, name in enumerate(SITES)}}
            for p, place in enumerate(places) for i in range(cosine.shape[-1])
        ]
    return Finding(caution + sentence(table, places), (Table(COLUMNS, tuple(table)),),
                   pictures(table, places), settings)


def chosen(table: list[dict], place: str, kind: str = "matched") -> list[dict]:
    return [r for r in table if r["place"] == place and r["pairs"] == kind]


def sentence(table: list[dict], places: Sequence[str]) -> str:
    last = places[-1]
    rows, unlike = chosen(table, last), chosen(table, last, "unlike")
    lows = {}
    for name in SITES:
        low = min(rows, key=lambda r: r[name]["mean"])
        lows[name] = f"{name} {signed(low[name]['mean'])} (layer {low['layer']})"
    parts = next((r["layer"] for r in rows if r["time-mix"]["mean"] < 0.9), None)
    where = (f"the time-mix outputs part first (below .90) in layer {parts}" if parts is not None
             else "the time-mix outputs never fall below .90")
    end, beside = (r[-1]["residual"]["mean"] for r in (rows, unlike))
    return (
        f"At the {last}, {where}; lowest cosines of matched prompts: {', '.join(lows.values())}; "
        f"the last layer's residual is at {signed(end)} against {signed(beside)} for unlike pairs."
    )


def pictures(table: list[dict], places: Sequence[str]) -> tuple[Lines, ...]:
    out = []
    for place in places:
        rows = chosen(table, place)
        unlike = tuple(r["residual"]["mean"] for r in chosen(table, place, "unlike"))
        series = [*(Series.of(name, [r[name] for r in rows]) for name in SITES),
                  Series("residual, unlike pairs", unlike)]
        slug = place.replace("'", "").replace(" ", "-")
        out.append(Lines(
            slug, f"Cosine of matched prompts, read at the {place}",
            f"Four curves of cosine against layer at the {place}: residual, time-mix and "
            "channel-mix of matched prompts, and the residual of unlike pairs.",
            tuple(r["layer"] for r in rows), tuple(series), "layer", "cosine",
        ))
    return tuple(out)
