"""Sampling, streaming and stopping."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy_models import toy_loaded

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.models.catalog import LoadedModel
from rwkvedit.recurrent.generate import Generated, Sampler, generate


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return toy_loaded(tmp_path_factory.mktemp("toy"), seed=5)


class Script(Sampler):
    """Says what it is told, token by token."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__()
        self._script: Iterator[int] = iter(tokens)

    def sample(self, logits: torch.Tensor) -> int:
        return next(self._script)


def say(toy: LoadedModel, tokens: list[int], stops: list[str], **more) -> tuple[Generated, str]:
    heard: list[str] = []
    logits, state = toy.model.forward([7, 8])
    more.setdefault("max_tokens", len(tokens))
    got = generate(toy.model, logits, state, Script(tokens), stops=stops,
                   tokenizer=toy.tokenizer, on_text=heard.append, **more)  # fmt: skip
    return got, "".join(heard)


def pieces(toy: LoadedModel, *texts: str) -> list[int]:
    ids = [toy.tokenizer.id_of(t) for t in texts]
    assert None not in ids
    return ids  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (["Bob", " lives", "\n\n", "User:"], "Bob lives"),  # exactly a token
        (["Bob", "\n", "\n", "User:"], "Bob"),  # two tokens
        (["Bob", " a\n\n", "Bob"], "Bob a"),  # the end of a token
        (["Bob", ".", "\n\nb", "Bob"], "Bob."),  # the beginning of a token
        (["Bob", "\n", "\n\nb"], "Bob"),  # across tokens
        (["\n\n"], ""),  # at once
    ],
)
def test_the_state_is_the_one_right_before_the_stop_text(
    toy: LoadedModel, texts: list[str], kept: str
) -> None:
    got, heard = say(toy, pieces(toy, *texts), ["\n\n"])
    assert (got.text, heard, got.stopped, got.stop) == (kept, kept, "stop", "\n\n")
    assert toy.tokenizer.decode(got.tokens) == kept
    logits, state = toy.model.forward([7, 8])
    for token in got.tokens:
        logits, state = toy.model.forward([token], state)
    torch.testing.assert_close(got.state.wkv, state.wkv, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.state.att_x, state.att_x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.logits, logits, rtol=1e-4, atol=1e-4)


def test_a_long_stop_text_is_found_across_many_tokens(toy: LoadedModel) -> None:
    got, heard = say(toy, [b + 1 for b in b"Hi\n\nUse\n\nUser: x"], ["\n\nUser:"])
    assert got.text == heard == "Hi\n\nUse" and len(got.tokens) == 7
    assert got.state.equal(say(toy, [b + 1 for b in b"Hi\n\nUse"], [])[0].state)


def test_the_earliest_stop_wins(toy: LoadedModel) -> None:
    got, _ = say(toy, pieces(toy, "Bob", " a\n\n"), ["\n\n", " a"])
    assert (got.text, got.stop) == ("Bob", " a")


def test_characters_are_streamed_whole(toy: LoadedModel) -> None:
    heard: list[str] = []
    logits, state = toy.model.forward([1])
    script = [b + 1 for b in "é🙂猫".encode()]
    got = generate(toy.model, logits, state, Script(script), len(script), ["\n"],
                   toy.tokenizer, heard.append)  # fmt: skip
    assert heard == ["é", "🙂", "猫"] and got.text == "é🙂猫" and got.stopped == "length"


def test_a_reply_cut_inside_a_character_streams_what_it_returns(toy: LoadedModel) -> None:
    got, heard = say(toy, [0xF0 + 1, 0x9F + 1], [])
    assert got.text == heard == "\ufffd"


def test_text_that_only_looked_like_a_stop_is_let_through(toy: LoadedModel) -> None:
    got, heard = say(toy, pieces(toy, "Bob", "\n"), ["\n\n"])
    assert got.text == heard == "Bob\n" and got.stopped == "length"


def test_end_of_document_stops_and_is_not_fed(toy: LoadedModel) -> None:
    got, _ = say(toy, [*pieces(toy, "Bob"), 0], [], max_tokens=9)
    assert got.stopped == "end" and got.text == "Bob"
    assert got.state.equal(say(toy, pieces(toy, "Bob"), [])[0].state)


def test_cancelling_keeps_what_was_said(toy: LoadedModel) -> None:
    answers = iter([False, False, True])
    got, heard = say(toy, pieces(toy, "Bob", " in", "."), [], cancel=lambda: next(answers))
    assert got.stopped == "cancelled" and heard == got.text == "Bob in"
    assert got.state.equal(say(toy, pieces(toy, "Bob", " in"), [])[0].state)


LOGITS = torch.tensor([0.0, 3.0, 2.5, -1.0, 2.0])


def draws(sampler: Sampler, n: int = 400) -> set[int]:
    out = set()
    for _ in range(n):
        sampler.forget_counts()
        out.add(sampler.sample(LOGITS))
    return out


def test_greedy_takes_the_best_and_penalties_move_on() -> None:
    greedy = Sampler()
    assert [greedy.sample(LOGITS) for _ in range(3)] == [1, 1, 1]
    assert Sampler(presence=1.5).sample(LOGITS) == 1
    shy = Sampler(presence=1.5)
    assert [shy.sample(LOGITS) for _ in range(3)] == [1, 2, 4]
    slow = Sampler(frequency=0.3)
    assert [slow.sample(LOGITS) for _ in range(3)] == [1, 1, 2]


def test_top_k_and_top_p_cut_the_tail() -> None:
    assert draws(Sampler(1.0, top_k=2)) == {1, 2}
    assert draws(Sampler(1.0, top_p=0.5)) == {1, 2}
    assert draws(Sampler(1.0, top_p=0.0)) == {1}
    assert draws(Sampler(5.0)) == {0, 1, 2, 3, 4}


def test_frequencies_follow_the_softmax() -> None:
    sampler = Sampler(2.0, seed=1)
    counts = torch.zeros(5)
    for _ in range(4000):
        counts[sampler.sample(LOGITS)] += 1
    expected = torch.softmax(LOGITS / 2, -1)
    assert (counts / 4000 - expected).abs().max() < 0.03


def test_one_seed_one_sequence_and_a_saved_state_goes_on_exactly() -> None:
    def run(s: Sampler, n: int) -> list[int]:
        return [s.sample(LOGITS) for _ in range(n)]

    a, b = Sampler(1.5, frequency=0.2, seed=7), Sampler(1.5, frequency=0.2, seed=7)
    assert run(a, 20) == run(b, 20) != run(Sampler(1.5, frequency=0.2, seed=8), 20)
    saved = json.loads(json.dumps(a.get_state()))
    rest = run(a, 20)
    fresh = Sampler()
    fresh.set_state(saved)
    assert run(fresh, 20) == rest and fresh.get_state() == a.get_state()


def test_bad_settings_and_nan_are_one_line() -> None:
    for bad in ({"temperature": -1}, {"top_p": 1.5}, {"top_k": -1}, {"temperature": float("nan")}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            Sampler(**bad)
    with pytest.raises(UsageError, match="not a sampler's state"):
        Sampler().set_state({"seed": 1})
    with pytest.raises(RwkvEditError, match="NaN"):
        Sampler().sample(torch.tensor([1.0, float("nan")]))


def test_the_same_reply_either_way(toy: LoadedModel, tmp_path: Path) -> None:
    logits, state = toy.model.forward([7, 8])
    replies = [
        generate(toy.model, logits, state, Sampler(1.0, seed=3), 30, [], toy.tokenizer)
        for _ in range(2)
    ]
    assert replies[0].tokens == replies[1].tokens
    assert replies[0].state.equal(replies[1].state)
