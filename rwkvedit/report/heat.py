"""Heat maps that answer to the pointer: a table of coloured cells, each with lines of its own.

Works in the self-contained page (no picture, no request): a cell's colour is its share of the
scale, what is known of it is shown on hover, on tap, and with the arrow keys. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from rwkvedit.report import html

STYLE = """
:root{--hot:0 90 146;--warm:178 74 0;--on:#fff}
@media (prefers-color-scheme:dark){:root{--hot:86 180 233;--warm:255 157 92;--on:#0b0c0e}}
.maps{display:flex;flex-wrap:wrap;gap:0 1.6rem}
.maps section{max-width:100%}
.maps h3{margin:.8rem 0 .2rem}
.heat{max-height:none;width:fit-content;max-width:100%}
.heat table{width:auto;font-size:.74rem;border-collapse:separate;border-spacing:1px}
.heat th,.heat td{border:0;padding:.08rem .35rem;text-align:center}
.heat td{background:rgb(var(--hot) / var(--v));min-width:2.4rem;max-width:7rem;overflow:hidden;
text-overflow:ellipsis;cursor:default}
.heat td.over{color:var(--on)}
.heat td.cold{background:rgb(var(--warm) / var(--v))}
.heat td:focus{outline:2px solid var(--ink);outline-offset:-1px}
.heat thead th,.heat tfoot th{font-weight:600;position:static;background:none;white-space:pre}
.heat th.mark{text-decoration:underline;text-decoration-thickness:2px;text-underline-offset:3px}
.heat tbody th{position:sticky;left:0;background:var(--paper);font-weight:400;color:var(--soft)}
.scale{display:flex;gap:.5rem;align-items:center;color:var(--soft);font-size:.85rem;
margin:.2rem 0 1rem}
.scale[hidden]{display:none}
.scale i{width:9rem;height:.8rem;border:1px solid var(--line);
background:linear-gradient(to right,rgb(var(--hot) / 0),rgb(var(--hot) / 1))}
.scale i.both{background:linear-gradient(to right,rgb(var(--warm) / 1),rgb(var(--warm) / 0),
rgb(var(--hot) / 1))}
#tip{position:fixed;z-index:9;pointer-events:none;white-space:pre;background:var(--ink);
color:var(--paper);padding:.4rem .6rem;border-radius:4px;font-size:.8rem;line-height:1.4;
font-variant-numeric:tabular-nums;max-width:calc(100vw - 1rem);overflow:hidden}
#tip[hidden]{display:none}
"""

ON = 0.68
"""From this share of the scale on, text is light on dark (dark on light in a dark theme): there
either colour has a contrast of 3.5 and more."""

SCRIPT = """
{
  const tip = document.createElement("div");
  tip.id = "tip"; tip.hidden = true; tip.setAttribute("role", "status");
  document.body.append(tip);
  const show = cell => {
    tip.textContent = cell.dataset.tip; tip.hidden = false;
    const at = cell.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const right = document.documentElement.clientWidth - own.width - 8;
    tip.style.left = Math.max(8, Math.min(at.left, right)) + "px";
    const below = at.bottom + 6 + own.height < innerHeight;
    tip.style.top = Math.max(4, below ? at.bottom + 6 : at.top - own.height - 6) + "px";
  };
  const hide = () => { tip.hidden = true; };
  for (const box of document.querySelectorAll(".heat")) {
    box.addEventListener("pointerover", e => {
      const cell = e.target.closest("td"); if (cell) show(cell); else hide();
    });
    box.addEventListener("pointerleave", hide);
    box.addEventListener("focusin", e => { if (e.target.matches("td")) show(e.target); });
    box.addEventListener("focusout", hide);
    box.addEventListener("scroll", hide);
    box.addEventListener("keydown", e => {
      const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
      const cell = e.target.closest("td"), by = step[e.key];
      if (e.key === "Escape") hide();
      if (!cell || !by) return;
      const row = cell.parentElement.parentElement.rows[cell.parentElement.sectionRowIndex + by[0]];
      const next = row && row.cells[cell.cellIndex + by[1]];
      if (!next || !next.matches("td")) return;
      e.preventDefault(); cell.tabIndex = -1; next.tabIndex = 0; next.focus();
    });
  }
  addEventListener("scroll", hide);
}
"""


@dataclass(frozen=True)
class HeatMap:
    """``values[y][x]`` of layers ``y_names`` (the first at the top) and columns ``x_names``."""

    title: str
    values: Sequence[Sequence[float]]
    x_names: Sequence[str]
    y_names: Sequence[str]
    tips: Sequence[Sequence[str]]
    """What is shown of each cell, in lines."""
    label: str
    """What the values are."""
    low: float = 0.0
    high: float = 1.0
    """The ends of the scale; with ``diverging`` it runs from -high to high."""
    texts: Sequence[Sequence[str]] | None = None
    """What stands in the cells; None: the values."""
    marked: frozenset[int] = field(default_factory=frozenset)
    """Columns whose names are underlined."""
    diverging: bool = False


def heat_table(heat: HeatMap) -> str:
    """The heat map as HTML: a table that scrolls inside its own box, and its scale."""
    head = "".join(
        f'<th scope="col"{" class=mark" if x in heat.marked else ""}>{escape(name)}</th>'
        for x, name in enumerate(heat.x_names)
    )
    names = f"<tr><th>layer</th>{head}</tr>"
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_cell(heat, y, x) for x in range(len(heat.x_names)))
        + "</tr>\n"
        for y, name in enumerate(heat.y_names)
    )
    low = -heat.high if heat.diverging else heat.low
    both = " class=both" if heat.diverging else ""
    return (
        f"<section><h3>{escape(heat.title)}</h3>\n"
        f'<div class="scroll heat" role="region" aria-label="{escape(heat.title)}"><table>'
        f"<thead>{names}</thead>\n<tbody>\n{rows}</tbody>\n<tfoot>{names}</tfoot></table></div>\n"
        f'<p class="scale">{escape(short(low))} <i{both}></i> {escape(short(heat.high))} '
        f"{escape(heat.label)}</p></section>\n"
    )


def maps(*heats: HeatMap) -> str:
    """Heat maps beside each other where they fit."""
    return f'<div class="maps">{"".join(map(heat_table, heats))}</div>\n'


def _cell(heat: HeatMap, y: int, x: int) -> str:
    value = heat.values[y][x]
    span = heat.high if heat.diverging else heat.high - heat.low
    share = (value if heat.diverging else value - heat.low) / span if span else 0.0
    share = share if math.isfinite(share) else 0.0
    shade = min(1.0, abs(share) if heat.diverging else max(0.0, share))
    names = [n for n, so in (("over", shade > ON), ("cold", heat.diverging and share < 0)) if so]
    kind = f' class="{" ".join(names)}"' if names else ""
    text = short(value) if heat.texts is None else heat.texts[y][x]
    focus = "0" if x == y == 0 else "-1"
    return (
        f'<td{kind} style="--v:{shade:.3f}" tabindex="{focus}" '
        f'data-tip="{escape(heat.tips[y][x])}">{escape(text)}</td>'
    )


def short(value: float) -> str:
    """``.77``, ``-.05``, ``1.00``: a probability or a change of one, in a cell."""
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def page(title: str, finding: str, body: str, meta: Mapping[str, Any]) -> str:
    """One self-contained page around heat maps, tables and pictures."""
    about = (
        f'<p class="meta"><code>{escape(str(meta["command"]))}</code><br>'
        f"rwkvedit {escape(str(meta['version']))}, model {escape(str(meta['model']))} "
        f"(digest {escape(str(meta['model_digest'])[:16])}), {escape(str(meta['device']))}, "
        f"{escape(str(meta['dtype']))}, {html.drawn_with(meta)}, {meta['seconds']:.1f} s</p>\n"
    )
    return html.whole_page(
        title,
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="finding">{escape(finding)}</p>\n<main>\n{body}</main>\n{about}',
        style=html.STYLE + STYLE,
        script=html.SCRIPT + SCRIPT,
    )
