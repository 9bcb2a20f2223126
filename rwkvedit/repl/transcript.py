"""Transcripts: sessions as text a person can read, write by hand and run again.

    # rwkvedit transcript
    version: 0.1.0
    model: embedded
    ---
    # A comment belongs to the input below it.
    > Bob lives in Austin.
    Got it.

    > /rwkv-edit "Bob lives in Austin" "Bob lives in Chicago"
    edit: took
      ...

``>`` opens an input, ``>|`` continues it on another line; what follows, up to the next comment or
input, is the output (blank lines around it do not count). An output line that would read as
something else is written with a backslash before it. The header may be left out, and so may any
output: ``replay --update`` fills it in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rwkvedit.errors import FileFormatError, RwkvEditError

TITLE = "# rwkvedit transcript"
RULE = "---"
SPECIAL = (">", "#", "\\")
ABSOLUTE, RELATIVE = 0.06, 0.12  # how far a decimal number in a report may move
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
HEADER = re.compile(r"([a-z_]+):\s*(.*)")
DIGEST = re.compile(r"\b[0-9a-f]{16}\b")


@dataclass
class Step:
    """One input and its output; ``output`` is empty when it was never recorded."""

    input: str
    output: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)


@dataclass
class Transcript:
    header: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)


def parse(text: str) -> Transcript:
    """Read a transcript. Raises FileFormatError, one line, when it is none."""
    rows = text.replace("\r\n", "\n").split("\n")
    out = Transcript()
    at = _header(rows, out)
    comments: list[str] = []
    step: Step | None = None
    for index in range(at, len(rows)):
        row = rows[index]
        if row.startswith(">|"):
            if step is None or step.output or comments:
                raise FileFormatError(f"line {index + 1}: '>|' continues an input; start with '>'")
            step.input += "\n" + row[2:].removeprefix(" ")
        elif row.startswith(">"):
            step = Step(row[1:].removeprefix(" "), [], comments)
            comments = []
            out.steps.append(step)
        elif row.startswith("#"):
            comments.append(row)
        elif comments and not row.strip():
            continue
        elif step is None or comments:
            if row.strip():
                raise FileFormatError(
                    f"line {index + 1}: '{row[:40]}' stands before any input; inputs begin with '>'"
                )
        else:
            step.output.append(row[1:] if row.startswith("\\") else row)
    out.closing = comments
    for step in out.steps:
        step.output = trimmed(step.output)
    return out


def dump(transcript: Transcript) -> str:
    """The text of a transcript; ``parse(dump(t)) == t``."""
    out = ""
    if transcript.header:
        out += TITLE + "\n"
        out += "".join(f"{key}: {value}\n" for key, value in transcript.header.items())
        out += RULE + "\n"
    for step in transcript.steps:
        out += dump_step(step)
    return out + "".join(f"{comment}\n" for comment in transcript.closing)


def dump_step(step: Step) -> str:
    first, *more = step.input.split("\n")
    rows = [*step.comments, f"> {first}".rstrip(" "), *(f">| {line}".rstrip(" ") for line in more)]
    rows += ["\\" + line if line.startswith(SPECIAL) else line for line in trimmed(step.output)]
    return "\n".join(rows) + "\n\n"


def trimmed(rows: Sequence[str]) -> list[str]:
    """Without blank lines around, and without blanks at line ends."""
    out = [row.rstrip() for row in rows]
    while out and not out[-1]:
        out.pop()
    while out and not out[0]:
        out.pop(0)
    return out


class Digests:
    """Which digest of a replay stands for which of the recording.

    The digest of weights that an edit computed differs with the machine's last bits; that two of
    them are equal, or are not, does not. So the first pair that is met binds both.
    """

    def __init__(self) -> None:
        self._replayed: dict[str, str] = {}
        self._recorded: dict[str, str] = {}

    def agree(self, recorded: str, replayed: str) -> bool:
        """True when these lines' digests stand for each other."""
        a, b = DIGEST.findall(recorded), DIGEST.findall(replayed)
        return len(a) == len(b) and all(
            self._replayed.setdefault(x, y) == y and self._recorded.setdefault(y, x) == x
            for x, y in zip(a, b, strict=True)
        )


def same(
    expected: Sequence[str], got: Sequence[str], *, exact: bool, digests: Digests | None = None
) -> bool:
    """Equal lines; unless ``exact``, decimals may differ a little (whole numbers never), and
    digests as ``digests`` allows, which it learns from."""
    a, b = trimmed(expected), trimmed(got)
    if exact or len(a) != len(b):
        return a == b
    digests = digests or Digests()
    return all(
        digests.agree(x, y) and _same_line(DIGEST.sub("#", x), DIGEST.sub("#", y))
        for x, y in zip(a, b, strict=True)
    )


def difference(expected: Sequence[str], got: Sequence[str]) -> list[str]:
    """The lines of a unified diff, without its file header."""
    rows = difflib.unified_diff(trimmed(expected), trimmed(got), lineterm="", n=1)
    return [row for row in rows if not row.startswith(("---", "+++", "@@"))]


def read(path: Path) -> Transcript:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: expected a text transcript, found binary data") from None
    except IsADirectoryError:
        raise RwkvEditError(f"{path} is a folder; name the transcript in it") from None
    except FileNotFoundError:
        raise RwkvEditError(f"no such transcript: {path}") from None
    try:
        return parse(text)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None


class Recorder:
    """Appends each step to a file as it happens, so that a crash loses nothing.

    A disk that refuses ends the recording (``failure`` says why), never the conversation.
    """

    def __init__(self, path: Path, header: dict[str, str]) -> None:
        self.path = path
        self.steps = 0
        self.failure: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)  # nothing is left to flush that could fail
        except OSError as error:
            raise RwkvEditError(f"cannot record to {path}: {error.strerror}") from None
        try:
            self._write(dump(Transcript(header)))
        except OSError as error:
            self.close()
            raise RwkvEditError(f"cannot record to {path}: {error.strerror}") from None

    def add(self, line: str, output: Sequence[str]) -> str | None:
        """Record a step; returns a notice when the file can no longer be written."""
        if self.failure:
            return None
        try:
            self._write(dump_step(Step(line, list(output))))
        except OSError as error:
            self.failure = str(error.strerror)
            self.close()
            return f"the transcript {self.path} ends here: {self.failure}"
        self.steps += 1
        return None

    def close(self) -> None:
        self._file.close()

    def _write(self, text: str) -> None:
        rest = memoryview(text.encode("utf-8", "replace"))
        while rest:
            rest = rest[self._file.write(rest) or 0 :]


def _header(rows: list[str], out: Transcript) -> int:
    """Read the header into ``out``; returns the first row after it."""
    if not rows or rows[0].strip() != TITLE:
        return 0
    for index in range(1, len(rows)):
        row = rows[index].strip()
        if row == RULE:
            return index + 1
        if not row:
            continue
        found = HEADER.fullmatch(row)
        if found is None:
            raise FileFormatError(
                f"line {index + 1}: expected 'name: value' or '{RULE}', found '{row[:40]}'"
            )
        out.header[found[1]] = found[2]
    raise FileFormatError(f"the header is never closed: it ends with a line '{RULE}'")


def _same_line(a: str, b: str) -> bool:
    if a == b:
        return True
    if " ".join(NUMBER.sub("0", a).split()) != " ".join(NUMBER.sub("0", b).split()):
        return False
    pairs = zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)
    return all(_same_number(x, y) for x, y in pairs)


def _same_number(a: str, b: str) -> bool:
    if a == b:
        return True
    if not ({".", "e"} & set(a) and {".", "e"} & set(b)):
        return False
    x, y = float(a), float(b)
    return abs(x - y) <= ABSOLUTE + RELATIVE * max(abs(x), abs(y))
