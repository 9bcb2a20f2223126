"""Transcripts: the format, and every one that ships, run again."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkvedit.errors import FileFormatError, RwkvEditError
from rwkvedit.repl.replay import replay
from rwkvedit.repl.transcript import Digests, Step, Transcript, dump, parse, read, same

FOLDER = Path(__file__).parent.parent / "transcripts"
SHIPPED = sorted(FOLDER.glob("*.txt"))

LETTERS = st.characters(exclude_categories=["Cs", "Cc"])
LINE = st.text(LETTERS, max_size=20).map(str.rstrip)
INPUT = st.lists(LINE, min_size=1, max_size=3).map("\n".join)
OUTPUT = st.lists(LINE, max_size=4).filter(lambda rows: not rows or (rows[0] and rows[-1]))
COMMENTS = st.lists(LINE.map(lambda t: f"#{t}"), max_size=2)
STEPS = st.lists(st.builds(Step, INPUT, OUTPUT, COMMENTS), max_size=4)


@given(STEPS)
def test_what_is_dumped_is_parsed_back(steps):
    header = {"version": "1", "model": "embedded"}
    whole = Transcript(header, steps)
    assert parse(dump(whole)) == whole


def test_a_hand_written_one_needs_only_inputs():
    found = parse("> Bob lives in Austin.\n>| He has a dog.\n> /undo\n")
    assert [step.input for step in found.steps] == [
        "Bob lives in Austin.\nHe has a dog.",
        "/undo",
    ]
    assert not any(step.output for step in found.steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "line 1: 'hello' stands before any input"),
        ("# rwkvedit transcript\nmodel: x\n", "the header is never closed"),
        ("# rwkvedit transcript\nwhat is this\n---\n", "line 2: expected 'name: value'"),
        ("> a\nb\n>| c\n", "line 3: '>|' continues an input"),
    ],
)
def test_a_malformed_one_is_refused_by_line(text, message):
    with pytest.raises(FileFormatError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


def test_decimals_may_differ_a_little_and_nothing_else():
    assert same(["ratio 0.310, 12 heads"], ["ratio 0.330, 12 heads"], exact=False)
    assert not same(["ratio 0.310, 12 heads"], ["ratio 0.610, 12 heads"], exact=False)
    assert not same(["ratio 0.310, 12 heads"], ["ratio 0.310, 13 heads"], exact=False)
    assert not same(["kept: a 1.00"], ["MOVED: a 1.00"], exact=False)
    assert not same(["I am 1.00"], ["I am 1.01"], exact=True)


def test_digests_of_computed_weights_may_differ_but_not_which_are_equal():
    first, second, other = "a" * 16, "b" * 16, "c" * 16
    digests = Digests()

    def again(recorded, replayed):
        return same([f"before: {recorded}"], [f"before: {replayed}"], exact=False, digests=digests)

    assert again(first, first) and again(second, other)
    assert again(second, other)
    assert not again(second, second) and not again(first, other)
    assert not same([f"after: {first}"], ["after: unknown"], exact=False)


def test_there_are_ten_that_ship_and_each_is_filled():
    assert len(SHIPPED) >= 10
    for path in SHIPPED:
        script = read(path)
        assert script.steps and all(step.output for step in script.steps), path
        assert script.header["model"] == "embedded"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_replays_as_recorded(path, embedded):
    done = replay(path, lambda header: embedded)
    shown = "\n".join(f"{m.input}\n" + "\n".join(m.diff) for m in done.mismatches)
    assert not done.mismatches, shown
    assert done.unfilled == 0 and done.notices == []


def test_a_difference_is_shown_and_update_writes_it_down(embedded, tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("# hello\n> /undo\nsomething else\n\n> /redo\n", encoding="utf-8")
    done = replay(path, lambda header: embedded)
    assert [(m.step, m.input) for m in done.mismatches] == [(1, "/undo")]
    assert done.mismatches[0].diff[0] == "-something else"
    assert done.unfilled == 1
    replay(path, lambda header: embedded, update=True)
    written = path.read_text(encoding="utf-8")
    assert "# hello\n> /undo\nerror: nothing to undo" in written
    assert "error: nothing to redo" in written
    assert replay(path, lambda header: embedded).mismatches == []


def test_a_recorded_session_replays(shell, embedded, tmp_path):
    path = tmp_path / "mine.txt"
    shell.record_to(path)
    for line in ("Bob lives in Austin.", "/nonsense", "two\nlines", "/heard"):
        shell.execute(line)
    shell.close()
    done = replay(path, lambda header: embedded)
    assert done.turns == 4 and done.mismatches == []


def test_a_missing_file_is_named(embedded, tmp_path):
    with pytest.raises(RwkvEditError, match="no such transcript"):
        replay(tmp_path / "none.txt", lambda header: embedded)


def test_the_json_document_has_its_keys(tmp_path, capsys):
    import json

    from rwkvedit.cli import main

    path = tmp_path / "one.txt"
    path.write_text("> /undo\nwrong\n", encoding="utf-8")
    assert main(["replay", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["failed"]) == (0, 1)
    assert found["files"][0]["turns"] == 1 and len(found["files"][0]["mismatches"]) == 1
