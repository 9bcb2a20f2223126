"""What happened in a conversation, and the way back. Knows nothing of models, screens or files.

    Place     everything a conversation *is* at one instant; a value, so keeping one is a reference
    Entry     one step (a turn, an edit, a setting) and the Place it led to
    Branch    a line of entries and a cursor in it; entries after the cursor can be redone
    Journal   named branches and a byte budget

Undo and redo move the cursor; they compute nothing, so they restore state, tokens, sampler and
heard facts bit for bit. When the places kept outgrow the budget the oldest are dropped: their
entries stay readable, but they can no longer be returned to.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from rwkvedit.errors import RwkvEditError, UsageError

DEFAULT_BUDGET = 256 * 2**20  # bytes
MAIN = "main"


@dataclass(frozen=True)
class Turn:
    """One exchange: what the user said and what the model answered (``reply`` as shown)."""

    user: str
    reply: str
    stopped: str = "stop"


@dataclass(frozen=True)
class Place:
    """A whole conversation at one instant.

    ``state`` is the State after every token of ``tokens``; ``sampler`` is the sampler's exact
    snapshot (settings, generator state, counts); ``heard`` are the facts told and still current.
    """

    state: Any
    tokens: tuple[int, ...]
    sampler: Any
    heard: tuple[Any, ...] = ()
    turns: tuple[Turn, ...] = ()
    system: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes this place keeps alive (states dominate)."""
        return int(getattr(self.state, "nbytes", 0)) + 8 * len(self.tokens)


@dataclass(frozen=True)
class Entry:
    """One step. ``place`` is None once the budget has dropped it."""

    number: int
    verb: str
    label: str
    place: Place | None
    when: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Branch:
    """A line of entries; ``entries[cursor]`` is where the conversation stands."""

    entries: tuple[Entry, ...]
    cursor: int

    @property
    def here(self) -> Entry:
        return self.entries[self.cursor]

    @property
    def undoable(self) -> int:
        """How many steps back still have their place."""
        count = 0
        for entry in reversed(self.entries[: self.cursor]):
            if entry.place is None:
                break
            count += 1
        return count

    @property
    def redoable(self) -> int:
        return len(self.entries) - 1 - self.cursor


@dataclass(frozen=True)
class Book:
    """All branches and the name of the current one: what a Journal swaps in one assignment."""

    branches: dict[str, Branch]
    current: str
    next_number: int


class Journal:
    """Branches of entries. Every change is one assignment, so an interrupt cannot tear it."""

    def __init__(self, start: Place, budget: int = DEFAULT_BUDGET) -> None:
        first = Entry(0, "start", "the conversation opens", start)
        self.budget = budget
        self.book = Book({MAIN: Branch((first,), 0)}, MAIN, 1)

    # -- reading ---------------------------------------------------------------------------

    @property
    def branch_name(self) -> str:
        return self.book.current

    @property
    def branch(self) -> Branch:
        return self.book.branches[self.book.current]

    @property
    def here(self) -> Entry:
        return self.branch.here

    @property
    def place(self) -> Place:
        place = self.here.place
        assert place is not None, "the current entry always keeps its place"
        return place

    @property
    def nbytes(self) -> int:
        """Bytes held by all kept places; a State shared by several is counted once."""
        return _nbytes(self.book.branches)

    # -- moving ----------------------------------------------------------------------------

    def record(self, verb: str, label: str, place: Place) -> str | None:
        """Add a step after the cursor (what could be redone is let go); returns a notice."""
        self.book, dropped = self._after(self.book, verb, label, place)
        if not dropped:
            return None
        kept = self.branch.undoable
        return (
            f"the journal is over its {self.budget / 2**20:.0f} MB: {dropped} oldest "
            f"step{'s' * (dropped != 1)} can no longer be undone, {kept} still can"
        )

    def _after(self, book: Book, verb: str, label: str, place: Place) -> tuple[Book, int]:
        """``book`` with a step more on its current branch, and how many places that dropped."""
        branch = book.branches[book.current]
        entry = Entry(book.next_number, verb, label, place)
        entries = (*branch.entries[: branch.cursor + 1], entry)
        branches = {**book.branches, book.current: Branch(entries, len(entries) - 1)}
        branches, dropped = self._fit(branches)
        return Book(branches, book.current, book.next_number + 1), dropped

    def undo(self, steps: int = 1) -> list[Entry]:
        """Go back; returns the entries undone, latest first."""
        branch = self.branch
        if steps < 1:
            raise UsageError("undo takes a number of steps, 1 or more")
        if branch.cursor == 0:
            raise RwkvEditError("nothing to undo: this is where the conversation opened")
        if steps > branch.undoable:
            lost = steps <= branch.cursor
            why = "older steps were dropped to stay in the journal's budget" if lost else "no more"
            raise RwkvEditError(
                f"cannot undo {steps} steps: {branch.undoable} can be undone ({why}); try /journal"
            )
        undone = list(reversed(branch.entries[branch.cursor - steps + 1 : branch.cursor + 1]))
        self._move(branch.cursor - steps)
        return undone

    def redo(self, steps: int = 1) -> list[Entry]:
        """Go forward again; returns the entries redone, in order."""
        branch = self.branch
        if steps < 1:
            raise UsageError("redo takes a number of steps, 1 or more")
        if steps > branch.redoable:
            if branch.redoable == 0:
                raise RwkvEditError("nothing to redo")
            raise RwkvEditError(f"cannot redo {steps} steps: {branch.redoable} can be redone")
        redone = list(branch.entries[branch.cursor + 1 : branch.cursor + steps + 1])
        if redone[-1].place is None:
            raise RwkvEditError("that step was dropped to stay in the journal's budget")
        self._move(branch.cursor + steps)
        return redone

    def start_branch(self, name: str) -> None:
        """A new branch from here, and onto it. The old one stays where it is."""
        if not name or any(c.isspace() for c in name):
            raise UsageError("a branch name is one word, like /branch what-if")
        if name in self.book.branches:
            raise UsageError(f"branch '{name}' exists already; /switch {name} goes there")
        branch = self.branch
        new = Branch(branch.entries[: branch.cursor + 1], branch.cursor)
        self.book = Book({**self.book.branches, name: new}, name, self.book.next_number)

    def switch(self, name: str) -> None:
        """Go to another branch, where it was left."""
        if name not in self.book.branches:
            known = ", ".join(self.book.branches)
            raise UsageError(f"no branch '{name}'; there are: {known}")
        self.book = replace(self.book, current=name)

    def load(self, book: Book, name: str) -> str | None:
        """Stand where another journal's ``book`` stands; the branch its own steps are on, if new.

        Where nothing happened yet the book is simply taken over (None). Otherwise this is a step
        like any other, on the current branch, and the book's branches join the others: the one it
        stands on as ``name``, any more as ``name:theirs``. Steps already here, from an earlier
        load of the same book or because it was kept from here, are not taken in twice.
        """
        mine = self.book
        if len(mine.branches) == 1 and len(self.branch.entries) == 1:
            self.book = book
            return None
        shift = mine.next_number
        known = {_signature(branch) for branch in mine.branches.values()}
        stem = "-".join(name.split()) or "loaded"
        joined, branches = None, dict(mine.branches)
        for key, branch in book.branches.items():
            if _signature(branch) in known:
                continue
            called = _unused(stem if key == book.current else f"{stem}:{key}", branches)
            entries = tuple(replace(e, number=e.number + shift) for e in branch.entries)
            branches[called] = Branch(entries, branch.cursor)
            joined = called if key == book.current else joined
        place = book.branches[book.current].here.place
        assert place is not None, "the current entry always keeps its place"
        whole = Book(branches, mine.current, shift + book.next_number)
        self.book, _ = self._after(whole, "load", name, place)
        return joined

    def origin(self, entry: Entry) -> tuple[Branch, int] | None:
        """Where the place of a ``load`` step came from: a branch, and the index in it."""
        for branch in self.book.branches.values():
            for index, other in enumerate(branch.entries):
                if other.verb != "load" and _same(other.place, entry.place):
                    return branch, index
        return None

    def _move(self, cursor: int) -> None:
        book = self.book
        moved = Branch(self.branch.entries, cursor)
        self.book = replace(book, branches={**book.branches, book.current: moved})

    # -- the budget ------------------------------------------------------------------------

    def _fit(self, branches: dict[str, Branch]) -> tuple[dict[str, Branch], int]:
        """Drop the oldest places until the rest fit; never one that a branch stands on."""
        over = _nbytes(branches) - self.budget
        if over <= 0:
            return branches, 0
        standing = {branch.here.number for branch in branches.values()}
        kept = {
            entry.number: entry.place
            for branch in branches.values()
            for entry in branch.entries
            if entry.place is not None
        }
        drop: set[int] = set()
        users: dict[int, int] = {}
        for place in kept.values():
            users[id(place.state)] = users.get(id(place.state), 0) + 1
        for number in sorted(kept):
            if over <= 0:
                break
            if number in standing:
                continue
            place = kept[number]
            drop.add(number)
            users[id(place.state)] -= 1
            over -= 8 * len(place.tokens)
            if users[id(place.state)] == 0:
                over -= place.nbytes - 8 * len(place.tokens)
        if not drop:
            return branches, 0
        fitted = {
            name: Branch(
                tuple(replace(e, place=None) if e.number in drop else e for e in b.entries),
                b.cursor,
            )
            for name, b in branches.items()
        }
        return fitted, len(drop)


def _same(a: Place | None, b: Place | None) -> bool:
    """Are two places one? A session file keeps a State's identity, but not a Place's."""
    return (
        a is not None and b is not None and a.state is b.state
        and (a.tokens, a.turns, a.settings) == (b.tokens, b.turns, b.settings)
    )


def _signature(branch: Branch) -> tuple:
    """What tells a branch from others, whatever its entries are numbered here."""
    return branch.cursor, tuple((e.verb, e.label, e.when) for e in branch.entries)


def _unused(name: str, taken: dict[str, Branch]) -> str:
    """``name``, or ``name-2`` and so on where there is one already."""
    names = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 2))
    return next(one for one in names if one not in taken)


def _nbytes(branches: dict[str, Branch]) -> int:
    places = {
        entry.number: entry.place
        for branch in branches.values()
        for entry in branch.entries
        if entry.place is not None
    }
    states = {id(place.state): place.nbytes - 8 * len(place.tokens) for place in places.values()}
    return sum(states.values()) + sum(8 * len(place.tokens) for place in places.values())
