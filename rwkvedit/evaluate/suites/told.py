"""Suites that differ in who is told about, and in which words. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rwkvedit.evaluate.suites.cases import EditCase, edit_one, plain_turn
from rwkvedit.evaluate.worlds import Maker, Part, Turn, World
from rwkvedit.facts import KINDS, Fact, fill

#: How a calibration of no kind is told (suite ``generic``).
GENERIC = "The answer is {v}."

#: Three ways to tell that somebody has a thing, and held-out questions in the same words.
WORDINGS = {
    "has": ("{E} [has|have] {a v}.", "Tell me what {E} [has|have]."),
    "owns": ("{E} [owns|own] {a v}.", "What thing [does|do] {E} own?"),
    "possesses": ("{E} [is|am|are] in possession of {a v}.",
                  "Which thing [is|am|are] {E} in possession of?"),
}

CONTEXTS = ("story", "dialogue", "qa")
STORY_OPENINGS = (
    "This is a story about three people.", "Three old friends met by the river one evening.",
    "Long ago three people sat around a table.", "The evening began with a walk.",
)
STORY_ENDINGS = (
    "They talked until late.", "And so the evening ended.", "Nobody wanted to go to bed.",
    "That is the whole story.",
)
GREETINGS = (("Hello!", "Hello!"), ("Hi there.", "Hi!"), ("Good morning!", "Good morning!"))


def entities(n: int, each: int = 1) -> Callable[[Maker, int], EditCase]:
    """``n`` people with the same ``each`` kinds of fact; world i edits its fact i, in turn."""

    def make(maker: Maker, index: int) -> EditCase:
        world = maker.told(maker.facts(n, each))
        return edit_one(maker, world, index % len(world.facts))

    return make


def same_entity(maker: Maker, index: int) -> EditCase:
    """The hat and the eyes of one person, beside another person's hat; either is edited."""
    taken: set[str] = set()
    one, other = maker.value("names", taken), maker.value("names", taken)
    facts = [
        Fact("color", who, maker.value("colors", taken), thing)
        for who, thing in ((one, "hat"), (one, "eyes"), (other, "hat"))
    ]
    # nobody wears eyes: the one held-out telling that suits whatever it is about
    told = next(t for t in KINDS["color"].tells_heldout if "wear" not in t)
    said = [fill(told, f.entity, f.value, f.thing) if f.thing == "eyes" else maker.tell(f)
            for f in facts]
    turns = tuple(plain_turn(f, text) for f, text in zip(facts, said, strict=True))
    world = World(turns, tuple(facts))
    case = edit_one(maker, world, index % 2, group=facts[index % 2].thing)
    # "does her eyes have" is nobody's English
    eyes = next(q for q in facts[1].questions(heldout=True) if " does " not in q)
    return replace(case, asks=(case.asks[0], eyes, case.asks[2]))


def ambiguous(maker: Maker, index: int) -> EditCase:
    """Two people who share a first name, beside a third; edited is the first or the second told."""
    taken: set[str] = set()
    first = maker.value("names", taken)
    people = [f"{first} {maker.value('names', taken)}" for _ in range(2)]
    people.append(maker.value("names", taken))
    kind = maker.kinds(1, each=4)[0]
    facts = _same_kind(maker, people, kind, taken)
    edited = index % 2  # of the two namesakes, and which of them is told first:
    order = [0, 1] if index // 2 % 2 == 0 else [1, 0]
    order.insert(int(maker.rng.integers(3)), 2)
    told = [facts[i] for i in order]
    world = World(tuple(maker.turn(fact) for fact in told), tuple(told))
    earlier = order.index(edited) < order.index(1 - edited)
    return edit_one(maker, world, order.index(edited), group="first" if earlier else "second")


def _same_kind(maker: Maker, people: Sequence[str], kind: str, taken: set[str]) -> list[Fact]:
    thing = maker.value("colored", taken) if KINDS[kind].has_thing else ""
    slot = KINDS[kind].slot
    return [Fact(kind, who, maker.value(slot, taken), thing) for who in people]


def wording(maker: Maker, index: int) -> EditCase:
    """Told as has, owns or is in possession of; edited in the plain words, asked in a third way."""
    told = list(WORDINGS)[index % 3]
    facts = maker.facts(3, 1, ["thing"])
    turns = tuple(
        plain_turn(f, fill(WORDINGS[told][0], f.entity, f.value)) for f in facts
    )
    # the edit is typed with "has": ask with neither that nor the words it was told in
    third = [name for name in ("owns", "possesses") if name != told]
    asked = third[index // 3 % len(third)]
    asks = tuple(fill(WORDINGS[asked][1], f.entity) for f in facts)
    world = World(turns, tuple(facts))
    target = index // 3 % len(facts)
    return replace(edit_one(maker, world, target, group=told), asks=asks)


def cross_context(maker: Maker, index: int) -> EditCase:
    """Told as a story, a dialogue or in Q/A form; the edit's own telling is a plain statement."""
    context = CONTEXTS[index % 3]
    facts = maker.facts(3, 1)
    build = {"story": _story, "dialogue": _dialogue, "qa": _questions_answered}[context]
    turns, asks = build(maker, facts)
    world = World(turns, tuple(facts))
    case = edit_one(maker, world, index // 3 % len(facts), group=context)
    return replace(case, asks=asks or case.asks)


def _story(maker: Maker, facts: Sequence[Fact]) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """One turn of prose."""
    parts = [Part(maker.pick(STORY_OPENINGS))]
    for fact in facts:
        parts.append(Part(maker.tell(fact), fact))
        if maker.rng.random() < 0.7:
            parts.append(Part(maker.pick(maker.lexicon["fillers"])))
    parts.append(Part(maker.pick(STORY_ENDINGS)))
    return (Turn.of(parts),), ()


def _dialogue(maker: Maker, facts: Sequence[Fact]) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """Short turns with small talk between and around the facts."""
    hello, reply = maker.pick(GREETINGS)
    turns = [Turn(hello, reply)]
    for fact in facts:
        parts = [Part(maker.pick(maker.lexicon["fillers"])), Part(maker.tell(fact), fact)]
        if maker.rng.random() < 0.5:
            parts.reverse()
        turns.append(Turn.of(parts))
        turns.append(maker.small_talk(1))
    return tuple(turns), ()


def _questions_answered(
    maker: Maker, facts: Sequence[Fact]
) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """``Q: ... A: ...`` in the user's turns; asked afterwards with the other held-out question."""
    turns, asks = [], []
    for fact in facts:
        options = fact.questions(heldout=True)
        said, asked = (options[int(i)] for i in maker.rng.permutation(len(options))[:2])
        turns.append(Turn.of([Part(f"Q: {said}"), Part(f"A: {fact.answer()}", fact)]))
        asks.append(asked)
    return tuple(turns), tuple(asks)


def generic(maker: Maker, index: int) -> EditCase:
    """The edit's calibration says "The answer is X.": no name and no kind of fact in it."""
    world = maker.told(maker.facts(3, 1))
    return edit_one(maker, world, index % len(world.facts), told_as=GENERIC)


def second_mentioned(maker: Maker, index: int) -> EditCase:
    """Two people, of whom the later told is edited; or, every other world, two facts of one."""
    if index % 2 == 0:
        world = maker.told(maker.facts(2, 1))
        return edit_one(maker, world, 1, group="two people")
    world = maker.told(maker.facts(1, 2))
    return edit_one(maker, world, 1, group="one person")
