"""Made-up worlds for benchmarks: who is told what, in which words, and in what order.

Knows nothing of models. Words come from a :class:`~rwkvedit.facts.lexicon.Lexicon`; phrasings are
the held-out ones (never used in training) unless asked otherwise. All randomness comes from the
generator handed in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rwkvedit.errors import UsageError
from rwkvedit.facts import KINDS, Fact, fill
from rwkvedit.facts.kinds import PROPER_SLOTS
from rwkvedit.facts.lexicon import FILE_KINDS, TRAIN, Lexicon

ACKNOWLEDGEMENT = "Got it."
FILLER_REPLY = "I see."
CORRECTION_OPENINGS = ("In fact, {}", "Let me correct that: {}", "I made a mistake. {}")
NUMBERS = {
    "ages": tuple(map(str, range(2, 100))), "phones": tuple(map(str, range(1000, 10000))),
}
PERSON_KINDS = tuple(name for name, kind in KINDS.items() if kind.subject == "person")


@dataclass(frozen=True)
class Part:
    """A stretch of a user's words: ``fact`` is what it tells, None for talk."""

    text: str
    fact: Fact | None = None


@dataclass(frozen=True)
class Turn:
    """One exchange. ``facts`` are those the user's words tell (empty for small talk).

    ``parts`` say which words tell which fact where a turn tells several, or says more than facts;
    their texts make up ``user``.
    """

    user: str
    reply: str = ACKNOWLEDGEMENT
    facts: tuple[Fact, ...] = ()
    parts: tuple[Part, ...] = ()

    @staticmethod
    def of(parts: Iterable[Part], reply: str = ACKNOWLEDGEMENT) -> Turn:
        """A turn that says ``parts`` one after another."""
        parts = tuple(parts)
        facts = tuple(part.fact for part in parts if part.fact is not None)
        return Turn(" ".join(part.text for part in parts), reply, facts, parts)

    @property
    def pieces(self) -> tuple[Part, ...]:
        """``parts``; a turn of one fact is one part."""
        return self.parts or (Part(self.user, self.facts[0] if self.facts else None),)


@dataclass(frozen=True)
class World:
    """A conversation and what is true at its end. ``facts`` keep the order they were told in."""

    turns: tuple[Turn, ...]
    facts: tuple[Fact, ...]
    target: int = 0  # index into facts: the one a suite edits or a question is about


def overlap(word: str, other: str) -> bool:
    """Does one hold the other as whole words? A reply that says one then says both.

    >>> overlap("guinea pig", "pig"), overlap("Cebu", "Cebue")
    (True, False)
    """
    short, long = sorted((word.lower(), other.lower()), key=len)
    return re.search(rf"(?<!\w){re.escape(short)}(?!\w)", long) is not None


class Maker:
    """Draws worlds from a lexicon.

    ``length`` counts a turn's tokens, for suites that need a conversation of a given length;
    without it they go by four letters a token.
    """

    def __init__(
        self, lexicon: Lexicon, rng: np.random.Generator,
        length: Callable[[Turn], int] | None = None,
    ) -> None:
        self.lexicon, self.rng = lexicon, rng
        self.length = length or (lambda turn: (len(turn.user) + len(turn.reply)) // 4 + 6)

    def pick(self, options: Sequence):
        return options[int(self.rng.integers(len(options)))]

    def words(self, slot: str) -> tuple[str, ...]:
        """Everything a slot may hold."""
        return NUMBERS.get(slot) or self.lexicon[slot] or TRAIN[slot]

    def value(self, slot: str, taken: set[str]) -> str:
        """A word of a slot that no word of ``taken`` holds or is held by; joins ``taken``.

        Raises UsageError when the list has run out.
        """
        options = self.words(slot)
        for _ in range(50):
            word = self.pick(options)
            if word not in taken and not any(overlap(word, other) for other in taken):
                break
        else:
            left = [w for w in options if not any(overlap(w, other) for other in taken)]
            if not left:
                raise UsageError(
                    f"lexicon {self.lexicon.source}: {len(options)} {slot} are too few for these "
                    f"worlds; add more, or leave {slot} out to use the built-in ones"
                )
            word = self.pick(left)
        taken.add(word)
        return word

    def kinds(self, n: int, names: Sequence[str] = PERSON_KINDS, each: int = 0) -> list[str]:
        """``n`` different kinds; those a lexicon file can name come twice as often.

        ``each`` is how many values of every kind a world will need, so many names beside: kinds
        are drawn again until the lexicon has that many. Raises UsageError when it has not.
        """
        odds = np.array([2.0 if KINDS[name].slot in FILE_KINDS else 1.0 for name in names])
        for _ in range(200):
            drawn = self.rng.choice(len(names), size=n, replace=False, p=odds / odds.sum())
            chosen = [names[int(i)] for i in drawn]
            need = Counter(KINDS[name].slot for name in chosen)
            need["names"] += 1
            if not each or all(len(self.words(s)) >= k * each for s, k in need.items()):
                return chosen
        raise UsageError(
            f"lexicon {self.lexicon.source}: these worlds need {each} different words of {n} "
            "kinds and as many names; add more, or leave the short lists out"
        )

    def fact(self, entity: str, kind: str, taken: set[str]) -> Fact:
        thing = self.value("colored", set()) if KINDS[kind].has_thing else ""
        return Fact(kind, entity, self.value(KINDS[kind].slot, taken), thing)

    def facts(self, n_entities: int, n_each: int, kinds: Sequence[str] | None = None) -> list[Fact]:
        """Everybody has the same ``n_each`` kinds, all values different: the hard case."""
        taken: set[str] = set()
        entities = [self.value("names", taken) for _ in range(n_entities)]
        chosen = list(kinds) if kinds else self.kinds(n_each, each=n_entities + 1)
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
        heard = [fact for turn in world.turns for fact in turn.facts]
        taken = {word for fact in heard for word in (fact.entity, fact.value)}
        new = old.with_value(self.value(KINDS[old.kind].slot, taken))
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
