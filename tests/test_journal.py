"""The journal alone: moving, branching, and its budget."""

from types import SimpleNamespace

import pytest

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.journal import Journal, Place


def place(number, size=100):
    return Place(SimpleNamespace(nbytes=size), (number,), {"n": number})


def journal(count=3, budget=10**9):
    out = Journal(place(0), budget)
    for number in range(1, count + 1):
        out.record("say", f"step {number}", place(number))
    return out


def where(journal):
    return journal.place.tokens[0]


def test_undo_and_redo_return_to_the_very_same_place():
    j = journal()
    kept = j.place
    assert [e.label for e in j.undo(2)] == ["step 3", "step 2"]
    assert where(j) == 1
    assert [e.label for e in j.redo(2)] == ["step 2", "step 3"]
    assert j.place is kept


def test_a_new_step_lets_go_of_what_could_be_redone():
    j = journal()
    j.undo()
    j.record("say", "other", place(9))
    assert where(j) == 9
    with pytest.raises(RwkvEditError, match="nothing to redo"):
        j.redo()


def test_undo_at_the_opening_is_refused():
    with pytest.raises(RwkvEditError, match="nothing to undo"):
        journal(0).undo()
    with pytest.raises(UsageError, match="1 or more"):
        journal().undo(0)


def test_too_many_steps_leave_everything_as_it_was():
    j = journal()
    with pytest.raises(RwkvEditError, match="cannot undo 4 steps: 3 can be undone"):
        j.undo(4)
    assert where(j) == 3


def test_branches_do_not_see_each_other():
    j = journal()
    j.start_branch("other")
    j.undo(2)
    j.record("say", "elsewhere", place(7))
    j.switch("main")
    assert where(j) == 3
    j.switch("other")
    assert where(j) == 7
    with pytest.raises(UsageError, match="exists already"):
        j.start_branch("main")
    with pytest.raises(UsageError, match="there are: main, other"):
        j.switch("nowhere")


def test_the_budget_drops_the_oldest_and_says_what_is_left():
    j = Journal(place(0), budget=350)
    notices = [j.record("say", f"step {n}", place(n)) for n in range(1, 6)]
    assert notices[0] is None and "2 still can" in notices[-1]
    assert j.nbytes <= 350
    assert j.branch.undoable == 2
    j.undo(2)
    with pytest.raises(RwkvEditError, match="dropped"):
        j.undo()
    assert where(j) == 3


def test_the_budget_never_drops_where_a_branch_stands():
    j = Journal(place(0), budget=150)
    j.start_branch("other")
    for number in range(1, 5):
        j.record("say", "x", place(number))
    j.switch("main")
    assert where(j) == 0


def test_a_shared_state_is_counted_once():
    state = SimpleNamespace(nbytes=1000)
    j = Journal(Place(state, (), {}), budget=1500)
    for _ in range(5):
        assert j.record("set", "x", Place(state, (), {})) is None
    assert j.nbytes == 1000
