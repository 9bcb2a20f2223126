"""The README's lines on transformers, and the command behind its figures, do what they say."""

from __future__ import annotations

import io
import json
import time
from contextlib import redirect_stdout

import pytest
import readme

from rwkvedit import cli
from rwkvedit.evaluate import hooking
from rwkvedit.transformer import open_session, running


def test_the_readmes_session_prints_what_its_comments_say():
    fenced = readme.block("transformers", readme.README.read_text(encoding="utf-8"))
    code = fenced.split("```python\n", 1)[1].split("```", 1)[0]
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    said = [line.split("  # ", 1)[1] for line in code.splitlines() if line.startswith("print(")]
    assert out.getvalue().splitlines() == said


@pytest.mark.parametrize(("name", "first"), [
    ("toy", "forward, transformers alone"), ("embedded", "forward, nothing registered"),
])  # fmt: skip
def test_the_overhead_of_hooks_is_measured_by_its_command(name, first, capsys):
    asked = ["bench", "hooks", "--model", name, "--repeats", "2", "--tokens", "8"]
    assert cli.main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["task"]: row for row in document["rows"]}
    assert next(iter(rows)) == first
    assert rows[first]["cost"] == rows["generate a token, nothing registered"]["cost"] == 0
    assert {"forward, nothing registered", "forward, the session's own part of it"} < rows.keys()
    assert all(row["ms"] > 0 and row["lo"] <= row["cost"] <= row["hi"] for row in rows.values())
    assert document["meta"]["model"] == name and document["meta"]["seed"] == 0
    assert cli.main(["bench", "hooks", "--model", "toy", "--repeats", "0"]) == 2


def test_the_sessions_own_part_counts_what_it_does_and_not_what_the_model_does(monkeypatch):
    toy = open_session("toy")

    def measured():
        return hooking._outside(toy.model, lambda: toy.forward("The capital"), 3)

    pause = 0.03
    slow = toy.model.base.norm.forward
    monkeypatch.setattr(toy.model.base.norm, "forward", lambda h: time.sleep(pause) or slow(h))
    row = measured()
    assert row["ms"] < pause * 1e3 and row["hi"] < 1
    table = running.table_of
    monkeypatch.setattr(running, "table_of", lambda *a: time.sleep(10 * pause) or table(*a))
    row = measured()
    assert row["ms"] >= 10 * pause * 1e3 and row["lo"] > 0.5
    assert "forward" not in vars(toy.model.base) and "project" not in vars(toy.model)
