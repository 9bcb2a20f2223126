"""Crown and causal trace equal what a plain forward pass with the same thing zeroed or put back
would say, on every family of blocks and on RWKV-7."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_models import toy_loaded

from rwkvedit.errors import UsageError
from rwkvedit.transformer import Record, Steer, open_session
from rwkvedit.transformer.answers import answer_of, find_subject
from rwkvedit.transformer.rwkv import RwkvModel
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.trace import KINDS, embedding_std, window_of
from rwkvedit.transformer.vocabulary import Vocabulary, WorldCodec

PROMPT = "Bob lives in Austin and Ann lives in"
SUBJECT = "Ann"


@pytest.fixture(scope="module", params=["toy", "toy-gpt2", "toy-neox", "rwkv7"])
def toy(request, tmp_path_factory):
    if request.param != "rwkv7":
        return open_session(request.param)
    loaded = toy_loaded(tmp_path_factory.mktemp("toy"), seed=4, n_layer=3)
    return ModelSession(
        RwkvModel(loaded.model), Vocabulary(WorldCodec(loaded.tokenizer)), "toy-rwkv7"
    )


def sequence_p(session, ids, answer, **run):
    """Probability of ``answer`` after ``ids``, by one plain forward pass over all of it."""
    logits = session.run([*ids, *answer[:-1]], logits="all", **run).logits[0]
    chosen = logits[len(ids) - 1 :].log_softmax(-1)
    return math.exp(sum(float(chosen[i, t]) for i, t in enumerate(answer)))


# -- crown ----------------------------------------------------------------------------------


def test_crown_equals_ablating_one_mlp_after_another(toy):
    result = toy.crown(PROMPT)
    whole = toy.forward(PROMPT)
    assert result.answer.own and result.answer.tokens == [whole.argmax]
    assert result.p == pytest.approx(whole.p(whole.argmax), abs=1e-5)
    assert [row.layer for row in result.scan] == list(range(toy.n_layer))
    for row in result.scan:
        one = toy.forward_ablate(PROMPT, row.layer, "mlp", None)
        assert row.p == pytest.approx(one.p(whole.argmax), abs=1e-5)
        assert row.delta_p == pytest.approx(row.p - result.p, abs=1e-12)
        assert row.top == toy.piece(one.argmax)
        assert row.flips == (one.argmax != whole.argmax)
    assert max(abs(row.delta_p) for row in result.scan) > 1e-3


def test_the_crown_is_the_most_negative_among_those_that_flip(toy):
    result = toy.crown(PROMPT)
    flipping = [row for row in result.scan if row.flips]
    best = min(flipping or result.scan, key=lambda row: row.delta_p)
    assert (result.crown, result.flips) == (best.layer, bool(flipping))
    others = [row.layer for row in result.scan if not row.flips]
    if others:
        one = toy.crown(PROMPT, layers=others)
        assert not one.flips
        assert one.crown == min(one.scan, key=lambda row: row.delta_p).layer


def test_crown_reads_several_tokens_as_one_sequence(toy):
    ids, answer = toy.tokens(PROMPT), toy.tokens(" Paris and Rome")
    assert len(answer) > 1
    result = toy.crown(PROMPT, answer)
    assert result.p == pytest.approx(sequence_p(toy, ids, answer), rel=1e-4)

    def zero(x):
        x = x.clone()
        x[:, len(ids) - 1] = 0
        return x

    for row in result.scan:
        plain = sequence_p(toy, ids, answer, taps={f"blocks.{row.layer}.ffn.out": zero})
        assert row.p == pytest.approx(plain, rel=1e-3)


def test_a_range_of_layers_is_a_part_of_the_whole_scan(toy):
    whole, part = toy.crown(PROMPT), toy.crown(PROMPT, layers="1:3")
    assert [row.layer for row in part.scan] == [1, 2]
    for row in part.scan:
        assert row.p == pytest.approx(whole.scan[row.layer].p, abs=1e-6)


def test_crown_of_a_single_token_needs_no_prefix(toy):
    ids = toy.tokens(PROMPT)[:1]
    result = toy.crown(ids)
    one = toy.forward_ablate(ids, result.crown, "mlp", None)
    row = next(row for row in result.scan if row.layer == result.crown)
    assert row.p == pytest.approx(one.p(result.answer.tokens[0]), abs=1e-5)


def test_an_active_hook_stays_active_and_the_session_is_as_it_was(toy):
    vector = np.random.default_rng(0).normal(size=toy.d_model).astype(np.float32)
    before = toy.forward(PROMPT).logits
    hooks = [Steer(0, vector, 2.0), Steer(1, vector, 2.0, 0)]
    with toy.hooked(*hooks):
        steered = toy.forward(PROMPT)
        result = toy.crown(PROMPT)
        traced = toy.trace(PROMPT, SUBJECT, kinds=["state"], runs=2)
    assert np.abs(steered.logits - before).max() > 0.01
    assert result.p == pytest.approx(steered.p(steered.argmax), abs=1e-5)
    assert traced.clean == pytest.approx(result.p, abs=1e-5)
    assert np.array_equal(toy.forward(PROMPT).logits, before)


def test_what_crown_cannot_do_is_said_in_one_line(toy):
    n = toy.n_layer
    for act, line in (
        (lambda: toy.crown(""), "the prompt '' has no tokens"),
        (lambda: toy.crown(PROMPT, ""), "the expected answer '' has no tokens"),
        (lambda: toy.crown(PROMPT, []), "the expected answer .* has no tokens"),
        (lambda: toy.crown(PROMPT, [10**6]), "outside the model's vocabulary"),
        (lambda: toy.crown(PROMPT, layers=f"1:{n + 1}"), f"the model has layers 0 to {n - 1}"),
        (lambda: toy.crown(PROMPT, layers="2:2"), "no layers 2:2"),
        (lambda: toy.crown(PROMPT, layers="x"), "give a number, a:b"),
    ):
        with pytest.raises(UsageError, match=line) as error:
            act()
        assert "\n" not in str(error.value)


def test_a_word_is_read_as_the_model_reads_it(toy):
    ids = toy.tokens(PROMPT)
    said = toy.tokens("Paris"), toy.tokens(" Paris")
    p = [sequence_p(toy, ids, tokens) for tokens in said]
    answer = answer_of(toy, ids, "Paris")
    assert answer.tokens == said[p.index(max(p))] and answer.spaced == (p[1] > p[0])
    assert answer_of(toy, ids, " Paris").tokens == said[1]
    assert answer_of(toy, toy.tokens(PROMPT + " "), "Paris").tokens == said[0]


# -- starting in the middle -----------------------------------------------------------------


def test_a_run_that_starts_at_a_layer_equals_the_whole_run(toy):
    ids = toy.tokens(PROMPT)
    record = Record(None, "resid_in")
    whole = toy.run(ids, [record]).logits
    cache = toy.prefill(ids[:4])
    for layer in range(toy.n_layer if toy.kind == "transformer" else 1):
        h = record.tensors_of(f"blocks.{layer}.resid_in")[0]
        seen = Record(None, "resid_out")
        entered = toy.run(ids, [seen], enter=(layer, h)).logits
        assert torch.allclose(entered, whole, atol=1e-5)
        if layer and toy.kind == "transformer":
            assert f"blocks.{layer - 1}.resid_out" not in list(seen)
        behind = toy.run(ids[4:], cache=cache, enter=(layer, h[:, 4:])).logits
        assert torch.allclose(behind, whole, atol=1e-4)
    assert torch.equal(toy.run(ids).logits, toy.run(ids).logits)
    other = toy.run(ids, enter=(0, torch.zeros_like(h))).logits
    assert not torch.allclose(other, whole, atol=1e-3)


def test_a_residual_that_cannot_enter_is_refused(toy):
    ids = toy.tokens(PROMPT)
    h = torch.zeros(1, len(ids), toy.d_model)
    for act, line in (
        (lambda: toy.run(ids, enter=(0, h[:, 1:])), "the residual to enter has shape"),
        (lambda: toy.run(ids, enter=(99, h)), "no layer 99"),
        (lambda: toy.run(ids, enter=(1, h), keep_cache=True), "a cache can be kept only of"),
    ):
        with pytest.raises(UsageError, match=line):
            act()
    if toy.kind == "rwkv7":
        with pytest.raises(UsageError, match="RWKV-7 runs from layer 0"):
            toy.run(ids, enter=(1, h))


# -- causal trace ---------------------------------------------------------------------------


def plainly(session, kind, layer, at, runs, seed, window, answer):
    """One cell by whole forward passes without cache, batch or shared layers."""
    ids = session.tokens(PROMPT)
    places = find_subject(session, ids, SUBJECT)
    std = embedding_std(session, [ids[i] for i in places])
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(runs, len(places), session.d_model, generator=generator) * 3.0 * std
    site = KINDS[kind]
    record = Record(None, site)
    session.run([*ids, *answer[:-1]], [record])
    layers = [layer] if kind == "state" else window_of(layer, window, session.n_layer)

    def put(i):
        def tap(x):
            x = x.clone()
            x[:, at] = record.tensors_of(f"blocks.{i}.{site}")[0][0, at]
            return x

        return tap

    found = []
    for row in shift:

        def corrupt(x, row=row):
            x = x.clone()
            x[:, places] += row
            return x

        taps = {"blocks.0.resid_in": corrupt, **{f"blocks.{i}.{site}": put(i) for i in layers}}
        found.append(sequence_p(session, ids, answer, taps=taps))
    return sum(found) / runs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [None, " Paris and Rome"])
def test_a_cell_equals_whole_forward_passes(toy, kind, words, monkeypatch):
    monkeypatch.setattr("rwkvedit.transformer.trace.BATCH", 40)  # several batches of layers
    ids = toy.tokens(PROMPT)
    answer = [toy.forward(PROMPT).argmax] if words is None else toy.tokens(words)
    result = toy.trace(
        PROMPT, SUBJECT, None if words is None else answer, kinds=[kind], runs=3, seed=5, window=2
    )
    assert list(result.grids) == [kind] and result.answer.tokens == answer
    p, first = result.grids[kind].p, result.subject[0]
    assert p.shape == (toy.n_layer, len(ids))
    assert (p[:, :first] == result.corrupted).all()
    for layer in range(toy.n_layer):
        for at in (first, first + 1, len(ids) - 1):
            plain = plainly(toy, kind, layer, at, 3, 5, 2, answer)
            assert p[layer, at] == pytest.approx(plain, rel=2e-3), (layer, at)


def test_kinds_traced_together_are_what_each_is_alone(toy):
    every = toy.trace(PROMPT, SUBJECT, runs=2, window=2)
    assert list(every.grids) == list(KINDS)
    for kind in KINDS:
        alone = toy.trace(PROMPT, SUBJECT, runs=2, window=2, kinds=[kind]).grids[kind]
        assert np.allclose(every.grids[kind].p, alone.p, atol=1e-7)
        assert every.grids[kind].top == alone.top


def test_restoring_the_last_state_restores_the_answer(toy):
    result = toy.trace(PROMPT, SUBJECT, kinds=["state"], runs=4)
    assert result.clean == pytest.approx(toy.forward(PROMPT).top(1)[0].p, abs=1e-5)
    assert abs(result.clean - result.corrupted) > 1e-4
    state = result.grids["state"].p
    assert state[-1, -1] == pytest.approx(result.clean, abs=1e-5)
    assert result.grids["state"].top[-1][-1][0][0] == result.answer.text
    assert state[-1, :-1] == pytest.approx(result.corrupted, abs=1e-5)
    assert result.total_effect == result.clean - result.corrupted


def test_the_same_seed_gives_the_same_trace_and_another_another(toy):
    one, again, other = (
        toy.trace(PROMPT, SUBJECT, kinds=["state"], runs=2, seed=s) for s in (1, 1, 2)
    )
    assert np.array_equal(one.grids["state"].p, again.grids["state"].p)
    assert one.corrupted != other.corrupted and one.clean == other.clean


def test_progress_counts_cells_and_a_cancelled_trace_leaves_nothing_behind(toy, monkeypatch):
    monkeypatch.setattr("rwkvedit.transformer.trace.BATCH", 1)
    before, told = toy.forward(PROMPT).logits, []
    toy.trace(PROMPT, SUBJECT, runs=1, kinds=["mlp"], progress=lambda *n: told.append(n))
    places = len(toy.tokens(PROMPT)) - find_subject(toy, toy.tokens(PROMPT), SUBJECT)[0]
    assert told[-1] == (toy.n_layer * places,) * 2 and len(told) == toy.n_layer * places
    asked = []

    def cancel():
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(KeyboardInterrupt):
        toy.trace(PROMPT, SUBJECT, runs=1, cancel=cancel)
    assert len(asked) == 3 and np.array_equal(toy.forward(PROMPT).logits, before)


def test_the_subject_is_found_as_whole_words_wherever_it_stands(toy):
    ids = toy.tokens("Ann told Annabel that Ann lives in Boston")
    places = find_subject(toy, ids, "Ann")
    text = "".join(toy.piece(ids[i]) for i in places)
    assert text.replace(" ", "") == "AnnAnn"
    assert find_subject(toy, ids, "Annab")  # no whole word: a part of one
    for act, line in (
        (lambda: toy.trace(PROMPT, "Carl"), "the subject 'Carl' is not in the prompt"),
        (lambda: toy.trace(PROMPT, " "), "no subject"),
        (lambda: toy.trace("", "Ann"), "has no tokens"),
        (lambda: toy.trace(PROMPT, SUBJECT, kinds=["head"]), "no kind 'head' to restore"),
        (lambda: toy.trace(PROMPT, SUBJECT, kinds=[]), "nothing to restore"),
        (lambda: toy.trace(PROMPT, SUBJECT, noise=0), "above 0"),
        (lambda: toy.trace(PROMPT, SUBJECT, noise=math.nan), "finite"),
        (lambda: toy.trace(PROMPT, SUBJECT, runs=0), "runs 0: expected"),
        (lambda: toy.trace(PROMPT, SUBJECT, window=0), "window 0: expected"),
        (lambda: toy.trace(PROMPT, SUBJECT, seed=-1), "seed -1: expected"),
    ):
        with pytest.raises(UsageError, match=line) as error:
            act()
        assert "\n" not in str(error.value)


def test_a_subject_of_many_bytes_is_found(toy):
    ids = toy.tokens("Bob met Žofie Ñandú in Austin")
    places = find_subject(toy, ids, "Žofie Ñandú")
    assert toy.text([ids[i] for i in places]).strip() == "Žofie Ñandú"


def test_windows_lie_around_their_layer_and_are_cut_at_the_ends():
    assert list(window_of(6, 4, 12)) == [4, 5, 6, 7]
    assert list(window_of(0, 4, 12)) == [0, 1]
    assert list(window_of(11, 4, 12)) == [9, 10, 11]
    assert list(window_of(5, 1, 12)) == [5]
