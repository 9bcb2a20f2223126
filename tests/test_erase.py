"""Forgetting and nuking on the embedded model: the fact goes, the others stay."""

import pytest
import torch

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.replies import greedy_replies, is_unknown, says
from rwkvedit.models.catalog import load_model
from rwkvedit.recurrent import erase
from rwkvedit.recurrent.asking import Reading
from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.erase import apply_forget, apply_nuke, read_fact
from rwkvedit.recurrent.methods.optimised import Lesson, train
from rwkvedit.recurrent.workspace import Workspace
from rwkvedit.session import Session

FACTS = ("Bob lives in Austin.", "Alice lives in Paris.", "Carol lives in Dallas.")


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded")


@pytest.fixture(scope="module")
def state(loaded):
    tokens = [t for f in FACTS for t in loaded.template.encode_turn(loaded.tokenizer, f, "Got it.")]
    return loaded.model.forward(tokens)[1]


@pytest.mark.parametrize("verb", ["forget", "nuke"])
def test_an_erased_fact_is_no_longer_told_and_the_others_are(loaded, state, verb):
    before = state.clone()
    if verb == "forget":
        outcome = apply_forget(loaded, state, FACTS[0], "Bob", controls=FACTS[1:])
    else:
        outcome = apply_nuke(loaded, state, FACTS[0], controls=FACTS[1:])
    report = outcome.report
    assert (report.verb, report.verdict) == (verb, "took")
    assert report.p_old.after < 0.5 < report.p_old.before
    assert report.p_new.after > 0.5 > report.p_new.before
    asked = [loaded.template.encode_user(loaded.tokenizer, f"Where does {who} live?")
             for who in ("Bob", "Alice", "Carol")]
    bob, alice, carol = greedy_replies(loaded, outcome.state, asked)
    assert is_unknown(bob) and says(alice, "Paris") and says(carol, "Dallas")
    assert state.equal(before)


@pytest.mark.parametrize("method", ["project", "entity", "neutral", "placeholder"])
def test_every_baseline_can_be_asked_for(loaded, state, method):
    report = apply_forget(loaded, state, FACTS[0], "Bob", method=method, dry_run=True).report
    assert report.method == method
    assert report.verdict == "dry run"
    assert report.p_old.after < report.p_old.before


def test_a_fixed_ratio_uses_the_published_baseline(loaded, state):
    report = apply_forget(loaded, state, FACTS[0], "Bob", ratio=0.5).report
    assert report.method == "entity"
    assert report.ratio == pytest.approx(0.5, rel=1e-3)


def test_a_fixed_ratio_tries_no_other_way(loaded, state, monkeypatch):
    tried = []
    real = erase._Erasure.delta
    monkeypatch.setattr(
        erase._Erasure, "delta", lambda self, name: (tried.append(name), real(self, name))[1])
    apply_nuke(loaded, state, FACTS[0], ratio=1e-3)
    assert tried == ["neutral"]


@pytest.mark.parametrize("entity", ["Carol", "Ob", "car and"])
def test_the_entity_must_be_the_facts(loaded, state, entity):
    with pytest.raises(UsageError, match=f'nothing of "{entity}"'):
        apply_forget(loaded, state, "Bob has a car", entity)


@pytest.mark.parametrize("untold", [
    "Bob lives in Rome", "Alice lives in Dallas", "Zed has a pet dog"])
def test_what_was_not_told_is_not_erased_nor_what_was_told_in_its_place(loaded, state, untold):
    outcome = apply_nuke(loaded, state, untold, controls=FACTS)
    report = outcome.report
    assert outcome.state is state
    assert (report.verdict, report.applied, report.alpha) == ("did not take", False, 0.0)
    assert "nothing to erase" in report.advice and "/ask " in report.advice
    assert report.p_old.before == report.p_old.after < 0.2
    assert report.controls and all(c.kept for c in report.controls)


def test_a_method_by_name_erases_whatever_it_is_told(loaded, state):
    report = apply_nuke(loaded, state, "Bob lives in Rome", method="project", dry_run=True).report
    assert report.method == "project" and report.alpha > 0


def test_a_fact_told_by_its_first_word_may_be_erased(loaded, state):
    report = apply_nuke(loaded, state, "Bob lives in Austin in Texas", dry_run=True).report
    assert report.outcome == "took"


@pytest.mark.parametrize("dry", [True, False])
def test_advice_to_undo_is_given_only_after_something_was_done(loaded, state, dry):
    report = apply_forget(loaded, state, FACTS[0], "Bob", ratio=1e-4, dry_run=dry).report
    assert report.outcome == "did not take"
    assert ("/undo" in report.advice) == (not dry)


def reading(p, said):
    return Reading(p, said, 1.0, True)


def tried(old, unknown, held=False, verdict="took"):
    return erase._Tried("project", torch.zeros(1), 1.0, held, old, unknown, (), verdict)


@pytest.mark.parametrize(("old", "says_so"), [
    (reading(0.62, True), "still gives the old value (P 0.62)"),
    (reading(0.45, False), "still gives the old value (P 0.45)"),
    (reading(0.1, False), "not surely (P 0.51)"),
])
def test_an_erasure_that_took_but_did_not_hold_says_so_and_what_to_type(old, says_so):
    best = tried([reading(0.05, False), old], [reading(0.9, True), reading(0.51, True)])
    advice = erase._advice(best, "forget", "Bob lives in Austin", False, False)
    assert says_so in advice and advice.endswith('/undo, then /rwkv-nuke "Bob lives in Austin"')
    assert "/undo" not in erase._advice(best, "forget", "Bob lives in Austin", False, True)
    assert erase._advice(best, "nuke", "Bob lives in Austin", False, False).endswith(
        '/rwkv-nuke "Bob lives in Austin" --layers all')


def test_an_erasure_after_which_something_else_is_said_does_not_claim_ignorance():
    best = tried([reading(0.05, False)], [reading(0.9, True), reading(0.1, False)])
    advice = erase._advice(best, "nuke", "Bob lives in Austin", False, False)
    assert "does not always say that it is not known (P 0.10" in advice and "/ask" in advice


def test_another_persons_value_in_a_facts_place_is_erased_too(loaded, state):
    mixed = apply_edit(loaded, state, FACTS[0], "Bob lives in Paris").state
    rome = "Bob lives in Rome"  # what is not there; Paris is, and is Alice's
    outcome = apply_nuke(loaded, mixed, rome, controls=FACTS[1:])
    asked = loaded.template.encode_user(loaded.tokenizer, "Where does Bob live?")
    assert outcome.report.applied
    assert is_unknown(greedy_replies(loaded, outcome.state, [asked])[0])
    for heard in ((), ("Bob lives in Paris.", *FACTS[1:])):  # nobody's, and his own
        assert not apply_nuke(loaded, mixed, rome, controls=heard).report.applied


def test_a_wrong_value_never_erases_the_right_one_that_somebody_shares(loaded):
    session = Session(loaded)
    for said in ("Bob lives in Paris.", "Alice lives in Paris."):
        session.say(said)
    report = session.nuke("Bob lives in Rome")
    assert not report.applied and "nothing to erase" in report.advice
    assert session.ask("Where does Bob live?").text == "Bob lives in Paris."
    assert len(session.heard) == 2


def test_training_needs_gradients_and_says_so(loaded, state):
    other = load_model("embedded", backend="rwkv")
    with pytest.raises(UsageError, match="--backend native"):
        apply_nuke(other, state, FACTS[0], method="optimised")


def test_what_is_surely_told_can_still_be_trained_away(loaded, state):
    """At P = 1 the loss is finite and has a gradient."""
    pair = read_fact(FACTS[0])
    ws = Workspace(loaded, state, pair, (3, 6), n_asks=1)
    ws.budget_ms = 60_000.0
    shun = [(ask.tokens, ws.said_old) for ask in ws.asks]
    feeble = 1e-2 * ws.delta("probe")
    assert (train(ws, Lesson([], shun), feeble) - feeble).norm() > 0.1 * feeble.norm()


def test_training_erases_what_it_is_taught_and_leaves_the_rest(loaded, state):
    report = apply_forget(
        loaded, state, FACTS[0], "Bob", method="optimised", controls=FACTS[1:],
        budget_ms=60_000.0).report  # what it learns, not how fast this machine is
    assert report.verdict == "took" and report.applied and report.alpha == 1.0
    assert report.p_old.after < 0.1 and report.p_new.after > 0.8
    assert all(control.kept for control in report.controls)


def test_an_erasure_that_held_has_nothing_to_advise():
    best = tried([reading(0.05, False)], [reading(0.9, True)], held=True)
    assert erase._advice(best, "forget", "Bob lives in Austin", False, False) == ""


def test_an_erasure_by_a_weak_method_tells_of_the_forced_answer(loaded, state, monkeypatch):
    monkeypatch.setattr(erase, "GONE", 0.0)  # nothing is ever gone enough
    report = apply_forget(loaded, state, FACTS[0], "Bob").report
    assert report.verdict == "took" and "still gives the old value" in report.advice


def test_a_fact_of_one_word_is_refused():
    with pytest.raises(UsageError, match="whole fact"):
        read_fact("Bob")


def test_a_sentence_no_kind_explains_is_read_by_its_last_word():
    pair = read_fact("The capital of Zork is Blim")
    assert (pair.told, pair.old) == ("The capital of Zork is", " Blim")


def test_an_unknown_method_is_refused(loaded, state):
    with pytest.raises(UsageError, match="placeholder"):
        apply_nuke(loaded, state, FACTS[0], method="fire")
