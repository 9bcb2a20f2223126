"""What a kind of fact is, and how its templates are written out. The kinds are in ``phrasings``.

Knows nothing of tokens or models.

Template marks
--------------
``{E}``        the subject: ``Bob`` / ``I`` / ``you`` (capitalised at a sentence's start)
``{E's}``      possessive: ``Bob's`` / ``my`` / ``your``
``[x|y|z]``    verb for he-she-it | I | you; with two forms the second serves I and you
``{v}``        the value; ``{a v}`` the value with its indefinite article
``{t}``        the thing a colour belongs to; ``{is t}`` is/are for that thing
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PLURAL_THINGS = frozenset({"eyes", "shoes", "boots", "gloves", "socks", "trousers", "glasses"})

# Slots whose words keep a capital letter wherever they stand.
PROPER_SLOTS = frozenset({"names", "cities", "months", "languages", "countries", "phones"})


@dataclass(frozen=True)
class Kind:
    """One kind of fact.

    ``slot`` names the lexicon list its values come from; ``subject`` is what may bear it:
    ``person`` or ``object``. ``tells``/``asks`` are used in training, the ``*_heldout`` ones never.
    ``answer`` is the assistant's own sentence; ``unknown`` follows "I don't know ".
    """

    name: str
    slot: str
    answer: str
    unknown: str
    tells: tuple[str, ...]
    asks: tuple[str, ...]
    tells_heldout: tuple[str, ...]
    asks_heldout: tuple[str, ...]
    yes_no: str
    changes: tuple[str, ...] = ()
    subject: str = "person"
    has_thing: bool = False


_VERB = re.compile(r"\[([^\]|]+)\|([^\]|]+)(?:\|([^\]|]+))?\]")
_MARK = re.compile(r"\{(E's|E|v|a v\+t|a v|a t|t|is t|Is t|has t)\}")
_AN = re.compile(r"^(?:[aeio]|u(?!ni|se|ku)|8|11\b|18\b)", re.IGNORECASE)


def article(word: str) -> str:
    """``an`` before a vowel letter (with the usual exceptions for u), else ``a``."""
    return "an" if _AN.match(word) else "a"


def fill(template: str, entity: str, value: str = "", thing: str = "", *,
         capital: bool = True) -> str:
    """Write out a template. ``entity`` may be ``I`` or ``you``; ``capital`` raises a first letter.

    >>> fill("{E} [lives|live] in {v}.", "I", "Oslo")
    'I live in Oslo.'
    >>> fill("{E's} {t} {is t} {v}.", "Bob", "red", "shoes")
    "Bob's shoes are red."
    """
    person = {"I": 1, "you": 2}.get(entity, 0)
    possessive = {"I": "my", "you": "your"}.get(entity) or entity + "'s"

    def verb(match: re.Match[str]) -> str:
        third, first, second = match.groups()
        return (third, first, second or first)[person]

    plural = thing in PLURAL_THINGS
    marks = {
        "E": entity, "E's": possessive, "v": value, "a v": f"{article(value)} {value}", "t": thing,
        "a v+t": f"{value} {thing}" if plural else f"{article(value)} {value} {thing}",
        "a t": thing if plural else f"{article(thing)} {thing}",
        "is t": "are" if plural else "is", "Is t": "Are" if plural else "Is",
        "has t": "have" if plural else "has",
    }
    text = _VERB.sub(verb, template)
    text = _MARK.sub(lambda match: marks[match.group(1)], text)
    if person == 1:
        text = re.sub(r"\b(of|call|phone) I\b", r"\1 me", text, flags=re.IGNORECASE)
    return text[:1].upper() + text[1:] if capital else text
