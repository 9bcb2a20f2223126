"""Second moments equal what every key of the corpus, taken one after another, would give."""

from __future__ import annotations

import pytest
import torch
from test_weights import rank_one, toy  # noqa: F401  (fixture)

from rwkvedit.config import cache_dir
from rwkvedit.errors import UsageError
from rwkvedit.transformer import Record, statistics
from rwkvedit.transformer.statistics import chunks, corpus_text, second_moments

TEXT = "The capital of France is Paris .\n\nBob lives in Austin and Ann lives in Boston ."


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def by_hand(session, layer, source, tokens):
    keys = []
    for row in chunks(session, corpus_text(source)[0], tokens):
        record = Record(layer, "ffn.key")
        session.run(row, [record], logits="none")
        keys.append(torch.from_numpy(record[f"blocks.{layer}.ffn.key"][0].copy()))
    k = torch.cat(keys).double()
    return (k.T @ k) / len(k), len(k)


def test_moments_are_the_mean_of_every_key_with_itself(toy, corpus):  # noqa: F811
    got = second_moments(toy, [2, 0], corpus)
    assert sorted(got) == [0, 2]
    for layer, moments in got.items():
        want, n = by_hand(toy, layer, corpus, 9000)
        assert moments.tokens == n and moments.corpus == "corpus.txt"
        assert torch.allclose(moments.c.double(), want, atol=1e-5 * float(want.abs().max()))


def test_whitening_solves_against_c_with_its_ridge(toy, corpus):  # noqa: F811
    moments = second_moments(toy, [1], corpus)[1]
    k = torch.randn(len(moments.c), 2, generator=torch.Generator().manual_seed(0))
    c = moments.c.double() + 0.1 * moments.c.double().diagonal().mean() * torch.eye(len(moments.c))
    assert torch.allclose(c @ moments.whiten(k, 0.1), k.double(), atol=1e-6)
    assert torch.equal(moments.whiten(k[:, 0], 0.1), moments.whiten(k[:, :1], 0.1)[:, 0])


def test_the_second_time_they_come_from_the_cache_and_say_so(toy, corpus, monkeypatch):  # noqa: F811
    first = second_moments(toy, [1], corpus, tokens=20)[1]
    assert first.tokens == 20
    monkeypatch.setattr(statistics, "_collect", None)
    again = second_moments(toy, [1], corpus, tokens=20)[1]
    assert torch.equal(again.c, first.c) and again.to_json() == first.to_json()
    with pytest.raises(TypeError):
        second_moments(toy, [1], corpus, tokens=19)  # other statistics: they must be made
    for file in cache_dir().rglob("*.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.raises(TypeError):
        second_moments(toy, [1], corpus, tokens=20)


def test_they_are_of_the_base_weights_even_while_an_edit_is_live(toy, corpus):  # noqa: F811
    toy.edits.apply(rank_one(toy, 0, scale=30.0))
    live = toy.edits.live
    edited = second_moments(toy, [1], corpus)[1]
    assert toy.edits.live == live
    toy.edits.restore()
    want, _ = by_hand(toy, 1, corpus, 9000)
    assert torch.allclose(edited.c.double(), want, atol=1e-5 * float(want.abs().max()))


def test_ctrl_c_and_empty_texts_leave_nothing_behind(toy, corpus, tmp_path):  # noqa: F811
    with pytest.raises(KeyboardInterrupt):
        second_moments(toy, [1], corpus, cancel=lambda: True)
    assert not list(cache_dir().rglob("*.safetensors"))
    corpus.write_text("  \n")
    with pytest.raises(UsageError, match="found none"):
        second_moments(toy, [1], corpus)
    (tmp_path / "image").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match="UTF-8"):
        second_moments(toy, [1], tmp_path / "image")


def test_the_corpus_that_ships_is_long_enough_and_plain_text():
    text, name = corpus_text(None)
    assert name == "shipped" and len(text) > 30_000 and "\N{REPLACEMENT CHARACTER}" not in text
