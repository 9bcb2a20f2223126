"""What the README shows is what the program does."""

import io
from contextlib import redirect_stdout

import readme

TEXT = readme.README.read_text(encoding="utf-8")


def test_the_command_table_is_current():
    assert readme.block("commands", TEXT) == readme.commands(), "run: make readme"


def test_the_sixty_seconds_are_the_demo_transcript():
    assert readme.block("demo", TEXT) == readme.demo(), "run: make readme"


def test_the_python_example_prints_what_its_comments_say():
    code = readme.api()
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    said = [line.split("#", 1)[1].split("(")[0].strip()
            for line in code.splitlines() if line.startswith("print(")]
    assert out.getvalue().splitlines() == said


def test_every_folder_in_the_tree_exists():
    for name in ("models", "facts", "recurrent", "evaluate", "repl", "commands", "train"):
        assert f"  {name}/" in TEXT
        assert (readme.ROOT / "rwkvedit" / name).is_dir()
