"""When a control stands: its greedy answer, and how likely that answer still is."""

import pytest

from rwkvedit.recurrent.asking import Reading
from rwkvedit.recurrent.controls import kept


def reading(p, said=True, path=1.0, path_said=True):
    return Reading(p, said, path, path_said)


@pytest.mark.parametrize(("before", "after", "stands"), [
    (0.99, 0.98, True),
    (0.99, 0.35, False),
    (0.80, 0.41, True),
    (0.80, 0.39, False),
    (0.20, 0.90, True),
])
def test_an_answer_that_is_half_as_likely_is_not_kept_though_it_is_still_the_first(
    before, after, stands
):
    assert kept(reading(before), reading(after)) is stands


def test_another_answer_is_never_kept_however_likely_the_value_still_is():
    assert not kept(reading(0.9), reading(0.49, said=False))


def test_an_answer_that_is_no_longer_begun_is_not_kept():
    assert not kept(reading(0.9), reading(0.9, path_said=False))


def test_what_was_never_known_may_not_drift():
    unknown = reading(0.1, said=False)
    assert kept(unknown, reading(0.2, said=False))
    assert not kept(unknown, reading(0.5, said=False))
    assert not kept(unknown, reading(0.2, said=True))
