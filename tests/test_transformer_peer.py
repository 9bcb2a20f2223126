"""Our captures, ablations, steering, patches, lens and direct logits equal TransformerLens's.

Needs its package, which only the extra ``peer`` installs: pip install -e '.[test,peer]'.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvedit.transformer import open_session
from rwkvedit.transformer.toy import toy_model, toy_tokenizer

pytest.importorskip("transformer_lens", reason="TransformerLens is not installed (extra: peer)")

PROMPT, OTHER = "The capital of France is", "The capital of Japan is"
L, D = 4, 32
WITHIN = 1e-4

pytestmark = pytest.mark.filterwarnings("default")  # theirs


@pytest.fixture(scope="module")
def ours():
    return open_session("toy")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    folder = str(tmp_path_factory.mktemp("toy"))  # they read the tokenizer again from its folder
    toy_tokenizer().save_pretrained(folder)
    model = toy_model("llama")
    model.save_pretrained(folder)
    model.set_attn_implementation("eager")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers(
        folder, hf_model=model, tokenizer=tokenizer, device="cpu"
    )


@pytest.fixture(scope="module")
def cached(ours, theirs):
    """Their logits (T, V) and cache of PROMPT."""
    with torch.no_grad():
        logits, cache = theirs.run_with_cache(torch.tensor([ours.tokens(PROMPT)]))
    return logits[0], cache


def hooked(ours, theirs, name, hook, prompt=PROMPT):
    """Their logits of the last position with one hook."""
    with torch.no_grad():
        ids = torch.tensor([ours.tokens(prompt)])
        return theirs.run_with_hooks(ids, fwd_hooks=[(name, hook)])[0, -1].numpy()


def close(a, b):
    np.testing.assert_allclose(a, np.asarray(b), atol=WITHIN, rtol=0)


def test_logits_are_equal(ours, cached):
    close(ours.forward(PROMPT).logits, cached[0][-1])


@pytest.mark.parametrize("alias", [
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out",
    "attn.hook_pattern",
])  # fmt: skip
def test_captures_are_equal_under_their_own_names(ours, cached, alias):
    from rwkvedit.transformer.hooks import ALIASES

    _, got = ours.forward_with_capture(PROMPT, sites=alias)
    for i in range(L):
        close(got[f"blocks.{i}.{ALIASES[alias]}"], cached[1][f"blocks.{i}.{alias}"][0])


@pytest.mark.parametrize(("part", "name"), [
    ("residual", "hook_resid_post"), ("attention", "hook_attn_out"), ("mlp", "hook_mlp_out"),
])  # fmt: skip
@pytest.mark.parametrize("positions", ["all", (1, 4)])
def test_ablations_are_equal(ours, theirs, part, name, positions):
    def zero(x, hook):
        x = x.clone()
        x[:, slice(None) if positions == "all" else list(positions)] = 0
        return x

    for i in range(L):
        want = hooked(ours, theirs, f"blocks.{i}.{name}", zero)
        close(ours.forward_ablate(PROMPT, i, part, positions).logits, want)


def test_steering_is_equal(ours, theirs):
    vector = np.random.default_rng(0).normal(size=D).astype(np.float32)

    def push(x, hook):
        x = x.clone()
        x[:, -1] += 1.5 * torch.tensor(vector)
        return x

    for i in range(L):
        want = hooked(ours, theirs, f"blocks.{i}.hook_resid_post", push)
        close(ours.forward_steer(PROMPT, i, vector, 1.5).logits, want)


@pytest.mark.parametrize("name", ["hook_resid_pre", "hook_resid_post", "hook_mlp_out"])
def test_patches_are_equal(ours, theirs, name):
    with torch.no_grad():
        _, donor = theirs.run_with_cache(torch.tensor([ours.tokens(OTHER)]))
    for i in range(L):
        for at in (3, -1):

            def put(x, hook, at=at):
                x = x.clone()
                x[:, at] = donor[hook.name][0, at]
                return x

            want = hooked(ours, theirs, f"blocks.{i}.{name}", put)
            close(ours.patch_activations(OTHER, PROMPT, i, at, site=name).after.logits, want)


def test_the_logit_lens_is_equal(ours, theirs, cached):
    lens = ours.logit_lens(PROMPT, positions="all", top=ours.shape.vocab_size)
    for i in range(L):
        with torch.no_grad():
            residual = cached[1][f"blocks.{i}.hook_resid_post"]
            logits = theirs.unembed(theirs.ln_final(residual))[0]
        for position, row in enumerate(lens.rows[i]):
            got = {t.id: t.logit for t in row.top}
            close([got[t] for t in range(len(got))], logits[position])


def test_direct_logits_are_equal(ours, theirs, cached):
    token = ours.forward(PROMPT).argmax
    parts = ours.direct_logits(PROMPT, token)
    direction = theirs.W_U[:, token].detach()
    for i in range(L):
        for name, value in (("attn", parts.attention[i]), ("mlp", parts.mlp[i])):
            close(value, cached[1][f"blocks.{i}.hook_{name}_out"][0, -1] @ direction)
    vector = cached[1]["blocks.2.hook_mlp_out"][0, -1]
    close(ours.project_through_unembed(vector).logits, vector @ theirs.W_U.detach())
