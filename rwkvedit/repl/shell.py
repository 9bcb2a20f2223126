"""Executes lines: text goes to the model, ``/commands`` to the registry. Prints nothing.

The chat, ``rwkvedit run`` and ``rwkvedit replay`` all drive this one object, so a line means the
same in each.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rwkvedit
from rwkvedit import config
from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.repl import plain
from rwkvedit.repl.registry import Registry
from rwkvedit.repl.result import Result, error
from rwkvedit.repl.sessions import Sessions
from rwkvedit.repl.transcript import Recorder
from rwkvedit.session import Reply, Session

SUFFIX = ".safetensors"
WRITING = "gen"
"""The command that text without a slash means while an open model is in use."""
MEANT = {"/edit": "/weight-edit"}
"""What is another command while an open model is in use."""

Progress = Callable[[int, int, str], None]


class Shell:
    """A session, the commands on it, and a transcript if one is being recorded."""

    def __init__(self, session: Session, registry: Registry | None = None) -> None:
        if registry is None:
            from rwkvedit.repl.commands import REGISTRY as registry
        self.session = session
        self.registry = registry
        self.recorder: Recorder | None = None
        self.quit = False
        self.sessions = Sessions()
        """Models that are open beside the conversation."""
        self.line = ""
        """What is being run, as it was typed."""
        self.on_text: Callable[[str], None] | None = None
        self.on_progress: Progress | None = None
        """Told of long work, as (done, of, what); ``of`` 0 is work of unknown length."""

    def execute(self, line: str, on_text: Callable[[str], None] | None = None) -> Result | None:
        """Run one line; None for a blank one. A user's mistake becomes an error Result.

        KeyboardInterrupt passes through: whatever was under way then never happened.
        """
        if not line.strip():
            return None
        recorder = self.recorder
        self.line, self.on_text = line.strip(), on_text
        try:
            result = self._run(line)
        except RwkvEditError as mistake:
            result = error(str(mistake), mistake.exit_code)
        except OSError as trouble:
            result = error(os_message(trouble))
        except MemoryError:
            result = error("out of memory; nothing was changed")
        except RuntimeError as trouble:
            if "out of memory" not in str(trouble) and "can't allocate" not in str(trouble):
                raise
            result = error("out of memory; nothing was changed")
        finally:
            self.on_text = None
        if recorder is not None and recorder is self.recorder:
            notice = recorder.add(line, plain.lines(result))
            if notice:
                self.recorder = None
                result = _noticed(result, notice)
        return result

    def _run(self, line: str) -> Result:
        text = line.strip()
        if text.startswith("/") and not text.startswith("//"):
            if self.sessions.using is not None:
                name, space, rest = text.partition(" ")
                text = MEANT.get(name, name) + space + rest
            command, values = self.registry.parse(text)
            return command.run(self, **values)
        said = text[1:] if text.startswith("//") else line
        if self.sessions.using is not None:
            return self.registry.find(WRITING).run(self, prompt=said)
        return self.reply(self.session.say(said, self.on_text))

    @property
    def interrupted(self) -> str:
        """What to say when Ctrl-C cut a line short."""
        what = "conversation" if self.sessions.using is None else "session"
        return f"interrupted; the {what} is as it was"

    # -- what commands use -----------------------------------------------------------------

    def reply(self, reply: Reply, kind: str = "reply", command: str | None = None) -> Result:
        """A model's reply as a Result."""
        data: dict[str, Any] = {
            "text": reply.text,
            "tokens": len(reply.tokens),
            "stopped": reply.stopped,
            "ms": {"prefill": reply.prefill_ms, "generate": reply.generate_ms},
        }
        if reply.interrupted:
            data["interrupted"] = True
        code = 130 if reply.interrupted else 0
        return Result(kind, command, data, (), reply.notices, code)

    def header(self) -> dict[str, str]:
        """The header of a transcript of this session."""
        session = self.session
        settings = session.settings
        shown = " ".join(f"{k}={v}" for k, v in settings.items() if k != "seed")
        return {
            "version": rwkvedit.__version__,
            "model": session.loaded.name,
            "model_digest": session.model.digest[:16],
            "device": str(session.model.device),
            "dtype": str(session.model.dtype).removeprefix("torch."),
            "platform": f"{platform.system()} {platform.machine()}",
            "seed": str(settings["seed"]),
            "settings": shown,
        }

    def record_to(self, path: Path | None) -> None:
        """Start recording to ``path`` (or stop, with None); refuses a file that holds something."""
        if path is None:
            if self.recorder is not None:
                self.recorder.close()
            self.recorder = None
            return
        if path.exists() and path.stat().st_size:
            raise RwkvEditError(f"{path} exists already; name another file")
        fresh = Recorder(path, self.header())
        if self.recorder is not None:
            self.recorder.close()
        self.recorder = fresh

    def apply_settings(self, text: str) -> None:
        """Settings in a transcript's header: ``temperature=0 max_tokens=64``."""
        for pair in text.split():
            name, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"settings are name=value pairs, not '{pair}'")
            self.session.set(name, value)

    def calibration_names(self) -> list[str]:
        """Saved calibrations for this model."""
        from rwkvedit.recurrent.library import Library

        try:
            return [calibration.name for _, calibration in Library.of(self.session.loaded).all()]
        except (RwkvEditError, OSError):
            return []

    def saved_sessions(self) -> list[str]:
        """Names that /load understands."""
        try:
            return sorted(path.stem for path in sessions_dir().glob(f"*{SUFFIX}"))
        except OSError:
            return []

    def session_path(self, name: str) -> Path:
        """Where ``/save NAME`` writes: a path as it is, a bare word in the state folder.

        A path has a separator in it or ends as our files do; ``v1.2`` is a word.
        """
        if not name.strip(". "):
            raise UsageError("name the conversation, like /save monday")
        separated = any(mark in name for mark in (os.sep, os.altsep) if mark)
        if separated or name.startswith("~") or name.endswith(SUFFIX):
            return Path(name).expanduser()
        return sessions_dir() / f"{name}{SUFFIX}"

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()


def sessions_dir() -> Path:
    return config.state_dir() / "sessions"


def os_message(trouble: OSError) -> str:
    """An operating system's refusal in one line."""
    where = f"{trouble.filename}: " if trouble.filename else ""
    return f"{where}{trouble.strerror or trouble}"


def _noticed(result: Result, notice: str) -> Result:
    from dataclasses import replace

    return replace(result, notices=(*result.notices, notice))
