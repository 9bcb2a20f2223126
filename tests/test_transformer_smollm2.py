"""SmolLM2-135M, where it has been pulled: what it knows, and that looking in leaves it alone."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rwkvedit.transformer import Noop, Steer, ZeroAblate
from rwkvedit.transformer.known import Fact, known_facts

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


def test_its_crown_is_found_fast_and_equals_plain_ablation(smollm2):
    prompt = PROMPT.format("France")
    began = time.process_time()
    result = smollm2.crown(prompt)
    assert time.process_time() - began < 2.0  # all 30 layers, on one core
    assert result.answer.text == " Paris" and len(result.scan) == 30
    for layer in (0, 14, 29):
        plain = smollm2.forward_ablate(prompt, layer, "mlp", None).p(result.answer.tokens[0])
        assert result.scan[layer].p == pytest.approx(plain, abs=1e-4)
    assert result.flips and result.scan[result.crown].delta_p < -0.5


def test_a_trace_finds_the_subject_early_and_the_last_token_late(smollm2):
    result = smollm2.trace(PROMPT.format("France"), "France", kinds=["state"], runs=4)
    assert result.pieces[3] == " France" and result.subject == [3]
    assert result.clean == pytest.approx(0.77, abs=0.015) and result.corrupted < 0.2
    state = result.grids["state"].p
    assert state[:5, 3].min() > 0.6 and state[:5, 4].max() < 0.2  # Meng et al. (2022), figure 1
    assert state[25:, 4].min() > 0.6 and state[25:, 3].max() < 0.2


def test_it_knows_some_facts_and_not_others(smollm2):
    told = [("Paris", "The capital of France is", "France"), ("Rome", "The capital of Peru is",
             "Peru"), ("Berlin", "The capital of Germany is", "Germany")]  # fmt: skip
    facts = [Fact(prompt, subject, attribute) for attribute, prompt, subject in told]
    assert [k.fact.attribute for k in known_facts(smollm2, facts)] == ["Paris", "Berlin"]
