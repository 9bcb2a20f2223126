"""Mean-difference steering: does adding mean(B) - mean(A) make texts of B likelier than of A?

The direction is the difference of the two sets' mean residuals after a layer (over all their
tokens), from one half of the groups. It is added, times a strength, at every position of that layer
while the other half's texts are read; measured is how much more likely texts of B become than texts
of A, per token::

    pull = [mean log P(B texts) - mean log P(A texts)] steered - the same unsteered     (nats)

The control is a random direction of the same norm (several draws). ``cost`` is how much likelihood
both sets lose on average.
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
from rwkvedit.study.base import Finding, Options, mean, signed, study
from rwkvedit.study.prompts import Prompt, names_of, prompt_sets

STRENGTHS = (0.5, 1.0, 2.0, 4.0)
DRAWS = 5  # random directions

COLUMNS = columns(
    ("layer", "layer"), ("strength", "strength", "multiples of the difference of means"),
    ("norm", "of residual", "norm added as a share of the mean residual norm"),
    ("pull", "pull", "nats a token by which B gains on A"),
    ("random", "random", "the same for random directions of equal norm"),
    ("cost", "cost", "nats a token both sets lose on average"),
    ("random_cost", "random cost", "the same for the random directions"),
)


def halves(
    a: Sequence[Prompt], b: Sequence[Prompt], rng: np.random.Generator
) -> tuple[list[list[Prompt]], list[list[Prompt]]]:
    """([A, B] to fit, [A, B] to test); groups stay whole. Raises UsageError when one is empty."""
    names = sorted({p.group for p in (*a, *b)})
    order = [names[int(i)] for i in rng.permutation(len(names))]
    both = {p.group for p in a} & {p.group for p in b}
    shared = [n for n in order if n in both] or order
    chosen = set(shared[::2])
    if not both:  # groups of one set each: halve each set's own
        chosen = {n for side in (a, b)
                  for n in [g for g in order if g in {p.group for p in side}][::2]}
    fit, test = ([[p for p in side if (p.group in chosen) == want] for side in (a, b)]
                 for want in (True, False))
    if not all([*fit, *test]):
        raise UsageError("steering needs two groups of prompts or more on each side")
    return fit, test


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
        logp = torch.log_softmax(scores[:-1].float(), -1).gather(1, told)
        out.append(float(logp.mean()))
    return np.array(out)


@study("steering", "Does adding the difference of two sets' means steer the model between them?",
       worlds=0)
def steering(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    a, b = prompt_sets(loaded, options.a, options.b)
    names = names_of(options.a, options.b)
    fit, test = halves(a, b, rng)
    difference, sizes = directions(loaded, fit)
    L = difference.shape[0]
    plain = [likelihood(loaded, side, 0, None) for side in test]

    def measured(layer: int, added: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Change of each test prompt's likelihood: (A, B)."""
        changed = [likelihood(loaded, side, layer, added) - base
                   for side, base in zip(test, plain, strict=True)]
        return changed[0], changed[1]

    def row(layer: int, strength: float) -> dict[str, Any]:
        added = difference[layer] * strength
        on_a, on_b = measured(layer, added)
        noise = []
        for _ in range(DRAWS):
            draw = torch.tensor(rng.standard_normal(len(added)), dtype=added.dtype)
            draw = draw.to(added.device)
            noise.append(measured(layer, draw * (added.norm() / draw.norm())))
        return {
            "layer": layer, "strength": strength, "norm": float(added.norm() / sizes[layer]),
            "pull": gap(on_a, on_b), "cost": mean(-np.concatenate([on_a, on_b])),
            "random": gap(*(np.mean([n[side] for n in noise], 0) for side in (0, 1))),
            "random_cost": mean(-np.concatenate([np.concatenate(n) for n in noise])),
        }

    rows = [row(layer, 1.0) for layer in range(L)]
    best = max(rows, key=lambda r: r["pull"]["mean"])["layer"]
    swept = [next(r for r in rows if r["layer"] == best) if s == 1.0 else row(best, s)
             for s in STRENGTHS]
    settings = {
        "a": options.a or f"shipped: {names[0]}", "b": options.b or f"shipped: {names[1]}",
        "fitted_on": [len(x) for x in fit], "tested_on": [len(x) for x in test],
        "random_directions": DRAWS,
    }
    return Finding(
        sentence(rows, swept, names),
        (Table(COLUMNS, tuple(rows), "every layer at strength 1"),
         Table(COLUMNS, tuple(swept), f"layer {best} at several strengths")),
        pictures(rows, swept, names), settings,
    )


def gap(on_a: np.ndarray, on_b: np.ndarray) -> dict[str, Any]:
    """Mean of B minus mean of A with a bootstrap interval over prompts of each side."""
    draw = np.random.default_rng(0)
    means = [x[draw.integers(0, len(x), (2000, len(x)))].mean(1) for x in (on_a, on_b)]
    lo, hi = np.percentile(means[1] - means[0], [2.5, 97.5])
    return {"mean": float(on_b.mean() - on_a.mean()), "lo": float(lo), "hi": float(hi),
            "n": len(on_a) + len(on_b)}


def sentence(rows: list[dict], swept: list[dict], names: tuple[str, str]) -> str:
    best = max(rows, key=lambda r: r["pull"]["mean"])
    strongest = max(swept, key=lambda r: r["pull"]["mean"])
    clear = best["pull"]["lo"] > max(0.0, best["random"]["hi"])
    works = "Steering works" if clear else "Steering does not clearly beat its control"
    return (
        f"{works}: the difference of means added after layer {best['layer']} pulls held-out texts "
        f"of {names[1]} ahead of {names[0]} by {signed(best['pull']['mean'])} nats a token, a "
        f"random direction of equal norm by {signed(best['random']['mean'])}; the most is "
        f"{signed(strongest['pull']['mean'])} at strength {strongest['strength']:g}, where both "
        f"lose {signed(strongest['cost']['mean'])} nats a token on average."
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
            "strengths", f"Layer {swept[0]['layer']}: pull and cost against strength",
            "Curves over strength: pull of the difference of means and of random directions, and "
            "the likelihood lost with each.",
            tuple(r["strength"] for r in swept),
            curves(swept, pull="pull", random="random pull", cost="cost",
                   random_cost="random cost"),
            "strength (multiples of the difference)", "nats a token", x_log=True,
        ),
    )
