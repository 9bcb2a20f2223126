"""Editing suites and their runner: counterfactual worlds, measures, the document's shape."""

import argparse
import json

import numpy as np
import pytest

from rwkvedit.errors import UsageError
from rwkvedit.evaluate import runner
from rwkvedit.evaluate.suites import SUITES, counterfactual, find_suite, respell
from rwkvedit.evaluate.worlds import Maker
from rwkvedit.facts.lexicon import heldout


@pytest.mark.parametrize("suite", list(SUITES))
def test_a_case_changes_one_fact_and_only_the_turn_that_told_it(suite):
    maker = Maker(heldout(), np.random.default_rng(3))
    for index in range(20):
        case = SUITES[suite](maker, index)
        other = counterfactual(case)
        changed = [i for i, (a, b) in enumerate(zip(case.world.turns, other.turns, strict=True))
                   if a.user != b.user]
        assert len(changed) == 1
        turn = other.turns[changed[0]].user
        assert case.new.value.lower() in turn.lower() and case.old.key == case.new.key
        assert case.target not in case.controls
        assert len(case.controls) == len(case.world.facts) - 1
        assert len(case.asks) == len(case.world.facts)


def test_the_same_seed_makes_the_same_cases():
    make = find_suite("five-entity")
    one, two = (
        [make(Maker(heldout(), np.random.default_rng([1, 1])), i) for i in range(3)]
        for _ in range(2)
    )
    assert one == two


def test_every_entity_is_edited_in_turn():
    maker = Maker(heldout(), np.random.default_rng(0))
    assert [find_suite("five-entity")(maker, i).target for i in range(6)] == [0, 1, 2, 3, 4, 0]


def test_respelling_keeps_the_article_right():
    assert respell("Bob is an actor.", "actor", "baker") == "Bob is a baker."
    assert respell("Bob has a red hat.", "red", "orange") == "Bob has an orange hat."
    assert respell("Ann lives in An.", "An", "Oslo") == "Ann lives in Oslo."


def test_an_unknown_suite_is_answered_with_the_list():
    with pytest.raises(UsageError, match="five-entity"):
        find_suite("six-entity")


def arguments(**more):
    parser = argparse.ArgumentParser()
    runner.add_arguments(parser)
    args = parser.parse_args([])
    for name, value in more.items():
        setattr(args, name, value)
    return args


@pytest.mark.parametrize("bad", [{"worlds": 0}, {"suite": "x"}, {"methods": "hyb-u,magic"}])
def test_bad_arguments_are_usage_errors(bad):
    with pytest.raises(UsageError):
        runner.run(arguments(**bad))


def test_the_document_has_what_scripts_rely_on():
    document = runner.run(arguments(
        worlds=6, suite="two-entity", methods="auto,tell,oracle,none", seed=1004))
    json.dumps(document)
    rows = {row["method"]: row for row in document["rows"]}
    assert list(rows) == ["auto", "tell", "oracle", "none"]
    for row in rows.values():
        assert set(row) >= {"flip", "keep", "clean", "leak", "reply", "kl_target", "kl_control",
                            "ms", "decodes", "worlds_counted"}
    if document["worlds_counted"]:
        assert rows["oracle"]["flip"]["mean"] == 1.0
        assert rows["oracle"]["kl_target"]["mean"] == 0.0
        assert rows["none"]["flip"]["mean"] == 0.0
        assert rows["none"]["keep"]["mean"] == 1.0
