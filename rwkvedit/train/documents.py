"""Writes the embedded model's training text: small worlds told, corrected, and asked about.

Knows nothing of tokens and rows. A document is a list of (text, weight) pieces; the weight says how
much a piece's tokens count in the loss (values, what ends them and the word that decides between
knowing and not knowing: 1.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rwkvedit.facts import KINDS, Fact, fill
from rwkvedit.facts.kinds import PROPER_SLOTS
from rwkvedit.facts.lexicon import TRAIN
from rwkvedit.train.wording import (
    ADVERBS,
    ASK_ENDS,
    ASK_WRAPS,
    CORRECTIONS,
    NOUN_WRAPS,
    TELL_WRAPS,
    any_verb,
    is_heldout,
    lead,
    noun_phrases,
    stray,
)
from rwkvedit.train.words import FILLER_REPLIES, FILLERS, SMALL_TALK, Words

VALUE, DECIDES, NAME, ANSWER, TEXT = 1.0, 1.0, 0.5, 0.3, 0.05

ACKS = ("Got it.", "Got it.", "Got it.", "Okay.", "Noted.")
FORGETS = ("Forget that {}", "Please forget that {}")
ABOUT = ("Tell me about {}.", "What do you know about {}?", "What did I tell you about {}?")
# Vocabularies of a document: odds, share of names and values that come from no list, and how many
# of those are spelled in several tokens. A chat of nothing but unheard words is the hard case.
VOCABULARIES = ((0.2, 0.25, 0.5), (0.25, 0.6, 0.65), (0.55, 1.0, 0.9))
# How much oftener than the rest a kind is told.
KIND_ODDS = {
    "phone": 0.5, "city": 2.5, "color": 2.5, "thing": 2.5, "job": 1.5, "pet": 1.5, "food": 1.5,
    "drink": 1.5, "sport": 1.5, "sister": 2.0, "brother": 2.0, "friend": 2.0, "boss": 2.0,
}
KIN = 0.25  # share of the relatives who are themselves one of a world's people
# Who "has a dog" has a pet, and who "has a car" drives one: things that another kind asks for.
ALSO = {"pets": "pet", "vehicles": "vehicle"}
ALSO_ODDS = 0.2  # share of the things that are one of these
UNTOLD = 0.1  # share of the questions that nobody answered
TOKENS_PER_FACT = 36  # telling it, acknowledging it and asking for some of it


def fixed_sentences() -> Iterator[str]:
    """Every sentence of the corpus that is not made from a fact template (for the vocabulary)."""
    from rwkvedit.train import words

    for user, reply in SMALL_TALK:
        yield user
        yield reply
    yield from FILLERS
    yield from FILLER_REPLIES
    yield from (*ACKS, *CORRECTIONS, *TELL_WRAPS, *ASK_WRAPS, *NOUN_WRAPS, *ADVERBS,
                *ASK_ENDS, *FORGETS, *ABOUT, *words._PATTERNS)
    yield from (*words._ADJECTIVES, *words._NOUNS, *words._VERBS)
    yield "User Assistant Q A Yes No He She They I don't know Okay, Here are some facts: I forgot"
    yield "In fact I made a mistake Let me correct that nothing about anything yet"


@dataclass
class Document:
    pieces: list[tuple[str, float]] = field(default_factory=list)
    facts: dict[tuple[str, str, str], Fact] = field(default_factory=dict)

    def add(self, text: str, weight: float = TEXT) -> None:
        self.pieces.append((text, weight))


class Writer:
    """Makes documents at a given difficulty."""

    def __init__(self, words: Words, rng: np.random.Generator) -> None:
        self.words, self.rng = words, rng
        self.open = 0.6
        self.refrains: list[str] = []  # what this document's small talk comes back to
        self._people: list[str] = []  # of the world being told
        self._kinds = list(KINDS.values())
        odds = np.array([KIND_ODDS.get(kind.name, 1.0) for kind in self._kinds])
        self._kind_odds = odds / odds.sum()

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    # -- worlds ---------------------------------------------------------------------------------

    def _entities(self, n: int) -> list[str]:
        chosen: list[str] = []
        surname_world = n >= 2 and self.chance(0.12)
        first = self.words.name(self.rng, self.open)
        while len(chosen) < n:
            if surname_world and len(chosen) < 2:
                name = f"{first} {self.words.name(self.rng, 0.3)}"
            elif self.chance(0.06):
                name = " ".join(self.words.name(self.rng, self.open) for _ in range(2))
            else:
                name = self.words.name(self.rng, self.open)
            if name not in chosen:
                chosen.append(name)
        if self.chance(0.15):
            chosen[int(self.rng.integers(n))] = "I"
        return chosen

    def _fact(self, entity: str, kind_name: str, taken: set[str], thing: str = "") -> Fact:
        kind = KINDS[kind_name]
        if kind.has_thing and not thing:
            thing = self.words.value("colored", self.rng, 0.8 * self.open)
            if thing == "hair" and self.chance(0.5):
                thing = "hat"
        slot, openness = kind.slot, self.open
        if kind_name == "thing" and self.chance(ALSO_ODDS):
            slot, openness = self.pick(tuple(ALSO)), 0.0
        kin = slot == "names" and self.chance(KIN)
        people = [name for name in self._people if name not in ("I", entity)] if kin else []
        for _ in range(20):
            value = self.pick(people) if people else self.words.value(slot, self.rng, openness)
            if value not in taken or self.chance(0.05):
                break
        taken.add(value)
        return Fact(kind_name, entity, value, thing if kind.has_thing else "")

    def world(self, n_entities: int, n_facts: int) -> list[Fact]:
        """Distinct facts; half the worlds give everybody the same kinds (the hard case)."""
        taken: set[str] = set()
        facts: list[Fact] = []
        entities = self._people = self._entities(n_entities)
        shared = self._draw_kinds(n_facts) if self.chance(0.65) else None
        thing = ""  # everybody's hat, each of another color
        if shared and self.chance(0.6):
            thing = self.words.value("colored", self.rng, 0.8 * self.open)
        for entity in entities:
            taken_keys = set()
            for kind_name in shared or self._draw_kinds(int(self.rng.integers(1, n_facts + 1))):
                kind = KINDS[kind_name]
                owner = entity
                if kind.subject == "object":
                    mine = self.chance(0.15)
                    owner = ("my " if mine else "the ") + self.words.value(
                        "objects", self.rng, 0.5 * self.open)
                fact = self._fact(owner, kind_name, taken, thing)
                if fact.key not in taken_keys and not any(f.key == fact.key for f in facts):
                    taken_keys.add(fact.key)
                    facts.append(fact)
        if n_facts >= 2 and self.chance(0.2):  # two colours of one person
            for entity in entities[:2]:
                fact = self._fact(entity, "color", taken)
                if not any(f.key == fact.key for f in facts):
                    facts.append(fact)
        return facts

    def _draw_kinds(self, n: int) -> list[str]:
        drawn = self.rng.choice(len(self._kinds), size=n, replace=False, p=self._kind_odds)
        return [self._kinds[int(i)].name for i in drawn]

    # -- sentences ------------------------------------------------------------------------------

    def tell(self, fact: Fact, pronoun: str = "") -> str:
        while True:
            said = self._any_tell(fact, pronoun)
            if not is_heldout(said, fact.kind):
                return said

    def _any_tell(self, fact: Fact, pronoun: str) -> str:
        kind = KINDS[fact.kind]
        tells = [t for t in kind.tells
                 if kind.slot in PROPER_SLOTS or not t.startswith("{v}")]
        entity, value = fact.entity, fact.value
        if pronoun and entity not in ("I",) and kind.subject == "person":
            usable = [t for t in tells if "{E's}" not in t]
            if usable:
                return fill(self.pick(usable), pronoun, value, fact.thing)
        # the plainest telling is also the commonest
        template = tells[0] if self.chance(0.3) else self.pick(tells)
        if fact.kind in ("thing", "color") and self.chance(0.15):
            template = any_verb(self.words, self.rng, fact.kind == "color")
        if template.startswith("{E} [") and "|am|" not in template and self.chance(0.1):
            template = template.replace("{E} ", "{E} " + self.pick(ADVERBS) + " ", 1)
        said = fill(template, entity, value, fact.thing)
        if self.chance(0.35):
            said = self._stray(said, fact, 0.2 if self.chance(0.6) else 0.5)
        if self.chance(0.25):
            if self.chance(0.5):  # any words at all in front: the fact stands whatever comes first
                before = lead(self.words, self.rng) + self.pick(("", "", ",", ":"))
                return f"{before} {_inside(said, entity, value)}"
            wrap = self.pick(TELL_WRAPS)
            return wrap.format(_inside(said, entity, value))
        return said

    def _stray(self, said: str, fact: Fact, rate: float = 0.2) -> str:
        keep = (fact.entity, fact.value, fact.thing)
        return stray(said, fact.kind, keep, self.words, self.rng, rate)

    def chain(self, first: Fact, second: Fact) -> str:
        """"X lives in A and has a B." from two facts of one owner."""
        clauses = []
        for fact in (first, second):
            tells = [t for t in KINDS[fact.kind].tells if t.startswith("{E} ")]
            if not tells:
                return f"{self.tell(first)} {self.tell(second)}"
            clauses.append(fill(self.pick(tells), fact.entity, fact.value, fact.thing)
                           .removesuffix("."))
        return f"{clauses[0]} and {clauses[1][len(second.entity) + 1:]}."

    def correction(self, fact: Fact) -> str:
        kind = KINDS[fact.kind]
        if kind.changes and self.chance(0.3):
            return fill(self.pick(kind.changes), fact.entity, fact.value, fact.thing)
        told = self.tell(fact)
        draw = self.rng.random()
        if draw < 0.1:  # the newer telling counts, marked or not
            return told
        opening = self.pick(CORRECTIONS)
        if draw < 0.45:
            opening = lead(self.words, self.rng) + self.pick((", {}", ": {}", ". {}", " {}"))
        if not told.startswith(fact.entity):
            told = told if ". {}" in opening else _inside(told, fact.entity, fact.value)
        return opening.format(told)

    # -- chat turns -----------------------------------------------------------------------------

    def user(self, doc: Document, text: str) -> None:
        doc.add("User:")
        doc.add(" " + text)
        doc.add("\n\n")
        doc.add("Assistant:")

    def reply(self, doc: Document, text: str, weight: float = ANSWER) -> None:
        first, _, rest = text.partition(" ")
        doc.add(" " + first, weight)
        if rest:
            doc.add(" " + rest, weight)
        doc.add("\n\n", weight)

    def sentence(self, doc: Document, fact: Fact, lead: str = "", decides: float = DECIDES) -> None:
        """The assistant's own sentence for a fact, its value weighted."""
        prefix, value = fact.answer_prefix(), fact.answer_value()
        if lead:
            doc.add(lead, decides)
            decides = NAME
            if fact.entity == "I" or fact.entity.startswith(("the ", "my ")):
                prefix = prefix[:2].lower() + prefix[2:]
        first = re.match(r" \S+", prefix)
        cut = first.end() if first else 0
        doc.add(prefix[:cut], decides)
        doc.add(prefix[cut:], ANSWER)
        doc.add(value, VALUE)
        doc.add(".", VALUE)  # where a value ends must be copied too: "Cebu", not "Cebue"

    def answer(self, doc: Document, fact: Fact) -> None:
        self.sentence(doc, fact)
        doc.add("\n\n", ANSWER)

    def acknowledge(self, doc: Document, fact: Fact | None) -> None:
        if fact is not None and self.chance(0.2):
            self.sentence(doc, fact, " Okay,", 0.1)
            doc.add("\n\n", ANSWER)
        else:
            self.reply(doc, self.pick(ACKS), 0.1)

    def ask(self, fact: Fact) -> str:
        while True:
            asked = self._plain_ask(fact)
            if self.chance(0.25):
                asked = self._stray(asked, fact)
            if not is_heldout(asked, fact.kind):
                return asked

    def _plain_ask(self, fact: Fact) -> str:
        kind = KINDS[fact.kind]
        if self.chance(0.25):
            clause = fill(kind.unknown, fact.entity, fact.value, fact.thing, capital=False)[:-1]
            if self.chance(0.5):  # any words at all in front
                return f"{lead(self.words, self.rng)} {clause}{self.pick('..?')}"
            return self.pick(ASK_WRAPS).format(clause)
        nouns = noun_phrases(fact.kind)
        if nouns and self.chance(0.15):
            noun = fill(self.pick(nouns), fact.entity, capital=False)
            if self.chance(0.4):
                return f"{lead(self.words, self.rng)} {noun}{self.pick('..?')}"
            asked = self.pick(NOUN_WRAPS).format(noun)
            return asked[:1].upper() + asked[1:]
        asked = fill(self.pick(kind.asks), fact.entity, fact.value, fact.thing)
        if self.chance(0.06):
            asked = f"{lead(self.words, self.rng)}, {asked[:1].lower()}{asked[1:]}"
        if self.chance(0.08) and asked.endswith("?"):
            asked = asked[:-1] + self.pick(ASK_ENDS) + "?"
        return asked

    def also(self, fact: Fact, doc: Document) -> Fact | None:
        """The fact of another kind that a thing somebody has makes true as well."""
        if fact.kind != "thing":
            return None
        for slot, kind in ALSO.items():
            other = Fact(kind, fact.entity, fact.value)
            if fact.value in TRAIN[slot] and other.key not in doc.facts:
                return other
        return None

    def question_turn(self, doc: Document, told: list[Fact], extras: float) -> None:
        """One question and its answer, of any sort."""
        current = [doc.facts[f.key] for f in told if f.key in doc.facts]
        draw = self.rng.random()
        if extras and draw < UNTOLD * extras:
            fact = self._untold(told, doc)
            self.user(doc, self.ask(fact))
            doc.add(" I", DECIDES)
            doc.add(fact.unknown()[1:], ANSWER)
            doc.add("\n\n", ANSWER)
        elif extras and draw < 0.17 * extras and current:
            fact = self.pick(current)
            others = [f.value for f in current if f.kind == fact.kind and f.value != fact.value]
            asked = fact.value if self.chance(0.5) else (
                self.pick(others) if others else
                self.words.value(KINDS[fact.kind].slot, self.rng, 0.3))
            self.user(doc, fill(KINDS[fact.kind].yes_no, fact.entity, asked, fact.thing))
            self.sentence(doc, fact, " Yes," if asked == fact.value else " No,")
            doc.add("\n\n", ANSWER)
        elif extras and draw < 0.225 * extras and current:
            entity = self.pick(current).entity
            if entity.startswith(("the ", "my ")):
                return
            self.user(doc, self.pick(ABOUT).format({"I": "me"}.get(entity, entity)))
            for fact in [f for f in current if f.entity == entity][:3]:
                self.sentence(doc, fact, decides=ANSWER)
            doc.add("\n\n", ANSWER)
        elif extras and draw < 0.24 * extras:
            user, reply = self.pick(SMALL_TALK)
            self.user(doc, user)
            self.reply(doc, reply)
        elif current:
            fact = self.pick(current)
            other = self.also(fact, doc)
            if other is not None and self.chance(0.7):
                fact = other
            self.user(doc, self.ask(fact))
            self.answer(doc, fact)

    def _untold(self, told: list[Fact], doc: Document) -> Fact:
        """A question nobody answered: a known person's other kind, or a stranger."""
        people = [f.entity for f in told if not f.entity.startswith(("the ", "my "))] or ["Bob"]
        kinds_told = sorted({f.kind for f in told})
        for _ in range(30):
            stranger = self.chance(0.5)
            entity = self.words.name(self.rng, self.open) if stranger else self.pick(people)
            kind = self.pick(kinds_told) if self.chance(0.6) else self._draw_kinds(1)[0]
            if kind == "thing" and not stranger:
                continue  # who has a pet or a hat has something
            if KINDS[kind].subject == "object":
                entity = "the " + self.words.value("objects", self.rng, 0.2)
            fact = self._fact(entity, kind, set())
            true = {o.key for f in doc.facts.values() if (o := self.also(f, doc)) is not None}
            if fact.key not in doc.facts and fact.key not in true:
                return fact
        return Fact("city", self.words.invented(self.rng).capitalize(), "x")

    def small_talk(self, doc: Document) -> None:
        if self.chance(0.25):
            user, reply = self.pick(SMALL_TALK)
            self.user(doc, user)
            self.reply(doc, reply, 0.15)
        else:
            text = " ".join(self._filler() for _ in range(int(self.rng.integers(1, 4))))
            self.user(doc, text)
            self.reply(doc, self.pick(FILLER_REPLIES), 0.1)

    def _filler(self) -> str:
        if self.refrains and self.chance(0.9):
            return self.pick(self.refrains)
        return self.words.filler(self.rng)

    def _tell_turns(
        self, doc: Document, facts: list[Fact], extras: float, between: int = 0
    ) -> None:
        """Every fact told, in turns of one to a few, ``between`` tokens of talk after each."""
        queue = list(facts)
        if self.chance(0.5):
            self.rng.shuffle(queue)  # type: ignore[arg-type]
        while queue:
            if extras and self.chance(0.08 * extras):
                self.small_talk(doc)
            fact = queue.pop(0)
            group = [fact]
            mate = next((f for f in queue if f.entity == fact.entity), None)
            if mate is not None and self.chance(0.5):
                queue.remove(mate)
                group.append(mate)
                if self.chance(0.5) and "{E} " in "".join(KINDS[fact.kind].tells):
                    text = self.chain(fact, mate)
                else:
                    pronoun = self.pick(("He", "She", "They")) if self.chance(0.5) else ""
                    if pronoun == "They":
                        pronoun = "She"
                    text = f"{self.tell(fact)} {self.tell(mate, pronoun)}"
            else:
                text = self.tell(fact)
                while queue and self.chance(0.15):
                    other = queue.pop(0)
                    group.append(other)
                    text += " " + self.tell(other)
            if extras and self.chance(0.08):
                text = f"{self.words.filler(self.rng)} {text}"
            self.user(doc, text)
            for one in group:
                doc.facts[one.key] = one
            self.acknowledge(doc, fact if len(group) == 1 else None)
            if extras and self.chance(0.15):
                self.question_turn(doc, facts, extras)
            stop = _length(doc) + int(self.rng.integers(0, 2 * between + 1))
            while between and _length(doc) < stop:
                self.small_talk(doc)
                if doc.facts and self.chance(0.03):
                    self._revise(doc, facts)

    def _revise(self, doc: Document, facts: list[Fact]) -> None:
        """One correction (or, rarely, a plain request to forget), with its acknowledgement."""
        key = self.pick(list(doc.facts))
        old = doc.facts[key]
        if self.chance(0.06):
            told = self.tell(old)
            self.user(doc, self.pick(FORGETS).format(
                told if not told.startswith(("My ", "The ")) else told[:1].lower() + told[1:]))
            self.reply(doc, "Okay, I forgot that.", 0.2)
            del doc.facts[key]
            return
        new = old.with_value(self._fact(old.entity, old.kind, {old.value}).value)
        self.user(doc, self.correction(new))
        doc.facts[key] = new
        self.acknowledge(doc, new)
        if self.chance(0.5):
            self.user(doc, self.ask(new))
            self.answer(doc, new)

    def chat(self, n_entities: int, n_facts: int, extras: float, budget: int) -> Document:
        """A chat: facts told, small talk, corrections, questions; about ``budget`` tokens."""
        doc = Document()
        facts = self.world(n_entities, n_facts)
        if extras and self.chance(0.1):
            self.small_talk(doc)
        spread = extras and budget > 400 and self.chance(0.3)  # told here and there in a long talk
        spare = max(0, budget - TOKENS_PER_FACT * len(facts)) * 0.8 if spread else 0
        self._tell_turns(doc, facts, extras, int(spare * self.rng.random() / len(facts)))
        if extras and self.chance(0.35 * extras):
            for _ in range(int(self.rng.integers(1, 4))):
                if doc.facts:
                    self._revise(doc, facts)
        pause = 0
        if extras and not spread and self.chance(0.75 if budget > 400 else 0.12):
            most = max(budget - 100 - _length(doc), 1)
            pause = int(self.rng.integers(most // 2 if self.chance(0.4) else 0, most))
            stop = _length(doc) + pause
            while _length(doc) < stop:
                self.small_talk(doc)
        asked = 0
        wish = int(self.rng.integers(4, 10)) if not extras else 3 + int(len(facts) * 1.5)
        if pause > 200:
            wish *= 2  # what was told long ago is worth more questions
        while asked < wish or _length(doc) < min(budget, 160):
            self.question_turn(doc, facts, extras)
            asked += 1
            if extras and self.chance(0.06 * extras) and doc.facts:
                self._revise(doc, facts)
            if extras and self.chance(0.05):
                self.small_talk(doc)
        return doc

    def narrative(self, n_entities: int, n_facts: int) -> Document:
        """Plain prose that comes back to what it told: "... Alice currently lives in Paris."""
        doc = Document()
        facts = self.world(n_entities, n_facts)
        for fact in facts:
            doc.add((" " if doc.pieces else "") + self.tell(fact))
            doc.facts[fact.key] = fact
            if self.chance(0.3):
                doc.add(" " + self.words.filler(self.rng))
        for _ in range(int(self.rng.integers(2, 6))):
            fact = self.pick(facts)
            kind = KINDS[fact.kind]
            template = self.pick([t for t in kind.tells if not t.startswith("{v}")])
            said = fill(template, fact.entity, fact.value, fact.thing)
            before, found, after = said.rpartition(fact.value)
            if found:
                doc.add(" " + before.rstrip())
                doc.add((" " if before else "") + found, VALUE)
                doc.add(after)
        doc.add("\n\n")
        return doc

    def question_answer(self, n_entities: int, n_facts: int) -> Document:
        """Facts, then Q: / A: lines."""
        doc = Document()
        facts = self.world(n_entities, n_facts)
        lead = self.chance(0.3)
        doc.add("Here are some facts:" if lead else "")
        for fact in facts:
            doc.add((" " if lead or len(doc.pieces) > 1 else "") + self.tell(fact))
        doc.add("\n\n")
        for _ in range(int(self.rng.integers(3, 8))):
            fact = self.pick(facts)
            doc.add("Q:")
            doc.add(" " + self.ask(fact))
            doc.add("\n")
            doc.add("A:")
            self.sentence(doc, fact)
            doc.add("\n\n", ANSWER)
        return doc

    def document(self, stage: tuple, budget: int) -> Document:
        _, _, most_entities, most_facts, extras = stage
        long = budget >= 1000 or (budget >= 400 and self.chance(0.3))
        n = int(self.rng.integers(1, most_entities + 1))
        k = int(self.rng.integers(1, most_facts + 1))
        if budget >= 500:  # room for many people
            n = max(n, int(self.rng.integers(1, most_entities + 1)))
        # a fact or two: the commonest chat there is, and in a long row the farthest to look back
        if extras and self.chance(0.4 if budget >= 1000 else 0.15 if budget >= 500 else 0.3):
            n, k = int(self.rng.integers(1, 4)), 1
        if n >= 5:
            k = min(k, 2) if self.chance(0.5) else min(most_facts, 2)
        room = max(1, budget // TOKENS_PER_FACT)
        while n * k > room and n * k > 1:  # what is told must be asked for before the row ends
            n, k = (n, k - 1) if k > 1 and self.chance(0.5) else (max(1, n - 1), k)
            if n == 1:
                k = min(k, room)
        odds = [row[0] for row in VOCABULARIES]
        _, self.open, self.words.spelled = VOCABULARIES[int(self.rng.choice(len(odds), p=odds))]
        # said again and again, talk must not overwrite what was told once
        n_refrains = int(self.rng.integers(3, 15)) if self.chance(0.6) else 0
        self.refrains = [self.words.filler(self.rng) for _ in range(n_refrains)]
        draw = self.rng.random()
        if extras and draw < 0.07:
            return self.narrative(min(n, 4), min(k, 2))
        if extras and draw < 0.13:
            return self.question_answer(min(n, 5), min(k, 2))
        return self.chat(n, k, extras, budget if long else min(budget, 400))


def _inside(said: str, entity: str, value: str) -> str:
    """A sentence as it stands inside another: a capital only for a name."""
    if said.startswith((entity, value, "I ")) and not entity.startswith(("the ", "my ")):
        return said
    return said[:1].lower() + said[1:]


def _length(doc: Document) -> int:
    """Tokens, roughly."""
    return sum(len(text) for text, _ in doc.pieces) // 4
