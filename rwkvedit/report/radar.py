"""A profile as a radar chart: one spoke a benchmark, what it reached beside what it has to.

Every spoke is cut at 0 and 1. Knows no model and no benchmark; ``plots`` draws it as any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwkvedit.report.plots import Radar

RINGS = (0.25, 0.5, 0.75, 1.0)


def of_profile(document: Mapping[str, Any]) -> Radar:
    """The chart of a ``bench profile`` document. A benchmark that nothing counted for is at 0."""
    from rwkvedit.report.plots import Radar

    rows = document["benchmarks"]
    passed = sum(row["passed"] for row in rows)
    said = "; ".join(
        f"{row['name']} {_number(row['score'])} (threshold {row['threshold']:g}"
        f"{'' if row['passed'] else ', missed'})"
        for row in rows
    )
    return Radar(
        "profile", f"{edit_of(document)}: {passed} of {len(rows)} passed",
        f"Radar chart of {len(rows)} benchmarks, {passed} passed: {said}.",
        tuple(row["name"] for row in rows),
        tuple(row["score"] or 0.0 for row in rows), tuple(row["threshold"] for row in rows),
    )  # fmt: skip


def edit_of(document: Mapping[str, Any]) -> str:
    """What was edited, in a few words."""
    edits = document["edits"]
    if len(edits) != 1:
        return f"{len(edits)} edits by {document['method']}"
    return f"{edits[0]['prompt']} -> {edits[0]['target'].strip()}, by {document['method']}"


def _number(score: float | None) -> str:
    return "not measured" if score is None else f"{score:.2f}"


def draw(figure: Any, plot: Radar, colors: Sequence[str], ink: str) -> None:
    """Spokes in the order of ``plot.names``, from the top, clockwise."""
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    count = len(plot.names)
    turns = [2 * math.pi * at / count for at in range(count)]
    closed = [*turns, turns[0]]
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)

    def ring(values: Sequence[float]) -> list[float]:
        cut = [min(1.0, max(0.0, v)) for v in values]
        return [*cut, cut[0]]

    axes.plot(closed, ring(plot.thresholds), "--", lw=1.3, color=colors[-1], label="threshold")
    axes.plot(closed, ring(plot.scores), "-", lw=2, color=colors[0], label="score")
    axes.fill(closed, ring(plot.scores), color=colors[0], alpha=0.15)
    missed = [s < t for s, t in zip(plot.scores, plot.thresholds, strict=True)]
    for wrong, marker, color, label in (
        (False, "o", colors[0], None), (True, "X", colors[1], "below its threshold"),
    ):  # fmt: skip
        at = [i for i, m in enumerate(missed) if m == wrong]
        if at:
            scores = ring(plot.scores)
            axes.plot([turns[i] for i in at], [scores[i] for i in at], marker, ms=7 + 2 * wrong,
                      color=color, label=label, ls="none", clip_on=False, zorder=3)  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_yticks(RINGS, [f"{r:g}" for r in RINGS], fontsize=8)
    axes.set_rlabel_position(180 / count)
    names = [f"{name}\n{score:.2f}" for name, score in zip(plot.names, plot.scores, strict=True)]
    axes.set_xticks(turns, names, fontsize=9)
    for label, turn in zip(axes.get_xticklabels(), turns, strict=True):
        side = math.sin(turn)  # right of the middle, left of it, or above and below
        where = "center" if abs(side) < 0.2 else "left" if side > 0 else "right"
        label.set_horizontalalignment(where)
    axes.tick_params(axis="x", pad=4)
    axes.spines["polar"].set_color(ink)
    axes.set_title(plot.title, pad=18, loc="center")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
