"""ROME, MEMIT and AlphaEdit: the algebra is what the papers say, and failures change nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from toy_models import toy_loaded

from rwkvedit.cli import main
from rwkvedit.errors import FileFormatError, UsageError
from rwkvedit.evaluate.saying import Asked, say, write_on
from rwkvedit.recurrent.checkpoint import tensors_digest
from rwkvedit.transformer import open_session
from rwkvedit.transformer.batch import edit_many, load_edits
from rwkvedit.transformer.memit import Memory, free_directions, least_squares, projected
from rwkvedit.transformer.patches import apply_patches
from rwkvedit.transformer.patchfile import save_batch
from rwkvedit.transformer.rome import rome, update
from rwkvedit.transformer.rwkv import RwkvModel
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.statistics import Moments, second_moments
from rwkvedit.transformer.tuning import Settings, guess, own_file, save, settings_for
from rwkvedit.transformer.value import (
    HIGH,
    NotFoundError,
    Request,
    aim,
    solve,
    solve_many,
)
from rwkvedit.transformer.vocabulary import Vocabulary, WorldCodec
from rwkvedit.transformer.weights import RankOne

PROMPT, SUBJECT = "The capital of France", "France"
"""The subject stands last: what is written there is read by the layers above whatever they attend
to, so that an untrained toy takes any answer."""
KNOWN = "Ann lives in Japan"
EASY = Settings((2,), (1, 2), steps=60, rate=0.5, clamp=20.0, kl=0.0, decay=0.0, enough=0.6,
                contexts=2, ridge=0.3, weight=0.1, cut=0.5, found={"n": 1})  # fmt: skip


@pytest.fixture(params=["toy", "toy-gpt2", "toy-neox", "rwkv7"])
def any_toy(request, tmp_path):
    if request.param != "rwkv7":
        return open_session(request.param)
    loaded = toy_loaded(tmp_path, seed=4, n_layer=3)
    return ModelSession(
        RwkvModel(loaded.model), Vocabulary(WorldCodec(loaded.tokenizer)), "toy-rwkv7"
    )


@pytest.fixture
def toy():
    return open_session("toy")


def bits(session) -> str:
    return tensors_digest(session.model.named_weights())


def near(session, prompt, rank):
    """The word that is ``rank``-th likeliest after a prompt."""
    top = session.forward(prompt).top(120)
    words = [t.piece for t in top if t.piece.startswith(" ") and t.piece.strip().isalpha()]
    return words[rank]


def own_word(session) -> str:
    """The toy's own answer to KNOWN, which is a whole word."""
    word = session.forward(KNOWN).top(1)[0].piece
    assert word[:1] == " " and word.strip().isalpha()
    return word


def test_the_update_writes_exactly_the_value_for_the_averaged_key(toy):
    goal = aim(toy, Request(PROMPT, SUBJECT, near(toy, PROMPT, 3)), 2)
    found = solve(toy, goal, 2, EASY)
    moments = second_moments(toy, [2], tokens=400)[2]
    delta = update(found, moments, 2, 0.3)
    key = found.key.double()
    assert torch.allclose(delta.matrix() @ key, found.delta.double(), atol=1e-5)
    assert found.p >= HIGH and 0 < found.steps <= EASY.steps


def test_a_value_makes_the_answer_likely_and_costs_the_weights_nothing(any_toy):
    before = bits(any_toy)
    target = any_toy.piece(any_toy.forward(PROMPT).top(6)[5].id)
    goal = aim(any_toy, Request(PROMPT, SUBJECT, " " + target.strip()), 2)
    goal = replace(goal, target=[any_toy.forward(PROMPT).top(6)[5].id])
    layer = any_toy.n_layer - 2
    found = solve(any_toy, goal, layer, EASY)
    ids, at = goal.places[0]

    def add(x):
        x = x.clone()
        x[:, at] += found.delta
        return x

    run = any_toy.run(ids, taps={f"blocks.{layer}.ffn.out": add})
    was = any_toy.forward(PROMPT).logits
    now = run.logits[0].log_softmax(-1)[goal.target[0]]
    assert now > torch.from_numpy(was.copy()).log_softmax(-1)[goal.target[0]] + 0.5
    assert bits(any_toy) == before


def test_requests_solved_together_are_those_solved_alone(toy):
    requests = [
        Request(PROMPT, SUBJECT, near(toy, PROMPT, 2)),
        Request("Bob lives in Austin and Ann lives in", "Ann", near(toy, PROMPT, 4)),
        Request("The capital of Japan", "Japan", "Paris Rome"),
    ]
    goals = [aim(toy, request, 2) for request in requests]
    together = solve_many(toy, goals, 2, EASY)
    for goal, found in zip(goals, together, strict=True):
        alone = solve_many(toy, [goal], 2, EASY)[0]
        assert type(alone) is type(found)
        if not isinstance(found, NotFoundError) and not isinstance(alone, NotFoundError):
            assert found.loss == pytest.approx(alone.loss, abs=1e-2)
            assert torch.allclose(found.key, alone.key, atol=1e-4)
            assert torch.allclose(found.h, alone.h, atol=1e-4)


def test_rome_flips_the_prompt_and_its_patch_can_be_taken_back(toy):
    before = bits(toy)
    target = near(toy, PROMPT, 3)
    result = rome(toy, PROMPT, SUBJECT, target, settings=EASY, gate=False, tokens=400)
    assert result.landed and result.flipped and result.best.layer == 2
    assert toy.forward(PROMPT).top(1)[0].piece == target
    assert result.p_new[1] > result.p_new[0] and result.best.relative_change > 0
    toy.edits.restore()
    assert bits(toy) == before
    toy.edits.apply(result.patch.delta)
    assert toy.forward(PROMPT).top(1)[0].piece == target


def test_a_refused_edit_leaves_the_weights_and_says_why(toy):
    before = bits(toy)
    settings = replace(EASY, layers=(2, 1))
    result = rome(toy, PROMPT, SUBJECT, near(toy, PROMPT, 3), settings=settings, tokens=400)
    assert not result.landed and bits(toy) == before and not toy.edits.live
    assert len(result.tried) == 2 and all(one.why for one in result.tried)


def test_a_value_that_is_not_found_fails_loudly(toy):
    before = bits(toy)
    weak = replace(EASY, clamp=1e-4)
    with pytest.raises(NotFoundError, match="not reached at layer 2: the loss went from"):
        rome(toy, PROMPT, SUBJECT, near(toy, PROMPT, 4), settings=weak, gate=False, tokens=400)
    assert bits(toy) == before


def test_what_makes_no_sense_is_refused_in_one_line(toy):
    with pytest.raises(UsageError, match="already: nothing to edit"):
        rome(toy, KNOWN, "Japan", own_word(toy), settings=EASY)
    with pytest.raises(UsageError, match="'Spain' is not in the prompt"):
        rome(toy, PROMPT, "Spain", "Rome", settings=EASY)
    with pytest.raises(UsageError, match="has no tokens"):
        rome(toy, PROMPT, SUBJECT, " ", settings=EASY)


def test_ctrl_c_leaves_the_weights_as_they_were(toy):
    before, calls = bits(toy), []

    def cancel():
        calls.append(1)
        return len(calls) > 5

    with pytest.raises(KeyboardInterrupt):
        rome(toy, PROMPT, SUBJECT, near(toy, PROMPT, 3), settings=replace(EASY, enough=0.99),
             gate=False, tokens=400, cancel=cancel)  # fmt: skip
    assert bits(toy) == before


# -- many at once -----------------------------------------------------------------------------


def moments_of(f=24, seed=0, used=10) -> Moments:
    """C of keys that mostly live in ``used`` directions."""
    g = torch.Generator().manual_seed(seed)
    wide = torch.randn(400, used, generator=g) @ torch.randn(used, f, generator=g)
    keys = wide + 0.01 * torch.randn(400, f, generator=g)
    return Moments(0, keys.T @ keys / 400, 400, "made", "", "")


def test_least_squares_is_the_papers_equation_14():
    moments, g = moments_of(), torch.Generator().manual_seed(1)
    k, r = torch.randn(24, 3, generator=g).double(), torch.randn(8, 3, generator=g).double()
    c = moments.c.double()
    c = 0.5 * (c + torch.eye(24) * 0.05 * c.diagonal().mean())
    want = r @ k.T @ torch.linalg.inv(c + k @ k.T)
    got = least_squares(r, k, moments, replace(EASY, ridge=0.05, weight=0.5))
    assert torch.allclose(got, want, atol=1e-6)


def test_alphaedit_leaves_the_directions_that_are_used_and_the_edits_before():
    moments, g = moments_of(), torch.Generator().manual_seed(2)
    memory, settings = Memory(), replace(EASY, cut=0.01)
    k1, k2 = (torch.randn(24, 2, generator=g).double() for _ in range(2))
    r1, r2 = (torch.randn(8, 2, generator=g).double() for _ in range(2))
    first = projected(r1, k1, moments, settings, memory)
    second = projected(r2, k2, moments, settings, memory)
    _, vectors = torch.linalg.eigh(moments.c.double())
    for delta in (first, second):
        assert (delta @ vectors[:, -10:]).norm() < 1e-6 * delta.norm()
    assert torch.allclose(first @ k1, r1, atol=0.1)
    assert torch.allclose((first + second) @ k1, r1, atol=0.15)  # still what it was
    assert torch.allclose(second @ k2, r2, atol=0.15)
    assert memory.keys[0].shape == (24, 4)


def test_the_cut_off_is_relative():
    c = moments_of().c
    for scale in (1e-3, 1.0, 1e3):
        assert free_directions(c * scale, 0.01).shape == (24, 14)
    with pytest.raises(UsageError, match="raise the cut-off"):
        free_directions(torch.eye(4), 0.5)


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
def test_several_edits_at_once_flip_and_are_taken_back(toy, tmp_path, method):
    before = bits(toy)
    prompts = [("The capital of Japan", "Japan"), ("Bob lives in Austin and Ann", "Ann")]
    requests = [Request(p, s, near(toy, p, 2)) for p, s in prompts]
    result = edit_many(toy, requests, method, settings=EASY, specificity=4)
    assert sum(result.flips) == 2 and result.batch.layers == [1, 2]
    assert all(b > a for a, b in result.p_new) and len(result.held_out) == 4
    save_batch(tmp_path / "patches", result.named_patches())
    after = bits(toy)
    toy.edits.restore()
    assert bits(toy) == before
    apply_patches(toy, [tmp_path / "patches"])
    assert bits(toy) == after


def test_an_edit_with_a_layer_of_its_own_is_written_there_alone(toy):
    requests = [Request(PROMPT, SUBJECT, near(toy, PROMPT, 2), layer=2)]
    result = edit_many(toy, requests, settings=replace(EASY, spread=(0, 1)))
    assert result.batch.layers == [2]


def test_a_batch_that_cannot_be_written_leaves_the_weights(toy):
    before = bits(toy)
    with pytest.raises(NotFoundError):
        edit_many(toy, [Request(PROMPT, SUBJECT, near(toy, PROMPT, 4))],
                  settings=replace(EASY, clamp=1e-4))  # fmt: skip
    with pytest.raises(UsageError, match="leave that edit out"):
        edit_many(toy, [Request(KNOWN, "Japan", own_word(toy))], settings=EASY)
    with pytest.raises(UsageError, match="two edits of one prompt"):
        edit_many(toy, [Request(PROMPT, SUBJECT, "a"), Request(PROMPT, SUBJECT, "b")],
                  settings=EASY)  # fmt: skip
    assert bits(toy) == before


def test_edits_are_read_in_both_spellings(tmp_path):
    file = tmp_path / "edits.json"
    file.write_text(json.dumps([
        {"label": "a", "src": PROMPT, "new_token": " Rome"},
        {"prompt": PROMPT, "subject": "France", "target": "Rome", "layer": 3},
    ]))  # fmt: skip
    first, second = load_edits(file)
    assert (first.subject, first.target, first.label) == ("France", " Rome", "a")
    assert second.layer == 3
    for bad in ("{}", "[]", "nonsense", '[{"prompt": "x"}]', '[{"target": "x"}]', "[1]",
                '[{"prompt": "In France", "target": "x", "layer": "two"}]'):  # fmt: skip
        file.write_text(bad)
        with pytest.raises(FileFormatError):
            load_edits(file)


# -- settings and measuring -------------------------------------------------------------------


def test_settings_belong_to_the_weights_they_were_found_on(toy):
    assert settings_for(toy) == guess(toy) and not guess(toy).found
    save(toy, EASY)
    assert settings_for(toy) == EASY and settings_for(open_session("toy-gpt2")) != EASY
    toy.edits.apply(RankOne(1, torch.ones(32), torch.ones(48)))
    assert settings_for(toy) == EASY  # of the base, whatever is live
    toy.edits.restore()
    own_file(toy).write_text('{"layers": 3}')
    with pytest.raises(FileFormatError, match="calibrate again"):
        settings_for(toy)


def test_a_change_of_one_row_is_the_same_change_in_the_weights(any_toy):
    g = torch.Generator().manual_seed(0)
    d, f = any_toy.model.down_proj(1).shape
    changes = [None, *(RankOne(layer, torch.randn(d, generator=g),
                               torch.randn(f, generator=g) / f) for layer in (1, 0))]  # fmt: skip
    ids = any_toy.tokens(PROMPT)
    answer = any_toy.tokens(" Paris Rome")
    rows = say(any_toy, [Asked(ids, answer, change) for change in changes])
    texts = write_on(any_toy, [ids] * 3, 4, changes)
    assert len({round(row.logp, 4) for row in rows}) == 3
    for change, row, text in zip(changes, rows, texts, strict=True):
        with any_toy.edits.applied(*([] if change is None else [change])):
            alone = say(any_toy, [Asked(ids, answer)])[0]
            assert row.logp == pytest.approx(alone.logp, abs=1e-4)
            assert write_on(any_toy, [ids], 4)[0] == text


def test_the_verbs_answer_with_the_keys_that_scripts_read(tmp_path, capsys):
    toy = open_session("toy")
    save(toy, EASY)
    word = near(toy, PROMPT, 3).strip()
    line = ["rome", "toy", "--prompt", PROMPT, "--subject", SUBJECT, "--target", word,
            "--no-gate", "--validate-specificity", "5", "--output", str(tmp_path / "a.lqpatch")]
    assert main([*line, "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    wanted = {"layers", "flipped", "relative_change", "patch", "gate", "specificity", "seconds"}
    assert wanted <= set(got) and got["flipped"] is True and got["specificity"]["n"] == 5
    assert (tmp_path / "a.lqpatch").stat().st_size < 2000
    file = tmp_path / "edits.json"
    file.write_text(json.dumps([{"prompt": PROMPT, "subject": SUBJECT, "target": word}]))
    line = ["memit", "toy", "--edits", str(file), "--output", str(tmp_path / "out")]
    assert main([*line, "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert wanted <= set(got) and got["flipped"] == 1 and len(got["patch"]) == 3
    assert main(["rome", "toy", "--prompt", PROMPT]) == 2
    assert "needs --subject, --target" in capsys.readouterr().err
