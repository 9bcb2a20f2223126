"""Benchmarks that ask what the edit was not about."""

from __future__ import annotations

from rwkvedit.evaluate.profile.case import Case
from rwkvedit.evaluate.profile.direct import _held
from rwkvedit.evaluate.profile.probes import Probe, counted, nearby
from rwkvedit.evaluate.profile.registry import Found, benchmark


@benchmark("RippleBench", 0.7, "edit",
           "preservation of the subject's other facts, one of the ripple effects of Cohen et al. "
           "(2024); probes ours")
def ripple(case: Case) -> Found:
    """Share of nearby facts of the subject that are answered after the edit as before it: its other
    relations in the list that ships (language, continent, ...), counted where the unedited model
    gives the true answer, and what the unedited model says of the subject by itself after open
    beginnings ("S is known for its"), counted where it gives its first token P >= .5."""
    edited = case.relation.name if case.relation else None
    probes = nearby(case.session, case.prompt, case.subject, edited)
    return _held(case, counted(case.session, probes), len(probes))


@benchmark("LocalitySens", 0.6, "edit",
           "neighbours with the edit's sentence in front, after Hoelscher-Obermaier et al. (2023), "
           "CounterFact+; by argmax")
def locality(case: Case) -> Found:
    """Share of neighbours (the same asked of other subjects) still answered with their own true
    answer after the edit, when the edit's own sentence stands in front: "The capital of S is
    NEW. The capital of OTHER is". Counted where the unedited model, given the same text, gives
    the true answer."""
    sentence = f"{case.prompt} {case.new}."
    probes = [Probe(f"{sentence} {n.prompt}", n.value, n.value) for n in case.neighbours]
    return _held(case, counted(case.session, probes), len(probes))
