"""Pictures and pages of what a session found: crown scans, causal traces, logit lenses.

Each ``*_plot`` is a value that ``plots.png`` draws; each ``*_page`` is one self-contained page
whose heat maps (a row a layer, a column a position) tell on hover what a cell holds. Asks no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rwkvedit.report import heat, html, plots
from rwkvedit.report.heat import HeatMap
from rwkvedit.report.tables import Table, columns

if TYPE_CHECKING:
    from rwkvedit.transformer.crown import CrownResult
    from rwkvedit.transformer.results import LensResult
    from rwkvedit.transformer.trace import TraceResult

RESTORED = {"state": "hidden state", "mlp": "MLP outputs", "attn": "attention outputs"}
"""Kinds of restoration in words."""
PANEL = 16
"""Columns that fit beside each other in a picture of normal width."""


def word(piece: str) -> str:
    """A token for a narrow place: without the blank in front, and never invisible."""
    text = piece.strip()
    return text if text and text.isprintable() else repr(piece)


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.00005 or value == 0 else f"{value:.0e}"


def _likeliest(top: Sequence[tuple[str, float]]) -> str:
    return "\n".join(f"{_p(p)}  {piece!r}" for piece, p in top)


# -- crown ----------------------------------------------------------------------------------


def crown_finding(result: CrownResult) -> str:
    """The scan in one sentence."""
    row = next(row for row in result.scan if row.layer == result.crown)
    what = f"the likeliest becomes {row.top!r}"
    if not row.flips:
        what = "no layer of the scan changes the likeliest token"
    return (
        f"Layer {row.layer} is the crown of {result.answer.text!r}: with its MLP zeroed at the "
        f"last position P goes from {_p(result.p)} to {_p(row.p)}, and {what}."
    )


def crown_plot(result: CrownResult) -> plots.Bars:
    """Change of the answer's probability by layer."""
    return plots.Bars(
        name="crown",
        title=f"Change of P({result.answer.text!r}), {_p(result.p)} with every layer whole, "
        "when a layer's MLP is zeroed",
        x_label="layer (orange: the crown)",
        marked=tuple(i for i, row in enumerate(result.scan) if row.layer == result.crown),
        alt=crown_finding(result),
        names=tuple(str(row.layer) for row in result.scan),
        series=(plots.Series("change of P", tuple(row.delta_p for row in result.scan)),),
        y_label="change of P",
    )


def crown_page(result: CrownResult, meta: Mapping[str, Any]) -> str:
    """The scan as a picture and a table that sorts."""
    table = Table(
        columns(
            ("layer", "layer"),
            ("p", "P", "probability of the answer without this layer's MLP at the last position"),
            ("delta_p", "change of P"),
            ("delta_logp", "change, nats", "change of the answer's log-probability"),
            ("top", "likeliest then"),
            ("flips", "flips", "is the likeliest token another than with every layer whole?"),
        ),
        tuple(
            {**row.to_json(), "top": repr(row.top), "flips": "yes" if row.flips else "no"}
            for row in result.scan
        ),
    )
    body = html.figure(plots.to_json(crown_plot(result))) + html.html_table(table, "layers")
    title = f"Crown: {''.join(result.pieces)!r}"
    return heat.page(title, crown_finding(result), body, meta)


# -- causal trace ---------------------------------------------------------------------------


def trace_finding(result: TraceResult) -> str:
    """The trace in one or two sentences."""
    parts = []
    for kind in result.grids:
        layer, at, p = result.best(kind)
        where = f"layer {layer} at {result.pieces[at]!r}"
        parts.append(f"{RESTORED[kind]}, to {_p(p)} ({where})")
    return (
        f"P({result.answer.text!r}) is {_p(result.clean)}, and {_p(result.corrupted)} with noise "
        f"on the subject's embeddings. What brings it back at one position: {'; '.join(parts)}."
    )


def trace_plot(result: TraceResult) -> plots.Heatmaps:
    """A panel for each kind of restoration, all on one scale."""
    names = tuple(
        word(piece) + "*" * (at in result.subject) for at, piece in enumerate(result.pieces)
    )
    panels = tuple(
        plots.Panel(
            _restored(kind, result.window),
            tuple(tuple(map(float, row)) for row in grid.p),
            names,
            tuple(map(str, range(len(grid.p)))),
        )
        for kind, grid in result.grids.items()
    )
    return plots.Heatmaps(
        name="trace",
        title=f"P({result.answer.text!r}) with one thing restored "
        f"(clean {_p(result.clean)}, corrupted {_p(result.corrupted)}; * the subject)",
        alt=trace_finding(result),
        panels=panels,
        label="P",
        y_label="layer",
        low=0.0,
        high=_highest(result),
        wide=max(1.0, min(3.0, len(names) * len(panels) / PANEL)),
    )


def _restored(kind: str, window: int) -> str:
    return RESTORED[kind] if kind == "state" else f"{RESTORED[kind]}, {window} layers"


def _highest(result: TraceResult) -> float:
    return max(result.clean, *(float(grid.p.max()) for grid in result.grids.values()))


def trace_page(result: TraceResult, meta: Mapping[str, Any]) -> str:
    """A heat map for each kind of restoration; a cell tells P of the answer and the likeliest."""
    layers = [str(layer) for layer in range(len(next(iter(result.grids.values())).p))]
    maps = []
    for kind, grid in result.grids.items():
        tips = [
            [
                f"layer {layer}, {at} {piece!r}\n"
                f"P({result.answer.text!r}) {_p(grid.p[layer, at])}, "
                f"restored {grid.p[layer, at] - result.corrupted:+.4f}\nlikeliest then:\n"
                f"{_likeliest(grid.top[layer][at])}"
                for at, piece in enumerate(result.pieces)
            ]
            for layer in range(len(layers))
        ]  # fmt: skip
        maps.append(
            HeatMap(
                title=_restored(kind, result.window).capitalize().replace("Mlp", "MLP"),
                values=grid.p.tolist(),
                x_names=[word(piece) for piece in result.pieces],
                y_names=layers,
                tips=tips,
                label=f"P({result.answer.text!r}); underlined: the subject",
                high=_highest(result),
                marked=frozenset(result.subject),
            )
        )
    about = (
        f'<p class="question">Noise of {result.noise:g} x {result.std:.4g} on the embeddings of '
        f"the underlined tokens, {result.runs} runs, seed {result.seed}. A cell: the same with one "
        "layer's output (or a window's MLP or attention outputs) at one position as in the clean "
        "run.</p>\n"
    )
    body = about + heat.maps(*maps)
    return heat.page(f"Trace: {''.join(result.pieces)!r}", trace_finding(result), body, meta)


# -- logit lens -----------------------------------------------------------------------------


def lens_finding(result: LensResult) -> str:
    """Where the last position's answer first leads."""
    top = [row[-1].top[0] for row in result.rows]
    final, since = top[-1], len(top)
    while since and top[since - 1].id == final.id:
        since -= 1
    return (
        f"After {result.pieces[result.positions[-1]]!r} the lens ends at {final.piece!r} "
        f"({_p(final.p)}), which leads from layer {result.layers[since]} on."
    )


def lens_plot(result: LensResult) -> plots.Heatmaps:
    """The likeliest token of every cell, on the colour of its probability."""
    return plots.Heatmaps(
        name="lens",
        title="Likeliest next token after each layer",
        alt=lens_finding(result),
        panels=(
            plots.Panel(
                "",
                tuple(tuple(cell.top[0].p for cell in row) for row in result.rows),
                tuple(word(result.pieces[at]) for at in result.positions),
                tuple(map(str, result.layers)),
                tuple(tuple(word(cell.top[0].piece)[:10] for cell in row) for row in result.rows),
            ),
        ),
        label="P",
        x_label="after",
        y_label="layer",
        low=0.0,
        high=1.0,
        wide=max(1.0, min(3.0, len(result.positions) / 8)),
    )


def lens_page(result: LensResult, meta: Mapping[str, Any]) -> str:
    """A heat map of the likeliest tokens; a cell tells its top-k and its entropy."""
    tips = [
        [
            f"layer {cell.layer}, after {cell.position} {result.pieces[cell.position]!r}\n"
            f"{_likeliest([(t.piece, t.p) for t in cell.top])}\nentropy {cell.entropy:.3f} nats"
            for cell in row
        ]
        for row in result.rows
    ]
    lens = HeatMap(
        title="Likeliest next token after each layer",
        values=[[cell.top[0].p for cell in row] for row in result.rows],
        x_names=[word(result.pieces[at]) for at in result.positions],
        y_names=[str(layer) for layer in result.layers],
        tips=tips,
        label="P of the likeliest token",
        texts=[[word(cell.top[0].piece) for cell in row] for row in result.rows],
    )
    title = f"Lens: {''.join(result.pieces)!r}"
    return heat.page(title, lens_finding(result), heat.maps(lens), meta)
