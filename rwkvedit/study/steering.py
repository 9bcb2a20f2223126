"""Mean-difference steering: does adding mean(B) - mean(A) make texts of B likelier than of A?

The direction is the difference of the two sets' mean residuals after a layer (over all their
tokens), from two thirds of the groups. It is added, times a strength, at every position of that
layer while the remaining third is read, each third in turn; measured is how much more likely texts
of B become than texts of A, per token::

    pull = [mean log P(B texts) - mean log P(A texts)] steered - the same unsteered     (nats)

The control is a random direction of the same norm (several draws). ``both`` is how much likelihood
the two sets gain on average (a loss is negative).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.hooks import Hooks, Record
from rwkvedit.report.plots import Lines, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, pick_layers, signed, study
from rwkvedit.study.prompts import Prompt, names_of, prompt_sets

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
FIRST = 2.0  # the strength at which layers are compared
THIRDS = 3
DRAWS = 3  # random directions
MOST = 8  # layers tried, evenly spread

COLUMNS = columns(
    ("layer", "layer"), ("strength", "strength", "multiples of the difference of means"),
    ("norm", "of residual", "norm added as a share of the mean residual norm"),
    ("pull", "pull", "nats a token by which B gains on A"),
    ("random", "random", "the same for random directions of equal norm"),
    ("both", "both", "nats a token that both sets gain on average"),
    ("random_both", "random both", "the same for the random directions"),
)


def thirds(
    a: Sequence[Prompt], b: Sequence[Prompt], rng: np.random.Generator
) -> list[list[list[Prompt]]]:
    """Three parts [A prompts, B prompts]; groups stay whole. Raises UsageError when a side has
    fewer than three groups."""
    parts: list[list[list[Prompt]]] = [[[], []] for _ in range(THIRDS)]
    place: dict[str, int] = {}
    for side, prompts in enumerate((a, b)):
        names = sorted({p.group for p in prompts})
        if len(names) < THIRDS:
            raise UsageError(
                f"steering needs {THIRDS} groups of prompts or more on each side; add prompts or "
                "leave the group ids out"
            )
        free = [names[int(i)] for i in rng.permutation(len(names)) if names[int(i)] not in place]
        place |= {name: at % THIRDS for at, name in enumerate(free)}
        for prompt in prompts:
            parts[place[prompt.group]][side].append(prompt)
    return parts


def directions(loaded: Any, fit: Sequence[Sequence[Prompt]]) -> tuple[Tensor, Tensor]:
    """(mean_B - mean_A (L, D), mean residual norm (L,)) over all tokens of the fitting half."""
    L = loaded.model.config.n_layer
    means, sizes = [], []
    for side in fit:
        seen = Record([f"blocks.{i}.resid_out" for i in range(L)])
        loaded.model.forward([list(p.tokens) for p in side], hooks=seen.hooks)
        rows = [torch.cat([x[b, : len(p.tokens)].float() for b, p in enumerate(side)])
                for x in (seen[f"blocks.{i}.resid_out"] for i in range(L))]
        means.append(torch.stack([x.mean(0) for x in rows]))
        sizes.append(torch.stack([x.norm(dim=-1).mean() for x in rows]))
    return means[1] - means[0], (sizes[0] + sizes[1]) / 2


def likelihood(loaded: Any, prompts: Sequence[Prompt], layer: int, added: Tensor | None
               ) -> np.ndarray:
    """Mean log P a token (nats) of each prompt, with ``added`` (D,) put on the residual."""
    hooks = None
    if added is not None:
        def steer(x: Tensor) -> Tensor:
            return x + added

        hooks = Hooks({f"blocks.{layer}.resid_out": steer})
    logits, _ = loaded.model.forward([list(p.tokens) for p in prompts], full=True, hooks=hooks)
    out = []
    for scores, prompt in zip(logits, prompts, strict=True):
        told = torch.tensor(prompt.tokens[1:], device=scores.device)[:, None]
        scores = scores[:-1].float()
        out.append(float((scores.gather(1, told)[:, 0] - scores.logsumexp(-1)).mean()))
    return np.array(out)


@study("steering", "Does adding the difference of two sets' means steer the model between them?",
       worlds=0)
def steering(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    a, b = prompt_sets(loaded, options.a, options.b)
    names = names_of(options.a, options.b)
    parts = thirds(a, b, rng)
    fitted = []  # per part: direction (L, D) and residual norm (L,) of the other two
    for at in range(THIRDS):
        rest = [part for i, part in enumerate(parts) if i != at]
        fitted.append(directions(loaded, [[p for part in rest for p in part[s]] for s in (0, 1)]))
    tried = pick_layers(fitted[0][0].shape[0], MOST)
    plain = [[likelihood(loaded, side, 0, None) for side in part] for part in parts]
    groups = [[p.group for part in parts for p in part[side]] for side in (0, 1)]

    def measured(layer: int, added: Sequence[Tensor]) -> list[np.ndarray]:
        """Change of every prompt's likelihood, [A, B], each part read with its own direction."""
        return [
            np.concatenate([
                likelihood(loaded, part[side], layer, add) - base[side]
                for part, base, add in zip(parts, plain, added, strict=True)
            ]) for side in (0, 1)
        ]

    def row(layer: int, strength: float) -> dict[str, Any]:
        added = [difference[layer] * strength for difference, _ in fitted]
        size = [float(x.norm() / s[layer]) for x, (_, s) in zip(added, fitted, strict=True)]
        steered = measured(layer, added)
        noise = []
        for _ in range(DRAWS):
            draw = torch.tensor(rng.standard_normal(len(added[0])), dtype=added[0].dtype)
            draw = draw.to(added[0].device)
            noise.append(measured(layer, [draw * (x.norm() / draw.norm()) for x in added]))
        random = [np.mean([n[side] for n in noise], 0) for side in (0, 1)]
        return {
            "layer": layer, "strength": strength, "norm": float(np.mean(size)),
            "pull": gap(steered, groups), "random": gap(random, groups),
            "both": mean(np.concatenate(steered)), "random_both": mean(np.concatenate(random)),
        }

    rows = [row(layer, FIRST) for layer in tried]
    best = max(rows, key=lambda r: r["pull"]["mean"])
    swept = [best if s == FIRST else row(best["layer"], s) for s in STRENGTHS]
    settings = {
        "a": options.a or f"shipped: {names[0]}", "b": options.b or f"shipped: {names[1]}",
        "prompts": [len(a), len(b)], "parts": THIRDS, "random_directions": DRAWS,
    }
    return Finding(
        sentence(rows, swept, names),
        (Table(COLUMNS, tuple(rows), f"layers at strength {FIRST:g}"),
         Table(COLUMNS, tuple(swept), f"layer {best['layer']} at several strengths")),
        pictures(rows, swept, names), settings,
    )


def gap(changes: Sequence[np.ndarray], groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Mean of B minus mean of A, with a 95% bootstrap interval over the groups of each side."""
    draw = np.random.default_rng(0)
    means = []
    for change, names in zip(changes, groups, strict=True):
        _, at = np.unique(names, return_inverse=True)
        n = int(at.max()) + 1
        total, count = np.bincount(at, change, n), np.bincount(at, minlength=n)
        picks = draw.integers(0, n, (2000, n))
        means.append(total[picks].sum(1) / count[picks].sum(1))
    lo, hi = np.percentile(means[1] - means[0], [2.5, 97.5])
    middle = float(changes[1].mean() - changes[0].mean())
    return {"mean": middle, "lo": float(lo), "hi": float(hi), "n": sum(map(len, changes))}


def sentence(rows: list[dict], swept: list[dict], names: tuple[str, str]) -> str:
    best = max(rows, key=lambda r: r["pull"]["mean"])
    strongest = max(swept, key=lambda r: r["pull"]["mean"])
    clear = [r for r in (*rows, *swept) if r["pull"]["lo"] > max(0.0, r["random"]["hi"])]
    works = "Steering beats its control" if clear else "Steering does not clearly beat its control"
    return (
        f"{works}: at strength {FIRST:g} the difference of means is best added after layer "
        f"{best['layer']}, where it pulls held-out texts of {names[1]} ahead of {names[0]} by "
        f"{signed(best['pull']['mean'])} nats a token (95% interval {signed(best['pull']['lo'])} "
        f"to {signed(best['pull']['hi'])}) and random directions of equal norm by "
        f"{signed(best['random']['mean'])}; the most there is {signed(strongest['pull']['mean'])} "
        f"at strength {strongest['strength']:g}, where the likelihood of both sets "
        f"changes by {signed(strongest['both']['mean'])} nats a token."
    )


def pictures(rows: list[dict], swept: list[dict], names: tuple[str, str]) -> tuple[Lines, Lines]:
    def curves(table: list[dict], **titles: str) -> tuple[Series, ...]:
        return tuple(Series.of(title, [r[key] for r in table]) for key, title in titles.items())

    return (
        Lines(
            "layers", f"Pull towards {names[1]}, steering after each layer",
            "Two curves over layers: pull of the difference of means and of random directions of "
            "the same norm.",
            tuple(r["layer"] for r in rows),
            curves(rows, pull="difference of means", random="random, equal norm"),
            "layer", "pull (nats a token)",
        ),
        Lines(
            "strengths", f"Layer {swept[0]['layer']}: pull against strength",
            "Curves over strength: pull of the difference of means and of random directions, and "
            "the change of both sets' likelihood with each.",
            tuple(r["strength"] for r in swept),
            curves(swept, pull="pull", random="random: pull", both="both sets",
                   random_both="random: both sets"),
            "strength (multiples of the difference)", "nats a token", x_log=True,
        ),
    )
