"""The strength search: scores in, the least multiple that holds out."""

import pytest

from rwkvedit.recurrent.strength import search_strength


def rising(threshold):
    calls = []

    def evaluate(multiples):
        calls.append(list(multiples))
        return [1.0 if m >= threshold else 0.1 for m in multiples]

    return evaluate, calls


@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.93, 1.4, 3.1])
def test_the_least_multiple_that_holds_is_close_above_the_threshold(threshold):
    evaluate, _ = rising(threshold)
    found = search_strength(evaluate, rounds=3)
    assert found.held
    assert threshold <= found.alpha <= threshold * 1.25 + 0.05


def test_more_rounds_bisect_closer():
    coarse = search_strength(rising(1.3)[0], rounds=0).alpha
    fine = search_strength(rising(1.3)[0], rounds=4).alpha
    assert 1.3 <= fine < coarse


def test_each_round_is_one_batch_and_nothing_is_tried_twice():
    evaluate, calls = rising(0.8)
    search_strength(evaluate, rounds=2)
    flat = [m for call in calls for m in call]
    assert len(calls) == 3
    assert len(flat) == len(set(flat))


def test_when_nothing_holds_the_best_score_comes_back_unheld():
    found = search_strength(lambda ms: [0.5 - abs(m - 1.0) / 10 for m in ms])
    assert not found.held
    assert found.alpha == 1.0


def test_a_nan_score_is_never_chosen():
    found = search_strength(lambda ms: [float("nan") if m > 1 else 0.3 for m in ms])
    assert not found.held
    assert found.alpha <= 1.0


def test_a_bound_spares_what_cannot_pass():
    evaluate, calls = rising(0.9)
    bounds = []

    def bound(multiples):
        bounds.extend(multiples)
        return [1.0 if m >= 0.7 else 0.2 for m in multiples]

    found = search_strength(evaluate, bracket=(0.5, 0.8, 1.0, 1.5), rounds=0, bound=bound)
    assert found.alpha == 1.0 and found.held
    assert bounds == [0.8, 1.0, 0.5]  # two at a time; 1.5 is not asked
    assert calls == [[0.8], [1.0]]


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.8])
def test_bounding_two_at_a_time_finds_the_rung_that_bounding_all_would(threshold):
    ladder = (0.5, 0.65, 0.8, 1.0, 1.3, 1.8)
    evaluate, _ = rising(threshold)
    bound, asked = rising(threshold)
    found = search_strength(evaluate, bracket=ladder, rounds=0, bound=bound)
    assert found.alpha == min(m for m in ladder if m >= threshold)
    assert sum(map(len, asked)) <= 4 and len(asked) <= 2


def test_a_success_below_a_failure_is_found_too():
    peaked = lambda ms: [1.0 if m == 0.8 else 0.1 for m in ms]  # noqa: E731
    found = search_strength(peaked, bracket=(0.5, 0.65, 0.8, 1.0, 1.3, 1.8), rounds=0, bound=peaked)
    assert found.alpha == 0.8 and found.held


def test_a_bound_that_nothing_passes_leaves_the_ceiling_to_try():
    evaluate, calls = rising(3.0)
    nothing = lambda multiples: [0.0] * len(multiples)  # noqa: E731
    found = search_strength(evaluate, bracket=(0.5, 1.0), rounds=0, bound=nothing)
    assert found.alpha == 4.0 and calls == [[2.0, 4.0]]


def test_when_a_bound_lets_nothing_pass_and_nothing_holds_something_comes_back():
    found = search_strength(lambda ms: [0.1] * len(ms), bound=lambda ms: [0.0] * len(ms))
    assert not found.held and found.alpha > 0
