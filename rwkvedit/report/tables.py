"""Tables as data, and their cells in words. Prints nothing; rich is imported on first use.

A cell is a text, a number, None (shown as a dash), or a rate ``{"mean", "lo", "hi", "n"}`` with its
95% interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """``key`` in the rows, ``title`` for people, ``about`` what it measures and its unit."""

    key: str
    title: str
    about: str = ""

    def to_json(self) -> dict[str, str]:
        return {"key": self.key, "title": self.title, "about": self.about}


@dataclass(frozen=True)
class Table:
    """Columns and rows; every row is a mapping from column keys to cells."""

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    title: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "columns": [column.to_json() for column in self.columns],
            "rows": [dict(row) for row in self.rows],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Table:
        columns = tuple(Column(c["key"], c["title"], c.get("about", "")) for c in data["columns"])
        return Table(columns, tuple(data["rows"]), data.get("title", ""))


def columns(*spec: tuple[str, ...]) -> tuple[Column, ...]:
    """``columns(("layer", "layer"), ("p", "P(new)", "probability"))``."""
    return tuple(Column(*each) for each in spec)


def is_rate(cell: Any) -> bool:
    return isinstance(cell, Mapping) and "mean" in cell


def number(value: float) -> str:
    """Three decimals below 10, one below 1,000, none above; 0.0004 keeps a digit."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.1e}" if 0 < size < 5e-4 else f"{value:.3f}"


def cell(value: Any, intervals: bool = False) -> str:
    """One cell for people; a rate as its mean and, if wanted, ``[lo, hi]``."""
    if is_rate(value):
        if value["mean"] is None:
            return "-"
        shown = number(value["mean"])
        return f"{shown} [{number(value['lo'])}, {number(value['hi'])}]" if intervals else shown
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else str(value)


def sort_key(value: Any) -> float | str:
    """What a column is sorted by: a number where there is one."""
    if is_rate(value):
        return float("-inf") if value["mean"] is None else float(value["mean"])
    if isinstance(value, (int, float)):
        return float(value)
    return "" if value is None else str(value)


def numeric(table: Table, column: Column) -> bool:
    """Does a column hold numbers (and nothing but dashes beside them)?"""
    cells = [row.get(column.key) for row in table.rows]
    return any(c is not None for c in cells) and all(
        c is None or is_rate(c) or (isinstance(c, (int, float)) and not isinstance(c, bool))
        for c in cells
    )


def roomy(table: Table, width: int) -> bool:
    """Is there room for intervals in ``width`` characters?"""
    if not any(is_rate(c) for row in table.rows for c in row.values()):
        return True
    return sum(_widths(table, True)) + 3 * len(table.columns) <= width


def _widths(table: Table, intervals: bool) -> list[int]:
    return [
        max([len(c.title), *(len(cell(row.get(c.key), intervals)) for row in table.rows)])
        for c in table.columns
    ]


def grid(table: Table, intervals: bool = False) -> tuple[tuple[str, ...], tuple[tuple, ...]]:
    """(titles, rows of strings), for a plain table."""
    titles = tuple(column.title for column in table.columns)
    rows = tuple(
        tuple(cell(row.get(column.key), intervals) for column in table.columns)
        for row in table.rows
    )
    return titles, rows


def rich_table(table: Table, width: int) -> Any:
    """A ``rich`` table; intervals are shown where ``width`` characters leave room."""
    from rich.table import Table as RichTable

    shown = RichTable(
        box=None, padding=(0, 1), title=table.title or None, title_justify="left",
        title_style="italic", header_style="dim",
    )
    for column in table.columns:
        right = numeric(table, column)
        shown.add_column(column.title, justify="right" if right else "left", overflow="fold")
    for row in grid(table, roomy(table, width))[1]:
        shown.add_row(*row)
    return shown


def markdown(table: Table, intervals: bool = True) -> str:
    """A GitHub table, for a README."""
    titles, rows = grid(table, intervals)
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "".join("| " + " | ".join(_escaped(line)) + " |\n" for line in lines)


def _escaped(line: Sequence[str]) -> list[str]:
    return [text.replace("|", "\\|") for text in line]
