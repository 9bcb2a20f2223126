"""The World tokenizer against the ``rwkv`` package's, on text nobody would write."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import toy_vocabulary

from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.models.chat_template import EMBEDDED, WORLD
from rwkvedit.models.tokenizer import StreamDecoder, WorldTokenizer, world_vocabulary

WORDS = ["Bob", " lives in", "\n\n", "User:", " 猫が", "🙂", "é", "    ", "\r\n", "\x00", "12345"]
TEXT = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=12).map("".join))


@cache
def world() -> WorldTokenizer:
    return WorldTokenizer.from_file(world_vocabulary())


@cache
def theirs():
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

    kept = TRIE_TOKENIZER.__init__  # it leaves its file open; read it through ours instead
    assert kept is not None
    tokenizer = object.__new__(TRIE_TOKENIZER)
    from rwkv.rwkv_tokenizer import TRIE

    tokenizer.idx2token = dict(world()._bytes)
    tokenizer.root = TRIE()
    for i, piece in tokenizer.idx2token.items():
        tokenizer.root.add(piece, val=(piece, i))
    return tokenizer


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_ids_are_the_packages_ids_and_text_comes_back(text: str) -> None:
    ids = world().encode(text)
    assert ids == (theirs().encode(text) if text else [])
    assert world().decode(ids) == text


@given(TEXT)
@settings(max_examples=100, deadline=None)
def test_streamed_text_is_the_whole_text(text: str) -> None:
    stream = StreamDecoder(world())
    assert "".join(stream.feed(i) for i in world().encode(text)) + stream.flush() == text


def test_the_world_vocabulary_is_whole() -> None:
    tokenizer = world()
    assert tokenizer.vocab_size == 65530 and 0 not in tokenizer and 65529 in tokenizer
    assert all(tokenizer.id_of(bytes([b])) == b + 1 for b in range(256))


def test_half_characters_decode_to_the_replacement_sign() -> None:
    half = world().encode("🙂")[:1]
    if world().decode_bytes(half) == "🙂".encode():
        half = [world().id_of(b"\xf0")]
    assert world().decode(half) == "\ufffd"
    stream = StreamDecoder(world())
    assert (stream.feed(half[0]), stream.flush()) == ("", "\ufffd")


def test_end_of_document_is_nothing_and_a_foreign_id_is_visible() -> None:
    assert world().decode_bytes([0]) == b""
    assert world().decode([65535]) == "\ufffd"


def test_unpaired_surrogates_are_replaced() -> None:
    assert world().decode(world().encode("a\ud800b")) == "a\ufffdb"


def test_a_byte_the_vocabulary_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("1 'a' 1\n2 'ab' 2\n")
    tokenizer = WorldTokenizer.from_file(path)
    assert tokenizer.encode("aba") == [2, 1]
    with pytest.raises(UsageError, match="0x63"):
        tokenizer.encode("abc")


@pytest.mark.parametrize(
    "text",
    ["", "hello\n", "1 'a' 2\n", "1 'a' 1\n1 'b' 1\n", "1 __import__('os') 1\n", "0 'a' 1\n"],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "v.txt"
    path.write_text(text)
    with pytest.raises(FileFormatError) as error:
        WorldTokenizer.from_file(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_vocabulary_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RwkvEditError, match="cannot read vocabulary"):
        WorldTokenizer.from_file(tmp_path / "none.txt")


def test_a_turn_is_cut_at_the_same_places_whatever_stands_beside(tmp_path: Path) -> None:
    tok = WorldTokenizer.from_file(toy_vocabulary(tmp_path / "v.txt"))
    user = EMBEDDED.encode_user(tok, "Bob lives in Austin.")
    assert [tok.decode([i]) for i in user] == [
        "User:", " ", "Bob", " lives", " in", " Austin", ".", "\n\n", "Assistant:",
    ]  # fmt: skip
    turn = EMBEDDED.encode_turn(tok, "Bob lives in Austin.", " Got it. ")
    assert turn[: len(user)] == user
    assert tok.decode(turn) == "User: Bob lives in Austin.\n\nAssistant: Got it.\n\n"
    assert EMBEDDED.user("Bob lives in Austin.") == tok.decode(user)
    opening = EMBEDDED.encode_user_opening(tok, "Bob lives in")
    assert user[: len(opening)] == opening


def test_blank_lines_inside_a_turn_are_collapsed() -> None:
    assert WORLD.user(" a\n\n \nb\r\n\r\nc\n") == "User: a\nb\nc\n\nAssistant:"
