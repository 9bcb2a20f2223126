"""How a conversation is written on the stream, and cut into tokens at stable places.

    User: Bob lives in Austin.\\n\\nAssistant: Got it.\\n\\n

Between turns the stream stands right after a blank line. Each piece (``User:``, `` text``,
``\\n\\n``, ``Assistant:``) is encoded on its own, so that token boundaries do not depend on the
neighbours: in the World vocabulary ``encode(a) + encode(b)`` is not ``encode(a + b)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rwkvedit.models.tokenizer import WorldTokenizer

_BLANK = re.compile(r"\s*\n\s*\n\s*")


@dataclass(frozen=True)
class ChatTemplate:
    """The official World/G1 chat form; ``stops`` is what ends a reply."""

    stops: tuple[str, ...] = ("\n\nUser:",)
    user_name: str = "User"
    assistant_name: str = "Assistant"
    turn_end: str = "\n\n"

    def clean(self, text: str) -> str:
        """Stripped, with blank lines collapsed to one line break (they would end the turn)."""
        return _BLANK.sub("\n", text.replace("\r\n", "\n").strip())

    def user(self, text: str) -> str:
        """A user's turn and the assistant's opening, with no trailing space."""
        return f"{self.user_name}: {self.clean(text)}{self.turn_end}{self.assistant_name}:"

    def assistant(self, text: str) -> str:
        """A reply, without the turn's end."""
        return f" {self.clean(text)}"

    def system(self, text: str) -> str:
        return f"System: {self.clean(text)}{self.turn_end}"

    def encode_user(self, tokenizer: WorldTokenizer, text: str) -> list[int]:
        """``User:`` + `` text`` + blank line + ``Assistant:``; a reply is generated after it."""
        return [
            *self.encode_user_opening(tokenizer, text),
            *tokenizer.encode(self.turn_end),
            *tokenizer.encode(f"{self.assistant_name}:"),
        ]

    def encode_user_opening(self, tokenizer: WorldTokenizer, phrase: str) -> list[int]:
        """``User:`` + `` phrase``: a user's turn that is still being spoken (editing probes)."""
        phrase = self.clean(phrase)
        head = tokenizer.encode(f"{self.user_name}:")
        return head + (tokenizer.encode(f" {phrase}") if phrase else [])

    def encode_assistant(
        self, tokenizer: WorldTokenizer, text: str, close: bool = True
    ) -> list[int]:
        """`` text`` and, unless ``close`` is false, the blank line that ends the turn."""
        ids = tokenizer.encode(self.assistant(text))
        return ids + tokenizer.encode(self.turn_end) if close else ids

    def encode_turn(self, tokenizer: WorldTokenizer, user: str, reply: str) -> list[int]:
        """A whole told turn: what the user said and what the assistant answered, closed."""
        return self.encode_user(tokenizer, user) + self.encode_assistant(tokenizer, reply)

    def encode_end(self, tokenizer: WorldTokenizer) -> list[int]:
        return tokenizer.encode(self.turn_end)

    def encode_system(self, tokenizer: WorldTokenizer, text: str) -> list[int]:
        return [
            *tokenizer.encode("System:"),
            *tokenizer.encode(f" {self.clean(text)}"),
            *tokenizer.encode(self.turn_end),
        ]


EMBEDDED = ChatTemplate(stops=("\n\n",))
WORLD = ChatTemplate(stops=("\n\nUser:",))
