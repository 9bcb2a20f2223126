"""A benchmark's results on disk while it runs, so that an interrupted run goes on where it stopped.

Knows nothing of what is measured. The file is JSON lines: first what the run was asked, then one
record a finished batch. It is written whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.files import atomic_write

FORMAT = "rwkvedit-bench"
VERSION = 1


class Partial:
    """Records of one run. ``path`` None keeps them in memory only.

    ``asked`` is everything the results depend on. Raises UsageError, in one line, for a file that
    is something else, or of a run that was asked something else.
    """

    def __init__(self, path: str | Path | None, asked: dict[str, Any]) -> None:
        self.path = Path(path).expanduser() if path else None
        self.asked = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **asked}))
        self.records: list[dict[str, Any]] = []
        if self.path is not None and self.path.exists():
            self.records = self._read()
        elif self.path is not None:
            self._write()  # a folder that cannot be written is better known now

    def add(self, record: dict[str, Any]) -> None:
        """Keep a finished batch."""
        self.records.append(record)
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            lines = [json.dumps(line, ensure_ascii=False) for line in (self.asked, *self.records)]
            atomic_write(self.path, "\n".join(lines) + "\n")

    def _read(self) -> list[dict[str, Any]]:
        assert self.path is not None
        foreign = (
            f"{self.path} is not a benchmark's partial result; name a new file, or delete it"
        )
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            head, *records = (json.loads(line) for line in lines)
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror or error}") from None
        except ValueError:
            raise UsageError(foreign) from None
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise UsageError(foreign)
        differs = [
            f"{name} {_short(head.get(name))} there, {_short(wanted)} here"
            for name, wanted in self.asked.items() if head.get(name) != wanted
        ]
        if differs:
            raise UsageError(
                f"{self.path} holds another run ({'; '.join(differs)}); name a new --out file"
            )
        return records


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
