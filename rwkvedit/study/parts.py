"""Taking the old value out, putting the new one in, or both.

What a telling writes is measured outside the conversation, from a fresh state, against an empty
turn of small talk: ``D_old = wkv(told old) - wkv(small talk)``, ``D_new`` likewise. Per head with
leading triples of these (upper half of the layers)::

    whole     remove S - D_old             add S + D_new
    rank 1    remove S - s_o u_o v_o^T     add S + s_n u_n v_n^T
    project   remove S - (S v) v^T         add S + s u v^T       (s, u, v of D_new - D_old)

``both`` does the two together; ``project`` is the published donor-free edit. The random control
adds and removes as large changes in random directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.evaluate.worlds import Maker
from rwkvedit.recurrent.spectrum import Triples, top_triples
from rwkvedit.report.plots import Bars, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, share, signed, study
from rwkvedit.study.cases import Material, find_lexicon, gather, run_tokens, turn_tokens

FORMS = ("whole", "rank 1", "project", "random")
DOES = ("remove", "add", "both")

COLUMNS = columns(
    ("form", "form", "what stands for a telling's write"), ("does", "does"),
    ("p_old", "P(old)", "at the fact's own question"), ("p_new", "P(new)"),
    ("old_falls", "old falls", "nats that log P(old) falls"),
    ("new_rises", "new rises", "nats that log P(new) rises"),
    ("flip", "flip", "share of worlds in which the new value is the likelier"),
    ("effect", "effect", "share of the log-odds moved"),
)


def changes(state: Tensor, old: Tensor, new: Tensor, rng: np.random.Generator
            ) -> dict[tuple[str, str], Tensor]:
    """What each form removes and adds: (form, "remove"|"add") -> (B, l, H, N, N) to be added."""
    one_old, one_new = top_triples(old, 1), top_triples(new, 1)
    swap: Triples = top_triples(new - old, 1)
    out = {
        ("whole", "remove"): -old, ("whole", "add"): new,
        ("rank 1", "remove"): -one_old.matrix(), ("rank 1", "add"): one_new.matrix(),
        ("project", "remove"): -(state @ swap.v) @ swap.v.transpose(-1, -2),
        ("project", "add"): swap.matrix(),
    }
    for does, like in (("remove", old), ("add", new)):
        noise = torch.tensor(rng.standard_normal(tuple(like.shape)), dtype=like.dtype)
        noise = noise.to(like.device)
        size = like.flatten(3).norm(dim=-1) / noise.flatten(3).norm(dim=-1)
        out["random", does] = noise * size[..., None, None]
    return out


@study("remove-add", "Must the old value be taken out, or is it enough to put the new one in?",
       min_layers=2)
def remove_add(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    material, settings, caution = gather(loaded, options.lexicon, rng, options.worlds or 0)
    L = material.old.n_layer
    upper = slice(L // 2, L)
    maker = Maker(find_lexicon(loaded, options.lexicon), rng)
    told = [run_tokens(loaded, [turn_of(c, which) for c in material.cases]).wkv[:, upper]
            for which in ("old", "new")]
    talk = [maker.small_talk(1) for _ in material.cases]
    empty = run_tokens(loaded, [turn_tokens(loaded, t.user) for t in talk]).wkv[:, upper]
    state = material.old.wkv[:, upper]
    parts = changes(state, told[0] - empty, told[1] - empty, rng)
    rows = [measured(material, "none", "nothing", torch.zeros_like(state), upper)]
    for form in FORMS:
        for does in DOES:
            steps = ("remove", "add") if does == "both" else (does,)
            change = sum((parts[form, step] for step in steps), torch.zeros_like(state))
            rows.append(measured(material, form, does, change, upper))
    settings |= {"layers": f"{L // 2}:{L}"}
    return Finding(caution + sentence(rows), (Table(COLUMNS, tuple(rows)),), pictures(rows),
                   settings)


def turn_of(case: Any, which: str) -> tuple[int, ...]:
    """The target's turn alone."""
    return getattr(case, f"{which}_tokens")[case.turn_start : case.turn_end]


def measured(
    material: Material, form: str, does: str, change: Tensor, layers: slice
) -> dict[str, Any]:
    wkv = material.old.wkv.clone()
    wkv[:, layers] += change
    reading = material.patched(wkv)
    return {
        "form": form, "does": does, "p_old": mean(reading.p_old), "p_new": mean(reading.p_new),
        "old_falls": mean(material.before.logp_old - reading.logp_old),
        "new_rises": mean(reading.logp_new - material.before.logp_new),
        "flip": share(reading.flipped), "effect": mean(material.effect(reading)),
    }


def sentence(rows: list[dict]) -> str:
    by = {(r["form"], r["does"]): r for r in rows}
    said = "; ".join(
        f"{form}: " + ", ".join(
            f"{does} {by[form, does]['flip']['mean']:.0%}" for does in DOES)
        for form in ("whole", "rank 1", "project"))
    most = max(r["flip"]["mean"] for r in rows)
    best = ", ".join(f"{r['form']} {r['does']}" for r in rows if r["flip"]["mean"] == most)
    remove, add = by["rank 1", "remove"], by["rank 1", "add"]
    return (
        f"Worlds flipped by {said}; random changes as large flip "
        f"{by['random', 'both']['flip']['mean']:.0%}. At rank 1 removing lowers log P(old) by "
        f"{signed(remove['old_falls']['mean'])} nats and adding raises log P(new) by "
        f"{signed(add['new_rises']['mean'])} (and lowers log P(old) by "
        f"{signed(add['old_falls']['mean'])}); most flips ({most:.0%}): {best}."
    )


def pictures(rows: list[dict]) -> tuple[Bars, Bars]:
    def grouped(key: str) -> tuple[Series, ...]:
        return tuple(
            Series.of(does, [r[key] for r in rows if r["does"] == does]) for does in DOES)

    return (
        Bars(
            "flips", "Worlds in which the new value becomes the likelier",
            "Bars of flip rates for removing, adding and both, for each form of the change.",
            FORMS, grouped("flip"), "share of worlds",
        ),
        Bars(
            "effect", "Share of the log-odds moved",
            "Bars of the share of the log-odds moved by removing, adding and both.",
            FORMS, grouped("effect"), "share of log-odds moved", level=(1.0, "all"),
        ),
    )
