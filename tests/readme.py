"""The README's made parts: ``python tests/readme.py`` writes them, a test holds them current."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import tables

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CARD = ROOT / "rwkvedit" / "models" / "embedded" / "CARD.md"
DEMO = ROOT / "transcripts" / "demo.txt"


def block(name: str, text: str) -> str:
    """What stands between ``<!-- name: begin -->`` and its end."""
    found = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", text, re.S)
    assert found, f"README.md has no {name} block"
    return found.group(1)


def commands() -> str:
    """The chat's command table."""
    from rwkvedit.cli import main

    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["commands", "--markdown"]) == 0
    return out.getvalue().strip() + "\n"


def demo() -> str:
    """The demo transcript without its header."""
    body = DEMO.read_text(encoding="utf-8").split("\n---\n", 1)[-1].strip()
    return f"```console\n{body}\n```\n"


def api() -> str:
    """The Python example's code."""
    fenced = block("api", README.read_text(encoding="utf-8"))
    return fenced.split("```python\n", 1)[1].split("```", 1)[0]


def made() -> dict[str, str]:
    """Every made block of the README by name."""
    return {"commands": commands(), "demo": demo(), **tables.blocks()}


def rewritten(text: str, blocks: dict[str, str]) -> str:
    """``text`` with its blocks of these names replaced; blocks it does not have are left out."""
    for name, new in blocks.items():
        text = re.sub(
            rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)",
            lambda m, new=new: m.group(1) + new + m.group(2), text, count=1, flags=re.S,
        )
    return text


def write() -> None:
    blocks = made()
    for path in (README, CARD):
        path.write_text(rewritten(path.read_text(encoding="utf-8"), blocks), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    write()
