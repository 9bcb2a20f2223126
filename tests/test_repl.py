"""The prompt loop with canned keys: the entire output is compared."""

import io
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from rwkvedit import __version__, config
from rwkvedit.repl import plain
from rwkvedit.repl import shell as shells
from rwkvedit.repl.app import App, SafeHistory, open_history
from rwkvedit.repl.render import Renderer
from rwkvedit.repl.result import Report, Result

WELCOME = f"rwkvedit {__version__}, embedded. /help lists commands, Ctrl-D leaves.\n"
CTRL_C, CTRL_D, ALT_ENTER, TAB = "\x03", "\x04", "\x1b\r", "\t"


def chat(shell, keys, history=None):
    """(stdout, stderr) of a whole conversation typed as ``keys``."""
    out, err = io.StringIO(), io.StringIO()
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        app = App(
            shell,
            Renderer(out, err),
            input=pipe,
            output=DummyOutput(),
            history=history or InMemoryHistory(),
        )
        assert app.run() == 0
    return out.getvalue(), err.getvalue().removeprefix(WELCOME)


def test_a_whole_conversation(shell):
    out, err = chat(
        shell,
        "Bob lives in Austin.\r/heard\rWhere does Bob live?\r/undo\r/undo 9\r/quit\r",
    )
    assert out == (
        f"{shell.session.turns[0].reply}\n"
        "Bob lives in Austin.\n"
        "Bob lives in Austin.\n"
        "undid: say Where does Bob live?\n"
        "bye\n"
    )
    assert err == "! cannot undo 9 steps: 1 can be undone (no more); try /journal\n"


def test_ctrl_c_clears_the_line_and_ctrl_d_leaves(shell):
    out, err = chat(shell, f"never said{CTRL_C}{CTRL_C}/heard\r{CTRL_D}")
    assert (out, err) == ("no facts heard yet\n", "")
    assert shell.session.tokens == []


def test_several_lines_by_alt_enter_or_a_backslash(shell):
    chat(shell, f"Bob lives in{ALT_ENTER}Austin.\rHe has\\\ra pet dog.\r{CTRL_D}")
    assert [turn.user for turn in shell.session.turns] == [
        "Bob lives in\nAustin.",
        "He has\na pet dog.",
    ]


def test_an_interrupt_inside_a_command_keeps_the_loop(shell, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(shell.session, "edit", stop)
    out, err = chat(shell, f'/edit "a b" "c d"\r/heard\r{CTRL_D}')
    assert out == "no facts heard yet\n"
    assert err == "interrupted; the conversation is as it was\n"


def test_a_bug_shows_its_traceback_and_keeps_the_conversation(shell, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(shell.session, "edit", broken)
    out, err = chat(shell, f'/edit "a b" "c d"\r/heard\r{CTRL_D}')
    assert out == "no facts heard yet\n"
    assert "ZeroDivisionError: oops" in err and "this is a bug in rwkvedit" in err


def test_the_toolbar_names_the_model_and_counts_tokens(shell, screen):
    with create_pipe_input() as pipe:
        app = App(shell, screen, input=pipe, output=DummyOutput(), history=InMemoryHistory())
        assert app._toolbar() == "embedded · 0 tokens · greedy"
        shell.session.branch("what-if")
        shell.session.set("temperature", 0.8)
        assert app._toolbar() == "embedded · 0 tokens · what-if · temperature 0.8"


def test_history_is_kept_in_the_state_folder(shell, home):
    chat(shell, f"/heard\r{CTRL_D}", open_history())
    assert "/heard" in (config.state_dir() / "history").read_text(encoding="utf-8")
    assert list(open_history().load_history_strings()) == ["/heard"]


def test_a_read_only_disk_costs_only_the_history(shell, home):
    home.write_text("a file where the folder should be")
    assert isinstance(open_history(), InMemoryHistory)
    out, _ = chat(shell, f"/heard\r{CTRL_D}", SafeHistory(str(home / "history")))
    assert out == "no facts heard yet\n"


REPORT = {
    "verb": "edit",
    "verdict": "took",
    "method": "hyb-u",
    "ratio": 0.31,
    "alpha": 0.5,
    "state_norm": 1615.2,
    "delta_norm": 1110.4,
    "heads": 12,
    "layers": [3, 6],
    "calibration": "live",
    "p_old": {"before": 0.9998, "after": 0.0021},
    "p_new": {"before": 0.0, "after": 0.9944},
    "controls": [{"fact": "Alice works as a baker.", "before": 1.0, "after": 0.2, "kept": False}],
    "ms": {"probe": 3.2, "total": 12.5},
    "advice": "try --layers all",
    "asked": {"old": "Bob lives in Austin", "new": "Bob lives in Chicago"},
}


@pytest.mark.parametrize("width", [40, 80])
def test_a_report_fits_its_columns(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    renderer = Renderer(io.StringIO(), io.StringIO())
    renderer.result(Result("edit", "rwkv-edit", REPORT, (Report(REPORT),)))
    shown = renderer.out.getvalue()
    assert "\x1b" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    for word in ("took", "hyb-u", "Chicago", "0.99", "MOVED", "try --layers all", "12.5 ms"):
        assert word in shown


@pytest.mark.parametrize(("verb", "label"), [
    ("edit", "P(new)"), ("forget", 'P("I don\'t know")'), ("nuke", 'P("I don\'t know")')])
def test_a_report_names_what_its_second_probability_is_of(verb, label):
    report = Report({**REPORT, "verb": verb, "asked": {"fact": "Bob lives in Austin"}})
    renderer = Renderer(io.StringIO(), io.StringIO())
    renderer.block(report)
    for shown in (renderer.out.getvalue(), "\n".join(plain.block_lines(report))):
        assert label in shown and shown.count("P(") == 2
    assert "P(old)" in shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_colour_unless_no_color_is_set(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    result = Result("edit", "rwkv-edit", REPORT, (Report(REPORT),))
    coloured = Renderer(Terminal(), io.StringIO())
    coloured.result(result)
    assert "\x1b[" in coloured.out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    bare = Renderer(Terminal(), io.StringIO())
    bare.result(result)
    assert "\x1b" not in bare.out.getvalue()


@pytest.mark.parametrize(("name", "where"), [
    ("mine", "HOME/mine.safetensors"), ("v1.2", "HOME/v1.2.safetensors"),
    ("v1.2.safetensors", "v1.2.safetensors"), ("./mine", "mine"), ("there/v1", "there/v1"),
])
def test_a_name_with_a_dot_is_a_name_and_a_path_has_a_separator(shell, monkeypatch, name, where):
    monkeypatch.setattr(shells, "sessions_dir", lambda: Path("HOME"))
    assert shell.session_path(name) == Path(where)


def test_saving_over_another_conversation_keeps_that_one_too(shell):
    shell.execute("Ann lives in Oslo.")
    assert shell.execute("/save keep").data["former"] is None
    assert shell.execute("/save keep").data["former"] is None  # its own file
    shell.session.files.clear()  # as a later program begins
    shell.execute("/clear")
    shell.execute("Ben lives in Rome.")
    saved = shell.execute("/save keep")
    assert any("/load keep~" in notice for notice in saved.notices)
    assert shell.execute("/load keep~").data["turns"] == 1
    assert "Ann" in shell.session.turns[0].user
    shell.execute("/load keep")
    assert "Ben" in shell.session.turns[0].user


@pytest.mark.parametrize("name", ['""', "..", "."])
def test_a_conversation_without_a_name_is_not_saved(shell, name):
    done = shell.execute(f"/save {name}")
    assert done.kind == "error" and "/save monday" in done.data["message"]
