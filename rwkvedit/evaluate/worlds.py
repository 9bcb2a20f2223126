"""Made-up worlds for benchmarks: who is told what, in which words, and in what order.

Knows nothing of models. Words come from a :class:`~rwkvedit.facts.lexicon.Lexicon`; phrasings are
the held-out ones (never used in training) unless asked otherwise. All randomness comes from the
generator handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rwkvedit.facts import KINDS, Fact, fill
from rwkvedit.facts.kinds import PROPER_SLOTS
from rwkvedit.facts.lexicon import FILE_KINDS, TRAIN, Lexicon

ACKNOWLEDGEMENT = "Got it."
FILLER_REPLY = "I see."
CORRECTION_OPENINGS = ("In fact, {}", "Let me correct that: {}", "I made a mistake. {}")
PERSON_KINDS = tuple(name for name, kind in KINDS.items() if kind.subject == "person")


@dataclass(frozen=True)
class Turn:
    """One exchange. ``facts`` are those the user's words tell (empty for small talk)."""

    user: str
    reply: str = ACKNOWLEDGEMENT
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class World:
    """A conversation and what is true at its end. ``facts`` keep the order they were told in."""

    turns: tuple[Turn, ...]
    facts: tuple[Fact, ...]
    target: int = 0  # index into facts: the one a suite edits or a question is about


class Maker:
    """Draws worlds from a lexicon."""

    def __init__(self, lexicon: Lexicon, rng: np.random.Generator) -> None:
        self.lexicon, self.rng = lexicon, rng

    def pick(self, options: Sequence):
        return options[int(self.rng.integers(len(options)))]

    def value(self, slot: str, taken: set[str]) -> str:
        """A word of a slot not in ``taken`` (which it joins) while the list lasts."""
        for _ in range(50):
            if slot == "ages":
                word = str(int(self.rng.integers(2, 100)))
            elif slot == "phones":
                word = str(int(self.rng.integers(1000, 10000)))
            else:
                word = self.pick(self.lexicon[slot] or TRAIN[slot])
            if word not in taken:
                break
        taken.add(word)
        return word

    def kinds(self, n: int, names: Sequence[str] = PERSON_KINDS) -> list[str]:
        """``n`` different kinds; those a lexicon file can name come twice as often."""
        odds = np.array([2.0 if KINDS[name].slot in FILE_KINDS else 1.0 for name in names])
        drawn = self.rng.choice(len(names), size=n, replace=False, p=odds / odds.sum())
        return [names[int(i)] for i in drawn]

    def fact(self, entity: str, kind: str, taken: set[str]) -> Fact:
        thing = self.value("colored", set()) if KINDS[kind].has_thing else ""
        return Fact(kind, entity, self.value(KINDS[kind].slot, taken), thing)

    def facts(self, n_entities: int, n_each: int, kinds: Sequence[str] | None = None) -> list[Fact]:
        """Everybody has the same ``n_each`` kinds, all values different: the hard case."""
        taken: set[str] = set()
        entities = [self.value("names", taken) for _ in range(n_entities)]
        chosen = list(kinds) if kinds else self.kinds(n_each)
        thing = self.value("colored", set())  # one thing for all, so that people are confusable
        made = []
        for entity in entities:
            for kind in chosen:
                fact = self.fact(entity, kind, taken)
                made.append(replace(fact, thing=thing) if fact.thing else fact)
        return made

    def tell(self, fact: Fact, heldout: bool = True) -> str:
        """One telling of a fact, never one that would put a common word at the start."""
        kind = KINDS[fact.kind]
        tells = [t for t in (kind.tells_heldout if heldout else kind.tells)
                 if kind.slot in PROPER_SLOTS or not t.startswith("{v}")]
        return fill(self.pick(tells), fact.entity, fact.value, fact.thing)

    def ask(self, fact: Fact, heldout: bool = True) -> str:
        """One question that the fact answers."""
        return self.pick(fact.questions(heldout))

    def turn(self, fact: Fact, heldout: bool = True) -> Turn:
        return Turn(self.tell(fact, heldout), ACKNOWLEDGEMENT, (fact,))

    def told(self, facts: Sequence[Fact], heldout: bool = True) -> World:
        """Each fact in a turn of its own, in random order."""
        order = [facts[int(i)] for i in self.rng.permutation(len(facts))]
        return World(tuple(self.turn(fact, heldout) for fact in order), tuple(order))

    def correct(self, world: World, index: int) -> World:
        """The world with one more turn, in which the user changes fact ``index``."""
        old = world.facts[index]
        new = old.with_value(self.value(KINDS[old.kind].slot, {f.value for f in world.facts}))
        said = self.tell(new)
        opening = self.pick(CORRECTION_OPENINGS)
        if ". {}" not in opening and not said.startswith(new.entity):
            said = said[:1].lower() + said[1:]
        turn = Turn(opening.format(said), ACKNOWLEDGEMENT, (new,))
        facts = list(world.facts)
        facts[index] = new
        return World((*world.turns, turn), tuple(facts), index)

    def small_talk(self, n_sentences: int = 2) -> Turn:
        """A turn that tells nothing about anyone."""
        said = " ".join(self.pick(self.lexicon["fillers"]) for _ in range(n_sentences))
        return Turn(said, FILLER_REPLY)

    def untold(self, world: World) -> Fact:
        """A question the world never answered: a stranger's, or a told person's other kind."""
        kinds_told = [fact.kind for fact in world.facts]
        taken = {fact.entity for fact in world.facts}
        if self.rng.random() < 0.5:
            return self.fact(self.value("names", taken), self.pick(kinds_told), set())
        others = [name for name in PERSON_KINDS if name not in kinds_told]
        return self.fact(self.pick(world.facts).entity, self.pick(others), set())
