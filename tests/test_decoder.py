"""Decoding on a standing job: what helpers that stay inside may never change."""

from __future__ import annotations

import threading
import weakref

import pytest
import torch
from rwkvedit_kernels import packed, pool
from rwkvedit_kernels.crew import Crew
from rwkvedit_kernels.packed import PackedModel
from toy_models import toy_tensors

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


@pytest.fixture
def model(monkeypatch) -> PackedModel:
    monkeypatch.setattr(packed, "_BYTES_PER_WORKER", 1)  # a toy is small
    return PackedModel(toy_tensors())


@pytest.fixture
def crowd(monkeypatch):
    """Every job has three threads, whatever is faster."""
    monkeypatch.setattr(Crew, "pick", lambda self: min(3, self.choices[0]))


def start(model: PackedModel, *lead: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    return [torch.randn((*lead, *shape), generator=g) for shape in model.state_shapes]


def decode(model: PackedModel, tokens: list[int], threads: int) -> list[list[torch.Tensor]]:
    """Logits and state after each token, all kept."""
    state, seen = start(model, 1), []
    for token in tokens:
        logits, *state = model.step([token], *state, threads=threads)
        seen.append([logits, *state])
    return seen


def assert_equal(found, expected):
    for some, others in zip(found, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            assert torch.equal(one, other)


def test_helpers_change_no_bit_of_any_token_nor_of_an_earlier_one(model, crowd):
    tokens = [t % model.vocab_size for t in range(150)]
    assert_equal(decode(model, tokens, 3), decode(model, tokens, 1))


def test_a_token_equals_a_prompt_of_one(model, crowd):
    state = start(model)
    one = model.step_one(3, *state)
    logits, *after = model.run(
        torch.tensor([3]).numpy(), [1], torch.tensor([0]).numpy(), *(t[None] for t in state))
    assert_equal([one], [[logits[0], *(t[0] for t in after)]])


def test_other_jobs_between_tokens_call_the_helpers_away_and_back(model, crowd):
    prompt = [TOKENS]
    zero = [torch.zeros(1, *shape) for shape in model.state_shapes]
    expected = model.forward(prompt, *zero, threads=1)
    state = start(model, 1)
    alone = decode(model, TOKENS, 1)
    for token, known in zip(TOKENS, alone, strict=True):
        logits, *state = model.step([token], *state, threads=3)
        assert_equal([[logits, *state]], [known])
        found = model.forward(prompt, *zero, threads=3)
        assert torch.equal(found[0], expected[0])


def test_several_python_threads_decode_at_once(model, crowd):
    expected = decode(model, TOKENS, 1)
    found = {}

    def work(name: int) -> None:
        for _ in range(20):
            found[name] = decode(model, TOKENS, 3)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(4):
        assert_equal(found[name], expected)


def test_a_token_is_decoded_when_no_helper_ever_comes(model, crowd, monkeypatch):
    expected = decode(model, TOKENS, 1)
    monkeypatch.setattr(pool._helpers, "offer", lambda *_: None)
    assert_equal(decode(model, TOKENS, 3), expected)


def test_a_shared_state_and_one_of_another_type_are_read_and_left_alone(model, crowd):
    state = start(model, 1)
    kept = [t.clone() for t in state]
    alone = [model.step([token], *state) for token in TOKENS[:4]]
    shared = model.step(TOKENS[:4], *(t.expand(4, *t.shape[1:]) for t in state))
    for row, one in enumerate(alone):
        for whole, single in zip(shared, one, strict=True):
            torch.testing.assert_close(whole[row], single[0])
    double = model.step([TOKENS[0]], *(t.double() for t in state))
    assert_equal([double], [alone[0]])
    assert_equal([state], [kept])


def test_helpers_sleep_when_nothing_more_comes(model, crowd):
    decode(model, TOKENS, 3)
    presence = [job.ctrl for job in model.decoders._local.jobs.values()]
    deadline = threading.Event()
    for _ in range(100):
        if all(ctrl[packed.fused.C_PRESENT] == 0 for ctrl in presence):
            break
        deadline.wait(0.01)
    assert all(ctrl[packed.fused.C_PRESENT] == 0 for ctrl in presence)
    assert all(ctrl[packed.fused.C_ROUND] % 2 == 0 for ctrl in presence), "every round closed"


def test_a_thread_holds_on_to_a_few_jobs_only(model, crowd):
    for count in range(1, 20):
        model.step([1] * count, *(t.expand(count, *t.shape[1:]) for t in start(model, 1)))
    assert len(model.decoders._local.jobs) <= 8
    assert_equal(decode(model, TOKENS, 3), decode(model, TOKENS, 1))


@pytest.mark.parametrize("rows", [2, 4])
def test_a_state_of_other_rows_is_refused(model, rows):
    with pytest.raises(ValueError, match=f"{rows}"):
        model.step(TOKENS[:3], *start(model, rows))
    with pytest.raises(ValueError, match=f"{rows}"):
        model.forward([TOKENS] * 3, *start(model, rows), tails=[1, 1, 1])


def test_what_ran_before_leaves_nothing_in_the_padding(monkeypatch):
    narrow = PackedModel(toy_tensors(n_embd=60, head_size=20))
    zero = [torch.zeros(1, *shape) for shape in narrow.state_shapes]
    clean = narrow.step([3], *zero)
    narrow.forward([TOKENS], *(torch.full_like(t, float("nan")) for t in zero))
    assert_equal([narrow.step([3], *zero)], [clean])


def test_a_model_that_nobody_holds_is_freed_at_once():
    model = PackedModel(toy_tensors())
    model.step([1], *start(model, 1))
    gone = weakref.ref(model)
    del model
    assert gone() is None
