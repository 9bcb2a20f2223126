"""Write-vector editing in pictures: the Pareto plot, and a page that shows every token.

Built from ``bench write``'s document alone; knows no model. The page's tokens are coloured by one
of three quantities, chosen by a radio button; fire positions are underlined; under the pointer
(or the keyboard's focus) a token tells what was likeliest before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rwkvedit.report import heat, html, plots
from rwkvedit.report.tables import Table, columns

LEAST = 1e-5
"""The left end of the divergence axis: smaller values are drawn there."""
SHADES = (("kl", "KL"), ("activation", "activation"), ("difference", "difference"))
STYLE = """
.tokens{line-height:2.1;font-size:.95rem;white-space:pre-wrap;overflow-wrap:anywhere;
border:1px solid var(--line);border-radius:4px;padding:.5rem .7rem;margin:.5rem 0}
.tokens b{font-weight:400;padding:.1rem 0;border-radius:2px;cursor:default;
background:rgb(var(--hot) / var(--v,0))}
.tokens b.cold{background:rgb(var(--warm) / var(--v,0))}
.tokens b.over{color:var(--on)}
.tokens b.fires{text-decoration:underline;text-decoration-thickness:2px;
text-underline-offset:4px}
.tokens b:focus{outline:2px solid var(--ink)}
fieldset{border:1px solid var(--line);border-radius:4px;display:flex;flex-wrap:wrap;
gap:.2rem 1.2rem;margin:1rem 0 .4rem}
"""
SCRIPT = """
{
  const radios = document.querySelectorAll("input[name=shade]");
  const paint = what => {
    for (const b of document.querySelectorAll(".tokens b")) {
      const share = Number(b.dataset[what]);
      b.style.setProperty("--v", Math.abs(share).toFixed(3));
      b.classList.toggle("cold", share < 0);
      b.classList.toggle("over", Math.abs(share) > .55);
    }
    for (const p of document.querySelectorAll("[data-scale]")) p.hidden = p.dataset.scale !== what;
  };
  for (const radio of radios) radio.addEventListener("change", () => paint(radio.value));
  paint("kl");
  const tip = document.getElementById("tip");
  const show = b => {
    tip.textContent = b.dataset.tip; tip.hidden = false;
    const at = b.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const right = document.documentElement.clientWidth - own.width - 8;
    tip.style.left = Math.max(8, Math.min(at.left, right)) + "px";
    const below = at.bottom + 6 + own.height < innerHeight;
    tip.style.top = Math.max(4, below ? at.bottom + 6 : at.top - own.height - 6) + "px";
  };
  for (const box of document.querySelectorAll(".tokens")) {
    box.addEventListener("pointerover", e => {
      const b = e.target.closest("b"); if (b) show(b); else tip.hidden = true;
    });
    box.addEventListener("pointerleave", () => { tip.hidden = true; });
    box.addEventListener("focusin", e => show(e.target));
    box.addEventListener("focusout", () => { tip.hidden = true; });
    box.addEventListener("keydown", e => {
      const next = {ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling"}[e.key];
      if (e.key === "Escape") tip.hidden = true;
      if (!next || !e.target[next]) return;
      const to = e.target[next];
      e.preventDefault(); e.target.tabIndex = -1; to.tabIndex = 0; to.focus();
    });
  }
}
"""


def pareto(document: Mapping[str, Any]) -> plots.Scatter:
    """P(target) over surrounding and over global divergence, every point annotated."""
    points = [p for p in document["points"] if p["params"].get("alpha", 1.0) > 0]
    lambdas = sorted({p["params"]["lambda"] for p in points if p["method"] == "lora"})
    families = [
        ("write vector, analytic", [p for p in points if p["method"] == "analytic"], True),
        ("write vector, trained", [p for p in points if p["method"] == "trained"], True),
        *(
            (f"LoRA, lambda {x:g}", [p for p in points if p["params"].get("lambda") == x], True)
            for x in lambdas
        ),
    ]
    panels = tuple(
        (f"{where} KL(before || after), nats", tuple(_dots(n, some, key, joined)
                                                    for n, some, joined in families if some))
        for where, key in (("surrounding", "kl_surround"), ("global", "kl_global"))
    )  # fmt: skip
    wanted = document["verdict"]["wanted"]
    said = document["target_text"]
    return plots.Scatter(
        "pareto", f"Redirecting {document['component']} to {said!r}: accuracy and cost",
        f"P of {said!r} where {document['component']} fires, over the divergence elsewhere: a "
        f"write vector against a rank-one LoRA. {finding(document)}",
        panels, "P(target) at fire positions", x_level=wanted["kl"], y_level=wanted["analytic"],
    )  # fmt: skip


def _dots(name: str, points: Sequence[Mapping[str, Any]], key: str, joined: bool) -> plots.Dots:
    x = [p[key] for p in points]
    y = [p["p_target"] for p in points]

    def column(rates: Sequence[Mapping[str, Any]], part: str, least: float) -> tuple[float, ...]:
        return tuple(max(least, r[part]) for r in rates)

    texts = tuple(
        f"{p['params']['alpha']:g}" if "alpha" in p["params"] else str(p["params"]["examples"])
        for p in points
    )
    return plots.Dots(
        name, column(x, "mean", LEAST), column(y, "mean", 0.0), texts,
        column(x, "lo", LEAST), column(x, "hi", LEAST), column(y, "lo", 0.0),
        column(y, "hi", 0.0), joined,
    )  # fmt: skip


def finding(document: Mapping[str, Any]) -> str:
    """What came of the wanted numbers, in a sentence or two."""
    said, rivals = [], any(p["method"] == "lora" for p in document["points"])
    for name, how in (("analytic", "from no examples"), ("trained", "from 8 examples")):
        got = document["verdict"].get(name)
        if got is None:
            most = document["verdict"]["wanted"]["kl"]
            said.append(f"{how}: nothing at a surrounding KL of {most:g} or less")
            continue
        line = f"{how}: P {got['p_target']:.3f} at a surrounding KL of {got['kl_surround']:.4f}"
        if rivals and got["lora"] is None:
            line += "; no LoRA is as accurate"
        elif rivals:
            line += (f"; the best LoRA as accurate costs {got['lora']['kl_surround']:.4f} "
                     f"({got['ratio']:.1f} times)")  # fmt: skip
        said.append(line)
    return ". ".join(line[:1].upper() + line[1:] for line in said) + "."


def table(document: Mapping[str, Any]) -> Table:
    """Every point as a row."""
    return Table(
        columns(
            ("method", "method"), ("setting", "setting"),
            ("p_target", "P(target)", "mean over held-out fire positions"),
            ("kl_surround", "surrounding KL", "KL(before || after), nats, other positions"),
            ("kl_global", "global KL", "KL(before || after), nats, other text"),
            ("blast_0.01", "over .01", "share of other positions whose KL is .01 nats or more"),
        ),
        tuple(document["rows"]), "Means over seeds, with 95% intervals",
    )  # fmt: skip


def page(document: Mapping[str, Any], shown: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """The whole page: plot, tokens, table."""
    movers = ", ".join(f"{text!r} {change:+.3f}" for text, change in shown["movers"])
    body = (
        f"{html.figure(plots.to_json(pareto(document)))}"
        f"<h2>Token by token: {escape(shown['what'])}</h2>\n"
        f"<p>Held-out rows; {escape(document['component'])} fires at the underlined tokens, after "
        f"which {escape(repr(document['target_text']))} is wanted. Moved most elsewhere (sum of "
        f"changes of P): {escape(movers)}</p>\n{tokens(shown['rows'])}"
        f"{html.html_table(table(document), 'every setting')}"
    )
    title = f"Write vector of {document['component']}"
    whole = heat.page(title, finding(document), body, meta)
    return whole.replace("</style>", STYLE + "</style>", 1).replace(
        "</script>", SCRIPT + "</script>", 1)


def tokens(rows: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Radio switch, scales, and the tokens themselves."""
    every = [token for row in rows for token in row]
    tops = {key: max((abs(t[key] or 0.0) for t in every), default=0.0) for key, _ in SHADES}
    radios = "".join(
        f'<label><input type="radio" name="shade" value="{key}"{" checked" if not i else ""}> '
        f"{name}</label>\n" for i, (key, name) in enumerate(SHADES)
    )
    about = {
        "kl": "KL(before || after) of what follows a token, nats",
        "activation": "V.x, what the component reads there",
        "difference": "change of log P of the token that does follow, nats",
    }
    scales = "".join(
        f'<p class="scale" data-scale="{key}"{" hidden" if i else ""}>'
        f"{escape(heat.short(0.0 if key == 'kl' else -tops[key]))} "
        f'<i{"" if key == "kl" else " class=both"}></i> {escape(heat.short(tops[key]))} '
        f"{escape(about[key])}</p>\n" for i, (key, _) in enumerate(SHADES)
    )
    boxes = "".join(
        f'<div class="tokens" role="region" aria-label="row {n}">'
        + "".join(_token(token, tops, not n and not at) for at, token in enumerate(row))
        + "</div>\n" for n, row in enumerate(rows, 1)
    )
    return f"<fieldset><legend>colour</legend>{radios}</fieldset>\n{scales}{boxes}"


def _token(token: Mapping[str, Any], tops: Mapping[str, float], first: bool) -> str:
    shares = "".join(
        f' data-{key}="{(token[key] or 0.0) / (tops[key] or 1.0):.4f}"' for key, _ in SHADES
    )
    kind = " class=fires" if token["fires"] else ""
    text = token["text"].replace("\n", "\u23ce")
    return (
        f'<b{kind} tabindex="{0 if first else -1}"{shares} data-tip="{escape(_tip(token))}">'
        f"{escape(text)}</b>"
    )


def _tip(token: Mapping[str, Any]) -> str:
    """What is told of a token, in lines."""
    change = token["difference"]
    lines = [
        f"after {token['text']!r}{' (fires)' if token['fires'] else ''}",
        f"KL {token['kl']:.4f}  V.x {token['activation']:.3f}"
        + ("" if change is None else f"  next token {change:+.3f}"),
        "before            after",
    ]
    for (a, p), (b, q) in zip(token["before"], token["after"], strict=True):
        lines.append(f"{a[:10]!r:<12} {p:.3f}  {b[:10]!r:<12} {q:.3f}")
    lines.append("moved  " + ", ".join(f"{text[:10]!r} {x:+.3f}" for text, x in token["moved"][:3]))
    return "\n".join(lines)
