"""What tokens between a fact and its question do to recall, and to an edit.

Small talk is added to the same two conversations (old and new value told) until given numbers of
tokens lie between. At every distance the question is asked; the counterfactual state is put in
(upper half); the change is added at rank 1; and the change measured at distance 0 is added as it
was (an edit prepared early and used late).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rwkvedit.evaluate.worlds import Maker
from rwkvedit.recurrent.spectrum import top_triples
from rwkvedit.recurrent.state import State
from rwkvedit.report.plots import Lines, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, share, signed, study
from rwkvedit.study.cases import (
    Reading,
    find_lexicon,
    gather,
    read,
    run_tokens,
    turn_tokens,
)  # fmt: skip

DISTANCES = (0, 16, 32, 64, 128, 256, 512, 1024)

COLUMNS = columns(
    ("distance", "tokens", "tokens of small talk between the facts and the question"),
    ("p_old", "P(old)", "of the value told, at its own question"),
    ("recall", "recall", "share of worlds in which it is likelier than the other value"),
    ("state", "whole change", "effect of putting in the upper half of the other state"),
    ("rank1", "rank 1", "effect of that change's leading direction"),
    ("early", "early change", "effect of the change measured at distance 0"),
    ("cosine", "cosine", "of the change now and at distance 0"),
    ("kept", "size kept", "norm of the change as a share of that at distance 0"),
)


def grown(loaded: Any, state: State, rows: list[list[int]]) -> State:
    """Every conversation after its next tokens (at least one each)."""
    return run_tokens(loaded, rows, state) if rows[0] else state


@study("distance", "How far back can a fact lie, to be recalled and to be edited?", worlds=20,
       min_layers=2)
def distance(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    material, settings, caution = gather(loaded, options.lexicon, rng, options.worlds or 0)
    maker = Maker(find_lexicon(loaded, options.lexicon), rng)
    talk = [small_talk(loaded, maker, DISTANCES[-1]) for _ in material.cases]
    L = material.old.n_layer
    upper = slice(L // 2, L)
    first = material.delta[:, upper]
    old, new, at = material.old, material.new, 0
    rows = []
    for tokens in DISTANCES:
        rows_now = [ids[at:tokens] for ids in talk]
        old, new, at = grown(loaded, old, rows_now), grown(loaded, new, rows_now), tokens
        before, after = (read(loaded, material.cases, s) for s in (old, new))
        change = (new.wkv - old.wkv)[:, upper]
        flat, start = change.flatten(1), first.flatten(1)
        row: dict[str, Any] = {
            "distance": tokens, "p_old": mean(before.p_old), "recall": share(~before.flipped)}
        for name, added in (("state", change), ("rank1", top_triples(change, 1).matrix()),
                            ("early", first)):
            wkv = old.wkv.clone()
            wkv[:, upper] += added
            row[name] = mean(moved(before, after, read(loaded, material.cases,
                                                       old.replace(wkv=wkv))))
        row["cosine"] = mean(torch.cosine_similarity(flat, start, dim=1).cpu())
        row["kept"] = mean((flat.norm(dim=1) / start.norm(dim=1)).cpu())
        rows.append(row)
    settings |= {"layers": f"{L // 2}:{L}"}
    return Finding(caution + sentence(rows), (Table(COLUMNS, tuple(rows)),), pictures(rows),
                   settings)


def small_talk(loaded: Any, maker: Maker, tokens: int) -> list[int]:
    """That many tokens of turns that tell nothing."""
    ids: list[int] = []
    while len(ids) < tokens:
        turn = maker.small_talk()
        ids += turn_tokens(loaded, turn.user, turn.reply)
    return ids[:tokens]


def moved(before: Reading, after: Reading, edited: Reading) -> np.ndarray:
    """Share of the log-odds between the two conversations that an edit moves."""
    whole = after.odds - before.odds
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(whole) < 1.0, np.nan, (edited.odds - before.odds) / whole)


def sentence(rows: list[dict]) -> str:
    near, far = rows[0], rows[-1]
    half = next((r["distance"] for r in rows if r["recall"]["mean"] < 0.9), None)
    holds = (f"recall first falls below 90% at {half} tokens" if half is not None
             else f"recall stays at 90% or more up to {far['distance']} tokens")

    def at(row: dict, key: str) -> str:
        return signed(row[key])

    return (
        f"P(old) goes from {at(near, 'p_old')} to {at(far, 'p_old')} over {far['distance']} tokens "
        f"and {holds} ({far['recall']['mean']:.0%} there); the rank-1 change moves "
        f"{at(near, 'rank1')} of the log-odds at once and {at(far, 'rank1')} at the end, the "
        f"change measured at distance 0 still {at(far, 'early')}, having turned to cosine "
        f"{at(far, 'cosine')} of what it would be then and the change itself having kept "
        f"{at(far, 'kept')} of its size."
    )


def pictures(rows: list[dict]) -> tuple[Lines, Lines]:
    x = tuple(r["distance"] for r in rows)

    def curves(**names: str) -> tuple[Series, ...]:
        return tuple(Series.of(title, [r[key] for r in rows]) for key, title in names.items())

    return (
        Lines(
            "recall", "Recall against distance",
            "Two curves over tokens of small talk, log scale: P of the told value and the share "
            "of worlds in which it is preferred.",
            x, curves(p_old="P(value told)", recall="preferred to the other value"),
            "tokens between fact and question", "share", x_log=True, y_range=(0.0, 1.05),
        ),
        Lines(
            "edit", "Effect of an edit against distance",
            "Curves of the share of log-odds moved over tokens of small talk: the whole change, "
            "its rank 1, the change measured at distance 0, and the cosine of the two changes.",
            x, curves(state="whole change", rank1="rank 1", early="change from distance 0",
                      cosine="cosine of both"),
            "tokens between fact and question", "share of log-odds moved", x_log=True,
        ),
    )
