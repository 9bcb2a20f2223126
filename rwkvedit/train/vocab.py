"""Cuts the embedded model's vocabulary out of the World vocabulary.

Kept: every byte, every word of the corpus, the commonest English words that the World vocabulary
has, and the short pieces that spell the words left out. Written in the World tokenizer's format.
Word frequencies come from the ``wordfreq`` package (used here only, never at run time).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rwkvedit.facts import KINDS, lexicon

PUNCTUATION = (
    "\n\n", "\n", "'s", ".", ",", "?", "!", ":", "...", " -", "'t", "'m", " \"",
    "User", "Assistant", "Q", "A",
)


def read_world(path: Path) -> dict[bytes, int]:
    """Token bytes to World id, from a file in the World format."""
    table: dict[bytes, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        first, last = line.index(" "), line.rindex(" ")
        token = ast.literal_eval(line[first:last].strip())
        table[token.encode() if isinstance(token, str) else token] = int(line[:first])
    return table


def world_path() -> Path:
    """The World vocabulary that the ``rwkv`` package carries."""
    from importlib.util import find_spec

    spec = find_spec("rwkv")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the rwkv package is not installed")
    return Path(spec.submodule_search_locations[0]) / "rwkv_vocab_v20230424.txt"


def _segment(word: bytes, vocab: set[bytes]) -> list[bytes]:
    pieces, start = [], 0
    while start < len(word):
        for end in range(min(len(word), start + 24), start, -1):
            if word[start:end] in vocab or end == start + 1:
                pieces.append(word[start:end])
                start = end
                break
    return pieces


def corpus_words() -> set[str]:
    """Every word the corpus's own sentences use (templates, training lists, fixed phrases)."""
    from rwkvedit.train.documents import fixed_sentences

    texts = list(fixed_sentences())
    for kind in KINDS.values():
        for row in (*kind.tells, *kind.asks, *kind.tells_heldout, *kind.asks_heldout,
                    *kind.changes, kind.answer, kind.unknown, kind.yes_no):
            texts.append(re.sub(r"\{[^}]*\}", " ", row).replace("|", " ").translate(
                str.maketrans("[]", "  ")))
    for words in lexicon.TRAIN.values():
        texts.extend(words)
    return {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}


def cut(world: Iterable[bytes], ranked: list[str], n_common: int, n_pieces: int) -> list[bytes]:
    """The tokens to keep, in World's order of length then bytes. ``ranked``: commonest first."""
    world = set(world)
    held = {word.lower() for words in lexicon.HELDOUT.values() for text in words
            for word in re.findall(r"[A-Za-z]+", text) if text[-1:] != "."}
    keep = {bytes([byte]) for byte in range(256)}
    keep |= {text.encode() for text in PUNCTUATION}
    for word in corpus_words():
        keep.add(f" {word}".encode())
        keep |= {form for form in (f" {word.capitalize()}".encode(), word.capitalize().encode())
                 if form in world and word.islower()}
    common: list[bytes] = []
    for word in ranked:
        if not re.fullmatch(r"[a-z]{2,}", word) or word in held:
            continue
        forms = [form for form in (f" {word}".encode(), f" {word.capitalize()}".encode())
                 if form in world]
        # a name or a place is commoner in its capital form; both kept where World has both
        common.extend(form for form in forms if form not in keep)
        if len(common) >= n_common:
            break
    keep |= set(common[:n_common])
    piece = re.compile(rb" ?[A-Z]?[a-z]{1,6}|[0-9]{2}| ?[0-9]")
    short = {token for token in world if piece.fullmatch(token)}
    letters = "abcdefghijklmnopqrstuvwxyz"
    keep |= {f" {c}".encode() for c in letters + letters.upper()}
    keep |= {token for token in short if re.fullmatch(rb"[0-9]{2}| [0-9]", token)}
    short -= {form for word in held for form in
              (f" {word}".encode(), f" {word.capitalize()}".encode(), word.encode())}
    usage: Counter[bytes] = Counter()
    pool = [word for word in ranked[:60000] if re.fullmatch(r"[a-z]{3,}", word)]
    candidates = keep | short
    for size in (6 * n_pieces, 3 * n_pieces, 2 * n_pieces, n_pieces):
        usage.clear()
        for rank, word in enumerate(pool):
            for form in (f" {word}".encode(), f" {word.capitalize()}".encode()):
                if form not in keep:
                    weight = 1 if rank > 20000 else 2
                    usage.update(dict.fromkeys(_segment(form, candidates), weight))
        pieces = [piece for piece, _ in usage.most_common() if piece not in keep][:size]
        candidates = keep | set(pieces)
    # a token that begins a held-out word whole stays out
    keep |= set(pieces)
    keep -= {form for word in held for form in
             (f" {word}".encode(), f" {word.capitalize()}".encode(), word.encode())
             if word not in {w.lower() for w in corpus_words()}}
    return sorted(keep, key=lambda token: (len(token), token))


def write_vocab(tokens: list[bytes], path: Path) -> None:
    """One line a token: id, Python literal, byte length; ids from 1 (0 ends a document)."""
    lines = []
    for index, token in enumerate(tokens, start=1):
        try:
            literal: object = token.decode("utf-8")
        except UnicodeDecodeError:
            literal = token
        lines.append(f"{index} {literal!r} {len(token)}\n")
    path.write_text("".join(lines), encoding="utf-8")


def main(out: str, n_common: int = 4200, n_pieces: int = 2200) -> None:
    """Cut the vocabulary again: ``python -m rwkvedit.train.vocab OUT`` (needs ``wordfreq``)."""
    from wordfreq import top_n_list  # type: ignore[import-not-found]

    tokens = cut(read_world(world_path()), top_n_list("en", 80000), n_common, n_pieces)
    write_vocab(tokens, Path(out))
    print(f"{len(tokens)} tokens written to {out}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
