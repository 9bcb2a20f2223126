"""The screen: the only place (with ``cli.py``) that prints. Knows no models.

Model text goes to ``out`` exactly as it comes; notices and progress go to ``err``. Off a terminal,
with ``NO_COLOR`` or on a dumb terminal there is no ANSI at all. Rich is imported on first use.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from rwkvedit.repl import plain
from rwkvedit.repl.result import Block, Fields, Grid, Report, Result, Table, Text, Written

if TYPE_CHECKING:
    from rich.console import Console

NARROW = 60  # columns; below it there are no boxes
VERDICT_STYLE = {"took": "bold green", "dry run": "bold cyan"}
BAD = "bold yellow"


def plain_terminal(stream: TextIO) -> bool:
    """True when ``stream`` must stay free of ANSI."""
    tty = getattr(stream, "isatty", lambda: False)()
    return not tty or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"


def jsonable(value: Any) -> Any:
    """``value`` with only what JSON can say: numbers that are not finite become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [jsonable(item) for item in value]
    if isinstance(value, (str, int)) or value is None:
        return value
    if hasattr(value, "item"):
        return jsonable(value.item())
    return str(value)


class Renderer:
    """Prints results for a person, or one JSON object a line for a script."""

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, *, json_lines: bool = False
    ) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.json_lines = json_lines
        self._consoles: dict[int, Console] = {}
        self._mid_line = False
        self._progress = 0  # letters of the progress line that is on the screen

    # -- text ------------------------------------------------------------------------------

    def stream(self, text: str) -> None:
        """A piece of the model's own text, unchanged and at once."""
        if self.json_lines or not text:
            return
        self.end_progress()
        self.out.write(text)
        self.out.flush()
        self._mid_line = not text.endswith("\n")

    def end_line(self) -> None:
        """Finish a line that streaming left open."""
        if self._mid_line:
            self.out.write("\n")
            self.out.flush()
            self._mid_line = False

    def progress(self, done: int, of: int, what: str) -> None:
        """A line on stderr that the next takes the place of; nothing where there is no terminal."""
        if self.json_lines or not getattr(self.err, "isatty", lambda: False)():
            return
        text = f"{what}: {done} of {of}" if of else f"{what} ..."
        text = text[: max(self._console(self.err).width - 1, 1)]
        self.err.write("\r" + text.ljust(self._progress) + "\r")
        self.err.flush()
        self._progress = len(text)

    def end_progress(self) -> None:
        """Take the progress line away."""
        if self._progress:
            self.err.write("\r" + " " * self._progress + "\r")
            self.err.flush()
            self._progress = 0

    def notice(self, text: str) -> None:
        """One line beside the conversation, on stderr."""
        self.end_progress()
        self.end_line()
        with contextlib.suppress(BrokenPipeError):
            self._print(self.err, text, style="dim")

    def error(self, message: str) -> None:
        """One line about what went wrong, on stderr."""
        self.end_progress()
        self.end_line()
        self._print(self.err, f"! {message}", style="red")

    # -- results ---------------------------------------------------------------------------

    def result(self, result: Result, *, streamed: bool = False) -> None:
        """Print a result. ``streamed``: its text is on the screen already."""
        self.end_progress()
        if self.json_lines:
            self.document(result.to_json())
            for notice in result.notices:
                self.notice(notice)
            return
        if result.kind == "error":
            self.error(str(result.data["message"]))
        elif result.kind == "reply":
            if not streamed:
                self.stream(str(result.data["text"]))
            self.end_line()
        else:
            for block in result.blocks:
                if streamed and isinstance(block, Written):
                    self.end_line()
                else:
                    self.block(block)
        for notice in result.notices:
            self.notice(notice)

    def write(self, text: str) -> None:
        """A verb's own text on stdout, as it is and at once."""
        self.end_progress()
        self.out.write(text)
        self.out.flush()

    def show(self, *parts: Any, style: str | None = None, wrap: bool = True) -> None:
        """What rich can draw, on stdout."""
        self.end_progress()
        for part in parts:
            self._console(self.out).print(part, style=style, soft_wrap=not wrap)
        self.out.flush()

    def document(self, data: Any) -> None:
        """One JSON document on one line."""
        self.out.write(json.dumps(jsonable(data), ensure_ascii=False) + "\n")
        self.out.flush()

    def block(self, block: Block) -> None:
        if isinstance(block, Report):
            self._report(block.data)
        elif isinstance(block, Table):
            self._table(block)
        elif isinstance(block, Grid):
            self._grid(block)
        elif isinstance(block, Written):
            self.stream(block.text)
            self.end_line()
        elif isinstance(block, Fields):
            for name, value in block.pairs:
                self._print(self.out, f"{name}: {plain.number(value)}")
        elif isinstance(block, Text):
            self._print(self.out, block.text)

    @property
    def width(self) -> int:
        """Columns of the output."""
        return self._console(self.out).width

    # -- inside ----------------------------------------------------------------------------

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console

        console = self._consoles.get(id(stream))
        if console is None:
            bare = plain_terminal(stream)
            console = Console(
                file=stream,
                color_system=None if bare else "auto",
                force_terminal=False if bare else None,
                highlight=False,
                emoji=False,
                markup=False,
                soft_wrap=False,
            )
            self._consoles[id(stream)] = console
        return console

    def _print(self, stream: TextIO, text: str, style: str | None = None) -> None:
        tty = getattr(stream, "isatty", lambda: False)()
        self._console(stream).print(text, style=style, soft_wrap=not tty)
        stream.flush()

    def _table(self, table: Table) -> None:
        from rich.table import Table as RichTable

        console = self._console(self.out)
        shown = RichTable(
            box=None, show_header=any(table.columns), pad_edge=False, header_style="dim"
        )
        for index, column in enumerate(table.columns):
            numeric = all(
                isinstance(row[index], (int, float)) for row in table.rows if index < len(row)
            )
            right = numeric and bool(table.rows)
            shown.add_column(column, justify="right" if right else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*[plain.number(cell) for cell in row])
        console.print(shown)
        self.out.flush()

    def _grid(self, grid: Grid) -> None:
        """As many columns beside each other as fit, the rest below."""
        text = plain.block_lines
        start, of = 0, len(grid.columns)
        while start < of:
            stop = start + 1
            while stop < of and max(map(len, text(grid.piece(start, stop + 1)))) <= self.width:
                stop += 1
            if start:
                self._print(self.out, "")
            self._table(grid.piece(start, stop))
            start = stop

    def _report(self, d: dict[str, Any]) -> None:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text as RichText

        console = self._console(self.out)
        style = VERDICT_STYLE.get(d["verdict"], BAD)
        title = RichText.assemble(f"/rwkv-{d['verb']} ", (plain.verdict(d), style))
        body = [RichText(asked(d))] if d.get("asked") else []
        body.append(RichText(plain.described(d), style="dim"))
        body.append(RichText(measured(d), style="dim"))
        body.append(self._probabilities(d))
        if d.get("unchecked"):
            body.append(RichText(plain.unchecked(d), style="dim"))
        if d.get("advice"):
            body.append(RichText(f"next: {d['advice']}", style="yellow"))
        if console.width >= NARROW and not plain_terminal(self.out):
            panel = Panel(Group(*body), title=title, title_align="left", border_style="dim")
            console.print(panel, width=min(console.width, 100))
        else:
            console.print(title)
            for part in body:
                console.print(part)
        self.out.flush()

    def _probabilities(self, d: dict[str, Any]) -> Any:
        from rich.table import Table as RichTable
        from rich.text import Text as RichText

        grid = RichTable(box=None, pad_edge=False, header_style="dim")
        grid.add_column("", overflow="fold")
        grid.add_column("before", justify="right", no_wrap=True)
        grid.add_column("after", justify="right", no_wrap=True)
        for name in ("p_old", "p_new"):
            pair = d.get(name) or {}
            if pair.get("before") is not None:
                grid.add_row(plain.probability(d, name), *_cells(pair))
        for control in d.get("controls") or ():
            fate = plain.fate(control)
            style = {"MOVED": BAD, "kept": "green"}.get(fate, "dim")
            named = RichText.assemble((f"{fate} ", style), str(control["fact"]))
            grid.add_row(named, *_cells(control))
        return grid


def asked(d: dict[str, Any]) -> str:
    """What the user asked for, in one line."""
    a = d["asked"]
    if "new" in a:
        return f"{a['old']} → {a['new']}"
    entity = f" (keeping {a['entity']})" if a.get("entity") else ""
    return f"{a['fact']}{entity}"


def measured(d: dict[str, Any]) -> str:
    """``‖state‖ 35.1, ‖delta‖ 7.12, 23.4 ms (probe 5.1, search 12.0)``."""
    ms = dict(d.get("ms") or {})
    total = ms.pop("total", None)
    stages = ", ".join(f"{name} {value:.1f}" for name, value in ms.items())
    if total is None:
        total = sum(ms.values())
    out = f"‖state‖ {plain.number(d['state_norm'])}, ‖delta‖ {plain.number(d['delta_norm'])}"
    return f"{out}, {total:.1f} ms" + (f" ({stages})" if stages else "")


def _cells(pair: dict[str, Any]) -> tuple[str, str]:
    before, after = plain.change(pair).split(" -> ", 1)
    return before, after
