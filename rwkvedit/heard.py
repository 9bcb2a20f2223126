"""What a conversation has been told: facts read from its sentences. Knows no model and no state."""

from __future__ import annotations

from collections.abc import Sequence

from rwkvedit.errors import UsageError
from rwkvedit.facts import Fact, parse_fact, parse_facts


def facts_in(text: str) -> list[Fact]:
    """The facts that a text states."""
    return list(parse_facts(text))


def merge_heard(heard: Sequence[Fact], new: Sequence[Fact]) -> tuple[Fact, ...]:
    """``heard`` with ``new`` told after it: the latest value of each (kind, entity, thing)."""
    out = {fact.key: fact for fact in heard}
    for fact in new:
        out.pop(fact.key, None)
        out[fact.key] = fact
    return tuple(out.values())


def replaced_heard(heard: Sequence[Fact], old: str, new: str) -> tuple[Fact, ...]:
    """``heard`` after an edit of ``old`` into ``new``."""
    return merge_heard(without(heard, old), [f for f in [parse_fact(new)] if f])


def without(heard: Sequence[Fact], fact: str) -> tuple[Fact, ...]:
    """``heard`` without the fact(s) that a sentence states."""
    keys = {parsed.key for parsed in facts_in(fact)}
    said = bare(fact)
    return tuple(f for f in heard if f.key not in keys and bare(f.text) != said)


def same_text(a: str, b: str) -> bool:
    """Do two sentences say the same, spacing, case and the last mark aside?"""
    return bare(a) == bare(b)


def bare(text: str) -> str:
    """A sentence as it is compared."""
    return " ".join(text.split()).rstrip(".!").lower()


def fact_text(text: str, what: str) -> str:
    """A typed fact on one line. Raises UsageError, naming ``what``, when it says nothing."""
    text = " ".join(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())
    if not text.strip(".!? "):
        raise UsageError(f'{what} is empty; write it as a sentence, like "Bob lives in Austin"')
    return text
