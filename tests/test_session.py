"""The session: what is said, edited, undone, interrupted and kept in files."""

import os
import signal

import pytest
import torch
from rwkvedit_kernels import passes

from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.files import load_tensors, save_tensors
from rwkvedit.recurrent.generate import Sampler
from rwkvedit.repl.plain import report_lines
from rwkvedit.repl.result import Report
from rwkvedit.session import Session

AUSTIN, CHICAGO = "Bob lives in Austin", "Bob lives in Chicago"


def fingerprint(session):
    place = session.place
    return (
        [t.numpy().tobytes() for t in place.state.tensors()],
        place.tokens,
        place.sampler,
        place.heard,
        place.turns,
        place.settings,
        place.system,
    )


@pytest.fixture
def told(session):
    session.say(AUSTIN + ".")
    return session


def test_an_edit_changes_the_answer_and_undo_brings_it_back(told):
    before = fingerprint(told)
    report = told.edit(AUSTIN, CHICAGO)
    assert report.verdict == "took"
    assert told.ask("Where does Bob live?").text == "Bob lives in Chicago."
    after = fingerprint(told)
    told.undo()
    assert fingerprint(told) == before
    assert told.ask("Where does Bob live?").text == "Bob lives in Austin."
    told.redo()
    assert fingerprint(told) == after


def test_undo_restores_the_sampler(embedded):
    session = Session(embedded, Sampler(temperature=2.0, seed=3), max_tokens=12)
    before = fingerprint(session)
    first = session.say("Hello.").text
    session.undo()
    assert fingerprint(session) == before
    assert session.say("Hello.").text == first
    assert session.say("Hello.").text != first


def test_asking_leaves_everything_as_it_was(told):
    before = fingerprint(told)
    told.ask("Where does Bob live?")
    told.prob("Where does Bob live? Bob lives in", ["Austin"])
    told.edit(AUSTIN, CHICAGO, dry_run=True)
    assert fingerprint(told) == before


def test_the_tokens_are_the_whole_stream(told):
    text = told.tokenizer.decode(told.tokens)
    assert text == f"User: {AUSTIN}.\n\nAssistant: {told.turns[0].reply}\n\n"
    _, state = told.model.forward(told.tokens)
    torch.testing.assert_close(state.wkv, told.state.wkv, rtol=1e-3, atol=1e-3)


def test_prob_is_the_product_over_a_words_tokens(told):
    p = told.prob("Where does Bob live? Bob lives in", ["Austin", "Chicago"])
    assert p["Austin"] > 0.9 > 0.1 > p["Chicago"] > 0
    top = told.prob("Where does Bob live? Bob lives in")
    assert next(iter(top)) == " Austin" and len(top) == 10
    assert top[" Austin"] == pytest.approx(p["Austin"], rel=1e-3)


def test_heard_keeps_the_latest_value_and_follows_edits(told):
    told.say("Alice works as a baker. She has a pet cat.")
    told.say("Actually, Bob lives in Boston.")
    facts = {(f.entity, f.kind): f.value for f in told.heard_facts}
    assert facts == {("Alice", "job"): "baker", ("Alice", "pet"): "cat", ("Bob", "city"): "Boston"}
    told.edit("Bob lives in Boston", CHICAGO)
    assert {f.value for f in told.heard_facts} == {"baker", "cat", "Chicago"}
    told.undo()
    assert {f.value for f in told.heard_facts} == {"baker", "cat", "Boston"}


def test_what_was_heard_is_checked_by_an_edit(told):
    told.say("Alice works as a baker.")
    report = told.edit(AUSTIN, CHICAGO, check=["Carol has a pet dog"])
    assert [c.fact for c in report.controls] == ["Carol has a pet dog", "Alice works as a baker."]


def test_facts_too_many_to_check_are_counted(told, monkeypatch):
    monkeypatch.setattr("rwkvedit.session.MAX_CONTROLS", 1)
    for name in ("Alice", "Carol", "David"):
        told.say(f"{name} lives in Paris.")
    report = told.edit(AUSTIN, CHICAGO, dry_run=True)
    assert [c.fact for c in report.controls] == ["David lives in Paris."]
    assert report.to_json()["unchecked"] == report.unchecked == 2
    shown = report_lines(Report(report.to_json()))
    assert "  not checked: 2 older facts (--check does)" in shown
    assert told.nuke(AUSTIN, dry_run=True, check=["Alice lives in Paris"]).unchecked == 1


def test_a_branch_keeps_both_ways(told):
    told.branch("moved")
    told.edit(AUSTIN, CHICAGO)
    told.switch("main")
    assert told.ask("Where does Bob live?").text == "Bob lives in Austin."
    told.switch("moved")
    assert told.ask("Where does Bob live?").text == "Bob lives in Chicago."


def test_retry_answers_again_and_continue_goes_on(embedded):
    session = Session(embedded, max_tokens=3)
    session.say(AUSTIN + ".")
    cut = session.say("Where does Bob live?")
    assert cut.stopped == "length" and "/continue" in cut.notices[0]
    more = session.continue_()
    assert (cut.text + more.text).startswith("Bob lives in Austin")
    assert session.turns[-1].reply == cut.text + more.text
    told = len(session.turns)
    again = session.retry()
    assert again.text == cut.text and len(session.turns) == told
    session.edit(AUSTIN, CHICAGO)
    with pytest.raises(RwkvEditError, match="the last step was /edit"):
        session.retry()


def test_a_setting_may_be_changed_before_a_retry(embedded):
    session = Session(embedded, max_tokens=3)
    session.say(AUSTIN + ".")
    assert session.say("Where does Bob live?").stopped == "length"
    session.set("max_tokens", 24)
    assert session.retry().text == "Bob lives in Austin."
    session.set("temperature", 0.8)
    session.retry()
    assert session.settings["max_tokens"] == 24 and len(session.turns) == 2
    session.undo(4)
    assert session.settings["max_tokens"] == 3 and session.turns[-1].stopped == "length"


def test_a_session_opens_with_no_empty_system_text(embedded):
    with pytest.raises(UsageError, match="there is nothing to say"):
        Session(embedded, system="  ")


def test_ctrl_c_ends_a_reply_and_closes_the_turn(told):
    pressed = []
    handler = signal.getsignal(signal.SIGINT)

    def press(text):
        if not pressed:
            pressed.append(text)
            os.kill(os.getpid(), signal.SIGINT)

    reply = told.say("Where does Bob live?", on_text=press)
    assert reply.interrupted and reply.stopped == "cancelled"
    assert told.tokenizer.decode(told.tokens).endswith("\n\n")
    assert told.ask("Where does Bob live?").text == "Bob lives in Austin."
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("what", ["say", "edit", "forget"])
def test_an_interrupt_before_the_end_leaves_the_session_as_it_was(told, monkeypatch, what):
    before = fingerprint(told)
    run, passes_run = passes.run_job, []

    def interrupted(*args, **kwargs):
        passes_run.append(1)
        if len(passes_run) == (1 if what == "say" else 3):
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    monkeypatch.setattr(passes, "run_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        {
            "say": lambda: told.say("Where does Bob live?"),
            "edit": lambda: told.edit(AUSTIN, CHICAGO),
            "forget": lambda: told.forget(AUSTIN, "Bob"),
        }[what]()
    assert fingerprint(told) == before


def test_save_and_load_hold_everything(told, embedded, tmp_path):
    told.edit(AUSTIN, CHICAGO)
    told.branch("other")
    told.say("Alice works as a baker.")
    told.undo()
    path = told.save(tmp_path / "kept.safetensors")
    fresh = Session(embedded)
    fresh.load(path)
    assert fingerprint(fresh) == fingerprint(told)
    assert set(fresh.branches) == {"main", "other"}
    fresh.redo()
    told.redo()
    assert fingerprint(fresh) == fingerprint(told)
    fresh.undo(3)
    assert fresh.tokens == []


def test_a_load_can_be_undone_and_done_again_bit_for_bit(told, embedded, tmp_path):
    path = told.save(tmp_path / "kept one.safetensors")
    kept = fingerprint(told)
    other = Session(embedded, Sampler(temperature=0.7, seed=5), max_tokens=9)
    other.say("Alice works as a baker.")
    other.edit("Alice works as a baker", "Alice works as a nurse", method="hyb-u", ratio=0.3)
    before = fingerprint(other)
    assert other.load(path) == "kept-one"
    assert fingerprint(other) == kept
    other.undo()
    assert fingerprint(other) == before
    other.redo()
    assert fingerprint(other) == kept
    other.switch("kept-one")
    assert fingerprint(other) == kept
    other.undo()
    assert other.tokens == []


def test_loading_twice_does_not_keep_the_same_steps_twice(told, embedded, tmp_path):
    path = told.save(tmp_path / "kept.safetensors")
    told.say("Alice works as a baker.")
    assert told.load(path) == "kept"
    told.say("Carol lives in Rome.")
    assert told.load(path) is None
    assert set(told.branches) == {"main", "kept"}
    again = Session(embedded)
    assert again.load(told.save(tmp_path / "both.safetensors")) is None
    assert set(again.branches) == {"main", "kept"} and fingerprint(again) == fingerprint(told)
    again.undo(3)
    assert again.heard == ["Bob lives in Austin.", "Alice works as a baker."]


def test_a_loaded_reply_can_be_tried_again(told, tmp_path):
    told.say("Where does Bob live?")
    path = told.save(tmp_path / "kept.safetensors")
    told.say("Alice works as a baker.")
    told.load(path)
    assert told.retry().text == "Bob lives in Austin."
    assert len(told.turns) == 2


def test_a_state_alone_goes_to_a_file_and_back_and_can_be_undone(told, shell, tmp_path):
    path = tmp_path / "bob.state"
    asked = told.ask("Where does Bob live?").text
    assert shell.session is told
    assert shell.execute(f"/state save {path}").kind == "result"
    state = told.state
    told.say("Alice works as a baker.")
    before = fingerprint(told)
    assert shell.execute(f"/state load {path}").kind == "result"
    assert told.state.equal(state) and told.tokens == [] and told.heard == []
    assert told.ask("Where does Bob live?").text == asked == "Bob lives in Austin."
    told.undo()
    assert fingerprint(told) == before


@pytest.mark.parametrize(("line", "why"), [
    ("/state load {}/none", "cannot read"), ("/state save", "/state save FILE"),
    ("/state load {}/session", "expected a rwkvedit-state file"),
    ("/state save {}/session", "exists and is no rwkvedit-state file"),
    ("/state diff far", "no number of steps"),
])
def test_a_state_file_that_is_none_is_refused_and_nothing_changes(
    told, shell, tmp_path, line, why
):
    told.save(tmp_path / "session")
    kept, before = (tmp_path / "session").read_bytes(), fingerprint(told)
    result = shell.execute(line.format(tmp_path))
    assert result.kind == "error" and why in result.data["message"]
    assert fingerprint(told) == before and (tmp_path / "session").read_bytes() == kept


def rewrite(path, data, how):
    """A session file that is whole, and wrong inside."""
    path.write_bytes(data)
    tensors, meta = load_tensors(path, "rwkvedit-session", 1)
    if how == "shape":
        tensors["state.1.wkv"] = tensors["state.1.wkv"][:, :, :, :-1].contiguous()
    elif how == "missing":
        del tensors["state.1.att_x"]
    else:
        packed = [place for place in meta["book"]["places"].values() if place["heard"]]
        packed[0]["heard"][0]["kind"] = "planet"
    save_tensors(path, tensors, meta)


@pytest.mark.parametrize(
    "how", ["foreign", "truncated", "digest", "nan", "empty", "shape", "missing", "kind"])
def test_a_bad_file_is_refused_and_nothing_changes(told, embedded, tmp_path, monkeypatch, how):
    path = told.save(tmp_path / "kept.safetensors")
    data = path.read_bytes()
    if how == "foreign":
        path.write_bytes(b"PK\x03\x04 something else")
    elif how == "truncated":
        path.write_bytes(data[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how in ("shape", "missing", "kind"):
        rewrite(path, data, how)
    elif how == "digest":
        path.write_bytes(data.replace(embedded.model.digest.encode(), b"0" * 64))
    else:
        path.write_bytes(data[:-4000] + b"\xff" * 4000)
    before = fingerprint(told)
    with pytest.raises(FileFormatError) as caught:
        told.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert fingerprint(told) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.say("  \n "), "there is nothing to say"),
        (lambda s: s.edit("", CHICAGO), "the old fact is empty"),
        (lambda s: s.edit(AUSTIN, " bob lives in  Austin."), "are the same"),
        (lambda s: s.nuke("."), "the fact is empty"),
        (lambda s: s.set("ratio", "much"), "ratio is a number above 0"),
        (lambda s: s.set("top_p", "2"), "out of range"),
        (lambda s: s.set("colour", "red"), "no setting colour"),
        (lambda s: s.set("method", "banana"), "method is one of auto, "),
        (lambda s: s.set("method", "slerp"), "method is one of auto, "),
        (lambda s: s.set("start", "moon"), "start is one of auto, live"),
        (lambda s: s.set("layers", "9:99"), "not a range of this model"),
        (lambda s: s.set("seed", "-1"), "a whole number from 0 on"),
        (lambda s: s.set_system(" "), "there is nothing to say"),
        (lambda s: s.edit(AUSTIN, CHICAGO, check=["Bob lives in Austin."]), "being changed"),
        (lambda s: s.edit(AUSTIN, CHICAGO, check=["Bob lives in Rome"]), "being changed"),
        (lambda s: s.prob("", ["x"]), "the prompt is empty"),
        (lambda s: s.prob("Bob", [" "]), "an empty word"),
    ],
)
def test_bad_words_are_refused_in_one_line(told, call, message):
    before = fingerprint(told)
    with pytest.raises(UsageError, match=message):
        call(told)
    assert fingerprint(told) == before


def test_a_state_that_is_not_finite_is_named_and_can_be_undone(told):
    from dataclasses import replace

    bad = told.state.replace(wkv=told.state.wkv * float("nan"))
    told.journal.record("edit", "broken", replace(told.place, state=bad))
    with pytest.raises(RwkvEditError, match=r"no longer finite.*undo"):
        told.say("Where does Bob live?")
    told.undo()
    assert told.ask("Where does Bob live?").text == "Bob lives in Austin."


def test_clear_keeps_the_settings_and_can_be_undone(told):
    told.set("temperature", 0.5)
    told.clear()
    assert told.tokens == [] and told.heard == [] and told.settings["temperature"] == 0.5
    told.undo()
    assert told.heard == [AUSTIN + "."]


def test_text_from_a_stream_of_broken_bytes_is_said(session):
    session.say("caf\udce9")
    assert "�" in session.tokenizer.decode(session.tokens)


def test_warming_changes_nothing_of_the_conversation(session):
    session.say("Bob lives in Austin.")
    before, entries = session.state, len(session.journal.branch.entries)
    session.warm()
    assert session.state is before
    assert len(session.journal.branch.entries) == entries
