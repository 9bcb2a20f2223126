"""What a command hands back: data for scripts and blocks for eyes. Prints nothing.

Text     lines of prose
Fields   name: value pairs
Table    columns and rows
Grid     a table whose columns go on below each other where they do not fit beside
Written  what a model wrote, which may be on the screen already
Report   an edit's report (the keys of ``EditReport.to_json``)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Fields:
    pairs: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, **pairs: Any) -> Fields:
        return cls(tuple(pairs.items()))


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Grid:
    """``names`` (one a row) stand again at the left of every piece."""

    corner: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def piece(self, start: int, stop: int) -> Table:
        """Some of the columns as a table."""
        rows = zip(self.names, self.rows, strict=True)
        return Table(
            (self.corner, *self.columns[start:stop]),
            tuple((name, *row[start:stop]) for name, row in rows),
        )

    @property
    def whole(self) -> Table:
        return self.piece(0, len(self.columns))


@dataclass(frozen=True)
class Written:
    text: str


@dataclass(frozen=True)
class Report:
    data: dict[str, Any]


Block = Text | Fields | Table | Grid | Written | Report


@dataclass(frozen=True)
class Result:
    """``kind`` is "reply", "edit", "result" or "error" (the JSON kinds of ``run``).

    ``data`` is what ``--json`` prints, ``blocks`` what a person reads, ``notices`` go to stderr.
    ``exit_code`` is that of the error, 130 for an interrupted reply, else 0.
    """

    kind: str
    command: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    notices: tuple[str, ...] = ()
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"kind": self.kind}
        if self.kind == "result":
            out["command"] = self.command
        out.update(self.data)
        if self.notices:
            out["notices"] = list(self.notices)
        return out


def result(command: str, /, *blocks: Block, notices: Sequence[str] = (), **data: Any) -> Result:
    """An ordinary command's result."""
    return Result("result", command, data, tuple(blocks), tuple(notices))


def say(command: str, text: str, /, *, notices: Sequence[str] = (), **data: Any) -> Result:
    """A result that is one line of prose."""
    return result(command, Text(text), notices=notices, message=text, **data)


def error(message: str, exit_code: int = 1) -> Result:
    return Result("error", None, {"message": message}, (Text(message),), (), exit_code)
