"""Our own RWKV-7 answers through the same session interface."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_models import toy_loaded

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.hooks import Record as RecurrentRecord
from rwkvedit.transformer import Hook, Noop, Record, Steer, ZeroAblate, open_session
from rwkvedit.transformer.rwkv import RwkvModel
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.vocabulary import Vocabulary, WorldCodec

PROMPT = "Bob lives in"
OTHER = "a dog in"
L, D = 3, 64
VECTOR = np.random.default_rng(0).normal(size=D).astype(np.float32)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return toy_loaded(tmp_path_factory.mktemp("toy"), seed=4, n_layer=L)


@pytest.fixture(scope="module")
def toy(loaded):
    codec = WorldCodec(loaded.tokenizer)
    return ModelSession(RwkvModel(loaded.model), Vocabulary(codec), "toy-rwkv7")


def close(a, b, atol=2e-5):
    np.testing.assert_allclose(a, b, atol=atol, rtol=0)


def test_logits_are_the_engines_own(toy, loaded):
    ids = toy.tokens(PROMPT)
    logits, _ = loaded.model.forward(ids)
    close(toy.forward(PROMPT).logits, logits.numpy())
    close(toy.forward(PROMPT, [Noop()]).logits, logits.numpy())
    assert toy.kind == "rwkv7" and toy.digest == loaded.model.digest


def test_residuals_and_activations_have_the_engines_names(toy, loaded):
    _, got = toy.forward_with_capture(PROMPT, sites=("resid_mid", "ffn.key", "hook_mlp_out"))
    names = ["blocks.1.resid_mid", "blocks.1.ffn.key", "blocks.1.ffn.out"]
    record = RecurrentRecord(names)
    loaded.model.forward(toy.tokens(PROMPT), hooks=record.hooks)
    for name in names:
        close(got[name], record[name][0].numpy())
    close(got["blocks.1.ffn.key"] @ toy.model.down_proj(1).numpy().T, got["blocks.1.ffn.out"])


def test_zeroed_channel_mix_equals_a_zeroed_ffn_value(toy):
    ablated = toy.forward_ablate(PROMPT, 1, "mlp").logits
    plain = toy.forward(PROMPT).logits
    weight = toy.model.down_proj(1)
    kept = weight.clone()
    weight.zero_()
    toy.weights_changed()
    try:
        close(toy.forward(PROMPT).logits, ablated)
        assert toy.digest != toy.model.model.digest
    finally:
        weight.copy_(kept)
        toy.weights_changed()
    assert np.abs(ablated - plain).max() > 0.01
    close(toy.forward(PROMPT).logits, plain)


def test_callbacks_steer_and_ablate(toy):
    class Double(Hook):
        layers = (L - 1,)

        def on_post_layer(self, layer, h):
            return h + h

    last = toy.capture_residuals(PROMPT)[L - 1][-1]
    close(toy.forward(PROMPT, [Double()]).logits, toy.unembed(torch.tensor(2 * last)).numpy())
    steered = toy.forward_steer(PROMPT, L - 1, VECTOR, 3.0).logits
    close(steered, toy.unembed(torch.tensor(last + 3 * VECTOR)).numpy())
    zeroed = toy.forward_ablate(PROMPT, L - 1).logits
    close(zeroed, toy.unembed(torch.zeros(D)).numpy())


def test_the_lens_ends_at_the_models_answer(toy):
    lens = toy.logit_lens(PROMPT, top=4)
    want = toy.forward(PROMPT).top(4)
    assert [t.id for t in lens.rows[-1][0].top] == [t.id for t in want]
    parts = toy.direct_logits(PROMPT, 70)
    total = parts.embedding + parts.attention.sum() + parts.mlp.sum()
    assert total == pytest.approx(parts.total, abs=1e-3)
    assert toy.track_race(PROMPT, [70, 71]).leader[-1] in (70, 71)


def test_patching_carries_the_donors_answer(toy):
    result = toy.patch_activations(OTHER, PROMPT, L - 1)
    close(result.after.logits, toy.forward(OTHER).logits)
    same = toy.patch_activations(PROMPT, PROMPT, 0, 1)
    close(same.after.logits, same.before.logits)


@pytest.mark.parametrize("hooks", [
    lambda: [], lambda: [Steer(1, VECTOR, 2.0)], lambda: [ZeroAblate([0, 1], "mlp")],
    lambda: [ZeroAblate(1, "attention", [0, -1]), Record()],
])  # fmt: skip
def test_generation_from_the_state_equals_running_the_whole_text_again(toy, hooks):
    fast = toy.generate_with_hooks(PROMPT, hooks(), 8, stop_ids=())
    slow = toy.generate_with_hooks(PROMPT, hooks(), 8, stop_ids=(), kv_cache=False)
    assert fast.tokens == slow.tokens and len(fast.tokens) == 8


def test_a_state_serves_as_the_cached_prefix_of_many_rows(toy):
    ids = toy.tokens(PROMPT)
    cache = toy.prefill(ids[:-1])
    assert cache.length == len(ids) - 1
    rows = toy.run([ids[-1:]] * 3, cache=cache).logits.numpy()
    for row in rows:
        close(row, toy.forward(ids).logits)


def test_neighbours_and_rows_come_from_its_own_embedding(toy):
    row = toy.embedding_for(5)
    assert toy.embedding_neighbors(row, 1)[0].id == 5
    close(toy.unembedding_for(5), toy.model.unembedding[5].numpy())
    close(toy.project_through_unembed(row).logits, toy.model.unembedding.numpy() @ row, 1e-3)


def test_what_a_recurrent_model_lacks_is_said_in_one_line(toy):
    class Weights(Hook):
        def on_attention_weights(self, layer, w):
            pass

    state = toy.prefill(PROMPT)
    for act, line in (
        (lambda: toy.forward(PROMPT, [Weights()]), "RWKV-7 has no attention weights"),
        (lambda: toy.attention_pattern(PROMPT, 0), "RWKV-7 has no attention weights"),
        (lambda: toy.forward(PROMPT, [Record(0, "attn.hook_pattern")]), "no attention weights"),
        (lambda: toy.clone_layer_from(state, state, 0), "no key-value cache"),
        (lambda: toy.clone_layer_position_range(state, state, 0, 0, 1), "no key-value cache"),
        (lambda: state.clone_layer_from(state, 0), "no key-value cache"),
        (lambda: toy.tokens(PROMPT, bos=True), "no BOS token"),
        (lambda: toy.token_id(" in Austin"), "is 2 tokens"),
        (lambda: toy.forward_ablate(PROMPT, 3), "no layer 3: the model has layers 0 to 2"),
        (lambda: toy.forward_steer(PROMPT, 0, VECTOR[:5]), "the residual is 64 wide"),
    ):
        with pytest.raises(UsageError, match=line) as error:
            act()
        assert "\n" not in str(error.value)


def test_the_embedded_model_opens_by_name(embedded):
    session = open_session("embedded", "cpu")
    assert session.kind == "rwkv7" and session.digest == embedded.model.digest
    assert session.forward("User: Where does Bob live?\n\nAssistant:").top(1)[0].p > 0
