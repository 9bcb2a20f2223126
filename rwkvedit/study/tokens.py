"""What each token wrote, and how much of it is still there: an exact split of the state.

With ``S_t = S_{t-1} M_t + v_t k_t^T`` and ``x M_t = x * w_t - (x . kk_t) b_t`` for a row x, the
state after T tokens is a sum over tokens of rank-one terms (plus what the start state left):

    S_T = S_0 M_1..M_T + sum_t v_t x_t^T,      x_t = k_t M_{t+1} .. M_T        (arXiv:2503.14456)

so a token's write lives on as ``|v_t| |x_t|``, and its share of ``delta = S_T(new) - S_T(old)`` is
``<v_t x_t^T (new) - v_t x_t^T (old), delta> / |delta|^2``; shares sum to 1.

Glossary (B cases, T tokens, H heads, N head size, per layer):
    w k v kk b    (B, T, H, N)   as the hooks see them
    keys          (B, T, H, N)   x_t: every token's key as it stands at the end
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.evaluate.worlds import ACKNOWLEDGEMENT
from rwkvedit.recurrent.hooks import Record
from rwkvedit.report.plots import Heatmaps, Lines, Panel, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, pick_layers, signed, study
from rwkvedit.study.cases import Case, Material, gather, spans

LAGS = (1, 2, 4, 8, 16, 32)
ROLES = ("before it", "value", "rest of the sentence", "end of the user's turn", "reply opens",
         "acknowledgement", "later turns", "start state")
SITES = ("w", "k", "v", "kk", "b")


def carried_keys(
    w: Tensor, k: Tensor, kk: Tensor, b: Tensor, lengths: Tensor
) -> tuple[Tensor, dict[int, Tensor]]:
    """(keys at the end, {lag: squared norm of each token's key that many tokens later}).

    Row b counts ``lengths[b]`` tokens; later positions change nothing. Squared norms (B, T, H) are
    NaN where the conversation ends before.
    """
    B, T, H = k.shape[:3]
    keys = torch.zeros_like(k)
    after = {lag: k.new_full((B, T, H), float("nan")) for lag in LAGS if lag < T}
    for t in range(T):
        live = (t < lengths)[:, None, None, None]
        x = keys[:, :t]
        moved = x * w[:, t, None] - (x * kk[:, t, None]).sum(-1, keepdim=True) * b[:, t, None]
        keys[:, :t] = torch.where(live, moved, x)
        keys[:, t] = torch.where(live[:, 0], k[:, t], 0.0)
        for lag, kept in after.items():
            if t >= lag:
                norm = keys[:, t - lag].square().sum(-1)
                kept[:, t - lag] = torch.where(live[:, 0, :, 0], norm, float("nan"))
    return keys, after


def roles(loaded: Any, case: Case) -> list[str]:
    """What each token of the conversation is, seen from the changed value.

    Tokens before it wrote the same twice, yet may have been removed differently since.
    """
    tok, template = loaded.tokenizer, loaded.template
    opening = len(tok.encode(f"{template.assistant_name}:"))
    end = len(tok.encode(template.turn_end))
    reply = len(template.encode_assistant(tok, ACKNOWLEDGEMENT))
    said = case.turn_end - reply - opening - end  # where the user's words end
    names = []
    for at in range(len(case.old_tokens)):
        if at in case.value_at:
            names.append("value")
        elif at < case.value_at[0]:
            names.append("before it")
        elif at < said:
            names.append("rest of the sentence")
        elif at < said + end:
            names.append("end of the user's turn")
        elif at < said + end + opening:
            names.append("reply opens")
        else:
            names.append("acknowledgement" if at < case.turn_end else "later turns")
    return names


SHARE_COLUMNS = columns(
    ("layer", "layer"), *((role, role) for role in ROLES),
    ("norm", "|delta|", "Frobenius norm of the layer's change"),
)
SURVIVAL_COLUMNS = columns(
    ("layer", "layer"), ("what", "tokens"),
    *((f"lag{lag}", f"after {lag}", "what is left of a write that many tokens later, of 1")
      for lag in LAGS),
)


@study("tokens", "Which tokens wrote the fact, and how long does a write last?", worlds=24)
def tokens(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    material, settings, caution = gather(loaded, options.lexicon, rng, options.worlds or 0)
    L = material.old.n_layer
    shares = {(i, role): [] for i in range(L) for role in ROLES}
    survival: dict[tuple[int, str, int], list[float]] = {}
    worst = 0.0
    for part in spans(loaded, len(material)):
        at = range(part.start, part.stop)
        cases = [material.cases[i] for i in at]
        seen = [record(loaded, [getattr(c, f"{v}_tokens") for c in cases]) for v in ("old", "new")]
        named = [roles(loaded, c) for c in cases]
        lengths = torch.tensor([len(c.old_tokens) for c in cases], device=material.old.device)
        start = loaded.model.zero_state().wkv
        for i in range(L):
            terms = []
            for got, state in zip(seen, (material.old, material.new), strict=True):
                w, k, v, kk, b = (got[f"blocks.{i}.att.{site}"].float() for site in SITES)
                keys, after = carried_keys(w, k, kk, b, lengths)
                whole = state.wkv[part, i].double()
                made = torch.einsum("bthv,bthk->bhvk", v.double(), keys.double())
                left = whole - made if bool(start[i].any()) else torch.zeros_like(made)
                worst = max(worst, float((made + left - whole).norm() / whole.norm()))
                terms.append((v.double(), keys.double(), left))
                collect(survival, i, v, k, after, cases)
            delta = material.delta[part, i].double()
            size = delta.flatten(1).square().sum(1)
            onto = [torch.einsum("bthv,bhvk,bthk->bt", v, delta, x) for v, x, _ in terms]
            per_token = ((onto[1] - onto[0]) / size[:, None]).cpu().numpy()
            rest = (((terms[1][2] - terms[0][2]) * delta).flatten(1).sum(1) / size).cpu().numpy()
            for row, names in enumerate(named):
                for role in ROLES[:-1]:
                    picked = [per_token[row, t] for t, name in enumerate(names) if name == role]
                    shares[i, role].append(float(np.sum(picked)))
                shares[i, "start state"].append(float(rest[row]))
    settings |= {"largest_split_error": worst}
    return report(material, shares, survival, settings, caution)


def record(loaded: Any, rows: Sequence[Sequence[int]]) -> Record:
    """Everything the split needs, of every layer."""
    L = loaded.model.config.n_layer
    seen = Record([f"blocks.{i}.att.{site}" for i in range(L) for site in SITES])
    loaded.model.forward([list(row) for row in rows], hooks=seen.hooks)
    return seen


def collect(
    into: dict, layer: int, v: Tensor, k: Tensor, after: dict[int, Tensor], cases: Sequence[Case]
) -> None:
    """Per case, what is left of the writes of value tokens and of all tokens at each lag."""
    weight = v.square().sum(-1)  # (B, T, H)
    wrote = (weight * k.square().sum(-1)).sum(-1)  # (B, T)
    for lag, norm in after.items():
        left = (weight * norm).sum(-1)
        for row, case in enumerate(cases):
            n = len(case.old_tokens) - lag
            for what, at in (("value", [t for t in case.value_at if t < n]), ("all", range(n))):
                chosen = torch.tensor(list(at), dtype=torch.long, device=left.device)
                if len(chosen):
                    share = float((left[row, chosen].sum() / wrote[row, chosen].sum()).sqrt())
                    into.setdefault((layer, what, lag), []).append(share)


def report(
    material: Material, shares: dict, survival: dict, settings: dict, caution: str
) -> Finding:
    L = material.old.n_layer
    norms = material.delta.flatten(2).norm(dim=-1).cpu().numpy()
    rows = [
        {"layer": i, **{role: mean(shares[i, role]) for role in ROLES}, "norm": mean(norms[:, i])}
        for i in range(L)
    ]
    lags = [lag for lag in LAGS if (0, "all", lag) in survival]
    lasting = [
        {"layer": i, "what": what,
         **{f"lag{lag}": mean(survival.get((i, what, lag), [])) for lag in lags}}
        for i in range(L) for what in ("value", "all")
    ]
    names = tuple(str(i) for i in range(L))
    curves = tuple(
        Series(f"layer {i}", tuple(
            next(r for r in lasting if r["layer"] == i and r["what"] == "all")[f"lag{lag}"]["mean"]
            for lag in lags))
        for i in pick_layers(L)
    )
    values = tuple(tuple(r[role]["mean"] for role in ROLES[:-1]) for r in rows)
    plots = (
        Heatmaps(
            "shares", "Who wrote the change: share of each layer's delta by token",
            f"A matrix of {L} layers by {len(ROLES) - 1} kinds of tokens with the share of the "
            "change that each wrote.", (Panel("", values, ROLES[:-1], names),),
            "share of delta", "", "layer", diverging=True, high=1.0, low=-1.0,
        ),
        Lines(
            "survival", "What is left of a write t tokens later",
            "Curves for layers of the share of a token's write that is left, against the number of "
            "tokens since, log scale.",
            tuple(lags), curves, "tokens since the write", "share left (norm)", x_log=True,
        ),
    )
    unused = {f"lag{lag}" for lag in LAGS if lag not in lags}
    if all(value == 0.0 for i in range(L) for value in shares[i, "start state"]):
        unused.add("start state")  # only a tuned start state leaves something of its own
    shown, kept = (tuple(c for c in cs if c.key not in unused)
                   for cs in (SHARE_COLUMNS, SURVIVAL_COLUMNS))
    return Finding(
        caution + sentence(rows, lasting, lags), (
            Table(shown, tuple(rows), "share of the change written by each kind of token"),
            Table(kept, tuple(lasting), "survival of writes"),
        ), plots, settings,
    )


def sentence(rows: list[dict], lasting: list[dict], lags: list[int]) -> str:
    main = max(rows, key=lambda r: r["norm"]["mean"])
    ranked = sorted(ROLES, key=lambda role: -abs(main[role]["mean"]))
    wrote = ", ".join(f"{role} {main[role]['mean']:.0%}" for role in ranked[:3])
    last = f"lag{lags[-1]}"
    whole = [r for r in lasting if r["what"] == "all" and r[last]["mean"] is not None]
    best, least = (f(whole, key=lambda r: r[last]["mean"]) for f in (max, min))
    own = next(r for r in lasting if r["layer"] == main["layer"] and r["what"] == "value")
    value = own[last]["mean"]
    kept = "" if value is None else (
        f"; there the value's own write keeps {signed(value)} of its size {lags[-1]} tokens later")
    return (
        f"In layer {main['layer']}, where the change is largest, it was written by: {wrote}{kept}; "
        f"over all tokens the longest memory is layer {best['layer']}'s "
        f"({signed(best[last]['mean'])} left after {lags[-1]} tokens) and the shortest layer "
        f"{least['layer']}'s ({signed(least[last]['mean'])})."
    )
