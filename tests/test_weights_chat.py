"""Weight edits in the chat: made, saved, undone bit for bit, and interrupted without a trace."""

from __future__ import annotations

import json
import os
import signal

import pytest
from test_rome import EASY, KNOWN, PROMPT, SUBJECT, bits, near

from rwkvedit.transformer import open_session
from rwkvedit.transformer.tuning import save


@pytest.fixture
def toy(shell):
    """The toy, open in the chat, with settings under which it takes answers."""
    save(open_session("toy"), EASY)
    assert shell.execute("/open toy").kind == "result"
    return shell.sessions.current


def edits_file(toy, path, rank=3):
    """A list of two edits."""
    rows = [
        {"prompt": prompt, "subject": "Japan", "target": near(toy.session, prompt, rank)}
        for prompt in ("The capital of Japan", KNOWN)
    ]
    path.write_text(json.dumps(rows))
    return path


def test_rome_changes_the_open_model_and_undo_is_exact(shell, toy, tmp_path):
    start, word = bits(toy.session), near(toy.session, PROMPT, 3)
    done = shell.execute(f'/rome "{PROMPT}" {SUBJECT} {word.strip()} --no-gate')
    assert done.kind == "result" and done.data["landed"], done.data
    assert toy.session.forward(PROMPT).top(1)[0].piece == word
    edited = bits(toy.session)
    assert shell.execute(f"/save-patch {tmp_path / 'a.lqpatch'}").kind == "result"
    shell.execute("/undo")
    assert bits(toy.session) == start
    shell.execute(f"/apply-patch {tmp_path / 'a.lqpatch'}")
    assert bits(toy.session) == edited


def test_a_list_of_edits_goes_on_top_of_those_before_and_restore_takes_all(shell, toy, tmp_path):
    start, word = bits(toy.session), near(toy.session, PROMPT, 2).strip()
    shell.execute(f'/rome "{PROMPT}" {SUBJECT} {word} --no-gate')
    one = bits(toy.session)
    done = shell.execute(f"/memit {edits_file(toy, tmp_path / 'edits.json')}")
    assert done.kind == "result" and done.data["of"] == 2, done.data
    assert len(toy.session.edits.live) == 1 + len(EASY.spread)
    shell.execute("/undo")
    assert bits(toy.session) == one
    shell.execute("/redo")
    assert shell.execute("/restore").data["restored"] == 3 and bits(toy.session) == start


def test_alphaedit_remembers_what_is_live_and_nothing_else(shell, toy, tmp_path):
    def held():
        return {layer: keys.shape[1] for layer, keys in toy.memory.keys.items()}

    file = edits_file(toy, tmp_path / "edits.json")
    assert shell.execute(f"/memit {file} --method alphaedit").kind == "result" and held()
    first = held()
    other = edits_file(toy, tmp_path / "more.json", 1)
    assert shell.execute(f"/memit {other} --method alphaedit").kind == "result"
    assert all(held()[layer] > count for layer, count in first.items())
    shell.execute("/undo")
    assert held() == first
    shell.execute("/restore")
    assert held() == {}


@pytest.mark.parametrize("line", ["rome", "memit", "edit"])
def test_ctrl_c_in_the_middle_changes_nothing(shell, toy, tmp_path, line):
    start, word = bits(toy.session), near(toy.session, PROMPT, 3).strip()
    lines = {
        "rome": f'/rome "{PROMPT}" {SUBJECT} {word} --no-gate',
        "memit": f"/memit {edits_file(toy, tmp_path / 'edits.json')}",
        "edit": f'/edit "{PROMPT}" "The capital of Japan" {word} --layer 1 --no-gate',
    }
    told = []

    def press(done, of, what):
        told.append(what)
        if "layer" in what or what == "values":
            os.kill(os.getpid(), signal.SIGINT)

    shell.on_progress = press
    with pytest.raises(KeyboardInterrupt):
        shell.execute(lines[line])
    assert told and bits(toy.session) == start
    assert not toy.session.edits.live and not toy.past and not toy.memory.keys


def test_mistakes_are_one_line_and_change_nothing(shell, toy, tmp_path):
    start = bits(toy.session)
    (tmp_path / "bad.json").write_text("[]")
    for line, said in (
        (f'/rome "{PROMPT}" Narnia Rome', "'Narnia' is not in the prompt"),
        (f'/rome "{KNOWN}" Japan {toy.session.forward(KNOWN).top(1)[0].piece}', "already"),
        (f'/rome "{PROMPT}" {SUBJECT} Rome --layer 44', "no layer 44"),
        (f"/memit {tmp_path / 'none.json'}", "none.json"),
        (f"/memit {tmp_path / 'bad.json'}", "expected a JSON list of edits"),
        ("/save-patch x.lqpatch", "no change of weights to save"),
    ):
        done = shell.execute(line)
        assert done.kind == "error" and said in done.data["message"], done.data
        assert "\n" not in done.data["message"] and bits(toy.session) == start


def test_undo_without_a_change_of_weights_leaves_the_conversation(shell, toy):
    shell.execute("/use chat")
    shell.execute("Bob lives in Austin.")
    said = len(shell.session.turns)
    shell.execute("/use toy")
    refused = shell.execute("/undo")
    assert refused.kind == "error" and "/use chat" in refused.data["message"]
    assert len(shell.session.turns) == said == 1
