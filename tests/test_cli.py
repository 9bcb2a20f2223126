"""The shell command: verbs, JSON lines, exit codes, and what it says when things go wrong."""

import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rwkvedit import __version__
from rwkvedit.cli import VERBS, main, with_verb

EDIT = '/rwkv-edit "Bob lives in Austin" "Bob lives in Chicago"'
EDIT_KEYS = {
    *("kind", "verb", "method", "ratio", "alpha", "state_norm", "delta_norm", "verdict"),
    *("p_old", "p_new", "controls", "ms"),
}


@pytest.fixture(autouse=True)
def one_model(embedded, monkeypatch):
    """Runs share the loaded model unless they ask for something else."""
    from rwkvedit.models import catalog

    real = catalog.load_model

    def load(name="embedded", device="auto", *args, **kwargs):
        plain = name == "embedded" and device in ("auto", "cpu")
        return embedded if plain else real(name, device, *args, **kwargs)

    monkeypatch.setattr(catalog, "load_model", load)


def objects(capsys):
    out = capsys.readouterr().out
    assert "\x1b" not in out
    return [json.loads(line) for line in out.splitlines()]


def test_run_prints_one_object_a_line(capsys):
    lines = ["Bob lives in Austin.", EDIT, "Where does Bob live?", "/undo 2", "/nonsense"]
    argv = ["run", "--json", "--greedy"]
    for line in lines:
        argv += ["-c", line]
    assert main(argv) == 1
    reply, edit, answer, undo, error = objects(capsys)
    assert reply["kind"] == "reply"
    assert set(edit) >= EDIT_KEYS and edit["verdict"] == "took" and edit["verb"] == "edit"
    assert set(edit["p_old"]) == {"before", "after"}
    assert answer["text"] == "Bob lives in Chicago."
    assert (undo["kind"], undo["command"], undo["steps"]) == ("result", "undo", 2)
    assert error == {"kind": "error", "message": "unknown command /nonsense: /help lists them"}


def test_run_reads_a_file_and_joins_lines(tmp_path, capsys):
    path = tmp_path / "lines.txt"
    lines = "Hello.\\\nBob lives in Austin.\n\n/heard\n/quit\n/nonsense\n"
    path.write_text(lines, encoding="utf-8")
    assert main(["run", str(path), "--json"]) == 0
    found = objects(capsys)
    assert [o["kind"] for o in found] == ["reply", "result", "result"]
    assert found[1]["facts"][0]["value"] == "Austin"


def test_piped_text_is_the_models_and_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Bob lives in Austin.\nWhere does Bob live?\n"))
    assert main([]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "Bob lives in Austin."
    assert captured.err == ""


def test_an_error_goes_on_unless_asked_to_stop(capsys):
    assert main(["run", "-c", "/x", "-c", "/heard"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "no facts heard yet\n"
    assert captured.err == "! unknown command /x: /help lists them\n"
    assert main(["run", "--stop-on-error", "-c", "/x", "-c", "/heard"]) == 1
    assert capsys.readouterr().out == ""


def test_an_interrupt_is_130(monkeypatch, capsys):
    from rwkvedit.session import Session

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "say", stop)
    assert main(["run", "-c", "hi"]) == 130
    assert "the conversation is as it was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["rn"], 2, "no verb 'rn': did you mean run?"),
        (["run", "--nope"], 2, "unrecognized arguments: --nope (see rwkvedit run --help)"),
        (["run", "--threads", "0", "-c", "x"], 2, "--threads takes a number from 1 on"),
        (["run", "--temperature", "hot", "-c", "x"], 2, "temperature takes a number, not 'hot'"),
        (["run", "--model", "no-such", "-c", "x"], 3, "no model 'no-such'"),
        (["run", "--device", "tpu", "-c", "x"], 2, "no device 'tpu'"),
        (["run", "no-such-file"], 1, "cannot read no-such-file: No such file"),
        (["run", "--load", "nothing", "-c", "x"], 1, "no saved conversation 'nothing'; nothing is"),
        (["run", "--system", " ", "-c", "x"], 2, "there is nothing to say"),
        (["replay", "no-such-file"], 1, "no such transcript"),
        (["bench", "nothing"], 2, "invalid choice: 'nothing'"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(argv, code, message, capsys):
    assert main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rwkvedit: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_a_mistake_with_json_is_an_object_too(capsys):
    assert main(["run", "--json", "--model", "no-such", "-c", "x"]) == 3
    (found,) = objects(capsys)
    assert found["kind"] == "error" and "no-such" in found["message"]


def test_asking_for_an_absent_gpu_is_3(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["run", "--device", "cuda", "-c", "x"]) == 3
    assert "--device cpu" in capsys.readouterr().err


def test_options_may_stand_before_the_verb():
    assert with_verb(["--model", "m", "run", "-c", "x"]) == ["run", "--model", "m", "-c", "x"]
    assert with_verb([]) == ["chat"]
    assert with_verb(["--model", "run"]) == ["chat", "--model", "run"]
    assert with_verb(["--greedy", "--seed", "3"]) == ["chat", "--greedy", "--seed", "3"]


def test_a_full_disk_is_one_line_and_the_conversation_goes_on(capsys):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    lines = ["-c", "/transcript /dev/full", "-c", "/heard"]
    assert main(["run", *lines]) == 1
    captured = capsys.readouterr()
    assert captured.out == "no facts heard yet\n"
    assert "No space left on device" in captured.err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["run", "-c", f"/save {tmp_path}/file/x.safetensors", "-c", "/heard"]) == 1
    captured = capsys.readouterr()
    assert "cannot write" in captured.err and captured.err.count("\n") == 1
    assert captured.out == "no facts heard yet\n"


def test_help_is_instant_and_loads_no_torch():
    code = (
        "import sys, rwkvedit, rwkvedit.cli as c\n"
        "try: c.main(['run', '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0 and capsys.readouterr().out.strip() == f"rwkvedit {__version__}"


def test_every_verb_has_help(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as done:
            main([verb, "--help"])
        assert done.value.code == 0, verb
        assert capsys.readouterr().out.startswith(f"usage: rwkvedit {verb}")


def test_what_a_recorded_run_opened_with_is_replayed_too(tmp_path, capsys):
    path = tmp_path / "mine.txt"
    record = ["run", "--transcript", str(path), "--system", 'Be "kind".', "-c", "/system"]
    assert main(record) == 0
    assert '> /system "Be \\"kind\\"."\n' in path.read_text()
    assert main(["replay", str(path), "--json"]) == 0
    assert main(record) == 1
    assert f"{path} exists already; name another file" in capsys.readouterr().err


def test_saving_spares_a_file_that_is_no_conversation(tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("my own words")
    assert main(["run", "-c", f"/save {notes}"]) == 1
    assert "is no rwkvedit-session file; name another" in capsys.readouterr().err
    assert notes.read_text() == "my own words"


def test_a_transcript_begun_late_says_what_it_lacks(tmp_path, capsys):
    path = tmp_path / "late.txt"
    assert main(["run", "-c", "/system Be kind.", "-c", f"/transcript {path}"]) == 0
    assert "tokens so far are not in it" in capsys.readouterr().err


def test_a_system_text_is_fed_and_shown(capsys):
    assert main(["run", "-c", "/system Be kind.", "-c", "/system"]) == 0
    assert capsys.readouterr().out == "the system text is set\nBe kind.\n"


PRINTERS = {"cli.py", "repl/render.py", "train/vocab.py"}  # the last is a script of its own


def test_only_the_renderer_and_the_shell_command_print():
    import rwkvedit

    package = Path(rwkvedit.__file__).parent
    guilty = []
    for path in sorted(package.rglob("*.py")):
        called = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = {ast.unparse(function) for function in called}
        if names & {"print", "Console", "sys.stdout.write", "sys.stderr.write"}:
            guilty.append(path.relative_to(package).as_posix())
    assert set(guilty) <= PRINTERS
