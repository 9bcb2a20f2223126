"""Edits of a live state: what they change, what they leave, what they say. Embedded model."""

import json

import pytest
import torch

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.models.catalog import load_model
from rwkvedit.recurrent import edit as editing
from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.editreport import ControlResult
from rwkvedit.recurrent.library import Library
from rwkvedit.recurrent.methods import METHODS
from rwkvedit.recurrent.oracle import counterfactual_tokens
from rwkvedit.recurrent.pairs import read_pair

FACTS = ("Bob lives in Austin.", "Alice lives in Paris.", "Carol lives in Dallas.")
OLD, NEW = "Bob lives in Austin", "Bob lives in Chicago"


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded")


@pytest.fixture(scope="module")
def history(loaded):
    return [t for f in FACTS for t in loaded.template.encode_turn(loaded.tokenizer, f, "Got it.")]


@pytest.fixture(scope="module")
def state(loaded, history):
    return loaded.model.forward(history)[1]


@pytest.fixture(scope="module")
def nothing_saved(loaded, tmp_path_factory):
    return Library(loaded.model.digest, loaded.tokenizer.digest, [tmp_path_factory.mktemp("none")])


@pytest.fixture(scope="module")
def edited(loaded, state, nothing_saved):
    return apply_edit(loaded, state, OLD, NEW, controls=FACTS[1:], library=nothing_saved)


def test_an_edit_takes_and_keeps_the_controls(edited):
    report = edited.report
    assert report.verdict == "took"
    assert report.p_old.before > 0.5 > report.p_old.after
    assert report.p_new.before < 0.5 < report.p_new.after
    assert [c.fact for c in report.controls] == list(FACTS[1:])
    assert all(c.kept for c in report.controls)
    assert report.advice == ""


def test_an_edit_touches_only_the_wkv_of_the_range_and_never_its_argument(loaded, state, edited):
    before = state.clone()
    again = apply_edit(loaded, state, OLD, NEW).state
    assert state.equal(before)
    half = state.n_layer // 2
    for new in (edited.state, again):
        assert torch.equal(new.att_x, state.att_x) and torch.equal(new.ffn_x, state.ffn_x)
        assert torch.equal(new.wkv[:half], state.wkv[:half])
        assert not torch.equal(new.wkv[half:], state.wkv[half:])


def test_the_report_adds_up(state, edited):
    report = edited.report
    moved = (edited.state.wkv - state.wkv).double().norm()
    assert float(moved) == pytest.approx(report.alpha * report.delta_norm, rel=1e-3)
    assert report.ratio == pytest.approx(float(moved) / report.state_norm, rel=1e-3)
    assert report.heads == (state.n_layer - state.n_layer // 2) * state.n_head
    stages = {k: v for k, v in report.ms.items() if k != "total"}
    assert sum(stages.values()) <= report.ms["total"] * 1.01
    document = json.loads(json.dumps(report.to_json()))
    assert set(document) >= {
        "verb", "method", "ratio", "alpha", "state_norm", "delta_norm", "verdict", "p_old", "p_new",
        "controls", "ms", "heads", "layers",
    }


def test_arguments_may_be_named_and_torchs_threads_are_given_back(loaded, state, nothing_saved):
    threads = torch.get_num_threads()
    done = apply_edit(loaded=loaded, state=state, old=OLD, new=NEW, library=nothing_saved)
    assert done.report.verdict == "took"
    with pytest.raises(UsageError):
        apply_edit(loaded, state, OLD, OLD)
    assert torch.get_num_threads() == threads


def test_a_dry_run_measures_and_changes_nothing(loaded, state):
    outcome = apply_edit(loaded, state, OLD, NEW, dry_run=True)
    assert outcome.report.verdict == "dry run"
    assert outcome.report.outcome == "took"
    assert outcome.state is state


def test_a_fixed_ratio_is_that_share_of_the_state(loaded, state):
    report = apply_edit(loaded, state, OLD, NEW, method="hyb-u", ratio=0.2).report
    assert report.alpha * report.delta_norm == pytest.approx(0.2 * report.state_norm, rel=1e-4)


def test_a_feeble_edit_says_that_it_did_not_take_and_what_to_try(loaded, state):
    report = apply_edit(loaded, state, OLD, NEW, ratio=0.001).report
    assert report.verdict == "did not take"
    assert report.advice


def test_an_edit_that_is_answered_but_not_surely_says_so_and_what_to_try(loaded, state):
    sure = apply_edit(loaded, state, OLD, NEW, method="hyb-u").report
    ratios = [sure.ratio * part for part in (0.95, 0.85, 0.75, 0.65, 0.55)]
    reports = [apply_edit(loaded, state, OLD, NEW, method="hyb-u", ratio=r).report for r in ratios]
    unsure = [r for r in reports if r.verdict == "took" and "not surely (P 0." in r.advice]
    assert sure.advice == "" and unsure
    assert all(r.advice.startswith("it answers so") and "/undo" in r.advice for r in unsure)


@pytest.mark.parametrize("method", ["uniform", "isolate", "full-r1", "hyb-u", "hyb-uv", "probe"])
def test_every_method_flips_this_fact(loaded, state, history, method):
    report = apply_edit(loaded, state, OLD, NEW, method=method, history=history).report
    assert (report.method, report.verdict) == (method, "took")


def test_uniform_over_all_layers_gives_the_replayed_wkv(loaded, state, history):
    outcome = apply_edit(loaded, state, OLD, NEW, method="uniform", layers="all", history=history)
    tokens = counterfactual_tokens(loaded, history, read_pair(OLD, NEW))
    replayed = loaded.model.forward(tokens)[1]
    assert torch.allclose(outcome.state.wkv, replayed.wkv, rtol=1e-3, atol=1e-3)


def test_a_replaying_edit_leaves_an_earlier_edit_standing(loaded, state, history, nothing_saved):
    first = apply_edit(loaded, state, OLD, NEW, controls=FACTS[1:], library=nothing_saved)
    second = apply_edit(
        loaded, first.state, "Alice lives in Paris", "Alice lives in Rome", method="uniform",
        history=history, controls=[NEW],
    )
    assert second.report.verdict == "took"
    assert [c.kept for c in second.report.controls] == [True]


def test_a_second_replaying_edit_of_a_fact_starts_from_what_the_first_made_of_it(
    loaded, state, history
):
    last = "Bob lives in Rome"
    first = apply_edit(loaded, state, OLD, NEW, method="uniform", layers="all", history=history)
    second = apply_edit(
        loaded, first.state, NEW, last, method="uniform", layers="all", history=history)
    replayed = loaded.model.forward(counterfactual_tokens(loaded, history, read_pair(OLD, last)))[1]
    assert second.report.verdict == "took"
    assert torch.allclose(second.state.wkv, replayed.wkv, rtol=1e-3, atol=1e-3)
    back = apply_edit(loaded, second.state, last, OLD, method="uniform", layers="all",
                      history=history)
    assert torch.allclose(back.state.wkv, state.wkv, rtol=1e-3, atol=1e-3)


def test_a_replay_keeps_every_other_turn_and_follows_the_wording(loaded):
    turns = [("Alice is an actor.", "Got it."), ("Bob is an actor by trade.", "Got it."),
             ("What does Bob do for work?", "Bob works as an actor.")]
    history = [
        t for user, reply in turns
        for t in loaded.template.encode_turn(loaded.tokenizer, user, reply)
    ]
    pair = read_pair("Bob works as an actor", "Bob works as a baker")
    text = loaded.tokenizer.decode(counterfactual_tokens(loaded, history, pair))
    assert "Alice is an actor." in text
    assert "Bob is a baker by trade." in text
    assert "Assistant: Bob works as a baker." in text


def test_replaying_methods_need_the_conversation(loaded, state, history):
    with pytest.raises(RwkvEditError, match="hyb-u"):
        apply_edit(loaded, state, OLD, NEW, method="uniform")
    with pytest.raises(RwkvEditError, match="never says"):
        apply_edit(loaded, state, "Zed lives in Oslo", "Zed lives in Rome", method="uniform",
                   history=history)


def test_an_edit_runs_on_the_package_backend_too(history):
    other = load_model(backend="rwkv")
    state = other.model.forward(history)[1]
    report = apply_edit(other, state, OLD, NEW, controls=FACTS[1:]).report
    assert report.outcome == "took" and report.controls


@pytest.mark.parametrize("options", [
    {"method": "magic"}, {"ratio": "much"}, {"layers": "9:12"}, {"start": "nowhere"},
])
def test_bad_options_are_usage_errors(loaded, state, options):
    with pytest.raises(UsageError):
        apply_edit(loaded, state, OLD, NEW, **options)


def test_a_backend_without_hooks_tries_what_it_can_and_reports(loaded, state, monkeypatch):
    tried = []
    real = editing._Trial.attempt
    moved = ControlResult(FACTS[1], 1.0, 0.0, kept=False)
    monkeypatch.setattr(loaded.model, "backend", "rwkv", raising=False)
    monkeypatch.setattr(editing, "compare", lambda *a: (moved,))
    monkeypatch.setattr(
        editing._Trial, "attempt", lambda self, m: (tried.append(m.name), real(self, m))[1])
    report = apply_edit(loaded, state, OLD, NEW).report
    assert (report.verdict, report.applied) == ("leaked", False)
    assert tried and not any(METHODS[name].guarded for name in tried)
    with pytest.raises(UsageError, match="--backend native"):
        apply_edit(loaded, state, OLD, NEW, method="optimised")


@pytest.mark.parametrize("dry", [True, False])
def test_advice_to_undo_is_given_only_after_something_was_done(loaded, state, monkeypatch, dry):
    moved = ControlResult(FACTS[1], 1.0, 0.0, kept=False)
    monkeypatch.setattr(editing, "compare", lambda *a: (moved,))
    leaked = apply_edit(loaded, state, OLD, NEW, method="hyb-u", dry_run=dry).report
    feeble = apply_edit(loaded, state, OLD, NEW, ratio=1e-4, dry_run=dry).report
    assert [("/undo" in r.advice) for r in (leaked, feeble)] == [not dry] * 2


def test_an_interrupted_edit_raises_and_leaves_the_state(loaded, state):
    before = state.clone()
    with pytest.raises(RwkvEditError, match="interrupted"):
        apply_edit(loaded, state, OLD, NEW, cancel=lambda: True)
    assert state.equal(before)


def test_a_damaged_state_is_refused(loaded, state):
    broken = state.replace(wkv=state.wkv * float("nan"))
    with pytest.raises(RwkvEditError, match="finite"):
        apply_edit(loaded, broken, OLD, NEW)


def test_an_edit_of_what_was_never_told_takes_only_if_the_model_then_says_it(loaded, state):
    from rwkvedit.evaluate.replies import greedy_replies

    done = apply_edit(loaded, state, "Bob's car is red", "Bob's car is blue", controls=FACTS)
    asked = loaded.template.encode_user(loaded.tokenizer, done.report.question)
    (reply,) = greedy_replies(loaded, done.state.expand(1), [asked])
    assert (done.report.verdict == "took") == ("blue" in reply), (done.report, reply)
    (before,) = greedy_replies(loaded, state.expand(1), [asked])
    assert "know" in before


def test_what_no_kind_explains_is_checked_on_its_own_words_and_the_report_says_so(loaded, state):
    done = apply_edit(loaded, state, "The moon tastes of cheese", "The moon tastes of salt")
    assert done.report.verdict == "took"
    assert "own words only" in done.report.advice and "/ask" in done.report.advice
    assert "own words" not in apply_edit(loaded, state, OLD, NEW).report.advice
