"""Benchmark documents as rich tables that fit the terminal. Prints nothing, knows no model.

A rate is shown by its mean; ``clean``, the measure that sums an edit up, with its 95% interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rwkvedit.report import profile, tables

#: Columns of ``bench state``: key, title, and the width of terminal from which it is shown.
STATE_COLUMNS = (
    ("flip", "flip", 0), ("keep", "keep", 0), ("clean", "clean", 0), ("clean", "95%", 0),
    ("leak", "leak", 0), ("reply", "reply", 0), ("kl_target", "KL t", 0),
    ("kl_control", "KL c", 0), ("still_first", "still", 96), ("fluency", "fluency", 96),
    ("same_40", "same40", 96), ("stutter", "stutter", 104), ("old_40", "old40", 104),
    ("ms", "ms", 0), ("decodes", "tokens", 0), ("forwards", "calls", 120),
)
#: Columns of ``bench edit``.
EDIT_COLUMNS = (
    ("k", "k", 0), ("efficacy", "efficacy", 0), ("paraphrase", "paraphr.", 0),
    ("neighbourhood", "neighb.", 0), ("score", "score", 0),
    ("neighbourhood_prepended", "prepended", 0), ("generation", "said", 0),
    ("entropy", "entropy", 96), ("retention", "first 10", 0), ("perplexity_ratio", "ppl x", 0),
    ("seconds_per_edit", "s/edit", 0), ("peak_mb", "MB", 104),
)
WHOLE = ("ms", "decodes")  # shown without decimals


def render(document: dict[str, Any], width: int) -> Iterator[Table | Text]:
    """The parts of a ``bench`` document, to be printed one below another."""
    if "benchmarks" in document:
        yield from profile.render(document, width)
        if "meta" in document:
            yield _made(document)
        return
    if "rows" not in document:
        yield from _listing(document)
        return
    if "suite" in document:
        yield from _state(document, width)
    elif document.get("bench") == "edit":
        yield from _edits(document, width)
    elif document.get("bench") == "write":
        yield from _writing(document, width)
    else:
        yield from _plain(document["rows"], width)
    yield from map(_wrong, document.get("wrong", ()))
    yield _made(document)


def _made(document: dict[str, Any]) -> Text:
    """The command, and how long it took."""
    meta = document["meta"]
    return Text(f"{meta['command']}  ({meta['seconds']:.0f} s)", style="dim")


def _table(*columns: str, left: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    return table


def _listing(document: dict[str, Any]) -> Iterator[Table | Text]:
    """``--list``: names with their summaries."""
    for key, entries in document.items():
        yield Text(key.replace("_", " ").capitalize(), style="bold")
        table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for entry in entries:
            table.add_row(entry["name"], entry["summary"].replace("``", ""))
        yield table


def _state(document: dict[str, Any], width: int) -> Iterator[Table | Text]:
    rows, counted = document["rows"], document["worlds_counted"]
    done = document.get("worlds_done", document["worlds"])
    shown = [(key, title) for key, title, room in STATE_COLUMNS
             if width >= room and any(key in row for row in rows)]
    table = _table("method", *(title for _, title in shown), left=("method",))
    for row in rows:
        table.add_row(row["method"], *(_cell(row, key, title) for key, title in shown))
    yield table
    yield Text(
        f"{document['suite']}: {counted} of {done} worlds counted, those the "
        "unedited model knows whole and in which the oracle flips", style="dim",
    )
    if document.get("interrupted"):
        after = f"interrupted after {done} of {document['worlds']} worlds"
        how = "the same command goes on from there" if document.get("resume") else (
            "with --out FILE the same command would go on from there")
        yield Text(f"{after}; {how}", style="yellow")
    by = document.get("by")
    if by:
        yield Text(f"\nclean by {document['by_what']}", style="bold")
        table = _table("method", *by, left=("method",))
        for row in rows:
            table.add_row(row["method"], *(
                _cell(group.get(row["method"], {}), "clean", "") for group in by.values()))
        counts = [next(iter(group.values()))["worlds_counted"] for group in by.values()]
        table.add_row("worlds", *map(str, counts), style="dim")
        yield table


def _edits(document: dict[str, Any], width: int) -> Iterator[Table | Text]:
    """Weight edits: groups below one another, what was measured how in the last line."""
    rows = document["rows"]
    shown = [(key, title) for key, title, room in EDIT_COLUMNS
             if width >= room and any(key in row for row in rows)]
    table = _table("group", "method", *(title for _, title in shown), left=("group", "method"))
    for row in rows:
        cells = [_cell(row, key, "") if isinstance(row.get(key), dict) else _number(row.get(key))
                 for key, _ in shown]  # fmt: skip
        table.add_row(row["group"], row["method"], *cells)
    yield table
    if document.get("interrupted"):
        yield Text("interrupted; with --out FILE the same command goes on from there",
                   style="yellow")  # fmt: skip
    yield Text("efficacy to prepended: teacher-forced; said: generation", style="dim")


def _writing(document: dict[str, Any], width: int) -> Iterator[Table | Text]:
    """Write vectors and LoRAs, and what came of the wanted numbers."""
    from rwkvedit.report import writing

    shown = writing.table(document)
    yield tables.rich_table(shown, width)
    if not tables.roomy(shown, width):
        yield Text("95% intervals: --json, or a wider terminal", style="dim")
    if document.get("interrupted"):
        yield Text("interrupted; with --out FILE the same command goes on from there",
                   style="yellow")  # fmt: skip
    yield Text(writing.finding(document))
    for line in document.get("wrote", ()):
        yield Text(line, style="dim")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else share(value)


def _cell(row: dict[str, Any], key: str, title: str) -> str:
    found = row.get(key)
    if not isinstance(found, dict) or found.get("mean") is None:
        return "-"
    if title == "95%":
        return f"{share(found['lo'])}-{share(found['hi'])}"
    return f"{found['mean']:.0f}" if key in WHOLE else share(found["mean"])


def share(value: float) -> str:
    """Three decimals, the leading zero left out: ``.985``, ``1.00``, ``-.012``, ``12.3``."""
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    if abs(value) >= 0.9995:
        return f"{value:.2f}"
    return f"{value:.3f}".replace("0.", ".", 1)


def _plain(rows: Sequence[dict[str, Any]], width: int) -> Iterator[Table | Text]:
    """Any other benchmark: every key a column; intervals where there is room."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = tables.Table(tables.columns(*((k, k.replace("_", " ")) for k in keys)), tuple(rows))
    yield tables.rich_table(table, width)
    if not tables.roomy(table, width):
        yield Text("95% intervals: --json, or a wider terminal", style="dim")


def _wrong(one: dict[str, Any]) -> Text:
    """One failed answer."""
    if "question" in one:
        return Text(f"{one['row']}: {one['question']} {one['reply']} ({one['wanted']})")
    used = f" [{one['used']}]" if one["used"] else ""
    text = f"{one['method']} world {one['world']}{used}: {one['old']} -> {one['new'] or 'nothing'}"
    if one["missed"]:
        text += f"\n  missed: {one['asked']} {one['reply']}"
    return Text(text + "".join(f"\n  lost: {lost}" for lost in one["lost"]))
