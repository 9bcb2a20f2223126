"""State as a value."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rwkvedit.recurrent.state import State


def random_state(seed: int = 0, batch: int | None = None) -> State:
    g = torch.Generator().manual_seed(seed)
    zero = State.zeros(2, 3, 4, 12, batch)
    return State(*(torch.randn(x.shape, generator=g) for x in zero.tensors()))


def test_stacking_and_unstacking_gives_the_same_states() -> None:
    states = [random_state(s) for s in range(3)]
    stack = State.stack(states)
    assert stack.batch == 3 and stack.wkv.shape == (3, 2, 3, 4, 4)
    assert all(a.equal(b) for a, b in zip(stack.unstack(), states, strict=True))
    assert stack[2].equal(states[2])


def test_a_single_state_cannot_be_indexed() -> None:
    with pytest.raises(IndexError, match="one conversation"):
        random_state()[0]


def test_equality_is_bit_exact() -> None:
    state = random_state()
    assert state.equal(state.clone())
    nudged = state.wkv.clone()
    nudged[0, 0, 0, 0] = torch.nextafter(nudged[0, 0, 0, 0], torch.tensor(9.0))
    assert not state.equal(state.replace(wkv=nudged))
    zero = State.zeros(1, 1, 4, 4)
    assert not zero.equal(zero.replace(att_x=-zero.att_x))


def test_a_state_cannot_be_reassigned_and_replace_leaves_it_alone() -> None:
    state = random_state()
    before = state.clone()
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.wkv = state.wkv * 2  # type: ignore[misc]
    assert not state.replace(wkv=state.wkv * 2).equal(state)
    assert state.equal(before)


def test_the_norm_is_over_the_chosen_layers() -> None:
    state = random_state()
    assert state.norm() == pytest.approx(float(state.wkv.norm()), rel=1e-6)
    assert state.norm(slice(1, 2)) == pytest.approx(float(state.wkv[1].norm()), rel=1e-6)
    stack = State.stack([state, random_state(1)])
    assert stack.norm([1])[0] == pytest.approx(state.norm([1]))


def test_expanding_repeats_without_copying() -> None:
    state = random_state()
    assert state.expand(4).wkv.data_ptr() == state.wkv.data_ptr()
    assert state.expand(4)[3].equal(state)
