"""Pairs, spectra, layer ranges, questions and replays: the parts of an edit, on seeded toys."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.methods import AUTO, METHODS, find_method
from rwkvedit.recurrent.pairs import part, read_pair
from rwkvedit.recurrent.spectrum import rotate_onto, top_triples
from rwkvedit.recurrent.strength import parse_ratio
from rwkvedit.recurrent.workspace import layer_range
from rwkvedit.settings import ratio


def test_a_pair_parts_where_the_value_begins():
    pair = read_pair("Bob lives in Austin", "Bob lives in Chicago.")
    assert (pair.told, pair.old, pair.new, pair.closing) == (
        "Bob lives in", " Austin", " Chicago", ".")
    assert pair.kind == "city"
    assert pair.questions and pair.answer == " Bob lives in"


def test_two_wordings_of_one_fact_make_a_pair():
    pair = read_pair("Bob lives in Austin", "Bob moved to Chicago")
    assert (pair.old, pair.new) == (" Austin", " Chicago")


def test_the_article_goes_with_the_value():
    pair = read_pair("Bob is a baker", "Bob is an actor")
    assert pair.names == ("baker", "actor")
    assert pair.statement(pair.new).endswith("an actor.")


def test_first_person_is_answered_in_the_second():
    pair = read_pair("I live in Oslo", "I live in Rome")
    assert pair.told == "I live in"
    assert pair.answer == " You live in"


def test_words_after_the_value_close_the_sentence():
    assert part("Bob is 30 years old.", "Bob is 41 years old.") == (
        "Bob is", " 30", " 41", " years old.")


@pytest.mark.parametrize(("old", "new", "told", "values"), [
    ("Bob lives in Austin", "Bob lives in Austin Heights", "Bob lives in",
     (" Austin", " Austin Heights")),
    ("Bob has a hat box", "Bob has a hat", "Bob has a", (" hat box", " hat")),
    ("Zork rules Blim", "Zork rules Blim today", "Zork rules", (" Blim", " Blim today")),
])
def test_a_value_that_goes_on_from_the_other_is_still_a_value(old, new, told, values):
    pair = read_pair(old, new)
    assert (pair.told, (pair.old, pair.new)) == (told, values)
    assert (pair.answer_old, pair.answer_new) == values


def test_an_unknown_kind_is_asked_by_its_shared_words():
    pair = read_pair("The capital of Zork is Blim", "The capital of Zork is Grum")
    assert pair.kind == ""
    assert pair.answer == " The capital of Zork is"
    assert pair.questions == ()


@pytest.mark.parametrize(("old", "new", "why"), [
    ("", "Bob lives in Oslo", "empty"),
    ("Bob lives in Oslo", "  .", "empty"),
    ("Bob lives in Oslo.", "Bob lives in oslo", "both facts say"),
    ("Bob lives in Oslo", "Bob moved to Oslo", "both facts say"),
    ("Bob lives in Oslo", "Alice lives in Rome", "not about one thing"),
    ("The key is in the box", "The ball is in the box", "not about one thing"),
    ("Bob's hat is red", "Bob's coat is blue", "not about one thing"),
    ("Zork", "Blim", "open with the same words"),
])
def test_words_that_are_no_edit_are_refused_in_one_line(old, new, why):
    with pytest.raises(UsageError, match=why) as error:
        read_pair(old, new)
    assert "\n" not in str(error.value)


def test_layer_ranges():
    assert layer_range("upper", 6) == (3, 6)
    assert layer_range("lower", 6) == (0, 3)
    assert layer_range("all", 6) == (0, 6)
    assert layer_range("2:5", 6) == (2, 5)
    assert layer_range("upper", 1) == (0, 1)
    for bad in ("5:2", "0:7", "x", "middle"):
        with pytest.raises(UsageError, match="layers"):
            layer_range(bad, 6)


def test_ratio_is_auto_or_positive():
    assert parse_ratio("auto") is None
    assert parse_ratio("0.2") == 0.2
    for bad in ("-1", "0", "much", "nan", "inf", None):
        with pytest.raises(UsageError, match="--ratio is a number above 0, or auto, not"):
            parse_ratio(bad)
        with pytest.raises(UsageError, match=r"^ratio is a number above 0"):
            ratio(bad)
    assert (ratio("auto"), ratio("0.2")) == ("auto", 0.2)


def test_every_method_is_documented_and_an_unknown_one_is_named():
    assert set(AUTO) <= set(METHODS)
    assert {"uniform", "isolate", "full-r1", "hyb-u", "hyb-uv"} <= set(METHODS)
    assert all(m.summary for m in METHODS.values())
    with pytest.raises(UsageError, match="hyb-u"):
        find_method("magic")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8, 16, 64]), st.integers(1, 3))
def test_top_triples_agree_with_the_full_svd(seed, n, rank):
    g = torch.Generator().manual_seed(seed)
    low = torch.randn(2, n, rank, generator=g) @ torch.randn(2, rank, n, generator=g)
    delta = low + 0.01 * torch.randn(2, n, n, generator=g)
    u, s, vt = torch.linalg.svd(delta)
    ours = top_triples(delta, rank)
    assert torch.allclose(ours.sigma, s[..., :rank], rtol=1e-3)
    best = (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]
    assert (ours.matrix() - best).norm() <= 2e-3 * best.norm()


def test_signs_are_aligned_by_overlap():
    u = torch.eye(4)[:, :1].expand(3, 4, 1)
    other = -u
    assert torch.equal(rotate_onto(u, other), -torch.ones(3, 1, 1))
    assert torch.allclose(u @ rotate_onto(u, other), other)


def test_rotation_onto_a_turned_basis_restores_it():
    g = torch.Generator().manual_seed(1)
    basis, _ = torch.linalg.qr(torch.randn(8, 2, generator=g))
    turn, _ = torch.linalg.qr(torch.randn(2, 2, generator=g))
    assert torch.allclose(basis @ turn @ rotate_onto(basis @ turn, basis), basis, atol=1e-5)
