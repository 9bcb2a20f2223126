"""A whole conversation in one safetensors file: states, tokens, sampler and journal.

Format ``rwkvedit-session`` version 1. Tensors: ``state.K.att_x|wkv|ffn_x`` for each distinct State
(wkv axes: layer, head, value, key) and ``tokens.K`` (int32) for each distinct token sequence.
The label's ``book`` holds branches, entries and places, which name states and tokens by K.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import rwkvedit
from rwkvedit.errors import FileFormatError, RwkvEditError
from rwkvedit.facts import KINDS, Fact
from rwkvedit.files import check_digest, load_tensors, save_tensors, spare_foreign
from rwkvedit.journal import Book, Branch, Entry, Place, Turn
from rwkvedit.recurrent.generate import Sampler
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.statefile import state_from_tensors, state_tensors

FORMAT, VERSION = "rwkvedit-session", 1


def save(session: Any, path: Path) -> Path:
    """Write ``session`` to ``path``, whole or not at all; a file there that is none is spared."""
    spare_foreign(path, FORMAT)
    book = session.journal.book
    tensors: dict[str, torch.Tensor] = {}
    states: dict[int, int] = {}
    tokens: dict[tuple[int, ...], int] = {}
    places: dict[int, dict[str, Any]] = {}
    entries: dict[int, dict[str, Any]] = {}
    for branch in book.branches.values():
        for entry in branch.entries:
            if entry.number in entries:
                continue
            entries[entry.number] = {"verb": entry.verb, "label": entry.label, "when": entry.when}
            if entry.place is not None:
                places[entry.number] = _pack(entry.place, states, tokens, tensors)
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "model_digest": session.model.digest,
        "tokenizer_digest": session.tokenizer.digest,
        "axes": {"wkv": "(layer, head, value, key)"},
        "program": rwkvedit.__version__,
        "book": {
            "current": book.current,
            "next_number": book.next_number,
            "entries": {str(k): v for k, v in entries.items()},
            "places": {str(k): v for k, v in places.items()},
            "branches": {
                name: {"entries": [e.number for e in b.entries], "cursor": b.cursor}
                for name, b in book.branches.items()
            },
        },
    }
    return save_tensors(path, tensors, meta)


def load(session: Any, path: Path) -> Book:
    """The journal's book in ``path``, made for this model; refused otherwise, in one line."""
    tensors, meta = load_tensors(path, FORMAT, VERSION)
    check_digest(path, "model", session.model.digest, meta.get("model_digest"))
    check_digest(path, "tokenizer", session.tokenizer.digest, meta.get("tokenizer_digest"))
    try:
        return _unpack(path, meta["book"], tensors, session)
    except FileFormatError:
        raise
    except RwkvEditError as error:
        raise FileFormatError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise FileFormatError(f"{path}: the journal in it is damaged ({error!r})") from None


def _pack(
    place: Place,
    states: dict[int, int],
    tokens: dict[tuple[int, ...], int],
    tensors: dict[str, torch.Tensor],
) -> dict[str, Any]:
    if id(place.state) not in states:
        states[id(place.state)] = len(states)
        tensors |= state_tensors(place.state, f"state.{states[id(place.state)]}.")
    if place.tokens not in tokens:
        tokens[place.tokens] = len(tokens)
        tensors[f"tokens.{tokens[place.tokens]}"] = torch.tensor(place.tokens, dtype=torch.int32)
    return {
        "state": states[id(place.state)],
        "tokens": tokens[place.tokens],
        "sampler": place.sampler,
        "heard": [asdict(fact) for fact in place.heard],
        "turns": [asdict(turn) for turn in place.turns],
        "system": place.system,
        "settings": [list(pair) for pair in place.settings],
    }


def _unpack(
    path: Path, book: dict[str, Any], tensors: dict[str, torch.Tensor], session: Any
) -> Book:
    model = session.model
    count = session.tokenizer.vocab_size
    states: dict[int, State] = {}
    tokens: dict[int, tuple[int, ...]] = {}
    entries: dict[int, Entry] = {}
    for key, about in book["entries"].items():
        packed = book["places"].get(key)
        place = None
        if packed is not None:
            s, t = int(packed["state"]), int(packed["tokens"])
            if s not in states:
                found = state_from_tensors(path, tensors, model.config, f"state.{s}.")
                states[s] = found.to(model.device)
            if t not in tokens:
                tokens[t] = tuple(int(i) for i in tensors[f"tokens.{t}"].tolist())
                if any(not 0 <= i < count for i in tokens[t]):
                    raise FileFormatError(f"{path}: tokens.{t} holds ids outside the vocabulary")
            Sampler.from_state(packed["sampler"])
            place = Place(
                states[s],
                tokens[t],
                packed["sampler"],
                tuple(_fact(fact) for fact in packed["heard"]),
                tuple(Turn(**turn) for turn in packed["turns"]),
                packed["system"],
                tuple((str(name), value) for name, value in packed["settings"]),
            )
        number = int(key)
        entries[number] = Entry(number, about["verb"], about["label"], place, about["when"])
    branches = {
        name: Branch(tuple(entries[n] for n in branch["entries"]), int(branch["cursor"]))
        for name, branch in book["branches"].items()
    }
    for name, branch in branches.items():
        if not 0 <= branch.cursor < len(branch.entries) or branch.here.place is None:
            raise ValueError(f"branch {name} stands nowhere")
    if book["current"] not in branches:
        raise KeyError(book["current"])
    return Book(branches, book["current"], int(book["next_number"]))


def _fact(packed: dict[str, Any]) -> Fact:
    fact = Fact(**packed)
    if fact.kind not in KINDS:
        raise ValueError(f"no kind of fact called {fact.kind}")
    return fact
