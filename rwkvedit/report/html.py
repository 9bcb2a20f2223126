"""One self-contained page of studies: images inlined, tables sortable, no request to anywhere.

Built from documents (``Study.to_json``) alone; pictures are drawn from their plots, once for a
light and once for a dark page. A content security policy in the page forbids every outside load.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rwkvedit.report import plots
from rwkvedit.report.tables import Column, Table, cell, is_rate, number, numeric, sort_key

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#222;--soft:#5b5f66;--line:#d8d8d8;--card:#f6f7f8;
--link:#005a92}
@media (prefers-color-scheme:dark){:root{--paper:#16181c;--ink:#e6e6e6;--soft:#a2a8b0;
--line:#3c4046;--card:#1e2126;--link:#7cc4ff}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem 1rem 4rem;max-width:60rem;background:var(--paper);
color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:.4rem 0}
h2{font-size:1.3rem;margin:3rem 0 .2rem;padding-top:1rem;border-top:1px solid var(--line)}
a{color:var(--link)}
.question{color:var(--soft);margin:.2rem 0 .6rem}
.finding{font-size:1.05rem;margin:.4rem 0 1rem;padding:.7rem .9rem;background:var(--card);
border-left:3px solid var(--link)}
nav ul{list-style:none;padding:0;margin:.5rem 0}
nav li{margin:.45rem 0}
nav small{display:block;color:var(--soft)}
figure{margin:1rem 0;overflow-x:auto}
img{display:block;width:100%;min-width:34rem;max-width:936px;height:auto}
.scroll{overflow-x:auto;margin:.6rem 0 1.2rem;max-height:30rem;overflow-y:auto;
border:1px solid var(--line);border-radius:4px}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.5rem .6rem;color:var(--soft);font-style:italic}
th,td{padding:.3rem .6rem;text-align:left;white-space:nowrap;border-bottom:1px solid var(--line)}
thead th{position:sticky;top:0;background:var(--card);z-index:1}
th.n,td.n{text-align:right}
td small{color:var(--soft)}
th button{all:unset;cursor:pointer;font-weight:600}
th button:focus-visible{outline:2px solid var(--link);outline-offset:2px}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
.meta{color:var(--soft);font-size:.85rem}
code{background:var(--card);padding:.1rem .3rem;border-radius:3px;font-size:.85em;
overflow-wrap:anywhere}
"""

SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending", at = head.cellIndex;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[at].dataset.sort;
    const order = (a, b) => {
      const x = Number(key(a)), y = Number(key(b));
      const numbers = key(a) !== "" && key(b) !== "" && !isNaN(x) && !isNaN(y);
      return numbers ? x - y : key(a).localeCompare(key(b));
    };
    const rows = [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a));
    body.append(...rows);
  });
}
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(documents: Sequence[Mapping[str, Any]], title: str = "Anatomy of a told fact") -> str:
    """The whole page of studies, in the order given. Raises UnavailableError without matplotlib."""
    body = "".join(section(document) for document in documents)
    return whole_page(
        title,
        f"<h1>{escape(title)}</h1>\n{about(documents)}{contents(documents)}<main>\n{body}</main>\n",
    )


def whole_page(title: str, body: str, style: str = STYLE, script: str = SCRIPT) -> str:
    """A page around ``body``, closed to the outside by its policy."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def notebook(document: Mapping[str, Any]) -> str:
    """One study for a notebook's cell: finding, pictures and tables."""
    return f"<style>.scroll{{max-height:24rem;overflow:auto}}</style>{section(document)}"


def about(documents: Sequence[Mapping[str, Any]]) -> str:
    """What the studies share: model, version, device; nothing when there are none."""
    if not documents:
        return "<p>No studies yet.</p>\n"
    meta = documents[0]["meta"]
    return (
        f'<p class="meta">rwkvedit {escape(str(meta["version"]))}, model '
        f'{escape(str(meta["model"]))} (digest <code>{escape(str(meta["model_digest"])[:16])}'
        f'</code>), {escape(str(meta["device"]))}, {escape(str(meta["dtype"]))}. Numbers in '
        "brackets are 95% intervals. Click a column's name to sort by it.</p>\n"
    )


def contents(documents: Sequence[Mapping[str, Any]]) -> str:
    items = "".join(
        f'<li><a href="#{escape(d["study"])}">{escape(d["study"])}</a>'
        f"<small>{escape(d['question'])}</small></li>\n"
        for d in documents
    )
    return f'<nav aria-label="Studies"><ul>\n{items}</ul></nav>\n' if items else ""


def section(document: Mapping[str, Any]) -> str:
    """One study's part of the page."""
    pictures = "".join(figure(plot) for plot in document["plots"])
    main = {"title": document.get("title", ""), "columns": document["columns"],
            "rows": document["rows"]}
    tables = "".join(
        html_table(Table.from_json(data), f"{document['study']}: table {at}")
        for at, data in enumerate([main, *document["tables"]], 1)
    )
    return (
        f'<section id="{escape(document["study"])}">\n<h2>{escape(document["study"])}</h2>\n'
        f'<p class="question">{escape(document["question"])}</p>\n'
        f'<p class="finding">{escape(document["finding"])}</p>\n'
        f"{pictures}{tables}{footer(document)}</section>\n"
    )


def figure(data: Mapping[str, Any]) -> str:
    """A plot as a picture for light and dark pages, with its alternative text."""
    plot = plots.from_json(data)
    light, dark = (
        "data:image/png;base64," + base64.b64encode(plots.png(plot, theme)).decode("ascii")
        for theme in ("light", "dark")
    )
    width, height = plots.size(plot)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(plot.alt)}" width="{width}" height="{height}">'
        "</picture></figure>\n"
    )


def html_table(table: Table, name: str) -> str:
    """A table whose columns sort when their names are clicked."""
    right = {column.key for column in table.columns if numeric(table, column)}
    head = "".join(_head(column, column.key in right) for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(row.get(c.key), c.key in right) for c in table.columns) + "</tr>\n"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def _head(column: Column, right: bool) -> str:
    kind = ' class="n"' if right else ""
    about = f' title="{escape(column.about)}"' if column.about else ""
    return f'<th scope="col"{kind}{about}><button>{escape(column.title)}</button></th>'


def _cell(value: Any, right: bool) -> str:
    shown = escape(cell(value))
    if is_rate(value) and value["mean"] is not None:
        shown += f" <small>[{number(value['lo'])}, {number(value['hi'])}]</small>"
    kind = ' class="n"' if right else ""
    key = sort_key(value)
    return f'<td{kind} data-sort="{escape(str(key))}">{shown}</td>'


def footer(document: Mapping[str, Any]) -> str:
    """The command that prints the table again, and where the numbers come from."""
    meta = document["meta"]
    settings = "; ".join(
        f"{name.replace('_', ' ')} {_setting(value)}"
        for name, value in document["settings"].items())
    return (
        f'<p class="meta"><code>{escape(str(meta["command"]))}</code><br>'
        f"{escape(settings)}<br>{drawn_with(meta)}, {meta['seconds']:.1f} s, "
        f"{escape(str(meta['device']))}, {escape(str(meta['dtype']))}, "
        f"model digest {escape(str(meta['model_digest'])[:16])}, "
        f"rwkvedit {escape(str(meta['version']))}</p>\n"
    )


def drawn_with(meta: Mapping[str, Any]) -> str:
    """The threads of a run, and its seed where it drew anything."""
    threads = f"{meta['threads']} thread{'s' if meta['threads'] != 1 else ''}"
    return threads if meta["seed"] is None else f"seed {meta['seed']}, {threads}"


def _setting(value: Any) -> str:
    if isinstance(value, Mapping) and not is_rate(value):
        return ", ".join(f"{name} {_setting(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value))
    return cell(value, intervals=True)
