"""``bench capitals``: what it counts, and that it leaves the weights alone."""

from __future__ import annotations

import argparse

import pytest
from test_weights import bits

from rwkvedit.errors import UsageError
from rwkvedit.evaluate import capitals
from rwkvedit.transformer.rewordings import others, rewordings


def arguments(**changes):
    values = {"model": "toy", "methods": "plain", "stats": None,
              "on_progress": lambda done, of: None}  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def test_a_toy_knows_no_capital_and_is_left_as_it_was():
    args = arguments()
    document = capitals.run(args)
    (row,) = document["rows"]
    assert document["known"] == [] and row["others"] == row["kept"] == 0
    assert row["of"] == 1 and row["reworded_of"] == 0 and row["relative_change"] > 0
    assert row["bytes"] < 2000 and not args.loaded.edits.live
    with pytest.raises(UsageError, match="choose some of plain, edit"):
        capitals.run(arguments(methods="magic"))


def test_no_wording_that_is_counted_is_one_that_edits_look_at():
    prompt = capitals.PROMPT.format("France")
    asked = {text.format("France", "France") for text in capitals.REWORDED}
    assert not asked & {prompt, *rewordings(prompt, "France"), *others(prompt, "France")}


def test_what_is_kept_and_reworded_is_counted_by_the_likeliest_answer(smollm2):
    known, before = capitals.knows(smollm2), bits(smollm2)
    assert len(known) > 10 and "France" in known
    row = capitals.measure(smollm2, "plain", known, None)
    assert bits(smollm2) == before and row["others"] == len(known) - 1
    assert 0 <= row["kept"] <= row["others"] and row["flips"] <= row["of"] == 1
    assert 4 <= row["reworded_of"] <= len(capitals.REWORDED)
