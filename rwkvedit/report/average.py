"""Pictures and a page of causal effects averaged over facts. Asks no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rwkvedit.report import heat, plots
from rwkvedit.report.heat import HeatMap
from rwkvedit.report.locate import RESTORED

if TYPE_CHECKING:
    from rwkvedit.evaluate.tracing import AverageTrace


def best(result: AverageTrace, kind: str) -> tuple[str, int, float]:
    """(place, layer, effect) of the strongest cell."""
    found = [
        (place, int(mean.argmax()), float(mean.max()))
        for place in result.effects[kind]
        if (mean := result.mean(kind, place)) is not None
    ]
    return max(found, key=lambda each: each[2])


def finding(result: AverageTrace) -> str:
    """The average in a few sentences."""
    total = result.total
    parts = [
        f"{RESTORED[kind]} {effect:+.3f} (layer {layer}, {place})"
        for kind in result.effects
        for place, layer, effect in [best(result, kind)]
    ]
    return (
        f"The model completes {result.known} of {result.facts} facts by itself; "
        f"{len(result.traced)} of them were traced. Noise on the subject takes "
        f"{total['mean']:.3f} [{total['lo']:.3f}, {total['hi']:.3f}] of P on average. "
        f"Most is brought back by: {'; '.join(parts)}."
    )


def plot(result: AverageTrace) -> plots.Heatmaps:
    """A panel for each kind, a row for each layer, a column for each place."""
    panels = []
    for kind, places in result.effects.items():
        means = [result.mean(kind, place) for place in places]
        layers = len(next(mean for mean in means if mean is not None))
        panels.append(
            plots.Panel(
                RESTORED[kind],
                tuple(
                    tuple(None if mean is None else float(mean[layer]) for mean in means)
                    for layer in range(layers)
                ),
                tuple(places),
                tuple(map(str, range(layers))),
            )
        )
    return plots.Heatmaps(
        name="average-trace",
        title=f"Average indirect effect over {len(result.traced)} known facts",
        alt=finding(result),
        panels=tuple(panels),
        label="P(restored) - P(corrupted)",
        y_label="layer",
        diverging=True,
    )


def page(result: AverageTrace, meta: Mapping[str, Any]) -> str:
    """A heat map for each kind; a cell tells its mean, its interval and how many facts it has."""
    aie = list(result.to_json()["aie"].values())
    means = [r["mean"] for places in aie for rates in places.values() for r in rates if r["n"]]
    high = max(map(abs, means)) or 1.0
    maps = []
    for kind, places in zip(result.effects, aie, strict=True):
        there = {place: rates for place, rates in places.items() if rates and rates[0]["n"]}
        layers = range(len(next(iter(there.values()))))
        maps.append(
            HeatMap(
                title=RESTORED[kind],
                values=[[rates[layer]["mean"] for rates in there.values()] for layer in layers],
                x_names=list(there),
                y_names=list(map(str, layers)),
                tips=[
                    [
                        f"layer {layer}, {place}\n{r['mean']:+.4f} [{r['lo']:+.4f}, "
                        f"{r['hi']:+.4f}]\n{r['n']} facts"
                        for place, rates in there.items()
                        for r in [rates[layer]]
                    ]
                    for layer in layers
                ],
                label="average indirect effect",
                high=high,
                diverging=True,
            )
        )
    facts = "".join(f"<li>{heat.escape(f.prompt)} ... {heat.escape(f.attribute)}</li>\n"
                    for f in result.traced)  # fmt: skip
    body = f"{heat.maps(*maps)}<h2>Facts traced</h2>\n<ul>\n{facts}</ul>\n"
    return heat.page("Average causal trace", finding(result), body, meta)
