"""Suites of long chats, of many edits, and of erasing. Knows nothing of models."""

from __future__ import annotations

from dataclasses import replace

from rwkvedit.evaluate.suites.cases import (
    FORGET,
    NUKE,
    EditCase,
    Step,
    another,
    edit_one,
    questions,
    words_of,
)
from rwkvedit.evaluate.worlds import Maker, Turn, World
from rwkvedit.facts import Fact

DISTANCES = (0, 128, 256, 512, 1024, 2048)
"""Tokens of small talk between the last fact and the question, one world after another."""
LONG = 2000  # tokens of a long chat
LONG_PEOPLE, LONG_EACH, CORRECTIONS = 2, 2, 2

EDITS = 10
CHECKPOINTS = (1, 3, 5)  # judged after so many edits too
PEOPLE = 10  # one or two of whom are never edited
SPREAD = 4  # kinds of fact they share: short lists still have values enough


def distance(maker: Maker, index: int) -> EditCase:
    """0 to 2,048 tokens of small talk between what was told and what is asked."""
    tokens = DISTANCES[index % len(DISTANCES)]
    world = maker.told(maker.facts(2, 1))
    turns, far = list(world.turns), 0
    while far < tokens:
        turns.append(maker.small_talk())
        far += maker.length(turns[-1])
    world = World(tuple(turns), world.facts)
    return edit_one(maker, world, index // len(DISTANCES) % 2, group=str(tokens))


def long(maker: Maker, index: int) -> EditCase:
    """A chat of 2,000 tokens: four facts, two of them corrected later, and small talk between.

    Every third world edits a corrected fact: its value is the corrected one.
    """
    world = maker.told(maker.facts(LONG_PEOPLE, LONG_EACH))
    corrected = [int(i) for i in maker.rng.permutation(len(world.facts))[:CORRECTIONS]]
    for i in corrected:
        world = maker.correct(world, i)
    turns = list(world.turns)
    told, late = turns[: len(world.facts)], turns[len(world.facts):]
    for turn in late:  # each correction somewhere behind the telling it corrects
        key = turn.facts[0].key
        at = next(i for i, t in enumerate(told) if t.facts and t.facts[0].key == key)
        told.insert(int(maker.rng.integers(at + 1, len(told) + 1)), turn)
    talk: list[Turn] = []
    missing = LONG - sum(maker.length(turn) for turn in told)
    while missing > 0:
        talk.append(maker.small_talk())
        missing -= maker.length(talk[-1])
    for turn in talk:
        told.insert(int(maker.rng.integers(len(told) + 1)), turn)
    plain = [i for i in range(len(world.facts)) if i not in corrected]
    pool = corrected if index % 3 == 0 else plain
    group = "corrected before" if index % 3 == 0 else "told once"
    target = pool[index // 3 % len(pool)]
    return edit_one(maker, World(tuple(told), world.facts), target, group=group)


def sequential(maker: Maker, index: int) -> EditCase:
    """Ten edits of ten people's facts, one after another: one or two facts are edited twice, as
    many are left alone."""
    names: set[str] = set()
    people = [maker.value("names", names) for _ in range(PEOPLE)]
    kinds = maker.kinds(SPREAD, each=2 * -(-PEOPLE // SPREAD) + 2)
    taken = set(names)
    thing = maker.value("colored", set())
    facts: list[Fact] = []
    for i, person in enumerate(people):
        fact = maker.fact(person, kinds[i % SPREAD], taken)
        facts.append(replace(fact, thing=thing) if fact.thing else fact)
    world = maker.told(facts)
    twice = 1 + index % 2
    order = [int(i) for i in maker.rng.permutation(PEOPLE)[: EDITS - twice]]
    for again in order[:twice]:
        order.insert(int(maker.rng.integers(order.index(again) + 1, len(order) + 1)), again)
    taken |= words_of(world.facts)
    now = list(world.facts)
    steps = []
    for i in order:
        new = another(maker, now[i], taken)
        steps.append(Step(i, now[i], new))
        now[i] = new
    return EditCase(world, tuple(steps), questions(maker, world), checkpoints=CHECKPOINTS)


def _pairs_of_facts(maker: Maker) -> tuple[World, list[str]]:
    """Three people with two facts each, and their names as first told."""
    world = maker.told(maker.facts(3, 2))
    return world, list(dict.fromkeys(fact.entity for fact in world.facts))


def entity_erase(maker: Maker, index: int) -> EditCase:
    """Everything told about one of three people is erased, fact by fact."""
    world, people = _pairs_of_facts(maker)
    gone = people[index % len(people)]
    steps = tuple(Step(i, f, None) for i, f in enumerate(world.facts) if f.entity == gone)
    return EditCase(world, steps, questions(maker, world), verb=NUKE)


def property_erase(maker: Maker, index: int) -> EditCase:
    """One of the two facts of a person is erased; the other, and the other people's, stay."""
    world, _ = _pairs_of_facts(maker)
    target = index % len(world.facts)
    step = Step(target, world.facts[target], None)
    return EditCase(world, (step,), questions(maker, world), verb=FORGET)
