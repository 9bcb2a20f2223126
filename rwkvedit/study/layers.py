"""Which layers hold the fact: the counterfactual wkv state put in layer by layer.

A patch takes ``wkv`` of the chosen layers from the conversation in which the new value was told and
everything else from the one with the old value; the question is then asked. After every patch the
old state must be what it was, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rwkvedit.report.plots import Bars, Lines, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, middle, rank_of, share, signed, study
from rwkvedit.study.cases import Material, Reading, gather, read

HOLDS = 0.9  # share of the log-odds that counts as carrying the fact


def blocks(n_layer: int) -> list[tuple[int, int]]:
    """Consecutive layers, about eight blocks and never less than two layers each."""
    size = max(2, round(n_layer / 8))
    return [(a, min(a + size, n_layer)) for a in range(0, n_layer, size)]


def patches(n_layer: int) -> list[tuple[str, str, list[int]]]:
    """(family, name, layers) of every patch."""
    L, half = n_layer, n_layer // 2
    every = list(range(L))
    return [
        *(("single", f"{i}", [i]) for i in every),
        *(("from below", f"0:{i + 1}", every[: i + 1]) for i in every),
        *(("from above", f"{i}:{L}", every[i:]) for i in every),
        *(("block", f"{a}:{b}", every[a:b]) for a, b in blocks(L)),
        ("half", f"lower 0:{half}", every[:half]), ("half", f"upper {half}:{L}", every[half:]),
        ("parity", "even", every[::2]), ("parity", "odd", every[1::2]),
        ("all", "all wkv", every),
    ]


def row(material: Material, family: str, name: str, reading: Reading, restored: bool) -> dict:
    return {
        "patch": family, "layers": name, "p_old": mean(reading.p_old),
        "p_new": mean(reading.p_new), "flip": share(reading.flipped),
        "effect": mean(material.effect(reading)), "restored": restored,
    }


COLUMNS = columns(
    ("patch", "patch"), ("layers", "layers"),
    ("p_old", "P(old)", "probability of the old value at the fact's own question"),
    ("p_new", "P(new)", "probability of the new value"),
    ("flip", "flip", "share of worlds in which the new value is the likelier"),
    ("effect", "effect", "share of the log-odds from old to new that the patch moves"),
    ("restored", "restored", "the old state is bit-equal after the patch"),
)


@study("layer-sweep", "Which layers' recurrent state holds a told fact?", min_layers=2)
def layer_sweep(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    material, settings, caution = gather(loaded, options.lexicon, rng, options.worlds or 0)
    original = material.old.clone()
    L = material.old.n_layer
    first = read(loaded, material.cases, material.old)
    rows = [row(material, "none", "none", material.before, True)]
    for family, name, chosen in patches(L):
        wkv = material.old.wkv.clone()
        wkv[:, chosen] = material.new.wkv[:, chosen]
        reading = material.patched(wkv)
        rows.append(row(material, family, name, reading, material.old.equal(original)))
    shifted = material.old.replace(att_x=material.new.att_x, ffn_x=material.new.ffn_x)
    for name, state in (("token shift only", shifted), ("whole state", material.new)):
        reading = read(loaded, material.cases, state)
        rows.append(row(material, "other", name, reading, material.old.equal(original)))
    again = read(loaded, material.cases, material.old)
    drift = float(np.abs(again.odds - first.odds).max())
    settings |= {"restored": all(r["restored"] for r in rows), "baseline_drift_nats": drift}
    return Finding(
        caution + sentence(rows, L, settings), (Table(COLUMNS, tuple(rows)),),
        pictures(rows, L), settings,
    )


def of(rows: Sequence[dict], family: str) -> list[dict]:
    return [r for r in rows if r["patch"] == family]


def effect(r: dict) -> float:
    return middle(r["effect"])


def sentence(rows: Sequence[dict], n_layer: int, settings: dict) -> str:
    lower, upper = of(rows, "half")
    single = of(rows, "single")
    best = max(single, key=lambda r: rank_of(r["effect"]))
    above = [i for i, r in enumerate(of(rows, "from above")) if effect(r) >= HOLDS]
    even, odd = of(rows, "parity")
    carried = (
        f"layers {max(above)}:{n_layer} alone carry it ({signed(HOLDS)} or more of the log-odds)"
        if above else "no run of upper layers alone carries it"
    )
    exact = "bit-equal after every patch" if settings["restored"] else "NOT restored"
    return (
        f"Patching the upper half ({upper['layers'].split()[1]}) moves {signed(effect(upper))} of "
        f"the log-odds from old to new, the lower half {signed(effect(lower))}; {carried}, the "
        f"strongest single layer is {best['layers']} ({signed(effect(best))}), even layers give "
        f"{signed(effect(even))} and odd {signed(effect(odd))} "
        f"({settings['worlds_counted']} worlds; the state was {exact})."
    )


def pictures(rows: Sequence[dict], n_layer: int) -> tuple[Lines, Bars]:
    families = ("single", "from below", "from above")
    names = ("this layer alone", "layers 0 to this one", "this layer to the last")
    curves = tuple(
        Series.of(label, [r["effect"] for r in of(rows, family)])
        for family, label in zip(families, names, strict=True)
    )
    peak = max(of(rows, "single"), key=lambda r: rank_of(r["effect"]))["layers"]
    groups = [*of(rows, "block"), *of(rows, "half"), *of(rows, "parity"), *of(rows, "all"),
              *of(rows, "other")]
    labels = tuple(
        f"block {r['layers']}" if r["patch"] == "block" else r["layers"] for r in groups)
    return (
        Lines(
            "sweep", "Effect of the counterfactual state, layer by layer",
            f"Three curves of effect against layer for {n_layer} layers: one layer alone (highest "
            f"at layer {peak}), all layers from the first up, and from the last down.",
            tuple(range(n_layer)), curves, "layer", "share of log-odds moved", level=(1.0, "all"),
        ),
        Bars(
            "blocks", "Effect of blocks, halves, even and odd layers",
            "Bars of the effect of patching: " + ", ".join(
                f"{n} {signed(effect(r))}" for n, r in zip(labels, groups, strict=True)) + ".",
            labels, (Series.of("effect", [r["effect"] for r in groups]),),
            "share of log-odds moved", level=(1.0, "all"),
        ),
    )
