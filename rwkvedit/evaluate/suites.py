"""Suites of worlds for editing benchmarks: which fact is changed, to what, and what must stay.

A suite is one function in ``SUITES``. Words come from a lexicon, phrasings are held out of
training, and the questions asked afterwards are never those the edit's strength was searched on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.worlds import Maker, Turn, World
from rwkvedit.facts import KINDS, Fact
from rwkvedit.facts.kinds import article


@dataclass(frozen=True)
class EditCase:
    """One edit in one world. ``asks[i]`` is the held-out question of ``world.facts[i]``."""

    world: World
    target: int
    new: Fact
    asks: tuple[str, ...]

    @property
    def old(self) -> Fact:
        return self.world.facts[self.target]

    @property
    def controls(self) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.world.facts)) if i != self.target)

    @property
    def others(self) -> tuple[Fact, ...]:
        """The control facts, as told."""
        return tuple(self.world.facts[i] for i in self.controls)


def respell(text: str, old: str, new: str) -> str:
    """``text`` with the value ``old`` said as ``new``; a/an follows the new word.

    >>> respell("Bob works as an actor.", "actor", "baker")
    'Bob works as a baker.'
    """
    pattern = re.compile(rf"(?<!\w)(?:(an?) )?{re.escape(old)}(?!\w)", re.IGNORECASE)
    return pattern.sub(lambda m: f"{article(new)} {new}" if m.group(1) else new, text)


def counterfactual(case: EditCase) -> World:
    """The same conversation, had the target been told with its new value from the start."""
    old = case.old
    turns = tuple(
        replace(t, user=respell(t.user, old.value, case.new.value), facts=(case.new,))
        if old in t.facts and len(t.facts) == 1 else t
        for t in case.world.turns
    )
    facts = tuple(case.new if i == case.target else f for i, f in enumerate(case.world.facts))
    return World(turns, facts, case.target)


def _case(maker: Maker, world: World, target: int) -> EditCase:
    old = world.facts[target]
    new = old.with_value(maker.value(KINDS[old.kind].slot, {f.value for f in world.facts}))
    return EditCase(world, target, new, tuple(maker.ask(fact) for fact in world.facts))


def _entities(n: int, each: int = 1) -> Callable[[Maker, int], EditCase]:
    def make(maker: Maker, index: int) -> EditCase:
        world = maker.told(maker.facts(n, each))
        return _case(maker, world, index % len(world.facts))

    return make


def _same_entity(maker: Maker, index: int) -> EditCase:
    """The hat and the eyes of one person, beside another person's hat; either is edited."""
    taken: set[str] = set()
    one, other = maker.value("names", taken), maker.value("names", taken)
    facts = [
        Fact("color", who, maker.value("colors", taken), thing)
        for who, thing in ((one, "hat"), (one, "eyes"), (other, "hat"))
    ]
    turns = tuple(Turn(f.statement(), facts=(f,)) for f in facts)
    return _case(maker, World(turns, tuple(facts)), index % 2)


SUITES: dict[str, Callable[[Maker, int], EditCase]] = {
    "two-entity": _entities(2),
    "five-entity": _entities(5),
    "seven-entity-two-facts": _entities(7, 2),
    "same-entity": _same_entity,
}


def find_suite(name: str) -> Callable[[Maker, int], EditCase]:
    """Raises UsageError with the list of suites."""
    if name not in SUITES:
        raise UsageError(f"no suite called {name}; there are {', '.join(SUITES)}")
    return SUITES[name]
