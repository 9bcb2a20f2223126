"""A ``bench profile`` document as tables and as one self-contained page. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from rwkvedit.report import html, plots
from rwkvedit.report.radar import edit_of, of_profile
from rwkvedit.report.tables import Table, columns


def finding(document: Mapping[str, Any]) -> str:
    """One or two sentences."""
    rows, of = document["benchmarks"], document["of"]
    text = f"{edit_of(document)}: {document['passed']} of {of} benchmarks passed."
    missed = [r["name"] for r in rows if not r["passed"]]
    if missed:
        text += f" Missed: {', '.join(missed)}."
    if len(rows) < of:
        text += f" Interrupted: {of - len(rows)} were not measured."
    return text


def table(document: Mapping[str, Any]) -> Table:
    """A row a benchmark."""
    rows = tuple(
        {"name": r["name"], "score": r["score"], "threshold": r["threshold"],
         "passed": r["passed"], "counted": r["counted"], "of": r["of"]}
        for r in document["benchmarks"]
    )  # fmt: skip
    return Table(
        columns(
            ("name", "benchmark"), ("score", "score"), ("threshold", "threshold"),
            ("passed", "passed"), ("counted", "counted", "probes that count"),
            ("of", "of", "probes that were asked"),
        ),
        rows,
    )  # fmt: skip


def render(document: Mapping[str, Any], width: int) -> Iterator[Any]:
    """What a terminal shows: the table, the finding, and what each benchmark measures."""
    listed = document.get("list")
    if not listed:
        from rwkvedit.report.tables import rich_table

        yield rich_table(table(document), width)
        yield Text(finding(document))
        if document.get("interrupted"):
            how = "the same command goes on from there" if document.get("resume") else (
                "with --out FILE the same command would go on from there")
            yield Text(f"interrupted; {how}", style="yellow")
    grid = RichTable(box=None, padding=(0, 1, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column()
    for r in document["benchmarks"]:
        about = f"{r['definition']} [threshold {r['threshold']:g}; source: {r['source']}]"
        grid.add_row(r["name"], Text(about, style="" if listed else "dim"))
    yield grid


def page(document: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """The whole page: finding, chart, table, definitions, and the probes that fared worst."""
    title = f"Profile of an edit: {edit_of(document)}"
    shown = tuple(
        {"name": r["name"], "probe": e["probe"], "wanted": e["wanted"], "value": e["value"]}
        for r in document["benchmarks"] for e in r["examples"][:3]
    )
    probes = Table(
        columns(("name", "benchmark"), ("probe", "probe"), ("wanted", "wanted"),
                ("value", "value")), shown, "The three probes of each that fared worst",
    )  # fmt: skip
    about = "".join(
        f"<dt>{escape(r['name'])} <small>(threshold {r['threshold']:g})</small></dt>"
        f"<dd>{escape(r['definition'])} <small>Source: {escape(r['source'])}.</small></dd>\n"
        for r in document["benchmarks"]
    )
    footer = html.footer({
        "meta": meta,
        "settings": {"method": document["method"], "edits of a sequence": document["k"]},
    })  # fmt: skip
    return html.whole_page(
        title,
        f'<h1>{escape(title)}</h1>\n<main>\n<p class="finding">{escape(finding(document))}</p>\n'
        f"{html.figure(plots.to_json(of_profile(document)))}"
        f"{html.html_table(table(document), 'the benchmarks')}"
        f"<h2>What each measures</h2>\n<dl>\n{about}</dl>\n"
        f"{html.html_table(probes, 'probes')}{footer}</main>\n",
    )
