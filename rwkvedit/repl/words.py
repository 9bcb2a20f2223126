"""Splitting a command line into words. Knows no commands.

``shlex`` breaks on apostrophes ("Bob's car"), so this is our own. A quote opens only at the start
of a word and closes only at the end of one; anywhere else it is a letter. Inside double quotes
``\\"``, ``\\\\`` and ``\\n`` are escapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from rwkvedit.errors import UsageError

PAIRS = {'"': '"', "'": "'", "“": "”", "«": "»"}
ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}


@dataclass(frozen=True)
class Word:
    """A word and where it stands: ``line[start:end]``, quotes included."""

    text: str
    start: int
    end: int
    quoted: bool = False


def split(line: str, start: int = 0) -> list[Word]:
    """All words of ``line`` from ``start`` on. Raises UsageError on a quote left open."""
    words = []
    while (word := next_word(line, start)) is not None:
        words.append(word)
        start = word.end
    return words


def next_word(line: str, start: int = 0) -> Word | None:
    """The first word at or after ``start``, or None at the end of the line."""
    while start < len(line) and line[start].isspace():
        start += 1
    if start == len(line):
        return None
    close = PAIRS.get(line[start])
    if close is not None:
        quoted = _quoted(line, start, close)
        if quoted is not None:
            return quoted
        if line[start] != "'":
            quote = line[start]
            raise UsageError(
                f"the quote {quote} in {_excerpt(line, start)} is never closed: "
                f"put {close} where it ends"
            )
    end = start
    while end < len(line) and not line[end].isspace():
        end += 1
    return Word(line[start:end], start, end)


def quote(text: str) -> str:
    """``text`` as one double-quoted word; ``split(quote(x))`` gives x back."""
    out = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{out}"'


def _quoted(line: str, start: int, close: str) -> Word | None:
    text: list[str] = []
    at = start + 1
    while at < len(line):
        letter = line[at]
        if close == '"' and letter == "\\" and line[at + 1 : at + 2] in ESCAPES:
            text.append(ESCAPES[line[at + 1]])
            at += 2
            continue
        if letter == close and (at + 1 == len(line) or line[at + 1].isspace()):
            return Word("".join(text), start, at + 1, quoted=True)
        text.append(letter)
        at += 1
    return None


def _excerpt(line: str, start: int) -> str:
    rest = line[start : start + 30]
    return rest + "…" if len(line) - start > 30 else rest
