"""The README's lines on transformers, and the command behind its figures, do what they say."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout

import readme

from rwkvedit import cli


def test_the_readmes_session_prints_what_its_comments_say():
    fenced = readme.block("transformers", readme.README.read_text(encoding="utf-8"))
    code = fenced.split("```python\n", 1)[1].split("```", 1)[0]
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    said = [line.split("  # ", 1)[1] for line in code.splitlines() if line.startswith("print(")]
    assert out.getvalue().splitlines() == said


def test_the_overhead_of_hooks_is_measured_by_its_command(capsys):
    assert cli.main(["bench", "hooks", "--model", "toy", "--repeats", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["task"]: row for row in document["rows"]}
    assert rows["forward, nothing registered"]["cost"] == 0
    assert "forward, transformers alone" in rows and "generate a token, steered" in rows
    assert all(row["ms"] > 0 for row in rows.values())
    assert document["meta"]["model"] == "toy" and document["meta"]["seed"] == 0
    assert cli.main(["bench", "hooks", "--model", "toy", "--repeats", "0"]) == 2
