"""The README's lines on transformers do what their comments say."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import readme


def test_the_readmes_session_prints_what_its_comments_say():
    fenced = readme.block("transformers", readme.README.read_text(encoding="utf-8"))
    code = fenced.split("```python\n", 1)[1].split("```", 1)[0]
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    said = [line.split("  # ", 1)[1] for line in code.splitlines() if line.startswith("print(")]
    assert out.getvalue().splitlines() == said
