"""Turns with a model: text in, a reply and the Place after it out. Commits and prints nothing.

A Speaker holds no conversation: every method takes the Place (or State) it starts from and returns
the one it leads to, so whatever is interrupted leaves the caller's own as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.interrupt import deferred
from rwkvedit.journal import Place, Turn
from rwkvedit.recurrent.generate import Sampler, generate
from rwkvedit.recurrent.state import State

PREFILL_CHUNK = 512  # tokens between two chances to interrupt


@dataclass(frozen=True)
class Reply:
    """What the model answered. ``stopped`` says why it ended ("stop", "length", ...)."""

    text: str
    tokens: tuple[int, ...]
    stopped: str
    interrupted: bool = False
    notices: tuple[str, ...] = ()
    prefill_ms: float = 0.0
    generate_ms: float = 0.0

    def __str__(self) -> str:
        return self.text


class Speaker:
    """A loaded model's way of speaking: its template, tokenizer and forward."""

    def __init__(self, loaded: Any) -> None:
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.template = loaded.template

    def turn(
        self,
        place: Place,
        text: str,
        sampler: Sampler,
        on_text: Callable[[str], None] | None,
        cancel: Callable[[], bool] | None,
    ) -> tuple[Reply, Place]:
        """A whole turn from ``place``; nothing is committed."""
        began = perf_counter()
        tokens = self.template.encode_user(self.tokenizer, text)
        logits, state = self.feed(tokens, place.state, cancel)
        opened = replace(place, state=state, tokens=place.tokens + tuple(tokens))
        spent = perf_counter() - began
        return self.reply(opened, logits, text, sampler, on_text, cancel, spent)

    def reply(
        self,
        opened: Place,
        logits: torch.Tensor,
        user: str,
        sampler: Sampler,
        on_text: Callable[[str], None] | None,
        cancel: Callable[[], bool] | None,
        prefill_s: float,
        part: str = "whole",
    ) -> tuple[Reply, Place]:
        """Generate after ``opened`` and close the turn; nothing is committed.

        A ``whole`` reply begins with one space that is not part of what was said.
        """
        limit = int(dict(opened.settings)["max_tokens"])
        lead = _Unindent(on_text) if part == "whole" and on_text else on_text
        sampler.forget_counts()
        began = perf_counter()
        with deferred() as pressed, torch.no_grad():
            stop = _either(pressed, cancel)
            made = generate(
                self.model,
                logits,
                opened.state,
                sampler,
                limit,
                self.template.stops,
                self.tokenizer,
                on_text=lead,
                cancel=stop,
            )
            end = self.template.encode_end(self.tokenizer)
            _, state = self.feed(end, made.state)
            interrupted = stop()
        text = made.text.removeprefix(" ") if part == "whole" else made.text
        notices = ()
        if made.stopped == "length":
            notices = (f"stopped after {limit} tokens; /continue goes on",)
        reply = Reply(
            text,
            tuple(made.tokens),
            made.stopped,
            interrupted,
            notices,
            1e3 * prefill_s,
            1e3 * (perf_counter() - began),
        )
        after = replace(
            opened,
            state=state,
            tokens=opened.tokens + tuple(made.tokens) + tuple(end),
            sampler=sampler.get_state(),
            turns=(*opened.turns, Turn(user, text, made.stopped)),
        )
        return reply, after

    def feed(
        self, tokens: list[int], state: State, cancel: Callable[[], bool] | None = None
    ) -> tuple[torch.Tensor, State]:
        """``tokens`` through the model in chunks; refuses a state that is no longer finite."""
        logits = None
        with torch.no_grad():
            for at in range(0, len(tokens), PREFILL_CHUNK):
                if cancel is not None and cancel():
                    raise KeyboardInterrupt
                logits, state = self.model.forward(tokens[at : at + PREFILL_CHUNK], state)
        assert logits is not None, "nothing to feed"
        if not bool(torch.isfinite(logits).all()):
            raise RwkvEditError(
                "the model's state is no longer finite (NaN or infinity); "
                "/undo goes back to before that"
            )
        return logits, state

    def with_system(self, place: Place, text: str) -> Place:
        """``place`` after a system text."""
        tokens = self.template.encode_system(self.tokenizer, text)
        _, state = self.feed(tokens, place.state)
        return replace(place, state=state, tokens=place.tokens + tuple(tokens), system=text)

    def prompt_tokens(self, prompt: str) -> list[int]:
        """A question as a user's turn, and the words after its "?" as the assistant's so far.

        Raises UsageError for an empty prompt.
        """
        if not prompt.strip():
            raise UsageError('the prompt is empty; try /prob "Where does Bob live? Bob lives in"')
        asked, mark, said = prompt.rpartition("?")
        tokenizer = self.tokenizer
        if mark:
            fed = self.template.encode_user(tokenizer, asked + mark)
        else:
            fed = tokenizer.encode(f"{self.template.assistant_name}:")
        words = said.strip()
        return fed + (tokenizer.encode(f" {words}") if words else [])

    def continuation(self, word: str) -> list[int]:
        """A word's tokens as they go on after others. Raises UsageError for an empty one."""
        if not word.strip():
            raise UsageError("an empty word has no probability")
        return self.tokenizer.encode(word if word[0].isspace() else f" {word}")

    def spoken(self, text: str) -> str:
        """Typed text as it is fed. Raises UsageError when there is nothing in it to say."""
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if not self.template.clean(text):
            raise UsageError("there is nothing to say; type some text")
        return text


class _Unindent:
    """Passes text on without the one space that follows ``Assistant:``."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self.on_text = on_text
        self.begun = False

    def __call__(self, text: str) -> None:
        if text and not self.begun:
            self.begun = True
            text = text.removeprefix(" ")
        if text:
            self.on_text(text)


def _either(a: Callable[[], bool], b: Callable[[], bool] | None) -> Callable[[], bool]:
    return a if b is None else lambda: a() or b()
