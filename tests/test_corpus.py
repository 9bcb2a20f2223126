"""The training text keeps its promises: nothing held out leaks in, weights sit on values."""

import re

import numpy as np
import pytest

from rwkvedit.facts import KINDS, Fact, fill, lexicon
from rwkvedit.models.catalog import embedded_folder
from rwkvedit.models.tokenizer import WorldTokenizer
from rwkvedit.train.corpus import STAGES, Corpus
from rwkvedit.train.documents import Document


@pytest.fixture(scope="module")
def tokenizer():
    return WorldTokenizer.from_file(embedded_folder() / "vocab.txt")


@pytest.fixture(scope="module")
def texts(tokenizer):
    corpus = Corpus(tokenizer, seed=11)
    return [
        "".join(text for text, _ in corpus.writer.document(stage, 400).pieces)
        for stage in STAGES for _ in range(60)
    ]


def held_words():
    """Held-out words whose every part is held out (``Got it`` may not contain ``mole``)."""
    return {w.lower() for slot, words in lexicon.HELDOUT.items() if slot != "fillers"
            for text in words for w in text.split()}


def test_no_heldout_word_is_ever_used(texts):
    used = {word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    assert not used & held_words()


def test_heldout_and_training_lists_share_no_word():
    trained = {w.lower() for words in lexicon.TRAIN.values() for text in words
               for w in text.split()}
    assert not trained & held_words()


def test_no_heldout_phrasing_is_ever_used(texts):
    whole = "\n".join(texts)
    trained = [fill(t, "Bob", "zed", "zed")
               for kind in KINDS.values() for t in (*kind.asks, *kind.tells)]
    for kind in KINDS.values():
        for template in (*kind.asks_heldout, *kind.tells_heldout):
            words = re.sub(r"\ban? @", "@", fill(template, "@", "@", "@"))
            pattern = re.escape(words).replace("@", r"[A-Za-z0-9' -]+?")
            if any(re.fullmatch(pattern, said) for said in trained):
                continue
            assert not re.search(pattern, whole), template


def test_word_cache_encodes_as_the_tokenizer_does(tokenizer, texts):
    corpus = Corpus(tokenizer, seed=1)
    for text in texts[:80]:
        assert corpus.encode(text) == tokenizer.encode(text)


def test_batches_resume_exactly(tokenizer):
    first = Corpus(tokenizer, seed=5)
    first.batch(0.5)
    saved = first.state_dict()
    wanted = first.batch(0.5)
    again = Corpus(tokenizer, seed=99)
    again.load_state_dict(saved)
    got = again.batch(0.5)
    assert np.array_equal(got.tokens, wanted.tokens)
    assert np.array_equal(got.weights, wanted.weights)


def test_value_tokens_carry_full_weight(tokenizer):
    batch = Corpus(tokenizer, seed=2).batch(0.05)
    assert batch.tokens.shape == batch.weights.shape == batch.targets.shape
    assert np.array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    full = batch.weights >= 0.99
    assert 0.03 < full.mean() < 0.2
    assert batch.weights.max() == 1.0


def test_relatives_may_be_people_the_world_tells_of(tokenizer):
    writer = Corpus(tokenizer, seed=3).writer
    worlds = [writer.world(5, 2) for _ in range(200)]
    kin = [(fact.value, {f.entity for f in facts}) for facts in worlds
           for fact in facts if KINDS[fact.kind].slot == "names"]
    known = [value in people for value, people in kin]
    assert 0.1 < sum(known) / len(known) < 0.5
    assert all(f.value != f.entity for facts in worlds for f in facts)


def test_where_a_value_ends_counts_as_much_as_the_value(tokenizer):
    writer = Corpus(tokenizer, seed=3).writer
    doc = Document()
    writer.answer(doc, Fact("city", "Bob", "Cebu"))
    weights = dict(doc.pieces)
    assert weights[" Cebu"] == weights["."] == 1.0 > weights[" lives in"]
