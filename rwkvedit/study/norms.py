"""How large the state, a fact's change and single writes are, layer by layer and over tokens.

Norms are Frobenius norms of a layer's ``wkv`` (all heads). A write is ``|v| |k|`` over heads; the
decay's half-life is ``ln .5 / ln w`` in tokens at the median channel, without the delta rule's
removals, which shorten it (see the study tokens).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from rwkvedit.evaluate.worlds import Maker
from rwkvedit.recurrent.hooks import Hooks
from rwkvedit.report.plots import Bars, Lines, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, pick_layers, signed, study
from rwkvedit.study.cases import find_lexicon, gather, spans, turn_tokens

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # tokens at which the growing state is measured
TALKS = 8  # conversations of small talk followed

COLUMNS = columns(
    ("layer", "layer"),
    ("state", "|state|", "norm of wkv at the conversation's end"),
    ("largest", "max |entry|", "largest entry of wkv"),
    ("delta", "|delta|", "norm of the fact's change"),
    ("ratio", "delta / state", "the change as a share of the state"),
    ("head_spread", "heads", "largest head's share of the squared change"),
    ("write", "|v| |k|", "norm of one token's write, mean over tokens"),
    ("decay", "decay w", "median over tokens and channels"),
    ("half_life", "half-life", "tokens, of the median decay alone"),
    ("rate", "rate a", "mean in-context learning rate"),
)


@study("norms", "How large are the state, a fact's change and a single write?", worlds=24)
def norms(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    material, settings, caution = gather(loaded, options.lexicon, rng, options.worlds or 0)
    L = material.old.n_layer
    state = material.old.wkv.flatten(2).norm(dim=-1).cpu()  # (B, L)
    change = material.delta.flatten(3).norm(dim=-1).cpu()  # (B, L, H)
    delta = change.norm(dim=-1)
    spread = change.square().amax(-1) / delta.square()
    largest = material.old.wkv.abs().flatten(2).amax(-1).cpu()
    inside = insides(loaded, [c.old_tokens for c in material.cases])
    rows = []
    for i in range(L):
        decay = inside[i]["decay"]
        middle = float(np.median(decay))
        rows.append({
            "layer": i, "state": mean(state[:, i]), "largest": mean(largest[:, i]),
            "delta": mean(delta[:, i]), "ratio": mean(delta[:, i] / state[:, i]),
            "head_spread": mean(spread[:, i]), "write": mean(inside[i]["write"]),
            "decay": mean(decay),
            "half_life": math.log(0.5) / math.log(middle) if 0 < middle < 1 else None,
            "rate": mean(inside[i]["rate"]),
        })
    grown = growth(loaded, options.lexicon, rng)
    table = Table(
        columns(("tokens", "tokens"), *((f"layer{i}", f"layer {i}") for i in range(L))),
        tuple({"tokens": n, **{f"layer{i}": mean(x[:, i]) for i in range(L)}}
              for n, x in zip(STEPS, grown, strict=True)), "state norm over a chat of small talk",
    )
    whole = delta.square().sum(1).sqrt() / state.square().sum(1).sqrt()
    settings |= {"talks": TALKS, "delta_over_state": mean(whole)}
    return Finding(
        caution + sentence(rows, grown, mean(whole)),
        (Table(COLUMNS, tuple(rows), "by layer"), table), pictures(rows, grown, L), settings,
    )


def insides(loaded: Any, rows: list[tuple[int, ...]]) -> list[dict[str, list[float]]]:
    """Per layer and case: mean write norm, median decay, mean learning rate over its tokens."""
    L = loaded.model.config.n_layer
    out: list[dict[str, list[float]]] = [{"write": [], "decay": [], "rate": []} for _ in range(L)]
    for part in spans(loaded, len(rows)):
        chosen = rows[part]
        lengths = [len(r) for r in chosen]
        held: dict[str, torch.Tensor] = {}

        def reader(i: int, site: str, held: dict = held, lengths: list = lengths) -> Any:
            def read(x: torch.Tensor) -> None:
                for b, n in enumerate(lengths):
                    if site == "k":
                        held[f"{i}.{b}"] = x[b, :n].norm(dim=-1)
                    elif site == "v":
                        wrote = x[b, :n].norm(dim=-1) * held.pop(f"{i}.{b}")
                        out[i]["write"].append(float(wrote.norm(dim=-1).mean()))
                    elif site == "w":
                        out[i]["decay"].append(float(x[b, :n].median()))
                    else:
                        out[i]["rate"].append(float(x[b, :n].mean()))
            return read

        hooks = Hooks({f"blocks.{i}.att.{s}": reader(i, s) for i in range(L) for s in "wakv"})
        loaded.model.forward([list(r) for r in chosen], hooks=hooks)
    return out


def growth(loaded: Any, lexicon: str, rng: np.random.Generator) -> list[np.ndarray]:
    """State norms (TALKS, L) of chats of small talk after each of STEPS tokens."""
    maker = Maker(find_lexicon(loaded, lexicon), rng)
    talks = []
    for _ in range(TALKS):
        ids: list[int] = []
        while len(ids) < STEPS[-1]:
            turn = maker.small_talk()
            ids += turn_tokens(loaded, turn.user, turn.reply)
        talks.append(ids[: STEPS[-1]])
    state = loaded.model.zero_state(TALKS)
    found, at = [], 0
    for step in STEPS:
        _, state = loaded.model.forward([ids[at:step] for ids in talks], state)
        found.append(state.wkv.flatten(2).norm(dim=-1).cpu().numpy())
        at = step
    return found


def sentence(rows: list[dict], grown: list[np.ndarray], whole: dict) -> str:
    top = max(rows, key=lambda r: r["ratio"]["mean"])
    big = max(rows, key=lambda r: r["state"]["mean"])
    first, half, last = (grown[STEPS.index(n)].mean() for n in (16, 128, 256))
    slow = max((r for r in rows if r["half_life"]), key=lambda r: r["half_life"], default=None)
    lasting = "" if slow is None else (
        f"; the slowest decay is layer {slow['layer']}'s (half-life "
        f"{slow['half_life']:,.0f} tokens)")
    return (
        f"A fact's change is {signed(whole['mean'])} of the whole state's norm and largest in "
        f"layer {top['layer']} ({signed(top['ratio']['mean'])} of that layer's state; the "
        f"largest state is layer {big['layer']}'s, {big['state']['mean']:,.0f}); over small talk "
        f"the norm grows by {last / first - 1:+.0%} from 16 to 256 tokens and by "
        f"{last / half - 1:+.0%} from 128 to 256{lasting}."
    )


def pictures(rows: list[dict], grown: list[np.ndarray], L: int) -> tuple[Lines, Bars]:
    names = tuple(str(i) for i in range(L))
    return (
        Lines(
            "growth", "State norm over a chat of small talk",
            "Curves of the state's norm against tokens heard, one a layer, both axes log.",
            STEPS, tuple(Series(f"layer {i}", tuple(float(x[:, i].mean()) for x in grown))
                         for i in pick_layers(L)),
            "tokens heard", "norm of wkv", x_log=True, y_log=True,
        ),
        Bars(
            "change", "A fact's change as a share of each layer's state",
            "Bars by layer: the norm of the fact's change over the state's norm.",
            names, (Series.of("delta / state", [r["ratio"] for r in rows]),), "share of the state",
        ),
    )
