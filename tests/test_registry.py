"""Words, arguments, help and completion of the chat's commands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkvedit.errors import UsageError
from rwkvedit.repl.commands import REGISTRY
from rwkvedit.repl.complete import candidates
from rwkvedit.repl.words import quote, split

EDIT = '/rwkv-edit "Bob lives in Austin" "Bob lives in Chicago"'
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def parsed(line):
    return REGISTRY.parse(line)[1]


@given(st.lists(TEXT, max_size=5))
def test_quoted_words_come_back_as_they_were(words):
    assert [w.text for w in split(" ".join(map(quote, words)))] == words


@given(TEXT)
def test_any_line_parses_or_is_a_one_line_usage_error(text):
    for head in ("/rwkv-edit ", "/prob ", "/ask ", "/", "/set "):
        try:
            REGISTRY.parse(head + text)
        except UsageError as error:
            assert "\n" not in str(error) or "\n" in text


@given(TEXT.filter(str.strip))
def test_free_text_needs_no_quotes_and_keeps_its_apostrophes(text):
    line = f"what is Bob's {text}".strip()
    assert parsed(f"/ask {line}")["question"] == line


def test_an_apostrophe_is_a_letter():
    assert parsed("/ask 'tis Bob's car?")["question"] == "'tis Bob's car?"


def test_options_stand_anywhere():
    values = parsed(EDIT + ' --ratio 0.3 --check "a b" --check=c --dry-run')
    assert (values["old"], values["new"]) == ("Bob lives in Austin", "Bob lives in Chicago")
    assert (values["ratio"], values["check"], values["dry_run"]) == (0.3, ["a b", "c"], True)
    assert parsed('/edit --ratio=0.3 "a" b c')["new"] == "b c"


def test_an_arrow_stands_for_quotes():
    values = parsed("/edit Bob lives in Austin -> Bob lives in Rome --dry-run")
    assert (values["old"], values["new"]) == ("Bob lives in Austin", "Bob lives in Rome")


def test_two_dashes_end_the_options():
    assert parsed('/edit "a" -- --b')["new"] == "--b"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/rwkv-edti x", "unknown command /rwkv-edti: did you mean /rwkv-edit?"),
        ('/edit "a', 'the quote " in "a is never closed: put " where it ends'),
        ("/edit a b", 'put each one in quotes: /rwkv-edit "old" "new"'),
        ('/edit "a" "b" "c"', "/rwkv-edit does not know what to do with 'c'"),
        ('/edit "a" "b" --rato 1', "/rwkv-edit has no option --rato: did you mean --ratio?"),
        ('/edit "a" "b" --ratio', "--ratio needs a value: --ratio R"),
        ("/undo many", "steps takes a whole number, not 'many'"),
        (
            "/state shwo",
            "what is one of show, diff, stats, save, load, not 'shwo'; did you mean show?",
        ),
        ("/save", "/save needs name: /save NAME"),
        ("/help nothing-like-it now", "/help does not know what to do with 'now'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_type(line, message):
    with pytest.raises(UsageError) as caught:
        REGISTRY.parse(line)
    assert str(caught.value).startswith(message)


def test_every_command_has_help_and_a_row_in_the_table():
    table = REGISTRY.markdown()
    for command in REGISTRY.commands:
        assert command.help.endswith(".")
        assert f"| `/{command.name}" in table


def completions(shell, line):
    return [text for text, _, _ in candidates(shell, REGISTRY, line)]


def test_completion_of_commands_options_facts_and_branches(shell):
    shell.execute("Bob lives in Austin.")
    assert completions(shell, "/rwkv-f") == ["/rwkv-forget "]
    assert completions(shell, EDIT + " --dr") == ["--dry-run "]
    assert completions(shell, EDIT + " --method hy") == ["hyb-u", "hyb-uv"]
    assert completions(shell, "/edit ") == ['"Bob lives in Austin"']
    assert completions(shell, '/edit "bob') == ['"Bob lives in Austin"']
    assert completions(shell, "/switch ") == ["main"]
    assert completions(shell, "/set temp") == ["temperature"]
    assert completions(shell, "/state d") == ["diff"]
    assert completions(shell, "Bob") == []


def test_completion_of_file_names(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a talk.txt").touch()
    (tmp_path / "folder").mkdir()
    assert '"a talk.txt"' in completions(shell, "/transcript ")
    assert completions(shell, "/transcript fol") == ["folder/"]
