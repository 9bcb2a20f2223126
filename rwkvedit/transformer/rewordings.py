"""Other ways to ask for the same thing, from a prompt and the subject it names. Runs no model.

"The capital of France is" is read as relation and subject where it has that form, and asked again
in other words; any prompt can be put behind a few words that change nothing. Knows English alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

FRAMES = (
    "It is well known that {prompt}",
    "I was asked to finish this sentence. {Prompt}",
    "According to the encyclopedia, {prompt}",
    "Here is a fact: {prompt}",
    "As my teacher used to say, {prompt}",
    "Question of the day. {Prompt}",
    "They told me that {prompt}",
)
"""Any prompt, and nothing of what it asks changed."""
RELATIONAL = (
    "What is the {relation} of {subject}? It is",
    "The name of the {relation} of {subject} is",
    "Question: What is the {relation} of {subject}? Answer: The {relation} is",
    "The {relation} of {subject} is called",
    "What is the {relation} of {subject}? The {relation} is",
    "The {relation} of {subject}, of course, is",
)
"""Prompts of the form "The capital of France is": the gate asks the first three, an edit looks at
the others."""
PATTERNS = (
    re.compile(r"^The (?P<relation>[\w ]+?) of (?P<subject>.+) (?:is|was)(?: called| in)?$"),
    re.compile(r"^(?P<subject>.+?)'s (?P<relation>[\w ]+?) (?:is|was)(?: called| in)?$"),
)


def relation_of(prompt: str, subject: str) -> str | None:
    """``capital`` of "The capital of France is"; None where the prompt has another form."""
    for pattern in PATTERNS:
        found = pattern.match(prompt.strip())
        if found and found["subject"] == subject:
            return found["relation"]
    return None


def rewordings(prompt: str, subject: str) -> list[str]:
    """The gate's seven: three of RELATIONAL and four of FRAMES, or FRAMES alone."""
    relation = relation_of(prompt, subject)
    asked = [] if relation is None else RELATIONAL[:3]
    return _said(asked, FRAMES[: 7 - len(asked)], prompt, subject)


def others(prompt: str, subject: str) -> list[str]:
    """Those for looking at while an edit is made: none of the gate's where there is a relation."""
    relation = relation_of(prompt, subject)
    return _said([] if relation is None else RELATIONAL[3:], FRAMES[4:], prompt, subject)


def _said(relational: Sequence[str], frames: Sequence[str], prompt: str, subject: str) -> list[str]:
    relation = relation_of(prompt, subject)
    small = prompt if prompt.startswith(subject) or prompt[:2] == "I " else _lower(prompt)
    return [r.format(relation=relation, subject=subject) for r in relational] + [
        frame.format(prompt=small, Prompt=prompt) for frame in frames
    ]


def differing(src: str, tgt: str) -> tuple[str, str] | None:
    """The words in which two prompts differ, between those that they share at both ends.

    ("France", "Japan") of "The capital of France is" and "The capital of Japan is"; None where
    they share nothing or one has no words of its own.
    """
    a, b = src.split(), tgt.split()
    start = _shared(a, b)
    end = _shared(a[start:][::-1], b[start:][::-1])
    mine, theirs = a[start : len(a) - end], b[start : len(b) - end]
    if not mine or not theirs or not start + end:
        return None
    return _bare(" ".join(mine)), _bare(" ".join(theirs))


def subject_of(src: str, tgt: str) -> str | None:
    """The subject of ``src``: where it differs from ``tgt``, else its last capitalised words."""
    found = differing(src, tgt)
    if found is not None and found[0] in src:
        return found[0]
    names = re.findall(r"(?<!^)\b[A-Z][\w.'-]*(?: (?:of |de |van )?[A-Z][\w.'-]*)*", src)
    return names[-1] if names else None


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    same = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        same += 1
    return same


def _bare(words: str) -> str:
    return words.strip(".,;:!?\"'").removesuffix("'s")


def _lower(prompt: str) -> str:
    return prompt[:1].lower() + prompt[1:]
