"""Plots as data, and matplotlib's pictures of them. Knows no model and no study.

A plot is a value (Lines, Bars, Heatmaps, Radar or Scatter) that goes into a document whole, so that
pictures and the page can be drawn again from the document alone. Every plot carries its own
alternative text. Colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rwkvedit.errors import UnavailableError
from rwkvedit.report import radar

COLORS = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b58900", "#555555"),
    "dark": ("#56b4e9", "#ff9d5c", "#3ddbb0", "#e8a5cb", "#8fb8ff", "#f0e442", "#b8b8b8"),
}
INK = {"light": ("#ffffff", "#222222", "#d8d8d8"), "dark": ("#16181c", "#e6e6e6", "#3c4046")}
MARKERS = "osD^vPX"
ROW = 105  # characters of a legend that fit beside each other
WIDTH = 7.2  # inches
DPI = 130


@dataclass(frozen=True)
class Series:
    """One line or one family of bars: ``y`` beside the plot's x, with optional 95% bounds."""

    name: str
    y: tuple[float | None, ...]
    lo: tuple[float | None, ...] | None = None
    hi: tuple[float | None, ...] | None = None

    @staticmethod
    def of(name: str, rates: Sequence[Mapping[str, Any]]) -> Series:
        """From rates ``{"mean", "lo", "hi"}``."""
        return Series(name, *(tuple(r[k] for r in rates) for k in ("mean", "lo", "hi")))


@dataclass(frozen=True)
class Lines:
    """Curves over numbers ``x``; ``level`` is a dashed reference (value, what it is)."""

    name: str
    title: str
    alt: str
    x: tuple[float, ...]
    series: tuple[Series, ...]
    x_label: str
    y_label: str
    x_log: bool = False
    y_log: bool = False
    level: tuple[float, str] | None = None
    x_names: tuple[str, ...] = ()
    y_range: tuple[float, float] | None = None
    kind: str = "lines"


@dataclass(frozen=True)
class Bars:
    """Bars of each series beside each other over ``names``."""

    name: str
    title: str
    alt: str
    names: tuple[str, ...]
    series: tuple[Series, ...]
    y_label: str
    level: tuple[float, str] | None = None
    x_label: str = ""
    marked: tuple[int, ...] = ()
    """Places in ``names`` whose bars of the first series stand out."""
    kind: str = "bars"


@dataclass(frozen=True)
class Panel:
    """One matrix of a Heatmaps plot; None is an empty cell. ``texts`` stand in place of numbers."""

    title: str
    values: tuple[tuple[float | None, ...], ...]
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Heatmaps:
    """Matrices side by side on one colour scale from ``low`` to ``high``."""

    name: str
    title: str
    alt: str
    panels: tuple[Panel, ...]
    label: str
    x_label: str = ""
    y_label: str = ""
    low: float | None = None
    high: float | None = None
    diverging: bool = False
    wide: float = 1.0
    """How many times wider than other plots."""
    kind: str = "heatmaps"


@dataclass(frozen=True)
class Radar:
    """One spoke each of ``names``: a score and the threshold it has to reach, both from 0 to 1."""

    name: str
    title: str
    alt: str
    names: tuple[str, ...]
    scores: tuple[float, ...]
    thresholds: tuple[float, ...]
    kind: str = "radar"


@dataclass(frozen=True)
class Dots:
    """One family of points, joined in their order where ``joined``; each with a word beside it."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    texts: tuple[str, ...] = ()
    x_lo: tuple[float, ...] = ()
    x_hi: tuple[float, ...] = ()
    y_lo: tuple[float, ...] = ()
    y_hi: tuple[float, ...] = ()
    joined: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points in panels beside each other, on one y axis; ``x_level`` and ``y_level`` are dashed."""

    name: str
    title: str
    alt: str
    panels: tuple[tuple[str, tuple[Dots, ...]], ...]
    """(x label, dots) of each."""
    y_label: str
    x_log: bool = True
    x_level: float | None = None
    y_level: float | None = None
    kind: str = "scatter"


Plot = Lines | Bars | Heatmaps | Radar | Scatter


def to_json(plot: Plot) -> dict[str, Any]:
    return asdict(plot)


def from_json(data: Mapping[str, Any]) -> Plot:
    """The plot that ``to_json`` wrote. Raises ValueError on another kind."""
    fields = {k: _tuples(v) for k, v in data.items()}
    kind = fields.get("kind")
    if kind == "lines":
        return Lines(**{**fields, "series": _series(data)})
    if kind == "bars":
        return Bars(**{**fields, "series": _series(data)})
    if kind == "heatmaps":
        panels = tuple(Panel(**{k: _tuples(v) for k, v in p.items()}) for p in data["panels"])
        return Heatmaps(**{**fields, "panels": panels})
    if kind == "radar":
        return Radar(**fields)
    if kind == "scatter":
        dots = tuple(
            (label, tuple(Dots(**{k: _tuples(v) for k, v in d.items()}) for d in some))
            for label, some in data["panels"]
        )
        return Scatter(**{**fields, "panels": dots})
    raise ValueError(f"no plot of kind {kind!r}")


def _series(data: Mapping[str, Any]) -> tuple[Series, ...]:
    return tuple(Series(**{k: _tuples(v) for k, v in s.items()}) for s in data["series"])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def require_matplotlib() -> None:
    """UnavailableError saying what to install when matplotlib is absent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UnavailableError(
            'plots need matplotlib: pip install "rwkvedit[study]" (or leave --out away)'
        ) from None


def png(plot: Plot, theme: str = "light") -> bytes:
    """The plot as a PNG in ``light`` or ``dark`` colours."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    paper, ink, faint = INK[theme]
    style: dict[Any, Any] = {
        "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper,
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink,
        "xtick.color": ink, "ytick.color": ink, "grid.color": faint,
        "axes.spines.top": False, "axes.spines.right": False,
        "font.size": 10.0, "axes.titlesize": 11.0, "axes.titlelocation": "left",
        "font.family": "DejaVu Sans", "legend.frameon": False, "text.parse_math": False,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a token of another script: a box
        figure = Figure(figsize=(_width(plot), _height(plot)), dpi=DPI, layout="constrained")
        if isinstance(plot, Heatmaps):
            _draw_heatmaps(figure, plot)
        elif isinstance(plot, Scatter):
            _draw_scatter(figure, plot, COLORS[theme], ink)
        elif isinstance(plot, Lines):
            _draw_lines(figure, plot, COLORS[theme])
        elif isinstance(plot, Radar):
            radar.draw(figure, plot, COLORS[theme], faint)
        else:
            _draw_bars(figure, plot, COLORS[theme], ink)
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def size(plot: Plot) -> tuple[int, int]:
    """Pixels across and down of the plot's PNG."""
    return round(_width(plot) * DPI), round(_height(plot) * DPI)


def _width(plot: Plot) -> float:
    if isinstance(plot, Scatter):
        return WIDTH * max(1.0, 0.75 * len(plot.panels))
    return WIDTH * (plot.wide if isinstance(plot, Heatmaps) else 1.0)


def _height(plot: Plot) -> float:
    if isinstance(plot, Heatmaps):
        rows = max(len(p.values) for p in plot.panels)
        return min(6.5, 1.7 + 0.32 * max(rows, 4))
    if isinstance(plot, Radar):
        return 6.4
    if isinstance(plot, Scatter):
        return 4.6
    if isinstance(plot, Bars):
        return 3.9 if max(map(len, plot.names)) > 12 else 3.4
    return 3.4


def _clean(values: Sequence[float | None]) -> list[float]:
    return [math.nan if v is None else float(v) for v in values]


def _draw_lines(figure: Any, plot: Lines, colors: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    axes = figure.subplots()
    for at, series in enumerate(plot.series):
        color = colors[at % len(colors)]
        style = ("-", "--", ":")[at // len(colors) % 3]
        # later curves are thinner and marked otherwise, so that curves that coincide can be seen
        axes.plot(
            plot.x, _clean(series.y), style, marker=MARKERS[at % len(MARKERS)], ms=6 - at % 3,
            lw=max(1.2, 2.6 - 0.6 * at), color=color, label=series.name,
        )
        if series.lo is not None and series.hi is not None:
            axes.fill_between(
                plot.x, _clean(series.lo), _clean(series.hi), color=color, alpha=0.18, lw=0
            )
    if plot.level:
        axes.axhline(plot.level[0], ls="--", lw=1, color=colors[-1], label=plot.level[1])
    if plot.x_log:
        axes.set_xscale("symlog" if min(plot.x) <= 0 else "log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(list(plot.x))
    elif plot.x_names:
        axes.set_xticks(list(plot.x), list(plot.x_names))
    elif all(float(v).is_integer() for v in plot.x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if plot.y_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if plot.y_range:
        axes.set_ylim(*plot.y_range)
    axes.grid(True, axis="y", lw=0.6)
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label, title=plot.title)
    _legend(figure, axes, len(plot.series) + bool(plot.level))


def _draw_bars(figure: Any, plot: Bars, colors: Sequence[str], ink: str) -> None:
    axes = figure.subplots()
    count = len(plot.series)
    wide = 0.8 / count
    for at, series in enumerate(plot.series):
        places = [i + (at - (count - 1) / 2) * wide for i in range(len(plot.names))]
        y = _clean(series.y)
        bars = axes.bar(places, y, wide * 0.92, color=colors[at % len(colors)], label=series.name)
        for place in plot.marked if at == 0 else ():
            bars[place].set_color(colors[1])
        if series.lo is not None and series.hi is not None:
            low = [max(0.0, v - b) for v, b in zip(y, _clean(series.lo), strict=True)]
            high = [max(0.0, b - v) for v, b in zip(y, _clean(series.hi), strict=True)]
            axes.errorbar(places, y, [low, high], fmt="none", ecolor=ink, lw=1, capsize=2)
    if plot.level:
        axes.axhline(plot.level[0], ls="--", lw=1, color=colors[-1], label=plot.level[1])
    crowded = sum(map(len, plot.names)) > 70 or max(map(len, plot.names)) > 14
    turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(plot.names)), list(plot.names), **turn)
    axes.axhline(0, lw=0.8, color=ink)
    axes.grid(True, axis="y", lw=0.6)
    axes.set_axisbelow(True)
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label, title=plot.title)
    if count > 1:
        _legend(figure, axes, count + bool(plot.level))


def _legend(figure: Any, axes: Any, entries: int) -> None:
    """Below the axes, where it hides nothing."""
    if entries > 1:
        handles, labels = axes.get_legend_handles_labels()
        one_row = sum(len(label) + 7 for label in labels) <= ROW
        longest = max(map(len, labels))
        across = entries if one_row else max(1, min(entries, ROW // (longest + 7)))
        figure.legend(handles, labels, loc="outside lower center", ncols=across, fontsize=9)


def _draw_scatter(figure: Any, plot: Scatter, colors: Sequence[str], ink: str) -> None:
    across = figure.subplots(1, len(plot.panels), sharey=True, squeeze=False)[0]
    for axes, (label, families) in zip(across, plot.panels, strict=True):
        for at, dots in enumerate(families):
            color = colors[at % len(colors)]
            spread = [
                None if not lo else [
                    [max(0.0, v - a) for v, a in zip(mid, lo, strict=True)],
                    [max(0.0, b - v) for v, b in zip(mid, hi, strict=True)],
                ]
                for mid, lo, hi in ((dots.x, dots.x_lo, dots.x_hi), (dots.y, dots.y_lo, dots.y_hi))
            ]
            axes.errorbar(
                dots.x, dots.y, spread[1], spread[0], marker=MARKERS[at % len(MARKERS)], ms=5,
                ls="-" if dots.joined else "none", lw=1, elinewidth=0.6, color=color,
                label=dots.name,
            )  # fmt: skip
            for x, y, text in zip(dots.x, dots.y, dots.texts, strict=False):
                axes.annotate(text, (x, y), xytext=(3, 3), textcoords="offset points",
                              fontsize=6, color=color)  # fmt: skip
        if plot.x_log:
            from matplotlib.ticker import FuncFormatter, NullFormatter

            axes.set_xscale("log")  # whose own labels are TeX, which is not parsed here
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        if plot.x_level is not None:
            axes.axvline(plot.x_level, ls="--", lw=0.8, color=ink)
        if plot.y_level is not None:
            axes.axhline(plot.y_level, ls="--", lw=0.8, color=ink)
        axes.grid(True, lw=0.5)
        axes.set_axisbelow(True)
        axes.set(xlabel=label)
    across[0].set_ylabel(plot.y_label)
    figure.suptitle(plot.title, x=0.01, ha="left", fontsize=11)
    _legend(figure, across[0], len(plot.panels[0][1]))


def _draw_heatmaps(figure: Any, plot: Heatmaps) -> None:
    values = [v for p in plot.panels for row in p.values for v in row if v is not None]
    low = plot.low if plot.low is not None else min([*values, 0.0])
    high = plot.high if plot.high is not None else max(values, default=1.0)
    high = high if high > low else low + 1.0
    if plot.diverging:
        high = max(abs(low), abs(high))
        low = -high
    across = figure.subplots(1, len(plot.panels), squeeze=False)[0]
    image = None
    for panel, axes in zip(plot.panels, across, strict=True):
        image = axes.imshow(
            [_clean(row) for row in panel.values], vmin=low, vmax=high, aspect="auto",
            cmap="RdBu_r" if plot.diverging else "viridis",
        )
        turn = sum(map(len, panel.x_names)) * len(plot.panels) > 60
        names = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turn else {}
        axes.set_xticks(range(len(panel.x_names)), list(panel.x_names), **names)
        axes.set_yticks(range(len(panel.y_names)), list(panel.y_names))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set(title=panel.title, xlabel=plot.x_label, ylabel=plot.y_label)
        columns = len(panel.x_names) * len(plot.panels) / plot.wide
        if columns <= 16 or panel.texts:
            _numbers(axes, panel, low, high, plot.diverging, 8 if columns <= 10 else 7)
    figure.colorbar(image, ax=list(across), label=plot.label, fraction=0.05, pad=0.02)
    figure.suptitle(plot.title, x=0.01, ha="left", fontsize=11)


def _numbers(
    axes: Any, panel: Panel, low: float, high: float, diverging: bool, size: float
) -> None:
    """The value in every cell, in black or white by its ground."""
    for y, row in enumerate(panel.values):
        for x, value in enumerate(row):
            if value is None:
                continue
            share = (value - low) / (high - low)
            dark = abs(share - 0.5) > 0.35 if diverging else share < 0.55
            text = f"{value:.2f}" if max(abs(low), abs(high)) < 10 else f"{value:.0f}"
            text = text.replace("-0.00", "0.00")
            short = text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
            short = panel.texts[y][x] if panel.texts else short
            axes.text(
                x, y, short, ha="center", va="center", fontsize=size,
                color="white" if dark else "black",
            )
