"""The fused CPU forward pass against the torch path, by relative error, over odd shapes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from rwkvedit_kernels import packed
from rwkvedit_kernels.dispatch import backend_for, threads, torch_threads, use_backend
from rwkvedit_kernels.packed import PackedModel
from torch import Tensor
from toy_models import toy_model, toy_tensors

from rwkvedit.recurrent.model import RWKV7
from rwkvedit.recurrent.state import State

PROMPTS = [[5, 9, 200], [7], [11, 12, 13, 14, 15, 16, 17], [3, 2]]
SHAPES = [
    {"n_embd": 64, "head_size": 16, "n_layer": 2},
    {"n_embd": 128, "head_size": 32, "n_layer": 1, "n_ffn": 72, "vocab_size": 257},
    {"n_embd": 320, "head_size": 64, "n_layer": 5},
    {"n_embd": 40, "head_size": 20, "n_layer": 2},
    {"n_embd": 20, "head_size": 10, "n_layer": 2, "n_ffn": 30},
]


def relative(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).norm() / y.double().norm().clamp_min(1e-30))


def assert_same(fast: tuple[list[Tensor], State], slow: tuple[list[Tensor], State]) -> None:
    for x, y in zip(fast[0], slow[0], strict=True):
        assert x.shape == y.shape
        assert relative(x, y) < 1e-4
    for x, y in zip(fast[1].tensors(), slow[1].tensors(), strict=True):
        assert x.shape == y.shape
        assert relative(x, y) < 1e-4


def some_state(model: RWKV7, batch: int | None = None) -> State:
    g = torch.Generator().manual_seed(3)
    zero = model.zero_state(batch)
    return State(*(torch.randn(t.shape, generator=g) * 0.3 for t in zero.tensors()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_ragged_batch_equals_the_torch_path(shape: dict, tmp_path: Path) -> None:
    model = toy_model(tmp_path, **shape)
    state = some_state(model, len(PROMPTS))
    for full in (True, False):
        fast = model.forward(PROMPTS, state, full=full)
        with use_backend("ref"):
            assert backend_for("cpu") == "ref"
            slow = model.forward(PROMPTS, state, full=full)
        assert_same((list(fast[0]), fast[1]), (list(slow[0]), slow[1]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_last_positions_alone_are_what_a_whole_pass_gives(shape: dict, tmp_path: Path) -> None:
    model = toy_model(tmp_path, **shape)
    prompts = [[(7 * i + n) % 250 + 1 for i in range(n)] for n in (40, 1, 7, 25, 2)]
    tails = [3, 1, 7, 2, 1]
    state = some_state(model, len(prompts))
    fast = model.forward(prompts, state, tails=tails)
    with use_backend("ref"):
        whole, after = model.forward(prompts, state, full=True)
    ends = [x[len(x) - n :] for x, n in zip(whole, tails, strict=True)]
    assert_same((list(fast[0]), fast[1]), (ends, after))
    last, _ = model.forward(prompts, state)
    assert_same((list(last), fast[1]), ([x[-1] for x in ends], after))


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_steps_one_by_one_equal_one_prefill(shape: dict, tmp_path: Path) -> None:
    model = toy_model(tmp_path, **shape)
    tokens = [(7 * i) % 250 + 1 for i in range(40)]  # long enough to run on columns
    state = model.zero_state()
    for token in tokens:
        logits, state = model.forward([token], state)
    whole, after = model.forward(tokens)
    assert_same(([logits], state), ([whole], after))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 13, 16])
def test_a_batch_of_states_steps_as_each_alone(rows: int, tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    states = some_state(model, rows)
    ids = [(17 * b) % 250 + 1 for b in range(rows)]
    logits, after = model.step(ids, states)
    for b, token in enumerate(ids):
        alone, one = model.forward([token], states[b])
        assert_same(([logits[b]], after[b]), ([alone], one))


def test_one_state_serves_every_prompt(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    state = some_state(model)
    shared = model.forward(PROMPTS, state)
    stacked = model.forward(PROMPTS, State.stack([state] * len(PROMPTS)))
    assert torch.equal(shared[0], stacked[0])
    assert shared[1].equal(stacked[1])


def test_the_callers_state_is_not_touched(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    state = some_state(model, 2)
    before = state.clone()
    model.forward([[1, 2, 3], [4]], state)
    model.step([1, 2], state)
    assert state.equal(before)


def test_a_long_prompt_in_several_passes_equals_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy_model(tmp_path)
    state = some_state(model, len(PROMPTS))
    once = model.forward(PROMPTS, state, full=True)
    monkeypatch.setattr(packed, "_MAX_ROWS_PER_PASS", 8)
    for full in (True, False):
        often = model.forward(PROMPTS, state, full=full)
        logits = once[0] if full else [x[-1] for x in once[0]]
        assert_same((list(often[0]), often[1]), (list(logits), once[1]))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_does_not_change_a_bit(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_BYTES_PER_WORKER", 1)  # or a toy runs on one thread
    model = toy_model(tmp_path)
    state = some_state(model, len(PROMPTS))
    one = model.packed.forward(PROMPTS, *state.tensors(), full=True, threads=1)
    more = model.packed.forward(PROMPTS, *state.tensors(), full=True, threads=threads)
    for x, y in zip(one[0], more[0], strict=True):
        assert torch.equal(x, y)
    for x, y in zip(one[1:], more[1:], strict=True):
        assert torch.equal(x, y)


def test_a_job_ends_when_no_helper_ever_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwkvedit_kernels import pool

    monkeypatch.setattr(packed, "_BYTES_PER_WORKER", 1)
    model = toy_model(tmp_path)
    expected, _ = model.forward([1, 2, 3])
    monkeypatch.setattr(pool._helpers, "offer", lambda *_: None)
    found, _ = model.forward([1, 2, 3])
    assert torch.equal(found, expected)


def test_several_python_threads_may_run_at_once(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    prompts = [[b + 1, b + 2, b + 3] for b in range(4)]
    expected = [model.forward(p)[0] for p in prompts]
    found: dict[int, Tensor] = {}

    def work(b: int) -> None:
        for _ in range(5):
            found[b] = model.forward(prompts[b])[0]

    threads = [threading.Thread(target=work, args=(b,)) for b in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for b in range(4):
        assert torch.equal(found[b], expected[b])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_width_weights_compute_in_float32(dtype: torch.dtype) -> None:
    tensors = toy_tensors(dtype=dtype)
    half = PackedModel(tensors)
    wide = PackedModel({k: t.float() for k, t in tensors.items()}, torch.float32)
    assert half.dtype == dtype  # nothing is lost, so it is the default
    assert half.nbytes * 2 == wide.nbytes
    state = (torch.zeros(1, 2, 64), torch.zeros(1, 2, 4, 16, 16), torch.zeros(1, 2, 64))
    for x, y in zip(
        half.forward([[4, 8, 15]], *state)[0], wide.forward([[4, 8, 15]], *state)[0], strict=True
    ):
        assert relative(x, y) < 1e-6


def test_weights_that_half_a_word_would_round_stay_float32() -> None:
    assert PackedModel(toy_tensors()).dtype == torch.float32


def test_not_a_number_in_the_state_reaches_the_logits(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    state = some_state(model)
    state.wkv[0, 0, 0, 0] = torch.nan
    logits, after = model.forward([1, 2], state)
    assert torch.isnan(logits).all()
    assert torch.isnan(after.wkv).any()


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    model = PackedModel(toy_tensors())
    state = (torch.zeros(1, 2, 64), torch.zeros(1, 2, 4, 16, 16), torch.zeros(1, 2, 64))
    for token in (-1, 300):
        with pytest.raises(ValueError, match=r"0\.\.299"):
            model.step([token], *state)


def test_torch_can_be_kept_to_one_thread_while_the_kernels_keep_theirs() -> None:
    before, own = torch.get_num_threads(), threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
        assert threads() == own
        with torch_threads(before):
            assert torch.get_num_threads() == before
        assert torch.get_num_threads() == 1
    with pytest.raises(KeyError), torch_threads(1):
        raise KeyError
    assert torch.get_num_threads() == before
    assert threads() == own
