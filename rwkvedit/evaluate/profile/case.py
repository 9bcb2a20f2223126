"""One edit on one model: everything that the benchmarks look at, made when one asks for it.

Outside of ``edited``, ``sequence`` and ``batch`` the weights are as the caller gave them; every
error and Ctrl-C leave them so.

Words: *old* is what stood before the edit, *new* what is to stand after it; *further* edits are of
the same relation, from facts that the model knows, each to another's answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.profile.knowledge import RELATIONS, Relation, relation_in
from rwkvedit.evaluate.profile.making import Deltas, Maker
from rwkvedit.evaluate.profile.probes import (
    Probe,
    answers,
    counted,
    neighbours,
    own_answers,
    paraphrases,
)
from rwkvedit.transformer.answers import find_subject
from rwkvedit.transformer.value import NotFoundError, Request

MOST = 40
"""Neighbours that are asked."""
K = 10
"""Edits of a sequence and of a batch, the profiled one included."""


@dataclass(frozen=True)
class Known:
    """A fact that the model, as it is, completes by itself."""

    prompt: str
    subject: str
    value: str
    new: str = ""
    """What an edit of it is to say, where the data names it."""


@dataclass(frozen=True)
class Chain:
    """Edits that were made one after another."""

    requests: list[Request]
    took: list[bool]
    """Of each, right after it was made: is its prompt answered with its new answer?"""
    deltas: Deltas
    """All that is live after the last."""


class Case:
    """One edit of ``maker``'s model."""

    def __init__(
        self,
        maker: Maker,
        request: Request,
        k: int = K,
        seed: int = 0,
        given: Sequence[Known] = (),
        made: Deltas | None = None,
    ) -> None:
        """``given``: facts for further edits, known or not; ``made``: the edit, made already.

        UsageError on a subject that is not in the prompt and on an answer that is the current one.
        """
        self.maker, self.session, self.request, self.k, self.seed = (
            maker, maker.session, request, k, seed,
        )  # fmt: skip
        session = self.session
        self.prompt, self.subject = request.prompt, request.subject
        self.new = request.target.strip()
        find_subject(session, session.tokens(self.prompt), self.subject)
        if answers(session, [(self.prompt, self.new)])[0].greedy:
            raise UsageError(
                f"the model answers {self.prompt!r} with {self.new!r} already: nothing to edit"
            )
        self.relation: Relation | None = relation_in(self.prompt, self.subject)
        self.old = self._old()
        self.given = list(given)
        if made is not None:
            self.__dict__["deltas"] = made

    def _old(self) -> str:
        """The list's answer where the model gives it, else the model's likeliest token."""
        if self.relation is not None:
            value = self.relation.values[self.subject]
            if answers(self.session, [(self.prompt, value)])[0].greedy:
                return value
        return own_answers(self.session, [self.prompt])[0][0]

    # -- the edit -----------------------------------------------------------------------------

    @cached_property
    def deltas(self) -> Deltas:
        """The edit, as it is made singly. NotFoundError when it cannot be made."""
        return self.maker.one(self.request, self.like(self.new))

    @contextmanager
    def edited(self, deltas: Deltas | None = None) -> Iterator[None]:
        """The edit (or other ``deltas``) in the weights, inside the block only."""
        session = self.session
        live = session.edits.live
        wanted = self.deltas if deltas is None else deltas
        try:
            session.edits.set([*live, *wanted])
            yield
        finally:
            session.edits.set(live)

    @property
    def layer(self) -> int:
        """The highest layer that the edit writes."""
        return max(delta.layer for delta in self.deltas)

    def like(self, answer: str) -> str | None:
        """A prompt that the model answers so already."""
        return next((n.prompt for n in self.neighbours if n.value == answer), None)

    # -- probes -------------------------------------------------------------------------------

    @cached_property
    def paraphrases(self) -> list[Probe]:
        """Other wordings, those that the unedited model answers as it does the prompt."""
        texts = paraphrases(self.prompt, self.subject, self.relation)
        self.asked_paraphrases = len(texts)
        return counted(self.session, [Probe(text, self.old, self.new) for text in texts])

    @cached_property
    def neighbours(self) -> list[Known]:
        """The same asked of others, where the model knows the answer (at most so many)."""
        rows = [Known(*row) for row in neighbours(self.prompt, self.subject, self.relation)]
        return self._known([row for row in rows if row.value] or self._own(rows))[:MOST]

    @cached_property
    def further(self) -> list[Known]:
        """Facts for more edits: ``given`` ones, else neighbours, else any of the list's."""
        rows = self._known(self.given) if self.given else self.neighbours
        if len(rows) < self.k - 1:
            more = [
                Known(relation.prompts[0].format(subject), subject, value)
                for relation in RELATIONS for subject, value in relation.values.items()
                if subject != self.subject
            ]  # fmt: skip
            rows = [*rows, *self._known(more[: 8 * self.k])]
        seen = {self.prompt}
        out = []
        for row in rows:
            if row.prompt not in seen and row.subject:
                out.append(row)
                seen.add(row.prompt)
        return out

    def _own(self, rows: Sequence[Known]) -> list[Known]:
        """Rows with the model's own answer as their value."""
        said = own_answers(self.session, [row.prompt for row in rows])
        return [Known(row.prompt, row.subject, answer.strip())
                for row, (answer, _) in zip(rows, said, strict=True) if answer.strip()]

    def _known(self, rows: Sequence[Known]) -> list[Known]:
        said = answers(self.session, [(row.prompt, row.value) for row in rows])
        return [row for row, so in zip(rows, said, strict=True) if so.greedy]

    # -- many edits ---------------------------------------------------------------------------

    @cached_property
    def requests(self) -> list[Request]:
        """The edit and up to k - 1 further ones, each to the answer of another of them."""
        rng = np.random.default_rng(self.seed)
        facts = self.further
        order = rng.permutation(len(facts))
        out = [self.request]
        for at in order:
            fact = facts[at]
            same = sorted({f.value for f in facts if f.value != fact.value and _alike(f, fact)})
            if not (fact.new or same):
                continue
            new = fact.new or same[int(rng.integers(len(same)))]
            out.append(Request(fact.prompt, fact.subject, new))
            if len(out) == self.k:
                break
        return out

    @property
    def likes(self) -> list[str | None]:
        there = {f.value: f.prompt for f in [*self.further, *self.neighbours]}
        return [there.get(r.target.strip()) for r in self.requests]

    def holds(self, requests: Sequence[Request]) -> list[bool]:
        """Of each: is its prompt answered with its new answer, with the weights as they are?"""
        return [s.greedy for s in answers(self.session, [(r.prompt, r.target) for r in requests])]

    @cached_property
    def chain(self) -> Chain:
        """``requests`` made one after another, all staying."""
        took: list[bool] = []
        live: Deltas = ()
        for at, (live, made) in enumerate(self.maker.after_another(self.requests, self.likes)):
            if made:
                with self.edited(live):
                    took.append(self.holds([self.requests[at]])[0])
            else:
                took.append(False)
        return Chain(self.requests, took, live)

    @cached_property
    def singly(self) -> list[Deltas]:
        """``requests``, each made without the others."""
        return self.maker.singly(self.requests, self.likes)

    @cached_property
    def batch(self) -> Deltas:
        """``requests`` made as one batch; empty where none could be made."""
        try:
            return self.maker.together(self.requests, self.singly)
        except NotFoundError:
            return ()


def _alike(a: Known, b: Known) -> bool:
    """Is the same asked of both?"""
    return a.prompt.replace(a.subject, "{}") == b.prompt.replace(b.subject, "{}")
