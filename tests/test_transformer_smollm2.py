"""SmolLM2-135M, where it has been pulled: what it knows, and that looking in leaves it alone."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvedit.transformer import Noop, Steer, ZeroAblate

PROMPT = "The capital of {} is"
KNOWN = {"France": (" Paris", 0.77), "Japan": (" Tokyo", 0.70), "Germany": (" Berlin", 0.80),
         "Italy": (" Rome", 0.38)}  # fmt: skip


def test_it_knows_its_capitals(smollm2):
    for country, (capital, p) in KNOWN.items():
        result = smollm2.forward(PROMPT.format(country))
        assert result.p(smollm2.token_id(capital)) == pytest.approx(p, abs=0.015)
    assert smollm2.parameters == 134_515_008 and smollm2.n_layer == 30


def test_callbacks_in_every_layer_change_nothing(smollm2):
    plain = smollm2.forward(PROMPT.format("France")).logits
    hooked = smollm2.forward(PROMPT.format("France"), [Noop()]).logits
    assert np.array_equal(plain, hooked)


def test_the_lens_finds_paris_late_and_a_patch_carries_it(smollm2):
    track = smollm2.track_token(PROMPT.format("France"), " Paris")
    assert track.rank[-1] == 0 and track.p[0] < 0.01
    assert track.p[-1] == pytest.approx(0.77, abs=0.02)
    result = smollm2.patch_activations(PROMPT.format("Japan"), PROMPT.format("France"), 29)
    assert result.after.top(1)[0].piece == " Tokyo"


def test_hooked_generation_equals_full_forwards(smollm2):
    vector = smollm2.unembedding_for(" Rome")
    hooks = [Steer(20, vector, 2.0), ZeroAblate(10, "mlp")]
    fast = smollm2.generate_with_hooks(PROMPT.format("France"), hooks, 8)
    slow = smollm2.generate_with_hooks(PROMPT.format("France"), hooks, 8, kv_cache=False)
    assert fast.tokens == slow.tokens
