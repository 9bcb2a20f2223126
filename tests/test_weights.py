"""Changes of weights are taken back bit for bit, in any order, whatever goes wrong on the way."""

from __future__ import annotations

import itertools

import pytest
import torch
from toy_models import toy_loaded

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.recurrent.checkpoint import tensors_digest
from rwkvedit.transformer import open_session, weights
from rwkvedit.transformer.blocks import HFModel
from rwkvedit.transformer.rwkv import RwkvModel
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.toy import toy_model
from rwkvedit.transformer.vocabulary import Vocabulary, WorldCodec
from rwkvedit.transformer.weights import Dense, RankOne, layer_norms, moved

PROMPT = "The capital of France is"


@pytest.fixture(params=["toy", "toy-gpt2", "toy-neox", "rwkv7"])
def toy(request, tmp_path):
    if request.param != "rwkv7":
        return open_session(request.param)
    loaded = toy_loaded(tmp_path, seed=4, n_layer=3)
    return ModelSession(
        RwkvModel(loaded.model), Vocabulary(WorldCodec(loaded.tokenizer)), "toy-rwkv7"
    )


def bits(session) -> str:
    return tensors_digest(session.model.named_weights())


def rank_one(session, layer=1, seed=0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    d, f = session.model.down_proj(layer).shape
    return RankOne(layer, scale * torch.randn(d, generator=g), torch.randn(f, generator=g) / f)


def dense(session, layer=1, seed=9):
    g = torch.Generator().manual_seed(seed)
    return Dense(layer, 0.1 * torch.randn(session.model.down_proj(layer).shape, generator=g))


def test_a_change_moves_the_answer_and_only_its_own_layer(toy):
    before, norms = toy.forward(PROMPT), layer_norms(toy)
    base = toy.model.down_proj(1).clone()
    delta = rank_one(toy)
    change = toy.edits.apply(delta)
    want = base + torch.outer(delta.left, delta.right)
    assert torch.allclose(toy.model.down_proj(1), want, atol=1e-6)
    assert change.layers == [1] and list(moved(norms, layer_norms(toy))) == [1]
    assert change.relative_change == pytest.approx(
        float((want - base).norm() / base.norm()), rel=1e-4
    )
    assert abs(toy.forward(PROMPT).logits - before.logits).max() > 1e-4


def test_every_order_of_applying_and_reversing_gives_the_same_bits(toy):
    start, digest = bits(toy), toy.digest
    deltas = [rank_one(toy), dense(toy), rank_one(toy, seed=2, scale=7.0), dense(toy, layer=2)]
    ends = set()
    for order in itertools.permutations(deltas):
        for delta in order:
            toy.edits.apply(delta)
        ends.add(bits(toy))
        assert toy.digest != digest
        for delta in (order[1], order[3], order[0], order[2]):
            toy.edits.remove(delta)
        assert bits(toy) == start and toy.digest == digest and toy.edits.live == ()
    assert len(ends) == 1


def test_restore_takes_everything_out_and_set_goes_back_to_any_moment(toy):
    start = bits(toy)
    toy.edits.apply(rank_one(toy))
    one, then = bits(toy), toy.edits.live
    toy.edits.apply(dense(toy), rank_one(toy, 0, seed=3))
    assert len(toy.edits.live) == 3
    toy.edits.set(then)
    assert bits(toy) == one
    assert sorted(toy.edits.restore().layers) == [1]
    assert bits(toy) == start


def test_a_trial_ends_with_its_block_even_on_ctrl_c(toy):
    toy.edits.apply(dense(toy))
    before = bits(toy)
    with pytest.raises(KeyboardInterrupt), toy.edits.applied(rank_one(toy)):
        assert bits(toy) != before
        raise KeyboardInterrupt
    assert bits(toy) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_fails_halfway_leaves_all_weights_as_they_were(toy, monkeypatch, error):
    toy.edits.apply(dense(toy, layer=0))
    before, plain = bits(toy), weights._sum

    def failing(base, layer, deltas):
        if layer == 1 and len(deltas) > 1:
            raise error
        return plain(base, layer, deltas)

    monkeypatch.setattr(weights, "_sum", failing)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else RwkvEditError):
        toy.edits.apply(rank_one(toy, 0), dense(toy, 1))
    assert bits(toy) == before and len(toy.edits.live) == 1


def test_nonsense_is_refused_in_one_line_before_anything_is_written(toy):
    start = bits(toy)
    d, f = toy.model.down_proj(0).shape
    for delta, said in [
        (RankOne(1, torch.full((d,), float("nan")), torch.ones(f)), "NaN"),
        (Dense(1, torch.full((d, f), float("inf"))), "NaN or infinity"),
        (RankOne(1, torch.ones(d + 1), torch.ones(f)), "expected"),
        (RankOne(99, torch.ones(d), torch.ones(f)), "no layer 99"),
    ]:
        with pytest.raises(UsageError, match=said):
            toy.edits.apply(delta)
    one = rank_one(toy)
    toy.edits.apply(one)
    with pytest.raises(UsageError, match="applied already"):
        toy.edits.apply(rank_one(toy))
    toy.edits.remove(one)
    with pytest.raises(UsageError, match="not applied"):
        toy.edits.remove(one)
    assert bits(toy) == start
    with pytest.raises(UsageError, match="twice"):
        toy.edits.set([one, rank_one(toy)])
    assert bits(toy) == start


def test_a_history_is_taken_over_only_when_it_gives_these_very_weights():
    old, new = open_session("toy"), open_session("toy")
    base, digest = old.model.down_proj(1).clone(), old.digest
    delta = rank_one(old)
    old.edits.apply(delta)
    assert not new.edits.adopt({1: base}, [delta], digest)
    new.model.down_proj(1).copy_(old.model.down_proj(1))
    new.weights_changed()
    assert new.edits.adopt({1: base}, [delta], digest)
    assert new.edits.base_digest == digest
    new.edits.remove(delta)
    assert new.digest == digest and bits(new) == bits(open_session("toy"))


def test_base_weights_of_another_precision_come_back_too():
    session = ModelSession(
        HFModel(toy_model().to(torch.bfloat16)), open_session("toy").vocabulary, "toy"
    )
    start = bits(session)
    session.edits.apply(rank_one(session), dense(session))
    assert bits(session) != start
    session.edits.restore()
    assert bits(session) == start
