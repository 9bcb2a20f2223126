"""The World tokenizer: greedy longest match over bytes. Knows nothing of models or chats.

A vocabulary file has one token a line: ``id literal length``, the literal a Python string or bytes
literal and the length in bytes (BlinkDL's ``rwkv_vocab_v20230424.txt``). There is no id 0: it ends
a document. Some tokens are not valid UTF-8 alone, so text that is streamed goes through
``StreamDecoder``; ``encode(a) + encode(b)`` is in general not ``encode(a + b)``.
"""

from __future__ import annotations

import ast
import codecs
import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError

END = 0
"""The id that ends a document; it stands for no bytes."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


class WorldTokenizer:
    """Text to ids and back over a table {id: bytes}."""

    def __init__(self, table: Mapping[int, bytes], digest: str) -> None:
        self._bytes = dict(table)
        self._ids = {piece: i for i, piece in self._bytes.items()}
        self.vocab_size = max(self._bytes, default=0) + 1
        """One more than the highest id."""
        self.digest = digest
        """sha256 (hex) over the table, in order of id."""
        by_start: dict[bytes, set[int]] = {}
        for piece in self._ids:
            by_start.setdefault(piece[:2], set()).add(len(piece))
        self._lengths = {start: sorted(n, reverse=True) for start, n in by_start.items()}

    @classmethod
    def from_file(cls, path: str | Path) -> WorldTokenizer:
        """Read a vocabulary file; FileFormatError names the first line that is not one."""
        path = Path(path).expanduser()
        try:
            stat = path.stat()
        except OSError as error:
            raise RwkvEditError(
                f"cannot read vocabulary {path}: {error.strerror or error}"
            ) from error
        return _read(str(path), stat.st_size, stat.st_mtime_ns)

    def file_text(self) -> str:
        """The vocabulary as the file that ``from_file`` reads."""
        lines = []
        for token, piece in sorted(self._bytes.items()):
            try:
                literal = repr(piece.decode())
            except UnicodeDecodeError:
                literal = repr(piece)
            lines.append(f"{token} {literal} {len(piece)}\n")
        return "".join(lines)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; unpaired surrogates become U+FFFD."""
        try:
            return self.encode_bytes(text.encode())
        except UnicodeEncodeError:
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self.encode_bytes(whole.encode())

    def encode_bytes(self, src: bytes) -> list[int]:
        """Ids of raw bytes. UsageError names a byte that the vocabulary does not hold."""
        ids, lengths, out, at = self._ids, self._lengths, [], 0
        end = len(src)
        while at < end:
            for n in lengths.get(src[at : at + 2], ()):
                token = ids.get(src[at : at + n])
                if token is not None:
                    break
            else:
                n, token = 1, ids.get(src[at : at + 1])
                if token is None:
                    raise UsageError(f"the vocabulary has no token for byte {src[at]:#04x}")
            out.append(token)
            at += n
        return out

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Raw bytes; id 0 is nothing, an id outside the vocabulary is U+FFFD."""
        table = self._bytes
        return b"".join(table.get(i, b"" if i == END else _REPLACEMENT) for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def id_of(self, piece: str | bytes) -> int | None:
        """The id of exactly this piece, or None."""
        return self._ids.get(piece.encode() if isinstance(piece, str) else piece)

    def __contains__(self, token: int) -> bool:
        return token in self._bytes

    def __repr__(self) -> str:
        return f"WorldTokenizer({len(self._bytes)} tokens, {self.digest[:16]})"


class StreamDecoder:
    """Ids in, text out as soon as its bytes are whole characters."""

    def __init__(self, tokenizer: WorldTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        return self.feed_bytes(self._tokenizer.decode_bytes([token]))

    def feed_bytes(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left of a half character (U+FFFD); the decoder is fresh again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


@lru_cache(maxsize=8)
def _read(path: str, size: int, mtime_ns: int) -> WorldTokenizer:
    """Cached by size and time of change; a tokenizer is never changed once made."""
    table: dict[int, bytes] = {}
    sha = hashlib.sha256()
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: expected a vocabulary in UTF-8 text ({error})") from error
    except OSError as error:
        raise RwkvEditError(f"cannot read vocabulary {path}: {error.strerror or error}") from error
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            token, piece = _parse(line.rstrip("\r"))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise FileFormatError(
                f"{path}:{number}: expected `id 'literal' length`, found {line[:60]!r}"
            ) from None
        if token in table:
            raise FileFormatError(f"{path}:{number}: id {token} is given twice")
        table[token] = piece
        sha.update(token.to_bytes(4, "little") + len(piece).to_bytes(4, "little") + piece)
    if not table:
        raise FileFormatError(f"{path}: expected a vocabulary, found no tokens")
    return WorldTokenizer(table, sha.hexdigest())


def _parse(line: str) -> tuple[int, bytes]:
    first, last = line.index(" "), line.rindex(" ")
    token, length = int(line[:first]), int(line[last:])
    literal = ast.literal_eval(line[first:last].strip())
    piece = literal.encode() if isinstance(literal, str) else literal
    if not isinstance(piece, bytes) or len(piece) != length or not piece or not 0 < token < 2**32:
        raise ValueError(line)
    return token, piece


def world_vocabulary() -> Path:
    """The World vocabulary that the ``rwkv`` package ships (found without importing it)."""
    from importlib.util import find_spec

    spec = find_spec("rwkv")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "rwkv_vocab_v20230424.txt"
        if path.exists():
            return path
    raise RwkvEditError("no World vocabulary: pip install rwkv==0.8.32, or give --vocab FILE")
