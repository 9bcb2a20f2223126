"""What a person types at the chat or the shell, as a session's own values. Prints nothing.

    tokens      Paris, " Paris", #42        positions   last, all, 3, -1, 0,2 or 1:4
    parts       mlp:12, attention:3:6       vectors     see VECTORS, or a .npy or .json file
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.transformer.builtin import PARTS
from rwkvedit.transformer.hooks import Positions, position

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

MOST = 1_000_000  # positions of one range
VECTORS = {
    "embedding": "TOKEN: its row of W_E",
    "unembedding": "TOKEN: its row of W_U",
    "residual": "TEXT: the residual after the layer, at the text's last token",
    "difference": "TEXT | TEXT: the residual of the first less that of the second",
    "random": "SEED: a random direction of length 1",
}
"""The kinds of vector that have a name; each is followed by a colon and what it is made of."""


def token_id(session: ModelSession, text: str) -> int:
    """One token: ``#42`` is an id; a word is taken with a space in front where that is one token.

    Text that begins with a blank is taken as it is. UsageError shows how several are split.
    """
    if text.startswith("#") and text[1:].isdigit():
        return session.token_id(int(text[1:]))
    if text and not text[0].isspace():
        for spelled in (f" {text}", text):
            ids = session.vocabulary.encode(spelled)
            if len(ids) == 1:
                return ids[0]
        text = f" {text}"
    return session.token_id(text)


def positions(text: str | None) -> Positions:
    """``last`` (None), ``all``, or numbers and ranges with their end excluded: ``0,2,4:6,-1``."""
    if text is None or text == "last":
        return None
    if text == "all":
        return text
    found: list[int] = []
    for part in text.split(","):
        start, colon, stop = part.strip().partition(":")
        try:
            numbers = range(int(start), int(stop) if colon else int(start) + 1)
        except ValueError:
            raise UsageError(
                f"no positions '{text}': say last, all, or numbers like 3, -1, 0,2 or 1:4"
            ) from None
        if len(numbers) > MOST:
            raise UsageError(f"positions '{text}' are {len(numbers)}: no prompt is so long")
        found += numbers
    if not found:
        raise UsageError(f"no positions '{text}': a range a:b ends before b")
    return found


def span(text: str) -> tuple[int, int]:
    """``a:b`` as two numbers."""
    start, colon, stop = text.partition(":")
    try:
        return int(start), int(stop if colon else int(start) + 1)
    except ValueError:
        raise UsageError(f"no positions '{text}': say a:b (b excluded), like 0:3") from None


def part_of(session: ModelSession, text: str) -> tuple[str, list[int]]:
    """``mlp:12`` or ``attention:3:6`` as a part and its layers; UsageError says what there is."""
    name, colon, layers = text.partition(":")
    if name not in PARTS or not colon or not layers:
        raise UsageError(
            f"no part '{text}': say {', '.join(PARTS)} and its layers, like mlp:2 or mlp:0:2"
        )
    return name, session.shape.layers(layers)


def vector(session: ModelSession, text: str, layer: int | None = None) -> np.ndarray:
    """(D,) fp32: one of VECTORS by name, or the numbers in a .npy or .json file.

    ``layer`` is where residuals are read. Raises UsageError, RwkvEditError, FileFormatError.
    """
    kind, colon, rest = text.partition(":")
    kind, rest = kind.strip().lower(), rest.strip()
    named = bool(colon) and kind in VECTORS
    if not named and Path(text).suffix in (".npy", ".json"):
        return _from_file(session, Path(text).expanduser())
    if not named:
        names = ", ".join(f"{name}: {about.split(':')[0]}" for name, about in VECTORS.items())
        raise UsageError(f"no vector '{text}': say {names}, or a .npy or .json file")
    if not rest:
        raise UsageError(f"{kind}: of what? {kind}: {VECTORS[kind].split(':')[0]}")
    if kind == "embedding":
        return session.embedding_for(token_id(session, rest))
    if kind == "unembedding":
        return session.unembedding_for(token_id(session, rest))
    if kind == "random":
        return _random(session, rest)
    if layer is None:
        raise UsageError(f"{kind}: is read after a layer: say which with --layer N")
    if kind == "residual":
        return _residual(session, rest, layer)
    first, bar, second = rest.partition("|")
    if not bar:
        raise UsageError(f"difference: needs two texts, like difference: {rest} | another")
    return _residual(session, first.strip(), layer) - _residual(session, second.strip(), layer)


def _residual(session: ModelSession, text: str, layer: int) -> np.ndarray:
    at = session.shape.layer(layer)
    return np.array(session.capture_residuals(text, at)[at][-1], np.float32)


def _random(session: ModelSession, seed: str) -> np.ndarray:
    if not seed.isdigit():
        raise UsageError(f"random: takes a seed, a whole number from 0 on, not '{seed}'")
    x = np.random.default_rng(int(seed)).normal(size=session.d_model)
    return (x / np.linalg.norm(x)).astype(np.float32)


def _from_file(session: ModelSession, path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            found: Any = np.load(path, allow_pickle=False)
        else:
            found = np.asarray(json.loads(path.read_text(encoding="utf-8")), np.float32)
    except FileNotFoundError:
        raise RwkvEditError(f"no such file: {path}") from None
    except OSError as error:
        raise RwkvEditError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, EOFError):
        raise FileFormatError(
            f"{path}: expected {session.d_model} numbers in a {path.suffix} file"
        ) from None
    return session.shape.vector(found, str(path)).numpy()


def one_position(text: str | None, length: int) -> int:
    """A single position of ``length`` tokens; None is the last."""
    found = positions(text)
    if found is None:
        return length - 1
    if isinstance(found, list) and len(found) == 1:
        return position(found[0], length)
    raise UsageError(f"one position, not '{text}': a number from 0 to {length - 1}, or last")
