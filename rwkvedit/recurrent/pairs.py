"""What an edit is about, in words: two facts that part at a value. Knows no tokens and no states.

``Bob lives in Austin`` / ``Bob lives in Chicago`` becomes: told ``Bob lives in``, old `` Austin``,
new `` Chicago``, closing ``.``, with the questions that ask for it and the assistant's sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rwkvedit.errors import UsageError
from rwkvedit.facts import Fact, parse_fact, split_pair

EXAMPLE = '"Bob lives in Austin" "Bob lives in Chicago"'


@dataclass(frozen=True)
class Pair:
    """Two facts with one place where they differ.

    ``kind`` is the fact kind's name, or empty for a pair that no kind explains; values carry their
    leading space and article (`` a baker``); ``answer`` is what the assistant says before the
    value, leading space kept; ``questions`` is empty for an unexplained pair, whose own question
    is the assistant saying ``answer``.
    """

    kind: str
    told: str
    old: str
    new: str
    closing: str
    questions: tuple[str, ...]
    answer: str
    answer_old: str
    answer_new: str
    answer_closing: str = "."
    fact: Fact | None = None
    new_fact: Fact | None = None

    @property
    def names(self) -> tuple[str, str]:
        """The two values as a calibration names them: bare for a kind, as told otherwise."""
        if self.fact is not None and self.new_fact is not None:
            return self.fact.value, self.new_fact.value
        return self.old, self.new

    def statement(self, value: str) -> str:
        return f"{self.told}{value}{self.closing}"

    @property
    def fragment(self) -> str:
        """``told`` without whom it is about: ``lives in``; its first word when that is not known.

        A single word stays: there is nothing else to say before the value.
        """
        who = re.escape(self.fact.entity if self.fact is not None else self.told.split(" ")[0])
        own = {"I": "|my", "you": "|your"}.get(who, "")
        words = re.sub(rf"(?i)(?<!\w)(?:{who}(?:'s)?{own})(?!\w)\s*", "", self.told, count=1)
        return words.strip() or self.told


def _clean(text: str, what: str) -> str:
    words = " ".join(text.split())
    if not words.strip(".!?, "):
        raise UsageError(f"the {what} is empty; write it like {EXAMPLE}")
    return words


def part(old: str, new: str) -> tuple[str, str, str, str]:
    """(shared opening words, old value, new value, shared closing) of two sentences.

    >>> part("Bob is 30 years old.", "Bob is 41 years old.")
    ('Bob is', ' 30', ' 41', ' years old.')
    """
    shared, left, right = split_pair(old.rstrip(".! "), new.rstrip(".! "))
    opening, _, last = shared.rpartition(" ")
    if opening and not (left and right):  # one value begins with the whole other: York, York City
        shared, left, right = opening, f"{last}{left}", f"{last}{right}"
    a, b, closing = left.split(), right.split(), []
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        closing.insert(0, a.pop())
        b.pop()
    tail = "".join(f" {word}" for word in closing) + "."
    return shared, "".join(f" {word}" for word in a), "".join(f" {word}" for word in b), tail


def read_pair(old: str, new: str) -> Pair:
    """Two typed facts as a :class:`Pair`.

    Raises UsageError for empty or identical facts, facts about two different things, and facts
    that share no opening words.
    """
    old, new = _clean(old, "old fact"), _clean(new, "new fact")
    if old.rstrip(".! ").lower() == new.rstrip(".! ").lower():
        raise UsageError(f'both facts say "{old}"; the second must say something new')
    before, after = parse_fact(old), parse_fact(new)
    if before and after and before.key == after.key:
        if before.value.lower() == after.value.lower():
            raise UsageError(
                f'both facts say {before.value}; the second must give another value than the first'
            )
        return pair_of_facts(before, after)
    if before and after and (before.kind == after.kind or before.key[1] != after.key[1]):
        raise UsageError(
            f'"{old}" and "{new}" are not about one thing; '
            f"an edit changes one value, like {EXAMPLE}"
        )
    told, left, right, closing = part(old, new)
    if not told or not left or not right:
        raise UsageError(
            f"the two facts must open with the same words and differ in a value, like {EXAMPLE}"
        )
    answer = " " + told
    return Pair("", told, left, right, closing, (), answer, left, right, closing)


def pair_of_facts(before: Fact, after: Fact) -> Pair:
    """A Pair in the plainest telling of the facts' kind (the one the model hears most)."""
    told, left, right, closing = part(before.statement(), after.statement())
    answer, said_old, said_new, ending = part(before.answer(), after.answer())
    return Pair(
        before.kind, told, left, right, closing, tuple(before.questions()), " " + answer,
        said_old, said_new, ending, before, after,
    )
