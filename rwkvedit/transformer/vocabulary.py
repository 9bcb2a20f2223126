"""Text to ids and back, the same for transformers' tokenizers and for the World tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Protocol

from rwkvedit.errors import UsageError
from rwkvedit.models.tokenizer import END, WorldTokenizer


class Codec(Protocol):
    """What a tokenizer must do. No special tokens are ever added by ``encode``."""

    bos: int | None
    end_ids: set[int]

    @property
    def digest(self) -> str: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


class HFCodec:
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.bos: int | None = tokenizer.bos_token_id
        ends = tokenizer.eos_token_id
        self.end_ids: set[int] = set() if ends is None else {int(ends)}

    @property
    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """sha256 (hex) over every token's id and text, however the tokenizer was stored."""
        sha = hashlib.sha256()
        for token, at in sorted(self.tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
            sha.update(f"{at}\0{token}\0".encode(errors="surrogatepass"))
        return sha.hexdigest()

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


class WorldCodec:
    """The World tokenizer of RWKV models."""

    def __init__(self, tokenizer: WorldTokenizer) -> None:
        self.tokenizer = tokenizer
        self.bos: int | None = None
        self.end_ids = {END}

    @property
    def digest(self) -> str:
        return self.tokenizer.digest

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)


class Vocabulary:
    """A codec with the questions that a session asks of it."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._pieces: dict[int, str] = {}

    @property
    def end_ids(self) -> set[int]:
        return self.codec.end_ids

    @property
    def digest(self) -> str:
        """sha256 (hex) of what the tokens are."""
        return self.codec.digest

    def encode(self, text: str) -> list[int]:
        return self.codec.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self.codec.decode([int(i) for i in ids])

    def piece(self, token: int) -> str:
        """One token's text (U+FFFD for bytes that are no character by themselves)."""
        if token not in self._pieces:
            self._pieces[token] = self.codec.decode([token])
        return self._pieces[token]

    def bos_id(self) -> int:
        """UsageError where there is none."""
        if self.codec.bos is None:
            raise UsageError("this model has no BOS token: leave bos out")
        return self.codec.bos

    def single(self, text: str) -> int:
        """The id of a text that is exactly one token; UsageError shows how it splits."""
        ids = self.encode(text)
        if len(ids) == 1:
            return ids[0]
        if not ids:
            raise UsageError(f"{text!r} has no tokens where one is needed")
        shown = " ".join(repr(self.piece(i)) for i in ids)
        spaced = self.encode(" " + text)
        hint = f"; with a space in front, {' ' + text!r}, it is one" if len(spaced) == 1 else ""
        raise UsageError(f"{text!r} is {len(ids)} tokens ({shown}) where one is needed{hint}")
