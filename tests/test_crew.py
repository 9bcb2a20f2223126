"""How many threads decode: learned from what tokens took."""

from __future__ import annotations

from rwkvedit_kernels.crew import Crew


def run(crew: Crew, seconds: dict[int, float], jobs: int) -> list[int]:
    picked = []
    for _ in range(jobs):
        picked.append(crew.pick())
        crew.took(picked[-1], seconds[picked[-1]])
    return picked


def test_every_choice_is_tried_before_one_is_preferred():
    assert sorted(run(Crew(4), {1: 2.0, 4: 1.0}, 6)) == [1, 1, 1, 4, 4, 4]


def test_the_faster_choice_is_kept_and_the_other_looked_at_now_and_then():
    later = run(Crew(2), {1: 2.0, 2: 1.0}, 200)[6:]
    assert later.count(2) > 0.9 * len(later)
    assert later.count(1) >= 3


def test_it_changes_its_mind_when_the_machine_does():
    crew = Crew(2)
    run(crew, {1: 2.0, 2: 1.0}, 50)
    assert crew.best == 2
    run(crew, {1: 2.0, 2: 9.0}, 50)
    assert crew.best == 1


def test_one_core_has_no_choice():
    assert set(run(Crew(1), {1: 1.0}, 10)) == {1}
