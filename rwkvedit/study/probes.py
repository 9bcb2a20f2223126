"""Can two sets of prompts be told apart inside the model, and is it more than chance?

Every prompt is read as a user's turn at the assistant's opening (residual stream after each layer);
``words`` is the mean input embedding of the prompt, which sees words without order or context. All
scores are on held-out groups (five folds, or as many as there are groups):

    mean-difference   sign of <x - midpoint, mean_B - mean_A>
    centroid cosine   the nearer of the two centroids by cosine, after centring
    Fisher            (m_B - m_A)^2 / (s_A^2 + s_B^2) of held-out projections on mean_B - mean_A
    logistic          L2 logistic regression on standardised features
    trees             gradient boosted trees on principal components

The shuffled control is the mean accuracy when labels are permuted (within groups where groups hold
both sets, whole groups otherwise); ``p`` is the share of permutations, the true labels counted,
that score as well (Phipson and Smyth 2010); ``p corrected`` compares with the permutation's best
layer instead (Westfall and Young 1993). Slow probes are refitted fewer times.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rwkvedit.errors import UsageError
from rwkvedit.report.plots import Lines, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, share, study
from rwkvedit.study.prompts import Prompt, names_of, prompt_sets
from rwkvedit.study.similarity import read_sites

FOLDS = 5
COMPONENTS = 8  # principal components the trees see
LEVEL = 0.05  # of the corrected p-value in the finding
WORDS = "words"

Labels = np.ndarray
Probe = Callable[[np.ndarray, Labels, np.ndarray], np.ndarray]


def mean_difference(x: np.ndarray, y: Labels, test: np.ndarray) -> np.ndarray:
    """Scores of ``test`` (n, D); above 0 is B."""
    a, b = x[y == 0].mean(0), x[y == 1].mean(0)
    return (test - (a + b) / 2) @ (b - a)


def centroid_cosine(x: np.ndarray, y: Labels, test: np.ndarray) -> np.ndarray:
    middle = x.mean(0)
    a, b = x[y == 0].mean(0) - middle, x[y == 1].mean(0) - middle
    seen = test - middle
    return seen @ (b / (np.linalg.norm(b) + 1e-12) - a / (np.linalg.norm(a) + 1e-12))


def logistic(x: np.ndarray, y: Labels, test: np.ndarray) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    middle, spread = x.mean(0), x.std(0) + 1e-8
    with warnings.catch_warnings():  # a fit that is nearly there is judged by its held-out score
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=0.1, max_iter=200).fit((x - middle) / spread, y)
    return fitted.decision_function((test - middle) / spread)


def trees(x: np.ndarray, y: Labels, test: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.ensemble import GradientBoostingClassifier

    count = min(COMPONENTS, *x.shape)
    reduced = PCA(count, svd_solver="full", random_state=0).fit(x)
    fitted = GradientBoostingClassifier(
        n_estimators=20, max_depth=2, learning_rate=0.2, random_state=0
    ).fit(reduced.transform(x), y)
    return fitted.decision_function(reduced.transform(test))


PROBES: dict[str, tuple[Probe, int]] = {  # name -> (probe, how many times less permuted)
    "mean-difference": (mean_difference, 1), "centroid cosine": (centroid_cosine, 1),
    "logistic": (logistic, 2), "trees": (trees, 5),
}

COLUMNS = columns(
    ("layer", "layer"), ("probe", "probe"),
    ("accuracy", "accuracy", "on held-out groups, 95% interval over groups"),
    ("shuffled", "shuffled", "mean accuracy with permuted labels"),
    ("p", "p", "permutation p-value"),
    ("corrected", "p corrected", "for having looked at every layer"),
    ("permutations", "permutations"),
    ("fisher", "Fisher", "separation of held-out projections (mean-difference only)"),
)


def folds(groups: np.ndarray, labels: Labels) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) indices; groups stay whole and both labels stand in every training part.

    Raises UsageError when the groups cannot be split so.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    count = min(FOLDS, *(len(np.unique(groups[labels == y])) for y in (0, 1)))
    if count < 2:
        raise UsageError("probes need two groups of prompts or more on each side; add prompts or "
                         "leave the group ids out")
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    return list(splitter.split(np.zeros((len(labels), 1)), labels, groups))


def permuted(labels: Labels, groups: np.ndarray, rng: np.random.Generator) -> Labels:
    """Labels shuffled within groups that hold both; otherwise whole groups trade labels."""
    out = labels.copy()
    mixed = False
    for group in np.unique(groups):
        at = np.flatnonzero(groups == group)
        if len(np.unique(labels[at])) > 1:
            out[at] = rng.permutation(labels[at])
            mixed = True
    if mixed:
        return out
    names = np.unique(groups)
    owner = np.array([labels[groups == g][0] for g in names])
    shuffled = dict(zip(names, rng.permutation(owner), strict=True))
    return np.array([shuffled[g] for g in groups])


def held_out(
    probe: Probe, x: np.ndarray, y: Labels, splits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Every prompt's score when its fold is held out (0 where a training part has one label)."""
    scores = np.zeros(len(y))
    for train, test in splits:
        if len(np.unique(y[train])) == 2:
            scores[test] = probe(x[train], y[train], x[test])
    return scores


def accuracy(scores: np.ndarray, y: Labels) -> np.ndarray:
    """1.0 where right, .5 on a tie, per prompt."""
    return np.where(scores == 0, 0.5, (scores > 0) == (y == 1)).astype(float)


def fisher(scores: np.ndarray, y: Labels) -> float:
    a, b = scores[y == 0], scores[y == 1]
    return float((b.mean() - a.mean()) ** 2 / (a.var() + b.var() + 1e-30))


def features(loaded: Any, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """``words`` and every layer -> (prompts, D) float64."""
    rows = [p.tokens for p in prompts]
    seen = read_sites(loaded, rows, [[len(r) - 1] for r in rows], ("resid_out",))[:, 0, 0]
    table = loaded.model.embedding.float()
    words = torch.stack([table[torch.tensor(r, device=table.device)].mean(0) for r in rows])
    out = {WORDS: words.cpu().double().numpy()}
    return out | {str(i): seen[:, i].cpu().double().numpy() for i in range(seen.shape[1])}


@study("probes", "In which layers can two sets of prompts be told apart?", worlds=0,
       needs=("sklearn",))
def probes(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    a, b = prompt_sets(loaded, options.a, options.b)
    names = names_of(options.a, options.b)
    prompts = [*a, *b]
    y = np.array([0] * len(a) + [1] * len(b))
    groups = np.unique([p.group for p in prompts], return_inverse=True)[1]
    splits = folds(groups, y)
    drawn = [permuted(y, groups, rng) for _ in range(options.permutations)]
    seen = features(loaded, prompts)
    found: dict[tuple[str, str], dict] = {}
    for name, (probe, slower) in PROBES.items():
        tries = drawn[: max(1, len(drawn) // slower)]
        chance = {layer: np.array([accuracy(held_out(probe, x, s, splits), s).mean()
                                   for s in tries]) for layer, x in seen.items()}
        best = np.max([c for layer, c in chance.items() if layer != WORDS], axis=0)
        for layer, x in seen.items():
            scores = held_out(probe, x, y, splits)
            right = accuracy(scores, y)
            against = chance[layer] if layer == WORDS else best
            found[layer, name] = {
                "layer": layer, "probe": name, "accuracy": share_by(right, groups),
                "shuffled": float(chance[layer].mean()), "p": p_value(chance[layer], right.mean()),
                "corrected": p_value(against, right.mean()), "permutations": len(tries),
                "fisher": fisher(scores, y) if name == "mean-difference" else None,
            }
    rows = [found[layer, name] for layer in seen for name in PROBES]
    settings = {
        "a": options.a or f"shipped: {names[0]}", "b": options.b or f"shipped: {names[1]}",
        "prompts": [len(a), len(b)], "groups": int(groups.max()) + 1, "folds": len(splits),
        "components": COMPONENTS,
    }
    return Finding(sentence(rows, names), (Table(COLUMNS, tuple(rows)),), pictures(rows, names),
                   settings)


def p_value(chance: np.ndarray, found: float) -> float:
    """(1 + permutations that do as well) / (1 + permutations)."""
    return float((1 + (chance >= found - 1e-12).sum()) / (1 + len(chance)))


def share_by(right: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Accuracy with an interval over groups."""
    from rwkvedit.evaluate.intervals import rate

    return rate(right.tolist(), groups.tolist()) if len(np.unique(groups)) > 1 else share(right)


def of(rows: Sequence[dict], probe: str) -> list[dict]:
    return [r for r in rows if r["probe"] == probe]


def sentence(rows: Sequence[dict], names: tuple[str, str]) -> str:
    inside = [r for r in rows if r["layer"] != WORDS]
    best = max(inside, key=lambda r: r["accuracy"]["mean"])
    base = max((r for r in rows if r["layer"] == WORDS), key=lambda r: r["accuracy"]["mean"])
    sure = [r for r in inside if r["corrected"] <= LEVEL]
    where = (f"can be told apart beyond chance first in layer {sure[0]['layer']} "
             f"({sure[0]['probe']}, corrected p = {sure[0]['corrected']:.2f})" if sure
             else "cannot be told apart beyond chance in any layer (corrected for all of them)")
    peak = max(of(inside, "mean-difference"), key=lambda r: r["fisher"])
    more = best["accuracy"]["mean"] - base["accuracy"]["mean"]
    beyond = ("more than" if more > 0.02 else "no more than" if abs(more) <= 0.02 else "less than")
    return (
        f"{names[0]} and {names[1]} {where}; best on held-out groups is {best['probe']} in layer "
        f"{best['layer']} ({best['accuracy']['mean']:.0%}, shuffled labels "
        f"{best['shuffled']:.0%}), {beyond} the prompts' words alone give "
        f"({base['accuracy']['mean']:.0%}); Fisher separation is highest in layer {peak['layer']} "
        f"({peak['fisher']:.1f})."
    )


def pictures(rows: Sequence[dict], names: tuple[str, str]) -> tuple[Lines, Lines]:
    labels = tuple(r["layer"] for r in of(rows, "logistic"))
    x = tuple(range(len(labels)))
    by = of(rows, "mean-difference")
    series = [Series.of(name, [r["accuracy"] for r in of(rows, name)]) for name in PROBES]
    series.append(Series("shuffled labels", tuple(
        float(np.mean([r["shuffled"] for r in rows if r["layer"] == layer])) for layer in labels)))
    return (
        Lines(
            "accuracy", f"Telling {names[0]} from {names[1]}: accuracy on held-out groups",
            "Curves of held-out accuracy over the words alone and every layer for four probes, and "
            "for shuffled labels.",
            x, tuple(series), "residual stream after layer", "accuracy", x_names=labels,
            level=(0.5, "chance"),
        ),
        Lines(
            "fisher", f"Fisher separation of {names[0]} and {names[1]}",
            "A curve of the Fisher separation of held-out projections over words and layers.",
            x, (Series("Fisher separation", tuple(r["fisher"] for r in by)),),
            "residual stream after layer", "separation", x_names=labels,
        ),
    )
