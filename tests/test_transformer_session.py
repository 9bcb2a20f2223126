"""What a session answers: lenses, patching, generation and cache surgery, on seeded toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.transformer import Composite, Noop, Record, Steer, ZeroAblate, open_session
from rwkvedit.transformer.hooks import Window

PROMPT = "The capital of France is"
OTHER = "The capital of Japan is"
D, L = 32, 4


@pytest.fixture(scope="module", params=["toy", "toy-gpt2", "toy-neox"])
def toy(request):
    return open_session(request.param)


@pytest.fixture(scope="module")
def llama():
    return open_session("toy")


def close(a, b, atol=1e-5):
    np.testing.assert_allclose(a, b, atol=atol, rtol=0)


# -- words ----------------------------------------------------------------------------------


def test_a_bos_comes_only_where_it_is_asked_for(llama):
    plain = llama.tokens(PROMPT)
    assert llama.tokens(PROMPT, bos=True) == [0, *plain]
    assert llama.tokens(plain) == plain and llama.tokens(plain, bos=True) == [0, *plain]
    always = open_session("toy", bos=True)
    assert always.tokens(PROMPT) == [0, *plain] and always.tokens(PROMPT, bos=False) == plain
    assert always.tokens(plain) == plain
    assert llama.forward(PROMPT, bos=True).tokens == [0, *plain]


def test_text_comes_back_from_its_tokens(llama):
    for text in (PROMPT, "Bob lives", " 猫 and dog", "x\n\ny"):
        assert llama.text(llama.tokens(text)) == text
    assert "".join(llama.pieces(llama.tokens(PROMPT))) == PROMPT


def test_a_word_of_several_tokens_is_shown_split_where_one_is_needed(llama):
    one = llama.token_id(" capital")
    assert llama.piece(one) == " capital" and llama.token_id(one) == one
    with pytest.raises(UsageError, match=r"'capital' is \d tokens \('.*'\) where one is needed; "
                       "with a space in front, ' capital', it is one"):  # fmt: skip
        llama.token_id("capital")
    with pytest.raises(UsageError, match="has no tokens"):
        llama.token_id("")
    with pytest.raises(UsageError, match="outside the model's vocabulary"):
        llama.token_id(330)


def test_empty_and_overlong_prompts_are_refused(llama):
    for prompt in ("", []):
        with pytest.raises(UsageError, match="has no tokens"):
            llama.forward(prompt)
    with pytest.raises(UsageError, match="129 tokens do not fit: toy reads 128"):
        llama.forward([5] * 129)
    with pytest.raises(UsageError, match="do not fit"):
        llama.generate_with_hooks([5] * 120, max_new_tokens=20)
    with pytest.raises(UsageError, match="outside the model's vocabulary"):
        llama.forward([5, -1])


def test_top_tokens_are_full_softmax(toy):
    result = toy.forward(PROMPT)
    assert result.probs.sum() == pytest.approx(1, abs=1e-9)
    top = result.top(5)
    assert [t.p for t in top] == sorted(result.probs, reverse=True)[:5]
    assert top[0].id == result.argmax and top[0].piece == toy.piece(result.argmax)


# -- lens -----------------------------------------------------------------------------------


def test_the_last_row_of_the_lens_is_the_models_own_answer(toy):
    lens = toy.logit_lens(PROMPT, positions="all", top=3)
    assert lens.layers == list(range(L)) and len(lens.rows[0]) == len(lens.tokens)
    for position in range(len(lens.tokens)):
        want = toy.forward(lens.tokens[: position + 1]).top(3)
        got = lens.rows[-1][position].top
        assert [t.id for t in got] == [t.id for t in want]
        close([t.p for t in got], [t.p for t in want])


def test_the_lens_recomputes_the_norm_for_every_layer(toy):
    h = toy.capture_residuals(PROMPT)
    row = toy.logit_lens(PROMPT, layers=1, top=330).rows[0][0]
    own = torch.softmax(toy.unembed(torch.tensor(h[1][-1])), -1)
    close([t.p for t in row.top], [float(own[t.id]) for t in row.top])
    last = h[L - 1][-1]
    reused = h[1][-1] * (np.linalg.norm(h[1][-1]) / np.linalg.norm(last))
    frozen = torch.softmax(toy.model.project(torch.tensor(reused)), -1)
    assert max(abs(t.p - float(frozen[t.id])) for t in row.top) > 1e-3
    p = np.array([t.p for t in row.top])
    assert row.entropy == pytest.approx(float(-(p * np.log(p)).sum()), abs=1e-4)


def test_a_race_follows_tokens_through_the_layers(toy):
    tokens = [" Paris", " Tokyo", 7]
    race = toy.track_race(PROMPT, tokens)
    one = toy.track_token(PROMPT, " Tokyo")
    close(race.tracks[1].p, one.p)
    result = toy.forward(PROMPT)
    assert race.tracks[2].p[-1] == pytest.approx(result.p(7), abs=1e-5)
    assert race.tracks[2].rank[-1] == (result.logits > result.logits[7]).sum()
    assert race.leader[-1] == max((t.token for t in race.tracks), key=result.p)


def test_the_parts_of_a_token_s_raw_logit_add_up(toy):
    parts = toy.direct_logits(PROMPT, 7)
    total = parts.embedding + parts.attention.sum() + parts.mlp.sum()
    assert total == pytest.approx(parts.total, abs=1e-3)
    last = toy.capture_residuals(PROMPT)[L - 1][-1]
    assert parts.total == pytest.approx(float(last @ toy.unembedding_for(7)), abs=1e-4)
    assert toy.direct_logits(PROMPT).token == toy.forward(PROMPT).argmax


def test_projecting_a_token_s_own_row_puts_it_first(toy):
    row = toy.unembedding_for(" Paris")
    projection = toy.project_through_unembed(row * 10, k=4)
    close(projection.logits, toy.model.unembedding.numpy() @ row * 10, 1e-3)
    assert projection.top[0][2] == pytest.approx(projection.logits.max())
    assert projection.bottom[0][2] == pytest.approx(projection.logits.min())
    with pytest.raises(UsageError, match="expected \\(32,\\)"):
        toy.project_through_unembed(np.ones(31))


def test_neighbours_are_by_cosine_and_leave_the_token_itself_out(toy):
    table = toy.model.embedding.numpy()
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    paris = toy.token_id(" Paris")
    cosine = unit @ unit[paris]
    found = toy.embedding_neighbors(" Paris", 5)
    assert paris not in [n.id for n in found]
    assert [n.id for n in found] == np.argsort(-cosine, kind="stable")[1:6].tolist()
    assert toy.embedding_neighbors(toy.embedding_for(" Paris"), 1)[0].id == paris
    with pytest.raises(UsageError, match="wide"):
        toy.embedding_neighbors(np.ones(3, np.float32))


# -- patching -------------------------------------------------------------------------------


def test_the_last_residual_of_a_donor_carries_its_whole_answer(toy):
    result = toy.patch_activations(OTHER, PROMPT, L - 1)
    close(result.after.logits, toy.forward(OTHER).logits)
    close(result.before.logits, toy.forward(PROMPT).logits)
    assert np.abs(result.after.logits - result.before.logits).max() > 0.01


def test_patching_a_prompt_into_itself_changes_nothing(toy):
    for site in ("resid_out", "hook_mlp_out", "hook_attn_out", "mlp.hook_post", "resid_mid"):
        result = toy.patch_activations(PROMPT, PROMPT, 1, 2, site=site)
        close(result.after.logits, result.before.logits)


def test_a_patch_puts_the_donors_vector_at_one_position_only(toy):
    donor = toy.capture_residuals(OTHER)[1]
    vector = donor[3]
    mine = toy.capture_residuals(PROMPT)[1]
    want = toy.forward_steer(PROMPT, 1, vector - mine[2], 1.0, positions=2)
    got = toy.patch_activations(OTHER, PROMPT, 1, 2, donor_position=3)
    close(got.after.logits, want.logits)


def test_patches_out_of_range_are_refused(toy):
    n = len(toy.tokens(PROMPT))
    for args, line in (
        ((OTHER, PROMPT, L), "no layer 4"),
        ((OTHER, PROMPT, 1, n), f"no position {n}"),
        ((OTHER, PROMPT, 1, 0, 50), "no position 50"),
        ((OTHER, PROMPT, 1, 0, 0, "attn.hook_pattern"), "cannot be patched"),
    ):
        with pytest.raises(UsageError, match=line):
            toy.patch_activations(*args)


# -- generation -----------------------------------------------------------------------------

VECTOR = np.random.default_rng(3).normal(size=D).astype(np.float32)
HOOKS = {
    "none": lambda: [],
    "noop": lambda: [Noop(weights=True)],
    "steer": lambda: [Steer(1, VECTOR, 1.5)],
    "steer-all": lambda: [Steer(2, VECTOR, 1.0, "all")],
    "ablate": lambda: [ZeroAblate([1, 2], "mlp")],
    "ablate-some": lambda: [ZeroAblate(1, "attention", [0, -1])],
    "both": lambda: [Composite(Steer(0, VECTOR, 1.0), ZeroAblate(3, "mlp", None), Record())],
}


@pytest.mark.parametrize("hooks", HOOKS)
def test_cached_generation_equals_running_the_whole_text_again(toy, hooks):
    fast = toy.generate_with_hooks(PROMPT, HOOKS[hooks](), 12, stop_ids=())
    slow = toy.generate_with_hooks(PROMPT, HOOKS[hooks](), 12, stop_ids=(), kv_cache=False)
    assert fast.tokens == slow.tokens and len(fast.tokens) == 12
    assert fast.text == toy.text(fast.tokens)


@pytest.mark.parametrize("hooks", ["none", "steer-all", "ablate"])
def test_generation_equals_full_forwards_with_the_same_hooks(toy, hooks):
    ids = toy.tokens(PROMPT)
    for _ in range(10):
        ids.append(toy.forward(ids, HOOKS[hooks]()).argmax)
    written = toy.generate_with_hooks(PROMPT, HOOKS[hooks](), 10, stop_ids=())
    assert written.tokens == ids[-10:]


def test_the_last_row_means_every_row_from_the_prompts_end_on(llama):
    ids, n = llama.tokens(PROMPT), len(llama.tokens(PROMPT))
    for _ in range(6):
        window = Window(0, n - 1, len(ids))
        logits = llama.run(ids, HOOKS["steer"](), window=window).logits
        ids.append(int(logits[0].argmax()))
    assert llama.generate_with_hooks(PROMPT, HOOKS["steer"](), 6, stop_ids=()).tokens == ids[n:]
    assert llama.generate_with_hooks(PROMPT, [], 6, stop_ids=()).tokens != ids[n:]


def test_a_recording_of_a_generation_covers_every_position_fed(llama):
    record = Record(2)
    written = llama.generate_with_hooks(PROMPT, [record], 5, stop_ids=())
    whole = llama.capture_residuals([*llama.tokens(PROMPT), *written.tokens[:-1]], 2)[2]
    close(record["blocks.2.resid_out"][0], whole, 1e-4)
    record.clear()
    assert len(record) == 0


def test_a_position_to_come_is_reached_while_generating(llama):
    n = len(llama.tokens(PROMPT))
    hook = [ZeroAblate(3, positions=n + 1)]
    plain = llama.generate_with_hooks(PROMPT, [], 4, stop_ids=()).tokens
    changed = llama.generate_with_hooks(PROMPT, hook, 4, stop_ids=()).tokens
    assert changed[:2] == plain[:2] and changed[2] != plain[2]
    with pytest.raises(UsageError, match=f"no position {n + 3}"):
        llama.generate_with_hooks(PROMPT, [ZeroAblate(3, positions=n + 3)], 4)


def test_generation_stops_at_end_tokens_and_when_cancelled(llama):
    plain = llama.generate_with_hooks(PROMPT, [], 6, stop_ids=())
    third = plain.tokens[2]
    stopped = llama.generate_with_hooks(PROMPT, [], 6, stop_ids={third})
    assert stopped.stopped == "end" and stopped.tokens == plain.tokens[: plain.tokens.index(third)]
    turns = iter([False, False, True])
    cut = llama.generate_with_hooks(PROMPT, [], 6, stop_ids=(), cancel=lambda: next(turns))
    assert cut.stopped == "cancelled" and cut.tokens == plain.tokens[:2]
    pieces = []
    llama.generate_with_hooks(PROMPT, [], 6, stop_ids=(), on_text=pieces.append)
    assert "".join(pieces) == plain.text
    with pytest.raises(UsageError, match="expected 1 or more"):
        llama.generate_with_hooks(PROMPT, [], 0)


# -- caches ---------------------------------------------------------------------------------


def test_a_cached_prefix_gives_the_same_logits_for_one_row_and_for_many(toy):
    ids = toy.tokens(PROMPT)
    cache = toy.prefill(ids[:-1])
    assert cache.length == len(ids) - 1
    want = toy.forward(ids).logits
    close(toy.forward(ids[-1:], cache=cache).logits, want)
    rows = toy.run([ids[-1:]] * 3, cache=cache).logits.numpy()
    for row in rows:
        close(row, want)
    assert cache.length == len(ids) - 1
    close(toy.forward(ids[2:], cache=cache.crop(2)).logits, want)


def test_every_layer_cloned_makes_the_donors_continuation(toy):
    mine, theirs = toy.prefill(toy.tokens(PROMPT)[:5]), toy.prefill(toy.tokens(OTHER)[:5])
    cache = mine
    for layer in range(L):
        cache = toy.clone_layer_from(cache, theirs, layer)
    close(toy.forward([7], cache=cache).logits, toy.forward([7], cache=theirs).logits)
    one = toy.clone_layer_from(mine, theirs, 2)
    assert np.array_equal(one.keys(2), theirs.keys(2))
    assert np.array_equal(one.values(1), mine.values(1))
    assert not np.array_equal(mine.keys(2), theirs.keys(2))


def test_cloning_a_range_touches_those_positions_only(toy):
    mine, theirs = toy.prefill(PROMPT), toy.prefill(OTHER)
    got = toy.clone_layer_position_range(mine, theirs, 1, 1, 3)
    for name in ("keys", "values"):
        new, old, donor = (getattr(c, name)(1) for c in (got, mine, theirs))
        assert np.array_equal(new[:, :, 1:3], donor[:, :, 1:3])
        assert np.array_equal(new[:, :, 3:], old[:, :, 3:])
    whole = toy.clone_layer_position_range(mine, theirs, 1, 0, min(mine.length, theirs.length))
    assert not np.array_equal(whole.keys(1), mine.keys(1))


def test_surgery_out_of_range_is_an_error(toy):
    mine, short = toy.prefill(PROMPT), toy.prefill("Bob")
    n = mine.length
    for start, stop in ((0, n + 1), (3, 3), (4, 2), (-1, 2)):
        with pytest.raises(UsageError, match=f"no positions {start}:{stop}"):
            toy.clone_layer_position_range(mine, mine, 0, start, stop)
    with pytest.raises(UsageError, match="no layer 4: the cache has layers 0 to 3"):
        toy.clone_layer_from(mine, mine, 4)
    with pytest.raises(UsageError, match="clone_layer_position_range"):
        toy.clone_layer_from(mine, short, 0)
    with pytest.raises(UsageError, match="expected a key-value cache"):
        toy.clone_layer_from(mine, None, 0)
    with pytest.raises(UsageError, match="expected a key-value cache"):
        toy.clone_layer_from(None, mine, 0)


# -- attention and errors -------------------------------------------------------------------


def test_attention_weights_are_asked_for_by_layer_and_head(llama):
    pattern = llama.attention_pattern(PROMPT, 1, 2)
    n = len(llama.tokens(PROMPT))
    assert pattern.shape == (n, n)
    close(pattern.sum(-1), np.ones(n))
    assert np.array_equal(llama.attention_pattern(PROMPT, 1)[2], pattern)
    with pytest.raises(UsageError, match="no head 4: the model has heads 0 to 3"):
        llama.attention_pattern(PROMPT, 1, 4)
    with pytest.raises(UsageError, match="no layer 7"):
        llama.attention_pattern(PROMPT, 7)


def test_running_out_of_memory_is_one_line_and_the_session_goes_on(llama):
    def exhausted(x):
        raise torch.OutOfMemoryError("tried to allocate 900 GiB")

    def on_the_cpu(x):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    plain = llama.forward(PROMPT).logits
    for tap in (exhausted, on_the_cpu):
        with pytest.raises(RwkvEditError, match="out of memory") as error:
            llama.forward(PROMPT, taps={"blocks.1.resid_out": tap})
        assert "\n" not in str(error.value)
    assert np.array_equal(llama.forward(PROMPT).logits, plain)


def test_a_digest_follows_the_weights(llama):
    before = llama.digest
    weight = llama.model.down_proj(1)
    kept = weight[0, 0].item()
    weight[0, 0] = kept + 1
    llama.weights_changed()
    assert llama.digest != before
    weight[0, 0] = kept
    llama.weights_changed()
    assert llama.digest == before


def test_the_same_prompt_gives_the_same_numbers_twice():
    one, two = open_session("toy"), open_session("toy")
    assert one.digest == two.digest
    assert np.array_equal(one.forward(PROMPT).logits, two.forward(PROMPT).logits)
