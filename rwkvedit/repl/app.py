"""The prompt loop at a terminal. Ctrl-C stops a reply or clears the line; only Ctrl-D leaves."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterable
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.filters import completion_is_selected, has_completions
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output.color_depth import ColorDepth

from rwkvedit import __version__, config
from rwkvedit.repl.complete import completer
from rwkvedit.repl.render import Renderer
from rwkvedit.repl.shell import Shell

PROMPT = "> "


class SafeHistory(FileHistory):
    """History in a file; a disk that refuses costs the history, not the conversation."""

    failed = False

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        if self.failed:
            return
        try:
            super().store_string(string)
        except (OSError, UnicodeError):
            self.failed = True


def open_history() -> History:
    """The history file in the state folder, or memory when there can be none."""
    path = config.state_dir() / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return SafeHistory(str(path))


class App:
    """Reads lines, runs them in a Shell, shows results through a Renderer."""

    def __init__(
        self,
        shell: Shell,
        renderer: Renderer,
        *,
        input: Any = None,
        output: Any = None,
        history: History | None = None,
    ) -> None:
        self.shell = shell
        self.renderer = renderer
        self.busy = False
        shell.on_progress = renderer.progress
        no_color = "NO_COLOR" in os.environ
        self.prompt: PromptSession[str] = PromptSession(
            message=self._message,
            history=history or open_history(),
            completer=completer(shell, shell.registry),
            complete_while_typing=True,
            complete_in_thread=False,
            key_bindings=_keys(),
            multiline=False,
            prompt_continuation=lambda width, number, wrapped: "  ",
            bottom_toolbar=self._toolbar,
            color_depth=ColorDepth.DEPTH_1_BIT if no_color else None,
            input=input,
            output=output,
            erase_when_done=False,
        )

    def run(self) -> int:
        """Until Ctrl-D or /quit; returns the exit code."""
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self.renderer.notice(self._welcome())
            threading.Thread(target=self.shell.session.warm, daemon=True).start()
            while not self.shell.quit:
                try:
                    line = self.prompt.prompt()
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    break
                self._step(line)
        finally:
            signal.signal(signal.SIGINT, previous)
            self.shell.close()
        return 0

    def _step(self, line: str) -> None:
        try:
            self.busy = True
            result = self.shell.execute(line, self.renderer.stream)
            self.busy = False
            if result is None:
                return
            self.renderer.result(result, streamed=True)
            if result.exit_code == 130:
                more = "; /continue goes on, /undo takes the turn back"
                self.renderer.notice(f"stopped{more if result.kind == 'reply' else ''}")
        except KeyboardInterrupt:
            self.renderer.notice(self.shell.interrupted)
        except Exception:
            self.renderer.notice(traceback.format_exc())
            self.renderer.error("this is a bug in rwkvedit; the conversation is as it was")
        finally:
            self.busy = False
            self.renderer.end_progress()

    def _interrupt(self, number: int, frame: object) -> None:
        if self.busy:
            raise KeyboardInterrupt

    def _welcome(self) -> str:
        name = self.shell.session.loaded.name
        return f"rwkvedit {__version__}, {name}. /help lists commands, Ctrl-D leaves."

    def _message(self) -> str:
        return f"{self.shell.sessions.using or ''}{PROMPT}"

    def _toolbar(self) -> str:
        if self.shell.sessions.using is not None:
            return self._looking()
        session = self.shell.session
        parts = [session.loaded.name, f"{len(session.place.tokens)} tokens"]
        if session.journal.branch_name != "main":
            parts.append(session.journal.branch_name)
        temperature = session.sampler.temperature
        parts.append("greedy" if temperature == 0 else f"temperature {temperature:g}")
        return self._with_recording(parts)

    def _looking(self) -> str:
        """The toolbar while an open model is in use."""
        opened = self.shell.sessions.current
        parts = [opened.name, f"{opened.session.n_layer} layers"]
        if opened.steering:
            parts.append("steered")
        if opened.ablations:
            parts.append("ablated")
        return self._with_recording([*parts, "/use chat"])

    def _with_recording(self, parts: list[str]) -> str:
        recording = ["recording"] if self.shell.recorder is not None else []
        return " · ".join([*parts, *recording])


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _newline(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter", filter=has_completions & completion_is_selected)
    def _take(event: Any) -> None:
        event.current_buffer.complete_state = None

    @keys.add("enter", filter=~(has_completions & completion_is_selected))
    def _enter(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor(1)
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return keys
