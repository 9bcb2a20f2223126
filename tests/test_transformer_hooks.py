"""Hooks on transformers see and replace what flows, refuse what does not fit, and come off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvedit.errors import UsageError
from rwkvedit.transformer import Composite, Hook, Noop, Record, Steer, ZeroAblate, open_session
from rwkvedit.transformer.hooks import ALIASES, SITES
from rwkvedit.transformer.toy import toy_session

PROMPT = "The capital of France is"
D, F, L, H = 32, 48, 4, 4


@pytest.fixture(scope="module", params=["toy", "toy-gpt2", "toy-neox", "neox-sequential"])
def toy(request):
    if request.param == "neox-sequential":
        return toy_session("gpt_neox", use_parallel_residual=False)
    return open_session(request.param)


@pytest.fixture(scope="module")
def llama():
    return open_session("toy")


def close(a, b, atol=1e-5):
    np.testing.assert_allclose(a, b, atol=atol, rtol=0)


class Seen(Hook):
    def __init__(self):
        self.shapes = {}

    def on_pre_layer(self, layer, h):
        self.shapes["pre", layer] = h.shape

    def on_attention_weights(self, layer, w):
        self.shapes["weights", layer] = w.shape
        np.testing.assert_allclose(w.sum(-1), 1, atol=1e-5)
        assert not np.triu(w[0, 0], 1).any()

    def on_post_attention(self, layer, h):
        self.shapes["mid", layer] = h.shape

    def on_ffn_activation(self, layer, act):
        self.shapes["ffn", layer] = act.shape

    def on_post_layer(self, layer, h):
        self.shapes["post", layer] = h.shape


def test_all_five_callbacks_see_every_layer_in_numpy_and_change_nothing(toy):
    seen, n = Seen(), len(toy.tokens(PROMPT))
    close(toy.forward(PROMPT, [seen]).logits, toy.forward(PROMPT).logits, 2e-5)
    for layer in range(L):
        assert seen.shapes["weights", layer] == (1, H, n, n)
        assert seen.shapes["ffn", layer] == (1, n, F)
        assert {seen.shapes[k, layer] for k in ("pre", "mid", "post")} == {(1, n, D)}


def test_captured_residuals_are_the_hidden_states_that_transformers_reports(toy):
    ids = toy.tokens(PROMPT)
    with torch.no_grad():
        out = toy.model.model(torch.tensor([ids]), output_hidden_states=True)
    captured = toy.capture_residuals(PROMPT)
    for layer in range(L - 1):
        close(captured[layer], out.hidden_states[layer + 1][0].numpy())
    close(toy.unembed(torch.tensor(captured[L - 1]))[-1].numpy(), out.logits[0, -1].numpy())


def test_each_layer_adds_attention_and_mlp_to_what_entered(toy):
    _, got = toy.forward_with_capture(PROMPT, sites=SITES)
    for i in range(L):
        part = {site: got[f"blocks.{i}.{site}"] for site in SITES}
        close(part["resid_in"] + part["att.out"], part["resid_mid"])
        close(part["resid_mid"] + part["ffn.out"], part["resid_out"])
        down = toy.model.down_proj(i).numpy()
        bias = part["ffn.out"][0] - part["ffn.key"][0] @ down.T
        close(part["ffn.key"] @ down.T + bias, part["ffn.out"])


def test_every_alias_reads_what_its_official_name_reads(toy):
    for alias, site in ALIASES.items():
        record = Record(1, alias)
        toy.forward(PROMPT, [record])
        assert np.array_equal(record[f"blocks.1.{alias}"], record[f"blocks.1.{site}"])


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_ablating_a_sublayer_equals_zeroing_its_output_weights(toy, part):
    ablated = toy.forward_ablate(PROMPT, 2, part).logits
    block = toy.model.layers[2]
    f = toy.model.family
    module = {
        "attention": lambda: next(
            m for name, m in getattr(block, f.attention).named_modules()
            if name in ("o_proj", "c_proj", "dense")
        ),
        "mlp": lambda: getattr(block.mlp, f.down),
    }[part]()  # fmt: skip
    kept = [p.detach().clone() for p in module.parameters()]
    try:
        for p in module.parameters():
            p.data.zero_()
        close(ablated, toy.forward(PROMPT).logits)
    finally:
        for p, before in zip(module.parameters(), kept, strict=True):
            p.data.copy_(before)
    assert np.abs(ablated - toy.forward(PROMPT).logits).max() > 0.01


def test_a_zeroed_last_residual_leaves_the_norm_of_nothing(toy):
    expected = toy.unembed(torch.zeros(1, D))[0].numpy()
    close(toy.forward_ablate(PROMPT, L - 1).logits, expected)


def test_ablating_given_positions_leaves_the_others_alone(toy):
    record = Record(1)
    plain = toy.capture_residuals(PROMPT)[1]
    toy.forward(PROMPT, [Composite(ZeroAblate(1, positions=[1, -1]), record)])
    got = record["blocks.1.resid_out"][0]
    assert not got[1].any() and not got[-1].any()
    keep = [0, *range(2, len(plain) - 1)]
    assert np.array_equal(got[keep], plain[keep])


def test_steering_adds_alpha_times_the_vector_at_the_last_row(toy):
    vector = np.random.default_rng(0).normal(size=D).astype(np.float32)
    plain = toy.capture_residuals(PROMPT)[L - 1]
    steered = toy.forward_steer(PROMPT, L - 1, vector, -1.5)
    want = toy.unembed(torch.tensor(plain[-1] - 1.5 * vector)).numpy()
    close(steered.logits, want)
    record = Record(1)
    toy.forward(PROMPT, [Steer().add(1, vector, 2.0).add(1, vector, 1.0, positions=0), record])
    moved = record["blocks.1.resid_out"][0] - toy.capture_residuals(PROMPT)[1]
    close(moved[-1], 2 * vector)
    close(moved[0], vector)
    assert not moved[1:-1].any()


def test_a_returned_array_takes_the_place_of_the_residual(toy):
    class Swap(Hook):
        layers = (1,)

        def on_post_attention(self, layer, h):
            return h * 0

        def on_post_layer(self, layer, h):
            assert not h.flags.writeable
            return h + 1

    record = Record(1, ("resid_mid", "resid_out"))
    toy.forward(PROMPT, [Swap(), record])
    assert not record["blocks.1.resid_mid"].any()
    seen = Record(2, "resid_in")
    toy.forward(PROMPT, [Swap(), seen])
    assert np.array_equal(seen["blocks.2.resid_in"], record["blocks.1.resid_out"])


def test_taps_by_name_replace_any_site_but_the_weights(toy):
    plain = toy.forward(PROMPT).logits
    for name in ("hook_resid_pre", "hook_attn_out", "resid_mid", "mlp.hook_post", "ffn.out"):
        changed = toy.forward(PROMPT, taps={f"blocks.1.{name}": lambda x: x.flip(-1)}).logits
        assert np.abs(changed - plain).max() > 1e-3, name


def test_each_row_of_a_batch_can_be_ablated_by_itself(toy):
    ids = toy.tokens(PROMPT)

    def zero(row):
        def tap(x):
            x = x.clone()
            x[row] = 0
            return x

        return tap

    taps = {f"blocks.{i}.ffn.out": zero(i) for i in range(L)}
    logits = toy.run([ids] * L, taps=taps).logits.numpy()
    for i in range(L):
        close(logits[i], toy.forward_ablate(ids, i, "mlp").logits)


def test_prompts_of_different_lengths_run_together(toy):
    prompts = ["Bob", PROMPT, "Bob lives in Austin and"]
    together = toy.run(prompts).logits.numpy()
    steered = toy.run(prompts, [Steer(1, np.ones(D, np.float32))]).logits.numpy()
    for i, prompt in enumerate(prompts):
        close(together[i], toy.forward(prompt).logits)
        close(steered[i], toy.forward_steer(prompt, 1, np.ones(D, np.float32)).logits)


def test_hooks_come_off_and_leave_the_model_as_it_was(toy):
    class Boom(Hook):
        def on_post_layer(self, layer, h):
            raise RuntimeError("on purpose")

    plain = toy.forward(PROMPT).logits
    before = toy.model.model.config._attn_implementation
    with pytest.raises(RuntimeError, match="on purpose"), toy.hooked(Noop(weights=True), Boom()):
        toy.forward(PROMPT)
    assert all("forward" not in block.__dict__ for block in toy.model.layers)
    assert not any(m._forward_pre_hooks for m in toy.model.model.modules())
    assert toy.model.model.config._attn_implementation == before
    assert np.array_equal(toy.forward(PROMPT).logits, plain)


def test_a_with_block_keeps_hooks_on_and_nests(llama):
    plain = llama.forward(PROMPT).logits
    with llama.hooked(ZeroAblate(1, "mlp")):
        one = llama.forward(PROMPT).logits
        with llama.hooked(ZeroAblate(2, "mlp")):
            two = llama.forward(PROMPT).logits
        assert np.array_equal(llama.forward(PROMPT).logits, one)
    close(two, llama.forward_ablate(PROMPT, [1, 2], "mlp").logits)
    assert np.array_equal(llama.forward(PROMPT).logits, plain)


def test_only_asking_for_weights_turns_eager_attention_on(llama):
    during = []

    def look(x):
        during.append(llama.model.model.config._attn_implementation)

    llama.forward(PROMPT, taps={"blocks.0.resid_out": look})
    llama.forward(PROMPT, taps={"blocks.0.resid_out": look, "blocks.3.attn.hook_pattern": look})
    assert during == ["sdpa", "eager", "eager"]


NOT_THERE = [
    (lambda: ZeroAblate(4), "no layer 4: the model has layers 0 to 3"),
    (lambda: ZeroAblate([0, -1]), "no layer -1"),
    (lambda: ZeroAblate("2:9"), "no layers 2:9"),
    (lambda: ZeroAblate(1, "heads"), "choose residual, attention, mlp"),
    (lambda: ZeroAblate(1, positions=[]), "no positions given"),
    (lambda: ZeroAblate(1, positions=1000), "no position 1000"),
    (lambda: ZeroAblate(1, positions=[0.5]), "no position 0.5"),
    (lambda: Steer(9, np.ones(D, np.float32)), "no layer 9"),
    (lambda: Steer(1, np.ones(D + 1, np.float32)), r"shape \(33,\): the residual is 32 wide"),
    (lambda: Steer(1, np.ones(D, np.int64)), "torch.int64: expected floating point"),
    (lambda: Steer(1, np.full(D, np.nan)), "NaN or infinity"),
    (lambda: Steer(1, "north"), "expected 32 numbers"),
    (lambda: Steer(1, np.ones(D), "strong"), "alpha 'strong': expected a number"),
    (lambda: Steer(1, np.ones(D), float("inf")), "expected a finite number"),
    (lambda: Steer(), "nothing to steer"),
    (lambda: Record(0, "resid"), "no site 'resid'"),
    (lambda: Record(True), "no layers True"),
    (lambda: Composite(Noop(), print), "is not a hook"),
    (lambda: print, "is not a hook"),
]


@pytest.mark.parametrize(("make", "line"), NOT_THERE)
def test_what_does_not_fit_is_refused_at_registration(llama, make, line):
    with pytest.raises(UsageError, match=line) as error, llama.hooked(make()):
        pytest.fail("the block was entered")
    assert "\n" not in str(error.value)


def test_a_position_that_the_prompt_lacks_is_refused_before_anything_runs(llama):
    ran = []
    n = len(llama.tokens(PROMPT))
    for at in (n, -n - 1):
        with pytest.raises(UsageError, match=rf"no position {at}: the run has positions 0 to"):
            llama.forward(
                PROMPT, [ZeroAblate(0, positions=at)], taps={"blocks.0.resid_in": ran.append}
            )
    cache = llama.prefill(PROMPT)
    with pytest.raises(UsageError, match="already cached"):
        llama.forward(" is", [ZeroAblate(0, positions=0)], cache=cache)
    assert not ran


def test_what_a_callback_may_not_do_is_said(llama):
    class Reader(Hook):
        def on_pre_layer(self, layer, h):
            return h

    class Narrow(Hook):
        def on_post_layer(self, layer, h):
            return h[:, :1]

    class Whole(Hook):
        def on_post_layer(self, layer, h):
            return h.astype(int)

    class Writer(Hook):
        def on_post_layer(self, layer, h):
            h[:] = 0

    for hook, line in (
        (Reader(), "Reader.on_pre_layer returned a value and may only read"),
        (Narrow(), r"gave shape \(1, 1, 32\), expected"),
        (Whole(), "returned int64: expected floating point"),
    ):
        with pytest.raises(UsageError, match=line):
            llama.forward(PROMPT, [hook])
    with pytest.raises(ValueError, match="read-only"):
        llama.forward(PROMPT, [Writer()])


def test_unknown_names_list_near_ones(llama):
    with pytest.raises(UsageError, match=r"near names: .*blocks\.1\.hook_mlp_out"):
        llama.forward(PROMPT, taps={"blocks.1.hook_mlp_oot": print})
    with pytest.raises(UsageError, match="no layer 4: the model has layers 0 to 3"):
        llama.forward(PROMPT, taps={"blocks.4.hook_mlp_out": print})
    with pytest.raises(UsageError, match=r"nothing was recorded at blocks\.2\.resid_out"):
        record = Record(1)
        llama.forward(PROMPT, [record])
        record["blocks.2.resid_out"]


def test_gradients_flow_from_a_tap_to_the_logits(llama):
    push = torch.zeros(D, requires_grad=True)
    run = llama.run(PROMPT, taps={"blocks.1.ffn.out": lambda x: x + push}, grad=True)
    (grad,) = torch.autograd.grad(run.logits[0, 7], push)
    assert grad.abs().max() > 0
    assert not llama.run(PROMPT, taps={"blocks.1.ffn.out": lambda x: x + push}).logits.requires_grad
