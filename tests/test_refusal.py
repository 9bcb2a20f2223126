"""``auto`` refuses: what does not hold, or would move another fact, is not done."""

import pytest

from rwkvedit.recurrent import edit as editing
from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.erase import apply_forget
from rwkvedit.repl.plain import verdict

EDIT = ("Bob lives in Austin", "Bob lives in Chicago")


@pytest.fixture
def told(session):
    session.say("Bob lives in Austin.")
    session.say("Alice lives in Paris.")
    return session


def strict(monkeypatch, module):
    """Every control counts as moved, whatever it says."""
    real = module.compare
    monkeypatch.setattr(module, "compare", lambda *a: tuple(
        type(c)(c.fact, c.before, c.after, False, 1.0) for c in real(*a)))


def test_auto_leaves_the_conversation_alone_rather_than_leak(told, monkeypatch):
    strict(monkeypatch, editing)
    before, entries = told.state, len(told.journal.branch.entries)
    report = told.edit(*EDIT)
    assert (report.verdict, report.applied) == ("leaked", False)
    assert told.state is before and len(told.journal.branch.entries) == entries
    assert "Alice lives in Paris" in report.advice and "--method" in report.advice
    assert "Bob lives in Austin" in told.heard[0]


def test_a_method_by_name_does_what_it_is_told(told, monkeypatch):
    strict(monkeypatch, editing)
    report = told.edit(*EDIT, method="hyb-u")
    assert (report.verdict, report.applied) == ("leaked", True)
    assert told.ask("Where does Bob live?").text == "Bob lives in Chicago."


def test_auto_tries_every_way_before_it_refuses(told, monkeypatch):
    strict(monkeypatch, editing)
    tried = []
    real = editing._Trial.attempt
    monkeypatch.setattr(editing._Trial, "attempt",
                        lambda self, m: (tried.append(m.name), real(self, m))[1])
    told.edit(*EDIT)
    assert sorted(tried) == sorted(editing.AUTO)


def test_an_erasure_that_would_leak_is_refused_too(told, monkeypatch):
    from rwkvedit.recurrent import erase

    strict(monkeypatch, erase)
    before = told.state
    report = told.forget("Bob lives in Austin", "Bob")
    assert (report.verdict, report.applied) == ("leaked", False)
    assert told.state is before


def test_a_refusal_says_that_nothing_was_changed(embedded, told, monkeypatch):
    strict(monkeypatch, editing)
    controls = ["Alice lives in Paris."]
    outcome = apply_edit(embedded, told.state, *EDIT, controls=controls)
    assert verdict(outcome.report.to_json()) == "leaked (nothing was changed)"
    dry = apply_edit(embedded, told.state, *EDIT, controls=controls, dry_run=True)
    assert verdict(dry.report.to_json()) == "dry run"


def test_named_erasing_methods_are_applied(embedded, told):
    for name in ("project", "entity", "nullspace"):
        outcome = apply_forget(embedded, told.state, "Bob lives in Austin", "Bob", method=name,
                               controls=["Alice lives in Paris."])
        assert outcome.report.applied and outcome.report.method == name


def test_a_sentence_of_no_kind_is_edited_on_its_one_question(session):
    session.say("The moon tastes of cheese.")
    report = session.edit("The moon tastes of cheese", "The moon tastes of bread")
    assert report.verdict in ("took", "did not take", "leaked") and report.question
    assert report.forwards > 0
    assert session.forget("The moon tastes of cheese", "moon").verdict
