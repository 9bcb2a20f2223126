"""Facts that an edit must leave alone: asked before and after, on copies of the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.facts import Fact, parse_fact
from rwkvedit.recurrent.asking import Ask, Reading, Rows, make_asks
from rwkvedit.recurrent.editreport import ControlResult

#: The share of its probability that a control must keep, even where its answer stays the first.
HALF = 0.5


@dataclass(frozen=True)
class Control:
    """``text`` as given, how it is asked, and the tokens of the value and of what closes it."""

    text: str
    ask: Ask
    value: tuple[int, ...]


def make_controls(loaded: Any, texts: Sequence[str], about: Fact | None) -> list[Control]:
    """Controls for typed or heard facts; those about the edited fact itself are left out.

    A sentence no kind explains is asked by its words up to the last. Raises UsageError for a
    sentence of one word.
    """
    controls: list[Control] = []
    seen: set[str] = set()
    for text in texts:
        said = " ".join(text.split())
        fact = parse_fact(said)
        if said.lower() in seen or (fact and about and fact.key == about.key):
            continue
        seen.add(said.lower())
        if fact is not None:
            questions = fact.questions()[:1]
            answer, value = fact.answer_prefix(), fact.answer_value()
            closing = "." if fact.answer().endswith(".") else ""
        else:
            head, _, last = said.rstrip(".!?").rpartition(" ")
            if not head:
                raise UsageError(f'--check "{text}" is not a fact; write it like "Bob has a car"')
            questions, answer, value, closing = [], f" {head}", f" {last}", ""
        ask = make_asks(loaded, questions, answer)[0]
        encode = loaded.tokenizer.encode
        # where a value ends must stand too: another's edit can leave "punch" to go on as "punchlum"
        controls.append(Control(said, ask, (*encode(value), *encode(closing)[:1])))
    return controls


def add_controls(rows: Rows, controls: Sequence[Control], state: int = 0) -> list[int]:
    """Handles of the controls' readings."""
    return [rows.add(c.ask, c.value, state) for c in controls]


def kept(before: Reading, after: Reading) -> bool:
    """Does a control stand: the greedy answer what it was, and at least half as likely as before?

    A fact it never knew may not drift by .25.
    """
    if not before.said:
        return not after.said and abs(after.p - before.p) < 0.25
    answered = after.said and (after.path_said or not before.path_said)
    return answered and after.p >= HALF * before.p


def compare(
    controls: Sequence[Control], before: Sequence[Reading], after: Sequence[Reading]
) -> tuple[ControlResult, ...]:
    return tuple(
        ControlResult(
            c.text, b.p, a.p, kept(b, a), max(b.p - a.p, b.path - a.path if b.path_said else 0.0)
        )
        for c, b, a in zip(controls, before, after, strict=True)
    )
