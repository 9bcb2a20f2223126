"""What a suite is made of: a world, the edits made in it, and the world they should amount to.

Knows nothing of models. An :class:`EditCase` is one world with its edits in order; its
counterfactual is the same conversation had the edited facts been told otherwise from the start, or
never been told, which is what a perfect edit would leave.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.worlds import Maker, Part, Turn, World
from rwkvedit.facts import KINDS, Fact
from rwkvedit.facts.kinds import article

EDIT, FORGET, NUKE = "edit", "forget", "nuke"
DRAWS = 20  # tries to make a world from a lexicon


@dataclass(frozen=True)
class Step:
    """One edit: fact ``index`` of the world goes from ``old`` to ``new`` (None: erased)."""

    index: int
    old: Fact
    new: Fact | None


@dataclass(frozen=True)
class EditCase:
    """Edits in one world. ``asks[i]`` is the held-out question of ``world.facts[i]``.

    ``verb`` says how the steps are made (``edit``, ``forget`` one property, ``nuke`` a fact
    whole). ``group`` is the row of the document's ``by`` that the world counts in. ``checkpoints``
    are numbers of steps after which the world is judged on the way. ``told_as`` is how the edit's
    calibration is told, with ``{v}`` for the value; empty for the fact's own plain statement.
    """

    world: World
    steps: tuple[Step, ...]
    asks: tuple[str, ...]
    verb: str = EDIT
    group: str = ""
    checkpoints: tuple[int, ...] = ()
    told_as: str = ""

    @property
    def target(self) -> int:
        """The fact that is edited last."""
        return self.steps[-1].index

    @property
    def old(self) -> Fact:
        """The last edited fact, as the conversation told it."""
        return self.world.facts[self.target]

    @property
    def new(self) -> Fact | None:
        """What the last step makes of it."""
        return self.steps[-1].new

    def targets(self, steps: int | None = None) -> tuple[int, ...]:
        """The facts that the first ``steps`` edits change, each once."""
        return tuple(dict.fromkeys(step.index for step in self.steps[:steps]))

    @property
    def controls(self) -> tuple[int, ...]:
        return self.controls_after(None)

    def controls_after(self, steps: int | None) -> tuple[int, ...]:
        """The facts that the first ``steps`` edits leave alone."""
        edited = set(self.targets(steps))
        return tuple(i for i in range(len(self.world.facts)) if i not in edited)

    @property
    def others(self) -> tuple[Fact, ...]:
        """The control facts, as told."""
        return tuple(self.world.facts[i] for i in self.controls)

    def truth(self, steps: int | None = None) -> tuple[Fact | None, ...]:
        """What should hold of each fact after the first ``steps`` edits; None: not known."""
        facts: list[Fact | None] = list(self.world.facts)
        for step in self.steps[:steps]:
            facts[step.index] = step.new
        return tuple(facts)


def respell(text: str, old: str, new: str) -> str:
    """``text`` with the value ``old`` said as ``new``; a/an follows the new word.

    >>> respell("Bob works as an actor.", "actor", "baker")
    'Bob works as a baker.'
    """
    pattern = re.compile(rf"(?<!\w)(?:(an?) )?{re.escape(old)}(?!\w)", re.IGNORECASE)
    return pattern.sub(lambda m: f"{article(new)} {new}" if m.group(1) else new, text)


def counterfactual(case: EditCase, steps: int | None = None) -> World:
    """The same conversation, had the edited facts been told as the first ``steps`` edits leave
    them from the start; an erased fact is never told, nor a turn that told nothing else."""
    truth = case.truth(steps)
    now = {case.world.facts[i]: truth[i] for i in case.targets(steps)}
    turns = []
    for turn in case.world.turns:
        if not any(fact in now for fact in turn.facts):
            turns.append(turn)
            continue
        parts = [_retold(part, now) for part in turn.pieces]
        said = [part for part in parts if part is not None]
        if any(part.fact for part in said) or not any(part.fact for part in turn.pieces):
            turns.append(Turn.of(said, turn.reply))
    facts = tuple(fact for fact in truth if fact is not None)
    return World(tuple(turns), facts, case.world.target)


def _retold(part: Part, now: dict[Fact, Fact | None]) -> Part | None:
    if part.fact is None or part.fact not in now:
        return part
    fact = now[part.fact]
    return fact and Part(respell(part.text, part.fact.value, fact.value), fact)


def another(maker: Maker, fact: Fact, taken: set[str]) -> Fact:
    """``fact`` with a value that nothing in ``taken`` has; the value joins ``taken``."""
    return fact.with_value(maker.value(KINDS[fact.kind].slot, taken))


def words_of(facts: Sequence[Fact]) -> set[str]:
    """Every value and every part of a name in use."""
    names = {word for fact in facts for word in (fact.entity, *fact.entity.split())}
    return names | {fact.value for fact in facts}


def edit_one(maker: Maker, world: World, target: int, **more) -> EditCase:
    """A case of one edit to a value nobody has, nor was said to have before a correction."""
    old = world.facts[target]
    said = [fact for turn in world.turns for fact in turn.facts]
    step = Step(target, old, another(maker, old, words_of([*world.facts, *said])))
    return EditCase(world, (step,), questions(maker, world), **more)


def questions(maker: Maker, world: World) -> tuple[str, ...]:
    """A held-out question for every fact."""
    return tuple(maker.ask(fact) for fact in world.facts)


@dataclass(frozen=True)
class Suite:
    """A named way to make cases: ``suite(maker, index)`` is world ``index``'s.

    ``erases``: its targets are erased, not changed. ``groups`` names what ``by`` tells apart. A
    draw that runs out of words is thrown away for another: kinds with short lists come up less.
    Raises UsageError when none of ``DRAWS`` succeeds.
    """

    name: str
    make: Callable[[Maker, int], EditCase]
    summary: str
    erases: bool = False
    groups: str = ""

    def __call__(self, maker: Maker, index: int) -> EditCase:
        for left in reversed(range(DRAWS)):
            try:
                return self.make(maker, index)
            except UsageError:
                if not left:
                    raise
        raise AssertionError("unreachable")


def plain_turn(fact: Fact, text: str) -> Turn:
    """A turn whose words are given."""
    return replace(Turn.of([Part(text, fact)]), parts=())
