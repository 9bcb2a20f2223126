"""Suites of worlds for editing benchmarks: which fact is changed, to what, and what must stay.

A suite is one function and one entry of ``SUITES``. Words come from a lexicon, phrasings are held
out of training, and the questions asked afterwards are never those the edit's strength was
searched on.
"""

from __future__ import annotations

import difflib

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.suites import longer, told
from rwkvedit.evaluate.suites.cases import EditCase, Step, Suite, counterfactual, respell

SUITES: dict[str, Suite] = {suite.name: suite for suite in (
    Suite("two-entity", told.entities(2), "two people, one fact each; either is edited"),
    Suite("five-entity", told.entities(5), "five people, one fact each; each is edited in turn"),
    Suite("seven-entity-two-facts", told.entities(7, 2), "seven people, two facts each"),
    Suite("same-entity", told.same_entity, "hat and eyes of one person; either is edited",
          groups="what is edited"),
    Suite("ambiguous", told.ambiguous, "two people who share a first name, and a third",
          groups="edited person told before or after the namesake"),
    Suite("wording", told.wording, "told with has, owns, is in possession of; asked in others",
          groups="wording told"),
    Suite("cross-context", told.cross_context, "told as a story, a dialogue, questions answered",
          groups="context"),
    Suite("distance", longer.distance, "0 to 2,048 tokens between fact and question",
          groups="tokens between"),
    Suite("long", longer.long, "a chat of 2,000 tokens: facts, corrections, small talk",
          groups="edited fact"),
    Suite("sequential", longer.sequential, "ten edits one after another; all must hold",
          groups="edits made"),
    Suite("entity-erase", longer.entity_erase, "all that was told about one person is erased",
          erases=True),
    Suite("property-erase", longer.property_erase, "one of a person's two facts is erased",
          erases=True),
    Suite("generic", told.generic, 'calibrated on "The answer is X.", no name, no kind'),
    Suite("second-mentioned", told.second_mentioned, "the later of two facts is edited",
          groups="the two facts"),
)}


def find_suite(name: str) -> Suite:
    """Raises UsageError with the list of suites."""
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0.6)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"no suite called {name}{hint}; there are {', '.join(SUITES)}")
    return SUITES[name]


__all__ = ["SUITES", "EditCase", "Step", "Suite", "counterfactual", "find_suite", "respell"]
