"""Every telling in the table is read back as the fact it tells."""

import pytest

from rwkvedit.facts import KINDS, fill, parse_fact, parse_facts, split_pair

VALUES = {"phone": "555 1234", "age": "34"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("entity", ["Bob", "I", "Alice White", "the key"])
def test_every_telling_parses_back(kind, entity):
    if (entity == "the key") != (kind.subject == "object"):
        return
    value = VALUES.get(kind.name, "red" if kind.has_thing else "Zork")
    thing = "hat" if kind.has_thing else ""
    for template in (*kind.tells, *kind.tells_heldout, *kind.changes):
        said = fill(template, entity, value, thing)
        fact = parse_fact(said)
        assert fact is not None, said
        assert (fact.kind, fact.entity, fact.value.lower(), fact.thing) == (
            kind.name, entity, value.lower(), thing), said


def test_kinds_have_enough_phrasings_and_hold_some_out():
    assert len(KINDS) >= 15
    for kind in KINDS.values():
        assert len(kind.tells) >= 8 and len(kind.asks) >= 5
        assert not set(kind.tells) & set(kind.tells_heldout)
        assert not set(kind.asks) & set(kind.asks_heldout)
        assert kind.tells_heldout and kind.asks_heldout


def test_chains_pronouns_and_openings():
    def read(text):
        return [(f.kind, f.entity, f.value) for f in parse_facts(text)]

    assert read("Alice lives in Paris and has a dog.") == [
        ("city", "Alice", "Paris"), ("thing", "Alice", "dog")]
    assert read("Bob lives in Austin. He has a pet cat.") == [
        ("city", "Bob", "Austin"), ("pet", "Bob", "cat")]
    assert read("Actually, Bob lives in Chicago.") == [("city", "Bob", "Chicago")]
    assert read("Bob has a red hat and blue eyes.") == [
        ("color", "Bob", "red"), ("color", "Bob", "blue")]
    for said in ("My name is Ana and I live in Lisbon.", "I live in Lisbon and my name is Ana."):
        assert read(said) == [("city", "I", "Lisbon")]  # what is no fact spoils none
    assert read("Bob lives in Austin and the weather is nice.") == [("city", "Bob", "Austin")]
    assert read("Bob lives in Austin, he is nice, and has a cat.") == [
        ("city", "Bob", "Austin"), ("thing", "Bob", "cat")]
    assert read("Bob lives in Trinidad and Tobago.") == [("city", "Bob", "Trinidad and Tobago")]
    assert read("Where does Bob live?") == []
    assert read("Hello there!") == []


def test_first_person_is_answered_in_second():
    fact = parse_fact("My sister is Ann.")
    assert fact.first_person
    assert fact.answer() == "Your sister is Ann."
    assert fact.questions()[0] == "Who is my sister?"
    assert fact.unknown() == "I don't know who your sister is."


def test_answer_is_prefix_plus_value():
    for said, prefix, value in [
        ("Bob works as an artist.", " Bob works as", " an artist"),
        ("Bob lives in Austin.", " Bob lives in", " Austin"),
        ("Bob's shoes are red.", " Bob's shoes are", " red"),
    ]:
        fact = parse_fact(said)
        assert (fact.answer_prefix(), fact.answer_value()) == (prefix, value)
        assert " " + fact.answer() == prefix + value + "."


def test_split_pair_parts_where_the_words_part():
    assert split_pair("Bob lives in Austin", "Bob lives in Chicago") == (
        "Bob lives in", " Austin", " Chicago")
    assert split_pair("A b", "C b") == ("", "A b", "C b")


@pytest.mark.parametrize("said", [
    "I think Bob lives in Austin.", "I told you that Bob lives in Austin.",
    "As you know, Bob lives in Austin.", "Q: Which city? A: Bob lives in Austin.",
])
def test_what_a_sentence_opens_with_is_no_part_of_the_name(said):
    assert [(f.kind, f.entity, f.value) for f in parse_facts(said)] == [("city", "Bob", "Austin")]


@pytest.mark.parametrize("said", [
    "Bob does not live in Austin.", "Bob doesn't live in Austin.", "If Bob lives in Austin.",
    "Bob no longer lives in Austin.", "Bob used to live in Austin.",
    "Forget that Bob lives in Austin.", "Alice thinks Bob lives in Austin.",
    "Otto has a phone number 5375, call him.",
])
def test_what_is_denied_or_supposed_is_not_heard(said):
    assert parse_facts(said) == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_telling_is_heard_in_a_message_as_one_fact(kind):
    value = VALUES.get(kind.name, "red" if kind.has_thing else "Zork")
    entity = "the key" if kind.subject == "object" else "Bob"
    for template in (*kind.tells, *kind.tells_heldout, *kind.changes):
        said = fill(template, entity, value, "hat" if kind.has_thing else "")
        assert [(f.kind, f.entity) for f in parse_facts(said)] == [(kind.name, entity)], said


@pytest.mark.parametrize(("said", "heard"), [
    ("I've got a red bike.", [("color", "I", "red")]),
    ("I'm 34 years old.", [("age", "I", "34")]),
    ("Ann's favourite colour is teal.", [("like_color", "Ann", "teal")]),
    ("Bob has moved to Chicago.", [("city", "Bob", "Chicago")]),
    ("Bob has moved.", []),
    ("Tom lives in Rome but Lena lives in Paris.",
     [("city", "Tom", "Rome"), ("city", "Lena", "Paris")]),
    ("Tom has a dog but Lena has a cat.", [("thing", "Tom", "dog"), ("thing", "Lena", "cat")]),
    ("Tom lives in Rome and Lena in Paris.", []),
])  # fmt: skip
def test_other_spellings_and_joined_sentences(said, heard):
    assert [(f.kind, f.entity, f.value) for f in parse_facts(said)] == heard
