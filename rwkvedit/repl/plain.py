"""Results as plain lines of text: what transcripts hold. No widths, no colours, no times.

Numbers that measure time are left out, so a recorded session reads the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rwkvedit.repl.result import Block, Fields, Grid, Report, Result, Table, Text, Written

KNOWN = 0.1  # P of a control's value before, under which the model did not know it


def number(value: Any) -> str:
    """A value as a person reads it: always with a point if it is a float."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        size = abs(value)
        if size >= 10:
            return f"{value:.1f}"
        if size >= 0.001 or size == 0:
            return f"{value:.3f}"
        return f"{value:.1e}"
    return str(value)


def lines(result: Result) -> list[str]:
    """The whole result, as a transcript shows it."""
    out: list[str] = []
    if result.kind == "error":
        out.append(f"error: {result.data['message']}")
    elif result.kind == "reply":
        out += str(result.data["text"]).strip("\n").split("\n")
    else:
        for block in result.blocks:
            out += block_lines(block)
    out += [f"note: {notice}" for notice in result.notices]
    return [line.rstrip() for line in out]


def block_lines(block: Block) -> list[str]:
    if isinstance(block, Text):
        return block.text.split("\n")
    if isinstance(block, Written):
        return block.text.strip("\n").split("\n")
    if isinstance(block, Grid):
        return _table(block.whole)
    if isinstance(block, Fields):
        return [f"{name}: {number(value)}" for name, value in block.pairs]
    if isinstance(block, Table):
        return _table(block)
    return report_lines(block)


def report_lines(report: Report) -> list[str]:
    """An edit's report: verdict first, then what was done, then what it did."""
    d = report.data
    out = [f"{d['verb']}: {verdict(d)}"]
    out.append(f"  {described(d)}")
    out.append(f"  norms: state {number(d['state_norm'])}, delta {number(d['delta_norm'])}")
    for name in ("p_old", "p_new"):
        if d.get(name) and d[name].get("before") is not None:
            out.append(f"  {probability(d, name)} {change(d[name])}")
    for control in d.get("controls") or ():
        out.append(f"  {fate(control)}: {control['fact']} {change(control)}")
    if d.get("unchecked"):
        out.append(f"  {unchecked(d)}")
    if d.get("advice"):
        out.append(f"  next: {d['advice']}")
    return out


def fate(control: dict[str, Any]) -> str:
    """What became of a control; one that the model did not answer before has nothing to keep."""
    if not control["kept"]:
        return "MOVED"
    return "kept" if control["before"] >= KNOWN else "not known"


def verdict(d: dict[str, Any]) -> str:
    """``took``, or ``leaked (nothing was changed)`` when ``auto`` refused."""
    refused = not d.get("applied", True) and d["verdict"] == d.get("outcome")
    return f"{d['verdict']} (nothing was changed)" if refused else str(d["verdict"])


def unchecked(d: dict[str, Any]) -> str:
    """Facts heard so long ago that the edit did not look at them."""
    n = d["unchecked"]
    return f"not checked: {n} older fact{'s' * (n != 1)} (--check does)"


def described(d: dict[str, Any]) -> str:
    """``hyb-u, ratio 0.310, alpha 1.52, 12 heads, layers 3:6, calibration bob-city``."""
    parts = [str(d["method"])]
    for name in ("ratio", "alpha"):
        if d.get(name) is not None:
            value = d[name]
            parts.append(f"{name} {number(float(value)) if _is_number(value) else value}")
    if d.get("heads") is not None:
        heads = d["heads"]
        parts.append(f"{len(heads) if isinstance(heads, list) else heads} heads")
    if d.get("layers") is not None:
        parts.append(f"layers {layers(d['layers'])}")
    if d.get("calibration"):
        parts.append(f"calibration {d['calibration']}")
    return ", ".join(parts)


def layers(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return f"{value[0]}:{value[1]}"
    return str(value)


def probability(d: dict[str, Any], name: str) -> str:
    """``P(old)`` and ``P(new)``; an erasure is to say that it does not know."""
    if name == "p_new" and d["verb"] != "edit":
        return 'P("I don\'t know")'
    return f"P({name.removeprefix('p_')})"


def change(pair: dict[str, Any]) -> str:
    before, after = pair.get("before"), pair.get("after")
    return f"{_short(before)} -> {_short(after)}"


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, (int, float)) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _table(table: Table) -> list[str]:
    rows = [tuple(number(cell) for cell in row) for row in table.rows]
    columns = table.columns if any(table.columns) else ()
    shown: Iterable[tuple[str, ...]] = [columns, *rows] if columns else rows
    widths: list[int] = []
    shown = list(shown)
    for row in shown:
        for index, cell in enumerate(row):
            if index == len(widths):
                widths.append(0)
            widths[index] = max(widths[index], len(cell))
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in shown
    ]
