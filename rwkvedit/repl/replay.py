"""Runs transcripts again and compares. Prints nothing.

A header with ``home: fresh`` asks for an empty folder of its own as working and home folder, with
the files named by ``files:`` (beside the transcript) copied into it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rwkvedit.errors import RwkvEditError
from rwkvedit.files import atomic_write
from rwkvedit.repl import plain, transcript
from rwkvedit.repl.shell import Shell
from rwkvedit.repl.transcript import Step, Transcript
from rwkvedit.session import Session


@dataclass
class Mismatch:
    """A step whose output differs; ``diff`` are the lines of a diff."""

    step: int
    input: str
    expected: list[str]
    got: list[str]

    @property
    def diff(self) -> list[str]:
        return transcript.difference(self.expected, self.got)

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "diff": self.diff}


@dataclass
class Replayed:
    path: Path
    turns: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    unfilled: int = 0
    notices: list[str] = field(default_factory=list)
    updated: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "turns": self.turns,
            "mismatches": [m.to_json() for m in self.mismatches],
            "unfilled": self.unfilled,
            "notices": self.notices,
            "updated": self.updated,
        }


def replay(path: Path, load: Callable[[dict[str, str]], Any], *, update: bool = False) -> Replayed:
    """Run the transcript at ``path``. ``load`` gives the model for a header.

    With ``update`` the file is rewritten with what came out (comments and inputs stay).
    """
    script = transcript.read(path)
    out = Replayed(path)
    loaded = load(script.header)
    shell = Shell(Session(loaded))
    digests = transcript.Digests()
    recorded = script.header.get("model_digest", "")
    if recorded and not loaded.model.digest.startswith(recorded):
        out.notices.append(
            f"recorded with model {recorded}, replayed with {loaded.model.digest[:16]}"
        )
    with _home(path, script.header) as scrub:
        if "seed" in script.header:
            shell.session.set("seed", script.header["seed"])
        shell.apply_settings(script.header.get("settings", ""))
        _forget_settings(shell)
        try:
            for index, step in enumerate(script.steps):
                result = shell.execute(step.input)
                got = [] if result is None else transcript.trimmed(plain.lines(result))
                got = [scrub(line) for line in got]
                out.turns += 1
                exact = result is not None and result.kind == "reply"
                if not step.output:
                    out.unfilled += bool(got)
                elif not transcript.same(step.output, got, exact=exact, digests=digests):
                    out.mismatches.append(Mismatch(index + 1, step.input, step.output, got))
                script.steps[index] = Step(step.input, got, step.comments)
                if shell.quit:
                    del script.steps[index + 1 :]
        finally:
            shell.close()
    if update:
        script.header = _header(script, shell)
        atomic_write(path, transcript.dump(script))
        out.updated = True
    return out


def _header(script: Transcript, shell: Shell) -> dict[str, str]:
    """A full header: what was there stays, apart from what names the run itself."""
    fresh = Shell(Session(shell.session.loaded)).header()
    kept = {k: v for k, v in script.header.items() if k not in ("version", "model_digest")}
    return {**fresh, **kept}


def _forget_settings(shell: Shell) -> None:
    """The header's settings are where the conversation opens, not steps that can be undone."""
    session = shell.session
    session.journal = type(session.journal)(session.place, session.journal.budget)


@contextlib.contextmanager
def _home(path: Path, header: dict[str, str]) -> Iterator[Callable[[str], str]]:
    if header.get("home") != "fresh":
        yield lambda line: line
        return
    before, variable = Path.cwd(), os.environ.get("RWKVEDIT_HOME")
    names = [name.strip() for name in header.get("files", "").split(",") if name.strip()]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source = path.parent / name
            if not source.is_file():
                raise RwkvEditError(f"{path}: its header names {name}, which is not beside it")
            shutil.copy(source, Path(folder) / Path(name).name)
        here = str(Path(folder).resolve())
        try:
            os.environ["RWKVEDIT_HOME"] = here
            os.chdir(here)
            yield lambda line: line.replace(here, "HOME").replace(folder, "HOME")
        finally:
            os.chdir(before)
            if variable is None:
                del os.environ["RWKVEDIT_HOME"]
            else:
                os.environ["RWKVEDIT_HOME"] = variable
