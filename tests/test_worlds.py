"""Benchmark worlds and the rules that read replies."""

import argparse
import json

import numpy as np
import pytest

from rwkvedit.errors import UsageError
from rwkvedit.evaluate import recall
from rwkvedit.evaluate.intervals import rate
from rwkvedit.evaluate.recall import ROWS, measure
from rwkvedit.evaluate.replies import is_unknown, mentions, says
from rwkvedit.evaluate.worlds import Maker, Part, Turn, World, overlap
from rwkvedit.facts import KINDS, Fact, parse_fact
from rwkvedit.facts.lexicon import Lexicon, heldout, load_lexicon
from rwkvedit.models.catalog import load_model


def maker(seed=0, lexicon=None):
    return Maker(lexicon or heldout(), np.random.default_rng(seed))


def test_values_in_a_world_differ_and_the_same_seed_gives_the_same_world():
    facts = maker(3).facts(7, 2)
    assert len({fact.value for fact in facts}) == 14
    assert facts == maker(3).facts(7, 2)
    assert facts != maker(4).facts(7, 2)


def test_worlds_use_only_heldout_phrasings():
    m = maker(1)
    for _ in range(50):
        for fact in m.facts(2, 2):
            assert m.ask(fact) not in fact.questions()
            assert fact.statement() != m.tell(fact)


def test_a_world_is_told_in_words_the_parser_reads():
    m = maker(2)
    for _ in range(30):
        for turn in m.told(m.facts(3, 1)).turns:
            told = turn.facts[0]
            read = parse_fact(turn.user)
            assert read is not None, turn.user
            assert (read.kind, read.entity) == (told.kind, told.entity), turn.user


def test_a_correction_replaces_one_fact():
    m = maker(5)
    world = m.told(m.facts(3, 1))
    changed = m.correct(world, 1)
    assert changed.facts[1].value != world.facts[1].value
    assert [changed.facts[i] for i in (0, 2)] == [world.facts[i] for i in (0, 2)]
    assert changed.facts[1].value in changed.turns[-1].user.lower() + changed.turns[-1].user


def test_a_correction_never_brings_back_what_was_said_before():
    m = maker(9)
    for _ in range(10):
        world = m.told(m.facts(2, 2, ["friend", "sport"]))
        for _ in range(3):
            world = m.correct(world, 0)
        said = [f.value for turn in world.turns for f in turn.facts]
        assert len(set(said)) == len(said)
        assert not {f.entity for f in world.facts} & set(said)


def test_no_value_is_part_of_another():
    assert overlap("guinea pig", "pig") and overlap("York", "new york")
    assert not overlap("Cebu", "Cebue")
    m = maker(1, Lexicon({**heldout().words, "pets": ("guinea pig", "pig", "mole")}))
    for _ in range(20):
        taken = set()
        drawn = {m.value("pets", taken), m.value("pets", taken)}
        assert drawn != {"guinea pig", "pig"}


def test_a_list_that_runs_out_is_named():
    m = maker(1, Lexicon({**heldout().words, "pets": ("newt", "mole")}, "few.json"))
    with pytest.raises(UsageError, match=r"few\.json: 2 pets are too few"):
        m.facts(3, 1, ["pet"])


def test_kinds_without_words_enough_are_not_drawn():
    short = {slot: words[:3] for slot, words in heldout().words.items()}
    rich = {**short, "names": heldout()["names"], "cities": heldout()["cities"]}
    m = maker(1, Lexicon(rich, "rich.json"))
    names = {"city", "age", "phone", "sister", "brother", "friend", "boss"}
    for _ in range(20):
        assert {fact.kind for fact in m.facts(6, 1)} <= names
    with pytest.raises(UsageError, match=r"rich\.json: these worlds need 7 different words"):
        m.kinds(1, ["pet", "food"], each=7)


def test_a_turn_says_its_parts():
    fact = maker().facts(1, 1)[0]
    turn = Turn.of([Part("Hello."), Part(fact.statement(), fact)])
    assert turn.user == f"Hello. {fact.statement()}"
    assert turn.facts == (fact,) and Turn("Hello.").pieces == (Part("Hello."),)


def test_an_untold_fact_was_not_told():
    m = maker(6)
    for _ in range(40):
        world = m.told(m.facts(3, 1))
        fact = m.untold(world)
        assert (fact.kind, fact.entity) not in {(f.kind, f.entity) for f in world.facts}


@pytest.mark.parametrize(("reply", "value", "good"), [
    ("Bob lives in Graz.", "Graz", True),
    ("Bob lives in Grazz.", "Graz", False),
    ("Bob has a pet Newt.", "newt", True),
    ("I don't know where Graz is.", "Graz", False),
    ("", "Graz", False),
])
def test_a_reply_is_read_by_whole_words(reply, value, good):
    assert says(reply, value) is good


@pytest.mark.parametrize(("reply", "good", "bad"), [
    ("Bob does not live in Paris.", "", "Paris"),
    ("Bob doesn't live in Paris.", "", "Paris"),
    ("Bob doesn’t live in Paris.", "", "Paris"),
    ("Bob no longer lives in Paris; he lives in Graz.", "Graz", "Paris"),
    ("Bob has no cat.", "", "cat"),
    ("No, Bob lives in Paris.", "Paris", ""),
    ("It is not true that Bob lives in Paris.", "", "Paris"),
    ("Paris is not where Bob lives.", "", "Paris"),
    ("Bob lives not in Paris but in Graz.", "Graz", "Paris"),
    ("Bob lives in Graz and not in Paris.", "Graz", "Paris"),
    ("Bob never was a vet. Bob is a nurse.", "nurse", "vet"),
])
def test_what_a_reply_denies_it_does_not_say(reply, good, bad):
    assert not good or says(reply, good)
    assert not bad or (mentions(reply, bad) and not says(reply, bad))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_plain_answer_says_its_value(kind):
    lexicon = heldout()
    maker = Maker(lexicon, np.random.default_rng(3))
    for value in maker.words(KINDS[kind].slot)[:400]:
        fact = Fact(kind, "Bob", value, "hat" if KINDS[kind].has_thing else "")
        assert says(fact.answer(), value) and says(fact.statement(), value)


def test_a_corrected_fact_answered_with_both_values_is_wrong():
    old, new = Fact("city", "Bob", "Oslo"), Fact("city", "Bob", "Graz")
    other = Fact("city", "Ann", "Rome")
    turns = tuple(Turn(f.statement(), facts=(f,)) for f in (old, other, new))
    question = recall.Question("Where does Bob live?", new)

    def right(reply):
        return recall.right_answer(World(turns, (new, other)), question, reply)

    assert right("Bob lives in Graz.")
    assert not right("Bob lives in Oslo and Graz.")
    assert not right("Bob lives in Graz. He does not live in Oslo.")
    assert not right("Bob lives in Graz and Rome.")
    assert not right("Bob does not live in Graz.")


def test_unknown_is_read_at_the_start_only():
    assert is_unknown("I don't know where Bob lives.")
    assert is_unknown("I do not know.")
    assert not is_unknown("Bob is in I don't know.")


def test_rate_brackets_its_mean_and_is_open_at_the_ends():
    some = rate([1, 0, 1, 1], [0, 0, 1, 1])
    assert some["lo"] <= some["mean"] == 0.75 <= some["hi"]
    sure = rate([1.0] * 50)
    assert sure["mean"] == sure["hi"] == 1.0 and 0.9 < sure["lo"] < 1.0
    assert rate([])["mean"] is None


def test_a_quantity_that_never_varies_has_no_width():
    still = rate([0.0] * 50, share=False)
    assert still["lo"] == still["hi"] == 0.0 < rate([0.0] * 50)["hi"]
    assert rate([1.0] * 50, share=False)["lo"] == 1.0


def test_recall_refuses_a_seed_below_zero():
    parser = argparse.ArgumentParser()
    recall.add_arguments(parser)
    with pytest.raises(UsageError, match="--seed -1 must be 0 or more"):
        recall.run(parser.parse_args(["--seed", "-1"]))


def test_a_lexicon_file_swaps_words_and_falls_back(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"names": ["Ann", "Ben", "Cy"], "cities": ["Ulm", "Jena"]}))
    lexicon = load_lexicon(path)
    assert lexicon["names"] == ("Ann", "Ben", "Cy")
    assert lexicon["pets"] == heldout()["pets"]
    lexicon.check(load_model("embedded").tokenizer)


@pytest.mark.parametrize(("content", "wanted"), [
    ("{", "not JSON"), ("[]", "must be an object"), ('{"moods": ["sad", "glad"]}', "no kind"),
    ('{"names": "Ann"}', "list of words"), ('{"names": ["Ann"]}', "two different"),
])
def test_a_bad_lexicon_is_refused_in_one_line(tmp_path, content, wanted):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=wanted) as caught:
        load_lexicon(path)
    assert "\n" not in str(caught.value)


def test_a_lexicon_word_the_tokenizer_cannot_carry_is_named():
    class Deaf:
        def encode(self, text):
            return [1]

        def decode(self, ids):
            return " ?"

    with pytest.raises(UsageError, match="cannot carry 'Ragnar'"):
        heldout().check(Deaf())


def test_recall_is_near_perfect_on_small_worlds():
    rows = measure(load_model("embedded"), heldout(), 12, seed=77, names=("1-3", "unknown"))
    by_name = {row["name"]: row["accuracy"]["mean"] for row in rows}
    assert by_name["1-3"] >= 0.9
    assert by_name["unknown"] >= 0.7
    assert set(by_name) <= {*ROWS, "false-unknown"}


def test_every_kind_can_be_drawn():
    m = maker(8)
    seen = {kind for _ in range(200) for kind in m.kinds(2)}
    assert seen == {name for name, kind in KINDS.items() if kind.subject == "person"}
