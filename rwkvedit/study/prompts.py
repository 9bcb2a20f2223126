"""Two sets of prompts to contrast: the user's files or the shipped topics. Knows no model.

A file holds one prompt a line; after a tab may stand a group id. Prompts of one group (the same
frame, author or document) never stand on both sides of a split. Empty lines are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rwkvedit.errors import UsageError

SHIPPED = ("weather", "food")  # people talking of two harmless topics, in the same frames
LONGEST = 512  # tokens of one prompt


@dataclass(frozen=True)
class Prompt:
    text: str
    group: str
    tokens: tuple[int, ...] = ()


def read_prompts(path: str | Path) -> list[Prompt]:
    """Raises UsageError for a file that cannot be read, is not UTF-8, or holds no prompt."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: expected lines of UTF-8 text") from None
    return parse_prompts(text, str(path))


def parse_prompts(text: str, where: str) -> list[Prompt]:
    """``prompt[<tab>group]`` lines; a prompt without a group id is a group of its own."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        said, _, group = line.partition("\t")
        if said.strip():
            found.append(Prompt(said.strip(), group.strip() or f"line {number} of {where}"))
    if not found:
        raise UsageError(f"{where} holds no prompts; write one a line")
    return found


def shipped(topic: str) -> list[Prompt]:
    """The package's own prompts on a topic."""
    text = resources.files("rwkvedit.study").joinpath("topics", f"{topic}.txt").read_text("utf-8")
    return parse_prompts(text, topic)


def encoded(loaded: Any, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Each prompt as a user's turn up to the assistant's opening.

    Raises UsageError for one that the model cannot hold.
    """
    out = []
    for prompt in prompts:
        ids = loaded.template.encode_user(loaded.tokenizer, prompt.text)
        if len(ids) > LONGEST:
            raise UsageError(f'prompt "{prompt.text[:40]}..." is longer than {LONGEST} tokens')
        out.append(Prompt(prompt.text, prompt.group, tuple(ids)))
    return out


def prompt_sets(loaded: Any, a: str | None, b: str | None) -> tuple[list[Prompt], list[Prompt]]:
    """Both sets, encoded: the two files, or the shipped topics when neither is given."""
    first, second = (
        (read_prompts(a), read_prompts(b)) if a and b else tuple(map(shipped, SHIPPED)))
    return encoded(loaded, first), encoded(loaded, second)


def names_of(a: str | None, b: str | None) -> tuple[str, str]:
    """What to call the two sets."""
    return (Path(a).stem, Path(b).stem) if a and b else SHIPPED
