"""Ways a sentence strays from its template, so that an unheard wording is not a strange one.

Knows nothing of worlds or documents: takes a written sentence and the words it must keep, gives
it back with other words around, between or in place of the rest. What a model may rely on is what
is never touched: who is meant, the value, and the words only a few kinds of fact use.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np

from rwkvedit.facts import KINDS, fill
from rwkvedit.train.words import Words

TELL_WRAPS = (
    "I heard that {}", "You should know that {}", "I think that {}", "As you know, {}",
    "Well, {}", "By the way, {}", "Also, {}", "Today {}", "For now {}", "At the moment {}",
    "As far as I know {}", "It seems that {}", "Nowadays {}", "It is true that {}", "Lately {}",
    "They say that {}", "Of course {}", "Listen, {}", "Remember that {}", "This month {}",
)
ASK_WRAPS = (
    "Can you tell me {}?", "Could you say {}?", "Remind me {}.", "I want to know {}.",
    "Please say {}.", "I forgot {}.", "Say {}.", "Can you remember {}?", "Let me know {}.",
    "Please tell me {}.", "I wonder {}.", "Have I told you {}?", "Now say {}.", "Well, {}?",
)
# around a bare noun phrase: "Bob's job"
NOUN_WRAPS = (
    "{}?", "And {}?", "What about {}?", "Say {}.", "I want to know {}.", "{}, please.",
    "Can you remember {}?", "Remind me of {}.", "I forgot {}.", "What was {}?",
    "What is {} again?", "Can you tell me {}?", "What would {} be?",
)
ADVERBS = (
    "now", "still", "often", "usually", "really", "also", "always", "currently", "now only",
)
ASK_ENDS = (" now", " these days", " today", " again", " exactly", " then", " at the moment")
CORRECTIONS = ("Actually, {}", "No, {}", "Correction: {}", "Sorry, {}", "Wait, {}",
               "That was wrong. {}", "I was wrong: {}")

# Words that carry who is meant or what is asked in every kind.
_ALWAYS_KEPT = frozenset("i me my you your he she his her they yes no".split())
_POSSESSIVES = frozenset("my your his her their".split())
_MOST_KINDS = 4  # a word that at most so many kinds use tells the kinds apart
_NOUN = re.compile(r"What is (\{E's\} [a-z ]+)\?")


def _template_words(template: str) -> set[str]:
    plain = re.sub(r"\{[^}]*\}", " ", template).translate(str.maketrans("[]|", "   "))
    return set(re.findall(r"[a-z]+", plain.lower()))


@cache
def key_words(kind: str) -> frozenset[str]:
    """The words of a kind's templates that few kinds share."""
    used: dict[str, set[str]] = {}
    for name, other in KINDS.items():
        for template in (*other.tells, *other.asks, other.unknown, other.answer):
            for word in _template_words(template):
                used.setdefault(word, set()).add(name)
    return frozenset(w for w, kinds in used.items() if kind in kinds and len(kinds) <= _MOST_KINDS)


@cache
def noun_phrases(kind: str) -> tuple[str, ...]:
    """Templates like ``{E's} job``, found in the kind's own "What is ...?" questions."""
    found = (_NOUN.fullmatch(ask) for ask in KINDS[kind].asks)
    return tuple(match.group(1) for match in found if match)


@cache
def _heldout(kind: str) -> re.Pattern[str]:
    """Anything that reads as a held-out phrasing of the kind, or of another kind unless that is
    how some kind is told or asked in training too ("Bob has a {v}." covers "Bob has a pet {v}.").
    """
    trained = [
        fill(template, "Bob", "zed", "zed")
        for other in KINDS.values() for template in (*other.asks, *other.tells)
    ]
    shapes = []
    for name, other in KINDS.items():
        for template in (*other.asks_heldout, *other.tells_heldout):
            for entity in ("#", "I"):
                shape = re.escape(fill(template, entity, "@", "@", capital=entity == "I"))
                shape = re.sub(r"\ban?\\ @", "@", shape).replace("@", r"[\w' -]+?")
                shape = shape.replace(r"\#", r"(?:[A-Z]|[Tt]he |[Mm]y )[\w' -]*?")
                same = re.compile(shape)
                if name == kind or not any(same.fullmatch(said) for said in trained):
                    shapes.append(shape)
    return re.compile("|".join(shapes))


def is_heldout(said: str, kind: str) -> bool:
    """Whether a sentence has strayed into a phrasing that training must never meet."""
    return _heldout(kind).search(said) is not None


def lead(words: Words, rng: np.random.Generator) -> str:
    """One to three words that mean nothing here, the first with a capital."""
    said = (words.open_word(rng, False) for _ in range(int(rng.integers(1, 4))))
    return " ".join(said).capitalize()


def stray(text: str, kind: str, keep: tuple[str, ...], words: Words, rng: np.random.Generator,
          rate: float = 0.2) -> str:
    """``text`` with words dropped, replaced or put in; unchanged when nothing but ``keep``,
    pronouns and the kind's key words stands in it, or none of the key words does.

    No word is put where it would read as part of a kept one: "Bob lives in gravel tea" would name
    another drink, "gravel Paris" names the same city.
    """
    parts = text.split(" ")
    bare = [re.sub(r"'s$", "", part.strip(".,?!:")) for part in parts]
    fixed = {word for phrase in keep for word in phrase.split(" ")}
    whose = [b in fixed or b.lower() in _ALWAYS_KEPT for b in bare]
    key = [b.lower() in key_words(kind) for b in bare]
    if not any(key):
        return text

    def blends(i: int) -> bool:
        """Would a small word here run into the kept word on either side?"""
        before = i > 0 and whose[i - 1] and (
            (bare[i - 1] in fixed and bare[i - 1].islower()) or parts[i - 1].endswith("'s")
            or bare[i - 1].lower() in _POSSESSIVES)
        after = i + 1 < len(parts) and bare[i + 1] in fixed and bare[i + 1].islower()
        return before or after or (i == 0 and len(parts) > 1 and whose[1])

    out: list[str] = []
    for i, part in enumerate(parts):
        end = part[len(part.rstrip(".,?!:")):]
        beside = any(whose[max(0, i - 1) : i + 2])
        draw = rng.random()
        if not whose[i] and not key[i] and draw < rate:
            if draw < 0.5 * rate or blends(i):
                if end and out:
                    out[-1] = out[-1].rstrip(".,?!:") + end
                continue
            part = words.open_word(rng, False) + end
        elif draw > 1.0 - 0.3 * rate and not beside and i:
            out.append(words.open_word(rng, False))
        out.append(part)
    said = " ".join(out)
    return said[:1].upper() + said[1:]


def any_verb(words: Words, rng: np.random.Generator, colored: bool) -> str:
    """A telling template whose verb is any word: "{E} [is|am|are] sketching {a v}." Whatever is
    done with a thing, its owner has it.
    """
    form, verb = words.verb(rng)
    said = f"{{E}} [is|am|are] {verb}" if form == "ing" else f"{{E}} {verb}"
    return f"{said} {{a v+t}}." if colored else f"{said} {{a v}}."
