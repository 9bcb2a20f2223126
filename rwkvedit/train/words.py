"""Where the corpus gets its words: lists, open vocabulary, invented words, small talk.

Half the names and half of the values are open (any word the vocabulary has, words it must
spell in pieces, invented syllables), so that a value has to be copied and cannot be guessed.
"""

from __future__ import annotations

import re
from functools import cached_property

import numpy as np

from rwkvedit.facts import lexicon
from rwkvedit.facts.kinds import PROPER_SLOTS
from rwkvedit.models.tokenizer import WorldTokenizer
from rwkvedit.train.vocab import read_world, world_path

_HELD = {word.lower() for words in lexicon.HELDOUT.values() for text in words
         for word in re.findall(r"[A-Za-z]+", text) if text[-1:] != "."}
_NOT_NAMES = {"i", "you", "he", "she", "they", "my", "your", "the", "what", "where", "who", "when",
              "tell", "do", "does", "is", "are", "user", "assistant"}

SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("Hello!", "Hello! How can I help you?"), ("Hi there!", "Hello! How can I help you?"),
    ("Hey!", "Hello! How can I help you?"), ("Good morning!", "Good morning!"),
    ("Good evening!", "Good evening!"), ("How are you?", "I am fine, thank you."),
    ("How are you today?", "I am fine, thank you."), ("Thanks!", "You are welcome."),
    ("Thank you very much.", "You are welcome."), ("Who are you?", "I am a small RWKV model."),
    ("What are you?", "I am a small RWKV model."),
    ("What is your name?", "I am a small RWKV model."),
    ("What can you do?", "I remember what you tell me."),
    ("Can you remember things?", "Yes, I remember what you tell me."),
    ("That is all.", "Okay."), ("Goodbye!", "Goodbye!"), ("Bye!", "Goodbye!"),
    ("You are great.", "Thank you."), ("Let us talk.", "Okay, what about?"),
    ("I am tired.", "I see."), ("Please remember this.", "Okay."), ("Never mind.", "Okay."),
)
FILLERS: tuple[str, ...] = (
    "It is raining today.", "The sun is out this morning.", "I went for a walk yesterday.",
    "The train was very late.", "There was a long line at the shop.", "We watched a good film.",
    "I had soup for dinner.", "The wind was strong last night.", "My day was quite long.",
    "The street was quiet.", "It snowed all day.", "The concert was really loud.",
    "I read an interesting story.", "Traffic was bad this morning.", "The coffee was too hot.",
    "We are planning a trip.", "I need to buy some bread.", "The lights went out for an hour.",
    "Winter is coming soon.", "I could not sleep last night.", "The meeting took all afternoon.",
    "The flowers look beautiful.", "Someone knocked on the door.", "The river was very high.",
    "I forgot to bring my umbrella.", "The game was exciting.", "The old clock stopped again.",
    "There are many birds in the park.", "The new road is open now.", "It was a cold night.",
)
FILLER_REPLIES = ("I see.", "I see.", "I see.", "Okay.", "That sounds nice.", "Interesting.")
_PATTERNS = (
    "The {j} {n} {v} the {n}.", "A {n} was near the {j} {n}.", "Some people like the {j} {n}.",
    "We saw a {j} {n} by the {n}.", "There is a {n} behind the {n}.", "It was a {j} {n}.",
    "The {n} and the {n} were {j}.", "They talked about the {n} for a while.",
    "Last week the {n} {v} a {j} {n}.", "Nobody knew why the {n} was so {j}.",
    "I heard that the {n} is {j}.", "Every {n} needs a {j} {n}.", "I think the {n} was {j}.",
)
_ADJECTIVES = ("old new big small quiet bright dark heavy strange warm cold early late simple busy "
               "empty broken famous local modern soft sharp green young tall").split()
_NOUNS = ("house road tree river story table window city market letter train song school bridge "
          "garden machine computer window paper picture morning question answer company family "
          "team player student village mountain island ship plan idea door wall field street "
          "king number office church book").split()
_SMALL = ("the a of in at and to was had for on by from over it this that some we there were with "
          "very not all then more").split()
_VERBS = "found moved saw left followed built held reached opened covered changed helped".split()


class Words:
    """Draws words for one tokenizer. All randomness comes from the generator handed in."""

    def __init__(self, tokenizer: WorldTokenizer) -> None:
        self._vocab = tokenizer
        self.spelled = 0.65  # how many of the open words take several tokens

    @cached_property
    def _pools(self) -> dict[str, list[str]]:
        world = sorted(read_world(world_path()))
        pools: dict[str, list[str]] = {"cap1": [], "low1": [], "capn": [], "lown": []}
        for token in world:
            match = re.fullmatch(rb" ([A-Z][a-z]{2,}|[a-z]{3,})", token)
            if not match:
                continue
            word = match.group(1).decode()
            if word.lower() in _HELD or word.lower() in _NOT_NAMES:
                continue
            case = "cap" if word[0].isupper() else "low"
            pieces = len(self._vocab.encode(" " + word))
            if pieces == 1:
                pools[case + "1"].append(word)
            elif pieces <= 4:
                pools[case + "n"].append(word)
        return pools

    @cached_property
    def _pieces(self) -> tuple[list[str], list[str]]:
        """Tokens that begin a word, and those that can only go on with one."""
        tokens = (self._vocab.decode([i]) for i in range(1, self._vocab.vocab_size))
        spelled = [t for t in tokens if re.fullmatch(r" [a-z]{2,5}|[a-z]{2,6}", t)]
        begin = [t[1:] for t in spelled if t[0] == " "]
        return begin, [t for t in spelled if t[0] != " "]

    def pieced(self, rng: np.random.Generator) -> str:
        """Any two or three tokens in a row, so that each is met in a word that must be copied."""
        begin, go_on = self._pieces
        said = begin[int(rng.integers(len(begin)))]
        for _ in range(int(rng.integers(1, 3))):
            said += go_on[int(rng.integers(len(go_on)))]
        return self.invented(rng) if said in _HELD else said

    def invented(self, rng: np.random.Generator) -> str:
        """Two or three made-up syllables."""
        onsets = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t tr v w y z".split()
        vowels = "a e i o u ai ea ee ia io oo ou".split()
        codas = ["", "", "", "l", "n", "r", "s", "t", "m", "ck", "nd", "th"]
        return "".join(
            onsets[rng.integers(len(onsets))] + vowels[rng.integers(len(vowels) - 6)]
            + codas[rng.integers(len(codas))]
            for _ in range(int(rng.integers(2, 4)))
        )

    def open_word(self, rng: np.random.Generator, capital: bool) -> str:
        """Any word: of one token, or (``spelled``) of several, two in five of those made up."""
        draw, case = rng.random(), "cap" if capital else "low"
        if draw >= 0.4 * self.spelled:
            pool = self._pools[case + ("n" if draw < self.spelled else "1")]
            return pool[int(rng.integers(len(pool)))]
        word = self.pieced(rng) if draw < 0.3 * self.spelled else self.invented(rng)
        return word.capitalize() if capital else word

    def verb(self, rng: np.random.Generator) -> tuple[str, str]:
        """A word that looks like a verb, and its ending: ``ing``, ``ed`` or ``s``."""
        ending = ("ing", "ed", "s")[int(rng.integers(3))]
        pool = self._verbs[ending]
        return ending, pool[int(rng.integers(len(pool)))]

    @cached_property
    def _verbs(self) -> dict[str, list[str]]:
        small = self._pools["low1"] + self._pools["lown"]
        stems = {word for word in small if len(word) > 2}
        found: dict[str, list[str]] = {"ing": [], "ed": [], "s": []}
        for word in small:
            for ending, pool in found.items():
                stem = word.removesuffix(ending)
                if stem != word and (stem in stems or stem + "e" in stems) and any(
                    stem + other in stems for other in ("ing", "ed") if other != ending
                ):
                    pool.append(word)
        return found

    def value(self, slot: str, rng: np.random.Generator, open_rate: float) -> str:
        """A value for a slot (a lexicon list's name)."""
        if slot == "ages":
            return str(int(rng.integers(2, 100)))
        if slot == "phones":
            return f"{rng.integers(100, 1000)}-{rng.integers(1000, 10000)}" if rng.random() < 0.5 \
                else f"{rng.integers(1000, 10000)}"
        if slot != "months" and rng.random() < open_rate:
            word = self.open_word(rng, slot in PROPER_SLOTS)
            if rng.random() < 0.05:
                word += " " + self.open_word(rng, slot in PROPER_SLOTS)
            return word
        words = lexicon.TRAIN[slot]
        return words[int(rng.integers(len(words)))]

    def name(self, rng: np.random.Generator, open_rate: float) -> str:
        return self.value("names", rng, open_rate)

    def filler(self, rng: np.random.Generator) -> str:
        """One sentence that tells nothing about anyone."""
        draw = rng.random()
        if draw < 0.35:  # any words in any order
            said = [_SMALL[int(rng.integers(len(_SMALL)))] if rng.random() < 0.5
                    else self.open_word(rng, rng.random() < 0.1)
                    for _ in range(int(rng.integers(4, 10)))]
            text = " ".join(said)
            return text[:1].upper() + text[1:] + "."
        if draw < 0.6:
            return FILLERS[int(rng.integers(len(FILLERS)))]
        pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
        pools = {"j": _ADJECTIVES, "n": _NOUNS, "v": _VERBS}

        def choose(match: re.Match[str]) -> str:
            slot = match.group(1)
            if slot == "n" and rng.random() < 0.25:
                return self.open_word(rng, False)
            return pools[slot][int(rng.integers(len(pools[slot])))]

        return re.sub(r"\{([jnv])\}", choose, pattern)
