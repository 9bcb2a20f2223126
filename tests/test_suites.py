"""Editing suites: what is told, what is edited, and what a perfect edit would leave."""

import numpy as np
import pytest

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.runner import make_cases
from rwkvedit.evaluate.suites import SUITES, counterfactual, find_suite, respell
from rwkvedit.evaluate.suites.longer import DISTANCES, LONG
from rwkvedit.evaluate.suites.told import WORDINGS
from rwkvedit.evaluate.worlds import Maker
from rwkvedit.facts import parse_facts
from rwkvedit.facts.lexicon import Lexicon, heldout
from rwkvedit.heard import merge_heard
from rwkvedit.models.catalog import load_model

NAMES = (
    "two-entity five-entity seven-entity-two-facts same-entity ambiguous wording cross-context "
    "distance long sequential entity-erase property-erase generic second-mentioned"
).split()
ERASE = ("entity-erase", "property-erase")


def cases(suite, n=12, seed=3, length=None):
    return make_cases(SUITES[suite], heldout(), n, seed, length)


def test_the_suites_are_those_that_scripts_name():
    assert sorted(SUITES) == sorted(NAMES)
    assert {name for name, suite in SUITES.items() if suite.erases} == set(ERASE)


@pytest.mark.parametrize("suite", [name for name in NAMES if name not in ERASE])
def test_the_counterfactual_differs_in_the_targets_alone(suite):
    for case in cases(suite):
        other = counterfactual(case)
        assert len(other.turns) == len(case.world.turns)
        now = case.truth()
        for turn, changed in zip(case.world.turns, other.turns, strict=True):
            edited = [f for f in turn.facts if f in {case.world.facts[i] for i in case.targets()}]
            text = turn.user
            for fact in edited:
                new = now[case.world.facts.index(fact)]
                assert new is not None and new.key == fact.key and new.value != fact.value
                text = respell(text, fact.value, new.value)
            assert changed.user == text and (turn.user != text) == bool(edited)
        for i in case.targets():
            assert any(now[i] in turn.facts for turn in other.turns)
        assert other.facts == now


@pytest.mark.parametrize("suite", ERASE)
def test_the_counterfactual_of_erasing_was_never_told(suite):
    for case in cases(suite):
        other = counterfactual(case)
        for i in case.targets():
            value = case.world.facts[i].value
            assert not any(value.lower() in turn.user.lower() for turn in other.turns)
        assert other.facts == case.others
        assert [t.user for t in other.turns] == [
            t.user for t in case.world.turns if t.facts[0] in case.others]


@pytest.mark.parametrize("suite", NAMES)
def test_every_case_is_well_formed(suite):
    for case in cases(suite):
        facts = case.world.facts
        told = [fact for turn in case.world.turns for fact in turn.facts]
        assert all(fact in told for fact in facts)
        assert len({fact.key for fact in facts}) == len(facts)
        values = [fact.value for fact in facts] + [s.new.value for s in case.steps if s.new]
        assert len(set(values)) == len(values)
        assert len(case.asks) == len(facts)
        for fact, ask in zip(facts, case.asks, strict=True):
            assert ask not in fact.questions()  # an edit may search its strength on those
            assert fact.entity in ask and fact.value not in ask
        assert case.controls and not set(case.controls) & set(case.targets())
        assert all(turn.user == " ".join(p.text for p in turn.pieces) for turn in case.world.turns)


@pytest.mark.parametrize("suite", NAMES)
def test_the_same_seed_makes_the_same_worlds_and_more_begin_with_them(suite):
    assert cases(suite, 3) == cases(suite, 4)[:3] != cases(suite, 3, seed=4)


def test_every_entity_is_edited_in_turn():
    assert [case.target for case in cases("five-entity", 6)] == [0, 1, 2, 3, 4, 0]
    assert {case.target for case in cases("seven-entity-two-facts", 14)} == set(range(14))


def test_hat_and_eyes_are_edited_alike_often_and_eyes_are_not_worn():
    made = cases("same-entity", 6)
    assert [case.old.thing for case in made] == ["hat", "eyes"] * 3
    for case in made:
        assert case.world.facts[0].entity == case.world.facts[1].entity
        assert "wearing" not in case.world.turns[1].user
        assert "eyes are" in case.asks[1]


def test_namesakes_are_told_in_both_orders_and_either_is_edited():
    seen = set()
    for case in cases("ambiguous", 8):
        people = [fact.entity for fact in case.world.facts]
        old = case.old.entity
        first = old.split()[0]
        namesake = next(p for p in people if p != old and p.split()[0] == first)
        assert len(people) == 3 and sum(p.split()[0] == first for p in people) == 2
        earlier = people.index(old) < people.index(namesake)
        assert case.group == ("first" if earlier else "second")
        seen.add((case.target, case.group))
    groups = [case.group for case in cases("ambiguous", 8)]
    assert groups.count("first") == groups.count("second") == 4
    assert len({target for target, _ in seen}) > 1


def test_a_wording_is_neither_edited_nor_asked_in_its_own_words():
    forms = {"has": " has ", "owns": " owns ", "possesses": " is in possession of "}
    asked = {"owns": " own?", "possesses": " in possession of?"}
    groups = set()
    for case in cases("wording", 6):
        groups.add(case.group)
        assert all(forms[case.group] in turn.user for turn in case.world.turns)
        assert " has " in case.old.statement()
        used = next(name for name, end in asked.items() if case.asks[0].endswith(end))
        assert used != case.group
    assert groups == set(WORDINGS)


def test_contexts_take_turns_and_are_what_they_say():
    made = cases("cross-context", 6)
    assert [case.group for case in made] == ["story", "dialogue", "qa"] * 2
    story, dialogue, qa = made[:3]
    assert len(story.world.turns) == 1 and len(story.world.turns[0].facts) == 3
    assert len(dialogue.world.turns) == 7
    assert sum(not turn.facts for turn in dialogue.world.turns) == 4
    for turn, ask in zip(qa.world.turns, qa.asks, strict=True):
        question, _, answer = turn.user.removeprefix("Q: ").partition(" A: ")
        assert question != ask and answer == turn.facts[0].answer()


def test_distances_are_as_long_as_they_say():
    loaded = load_model("embedded")

    def length(turn):
        return len(loaded.template.encode_turn(loaded.tokenizer, turn.user, turn.reply))

    for case, wanted in zip(cases("distance", 6, length=length), DISTANCES, strict=True):
        assert case.group == str(wanted)
        talk = [t for t in case.world.turns if not t.facts]
        assert case.world.turns[: len(case.world.turns) - len(talk)] == tuple(
            t for t in case.world.turns if t.facts)  # all of it stands behind the facts
        assert wanted <= sum(map(length, talk)) <= wanted + 60


def test_a_long_chat_is_long_and_corrects_what_it_told_before():
    maker = Maker(heldout(), np.random.default_rng(0))
    for case in cases("long", 3):
        turns = case.world.turns
        assert LONG <= sum(map(maker.length, turns)) <= LONG + 60
        keys = [fact.key for turn in turns for fact in turn.facts]
        assert len(keys) == len(set(keys)) + 2
        last = {fact.key: fact for turn in turns for fact in turn.facts}
        assert set(last.values()) == set(case.world.facts)  # what counts is what was said last
    groups = [case.group for case in cases("long", 6)]
    assert groups == ["corrected before", "told once", "told once"] * 2


def test_a_long_chat_is_never_edited_to_what_it_said_before_a_correction():
    lexicon = heldout()
    few = Lexicon({kind: words if kind in ("names", "fillers") else words[:8]
                   for kind, words in lexicon.words.items()})
    for case in make_cases(SUITES["long"], few, 60, 3):
        said = {fact.value for turn in case.world.turns for fact in turn.facts}
        assert case.new is not None and case.new.value not in said


def test_ten_edits_leave_what_the_last_of_them_said():
    made = cases("sequential", 6)
    for case in made:
        assert len(case.steps) == 10 and len(case.world.facts) == 10
        now = list(case.world.facts)
        for count, step in enumerate(case.steps, 1):
            assert now[step.index] == step.old and step.new is not None
            now[step.index] = step.new
            assert case.truth(count) == tuple(now)
        assert len(case.controls_after(1)) == 9
    assert [len(case.targets()) for case in made] == [9, 8] * 3
    assert [len(case.controls) for case in made] == [1, 2] * 3


def test_erasing_takes_all_of_a_person_or_one_property():
    for case in cases("entity-erase", 3):
        gone = {case.world.facts[i].entity for i in case.targets()}
        assert len(gone) == 1 and len(case.targets()) == 2
        assert not gone & {fact.entity for fact in case.others}
    for case in cases("property-erase", 6):
        assert len(case.targets()) == 1
        assert case.old.entity in {fact.entity for fact in case.others}


def test_the_second_mentioned_is_the_one_edited():
    made = cases("second-mentioned", 4)
    assert all(case.target == 1 and len(case.world.facts) == 2 for case in made)
    assert [len({f.entity for f in case.world.facts}) for case in made] == [2, 1, 2, 1]


def test_a_generic_calibration_names_nobody():
    for case in cases("generic", 3):
        assert case.told_as == "The answer is {v}."


def test_respelling_keeps_the_article_right():
    assert respell("Bob is an actor.", "actor", "baker") == "Bob is a baker."
    assert respell("Bob has a red hat.", "red", "orange") == "Bob has an orange hat."
    assert respell("Ann lives in An.", "An", "Oslo") == "Ann lives in Oslo."


def test_an_unknown_suite_is_answered_with_the_list():
    with pytest.raises(UsageError, match=r"did you mean five-entity.*property-erase"):
        find_suite("fiv-entity")


def test_short_lists_of_ones_own_make_worlds_while_they_last():
    names = tuple(f"Name{i}" for i in range(9))
    few = {**heldout().words, "names": names, "colors": ("sky blue", "blue", *names[:6])}
    for name in ("seven-entity-two-facts", "same-entity", "ambiguous"):
        for case in make_cases(SUITES[name], Lexicon(few, "few.json"), 12, 1):
            values = [fact.value for fact in case.world.facts]
            assert not {"sky blue", "blue"} <= set(values)
            assert not set(values) & {fact.entity for fact in case.world.facts}
    with pytest.raises(UsageError, match=r"few\.json: \d names are too few"):
        make_cases(SUITES["five-entity"], Lexicon({**few, "names": names[:4]}, "few.json"), 1, 1)


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_a_chat_hears_what_a_world_tells(suite):
    # a benchmark's edits get the controls that a chat would have heard: no more, no less
    for case in make_cases(suite, heldout(), 6, 4):
        known: tuple = ()
        for turn in case.world.turns:
            known = merge_heard(known, parse_facts(turn.user))
        assert {(f.key, f.value.lower()) for f in known} == {
            (f.key, f.value.lower()) for f in case.world.facts}
