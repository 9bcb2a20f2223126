"""Crown scans and causal traces as data for scripts and blocks for eyes. Prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvedit.repl.result import Block, Table, Text
from rwkvedit.report.average import finding
from rwkvedit.report.locate import crown_finding, trace_finding

if TYPE_CHECKING:
    from rwkvedit.evaluate.tracing import AverageTrace
    from rwkvedit.transformer.crown import CrownResult
    from rwkvedit.transformer.trace import TraceResult

View = tuple[dict[str, Any], list[Block]]

NAMES = {"state": "hidden", "mlp": "mlp", "attn": "attn"}
"""Kinds of restoration as JSON names them."""


def crown(result: CrownResult) -> View:
    """Every layer's change, and the crown."""
    rows = tuple(
        (
            row.layer,
            row.p,
            _change(row.delta_p),
            repr(row.top) if row.flips else "",
            "crown" if row.layer == result.crown else "",
        )
        for row in result.scan
    )
    names = ("layer", f"P({result.answer.text!r})", "change", "likeliest then", "")
    return result.to_json(), [Table(names, rows), Text(crown_finding(result))]


def _change(value: float) -> str:
    return f"{value:+.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:+.0e}"


def trace(result: TraceResult) -> View:
    """For each position and kind of restoration the best layer and what it brings back."""
    rows = []
    for at, piece in enumerate(result.pieces):
        cells = []
        for grid in result.grids.values():
            layer = int(grid.p[:, at].argmax())
            cells.append(f"{grid.p[layer, at]:.3f} (layer {layer})")
        if at < result.subject[0]:
            cells = ["-"] * len(cells)
        rows.append((at, repr(piece), "subject" if at in result.subject else "", *cells))
    head = f"P({result.answer.text!r}) at best with one position restored"
    table = Table(("", "position", "", *(NAMES[kind] for kind in result.grids)), tuple(rows))
    return result.to_json(), [Text(head), table, Text(trace_finding(result))]


def average(result: AverageTrace) -> View:
    """For each place in the prompt and kind of restoration the best layer's average effect."""
    rows = []
    for place in next(iter(result.effects.values())):
        means = [result.mean(kind, place) for kind in result.effects]
        cells = [
            "-" if mean is None else f"{mean.max():+.3f} (layer {mean.argmax()})" for mean in means
        ]
        facts = max(len(places[place]) for places in result.effects.values())
        rows.append((place, facts, *cells))
    head = "average indirect effect of the best layer, P(restored) - P(corrupted)"
    table = Table(("place", "facts", *(NAMES[kind] for kind in result.effects)), tuple(rows))
    return result.to_json(), [Text(head), table, Text(finding(result))]
