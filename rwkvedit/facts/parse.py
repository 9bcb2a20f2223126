"""Reads a typed sentence as a fact: who, which kind, what value. Knows nothing of models.

The patterns are the templates of :mod:`rwkvedit.facts.kinds` turned round, so what the model was
taught to hear is what the chat can parse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from rwkvedit.facts.kinds import PROPER_SLOTS, fill
from rwkvedit.facts.phrasings import KINDS

_PRONOUNS = {"he", "she", "they"}
_SELF = {"i": "I", "my": "I", "you": "you", "your": "you"}
_OPENINGS = re.compile(
    r"^(?:actually|no|wait|sorry|correction|well|oh|hey|hi|hello|okay|ok|in fact|"
    r"by the way|also|and|please note that|note that|remember that|just so you know|"
    r"let me correct that|i was wrong|i made a mistake|that was wrong|"
    r"(?:i (?:think|believe|know|heard|said|told you)|as you know|you should know)(?: that)?)"
    r"\b[,.:;!]?\s+|^a:\s+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fact:
    """One parsed fact. ``entity`` is as said (``Bob``, ``I``, ``the key``), ``text`` all of it."""

    kind: str
    entity: str
    value: str
    thing: str = ""
    text: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a later fact must share to replace this one."""
        return self.kind, self.entity.lower(), self.thing

    @property
    def first_person(self) -> bool:
        return self.entity == "I"

    @property
    def _answerer(self) -> str:
        if self.entity.startswith(("my ", "your ")):
            owner, thing = self.entity.split(" ", 1)
            return f"{'your' if owner == 'my' else 'my'} {thing}"
        return {"I": "you", "you": "I"}.get(self.entity, self.entity)

    def questions(self, heldout: bool = False) -> list[str]:
        """The ways a user asks for this fact's value."""
        kind = KINDS[self.kind]
        asks = kind.asks_heldout if heldout else kind.asks
        return [fill(ask, self.entity, self.value, self.thing) for ask in asks]

    def answer(self) -> str:
        """The assistant's own sentence, no leading space: ``Bob lives in Austin.``"""
        return fill(KINDS[self.kind].answer, self._answerer, self.value, self.thing)

    def answer_prefix(self) -> str:
        """What the assistant says before the value, leading space kept: `` Bob lives in``.

        Ends before an article, which depends on the value.
        """
        return self._answer_parts()[0]

    def answer_value(self) -> str:
        """The value as the answer spells it, leading space and article kept: `` a baker``."""
        return self._answer_parts()[1]

    def _answer_parts(self) -> tuple[str, str]:
        head = re.split(r"\{(?:a )?v(?:\+t)?\}", KINDS[self.kind].answer)[0]
        prefix = fill(head, self._answerer, self.value, self.thing).rstrip()
        return " " + prefix, self.answer()[len(prefix):].removesuffix(".")

    def unknown(self) -> str:
        """``I don't know where Bob lives.``"""
        kind = KINDS[self.kind]
        return "I don't know " + fill(
            kind.unknown, self._answerer, self.value, self.thing, capital=False
        )

    def statement(self) -> str:
        """The plainest telling of this fact, as its owner would say it."""
        return fill(KINDS[self.kind].tells[0], self.entity, self.value, self.thing)

    def with_value(self, value: str) -> Fact:
        return replace(self, value=value, text="")


def _pattern(template: str) -> re.Pattern[str]:
    """A template as an anchored regular expression with groups e, v and t."""
    out, position = [], 0
    # `[lives|live]`, `{E}` ... become groups; everything else is literal
    for match in re.finditer(r"\[[^\]]+\]|\{[^}]+\}", template.rstrip(".")):
        out.append(re.escape(template[position:match.start()]))
        out.append(_group(match.group(), out))
        position = match.end()
    out.append(re.escape(template.rstrip(".")[position:]))
    return re.compile("^" + "".join(out) + r"$", re.IGNORECASE)


_WORD = r"[^\s,.;:!?\"]+"
_NAME = rf"(?:(?:the|my|your)\s)?{_WORD}(?:\s(?!is\b|are\b|am\b|has\b|have\b){_WORD}){{0,3}}?"
_VALUE = r"[^,;:!?]+?"


def _group(mark: str, before: list[str]) -> str:
    if mark.startswith("["):
        return "(?:" + "|".join(re.escape(form) for form in mark[1:-1].split("|")) + ")"
    plain = {
        "{is t}": r"(?:is|are)", "{has t}": r"(?:has|have)",
        "{a v}": rf"(?:an?\s)?(?P<v>{_VALUE})", "{v}": rf"(?P<v>{_VALUE})",
        "{t}": r"(?P<t>[^\s,.;:!?\"]+)", "{a t}": r"(?:an?\s)?(?P<t>[^\s,.;:!?\"]+)",
        "{a v+t}": r"(?:an?\s)?(?P<v>[^\s,;:!?]+) (?P<t>[^\s,.;:!?\"]+)",
        "{E's}": rf"(?:(?P<p>{_NAME})['’]s|(?P<s>my|your))", "{E}": rf"(?P<e>{_NAME})",
    }
    return plain[mark]


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[str, bool, re.Pattern[str]]]:
    """Every telling of every kind: (kind, is it "has a red hat"?, pattern)."""
    return [
        (kind.name, "{a v+t}" in template, _pattern(template))
        for kind in KINDS.values()
        for template in (*kind.tells, *kind.tells_heldout, *kind.changes)
    ]


#: Other ways of writing what the templates write.
_SPELLINGS = tuple((re.compile(rf"(?<!\w){was}(?!\w)", re.IGNORECASE), now) for was, now in (
    (r"I['’]ve(?: got)?", "I have"), (r"I['’]m", "I am"), ("favourite", "favorite"),
    ("colour", "color"), (r"(?:has|have) (?:just |now )?moved to", "moved to"),
))


def _clean(text: str) -> str:
    text = " ".join(text.split()).strip().rstrip(".!")
    for was, now in _SPELLINGS:
        text = was.sub(now, text)
    while True:
        shorter = _OPENINGS.sub("", text, count=1)
        if shorter == text:
            return text
        text = shorter


@lru_cache(maxsize=4096)
def parse_fact(text: str, last_entity: str = "") -> Fact | None:
    """One sentence as a :class:`Fact`, or None. ``last_entity`` is who "he" or "she" would be.

    >>> parse_fact("Actually, Bob's sister is called Ann.").value
    'Ann'
    """
    said = " ".join(text.split()).strip()
    body = _clean(said)
    if not body or said.endswith("?"):
        return None
    best: Fact | None = None
    most = 0
    for name, worn, pattern in _patterns():
        match = pattern.match(body)
        if match is None:
            continue
        groups = match.groupdict()
        # the telling that accounts for the most of the words is the one that was meant
        literal = len(body) - sum(len(text) for text in groups.values() if text)
        if worn:
            if (groups["v"] or "").lower() not in COLOR_WORDS:
                continue
            literal += 2
        if literal <= most:
            continue
        if match.start("v") == 0 and KINDS[name].slot not in PROPER_SLOTS:
            groups["v"] = groups["v"][:1].lower() + groups["v"][1:]
        fact = _accept(name, groups, said, last_entity)
        if fact is not None:
            best, most = fact, literal
    return best


_STOP_VALUES = re.compile(
    r"^(?:not|where|what|who|when|in|at|from|called|named|very|so|moved|been|gone|become)\b", re.I
)
_NOT_COLORED = frozenset("name age job pet city home hobby birthday number phone".split())
COLOR_WORDS = frozenset(
    "red blue green yellow black white brown orange purple pink gray grey gold silver teal "
    "turquoise crimson maroon beige violet indigo cyan magenta navy olive tan ivory scarlet coral "
    "lavender amber lilac khaki salmon peach mint cream bronze copper plum mauve azure rose ruby "
    "emerald jade lime rust charcoal fuchsia burgundy ochre sapphire aqua cobalt dark light "
    "hazel blond blonde golden".split()
)
_NOT_ENTITIES = frozenset(
    "what where who when which how why it this that there here tell do does did is are".split()
)
#: Words that no name has: "Bob no longer lives in Rome" tells nothing of one "Bob no longer".
_NOT_IN_NAMES = re.compile(
    r"(?<!\w)(?:not|never|no|longer|used|to|if|that|because|but|or|"
    r"(?:think|believe|hear|know|doubt|hope|guess|wish|suppose|forget)s?|heard|said|says|told|"
    r"does|did|was|were|would|could|should|might|must|cannot)(?!\w)|n['’]t(?!\w)",
    re.IGNORECASE,
)


def _accept(name: str, groups: dict[str, str | None], said: str, last: str) -> Fact | None:
    entity = groups.get("e") or groups.get("p") or groups.get("s") or ""
    value, thing = (groups.get("v") or "").strip(), groups.get("t") or ""
    entity = "I" if entity.lower() == "me" else entity
    low = entity.lower()
    if low in _PRONOUNS:
        entity = last
    entity = _SELF.get(entity.lower(), entity)
    if not entity or not value or low.split()[0] in _NOT_ENTITIES or _STOP_VALUES.match(value):
        return None
    if _NOT_IN_NAMES.search(entity):
        return None
    if name == "age" and not value.isdigit():
        return None
    if name == "job" and not re.search(rf"\ban?\s+{re.escape(value)}", said, re.I):
        return None
    if name == "thing" and " " in value and not re.search(
        rf"\b(?:an?|the|some|two|three)\s+{re.escape(value)}", said, re.I
    ):
        return None  # "Bob has a number, call him"
    if name == "country" and not re.search(r"from|country|grew", said, re.I):
        return None
    if name == "color" and thing in _NOT_COLORED:
        return None
    if name in ("city", "country") and re.search(r"\bbut\b|\band\b.*\bin\b", value, re.I):
        return None
    if name == "place":
        entity = re.sub(r"^(?:The|My|Your)\b", lambda m: m.group().lower(), entity)
    return Fact(name, entity, value, thing, said if said.endswith((".", "!")) else said + ".")


def _sentences(text: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text.strip()):
        if sentence.strip():
            yield sentence.strip()


def parse_facts(text: str) -> list[Fact]:
    """Every fact in a message: sentences, "X lives in A and has a B" chains, he/she/they."""
    facts: list[Fact] = []
    last = ""
    for sentence in _sentences(text):
        for fact in _sentence_facts(sentence, last):
            facts.append(fact)
            last = fact.entity
    return facts


_HAS = re.compile(r"\b(?:has|have|owns?|got|wears?)\b", re.IGNORECASE)
#: Words that stand by themselves, so that nothing beside them is part of a value.
_CLAUSE = re.compile(
    r"^(?:(?:I|you|he|she|it|we|they|there|this|that)(?=\s|['’])"
    r"|(?:my|your|our|the)\s+\w+\s+(?:is|are|was|were|has|have)\b)",
    re.IGNORECASE,
)


def _sentence_facts(sentence: str, last: str) -> list[Fact]:
    if sentence.endswith("?"):
        return []
    whole = parse_fact(sentence, last)
    if whole and not re.search(r"(?<!\w)(?:and|but)(?!\w)", f"{whole.entity} {whole.value}"):
        return [whole]  # "has a boss and the name is Ann" says one thing
    parts = re.split(r"(?:,\s+(?:and|but)\s+|,\s+|\s+(?:and|but)\s+)", sentence.rstrip(".!"))
    if len(parts) > 1:
        chain: list[Fact] = []
        subject = last
        for part in parts:
            fact = parse_fact(part + ".", subject)
            if fact is None and _CLAUSE.match(part):
                continue  # "My name is Ana and I live in Lisbon": what is no fact spoils none
            if fact is None and chain:
                subject = chain[-1].entity
                fact = parse_fact(f"{subject} {part}.")
                if fact is None and _HAS.search(sentence):  # "has a red hat and blue eyes"
                    fact = parse_fact(f"{subject} has {part}.")
            if fact is None:
                chain = []
                break
            fact = replace(fact, text=fact.statement() if fact.text == "" else fact.text)
            chain.append(fact)
            subject = fact.entity
        if chain:
            return chain
    return [whole] if whole else []


def split_pair(old: str, new: str) -> tuple[str, str, str]:
    """The words two sentences share before they part, and what each says after.

    >>> split_pair("Bob lives in Austin", "Bob lives in Chicago")
    ('Bob lives in', ' Austin', ' Chicago')
    """
    old_words, new_words = re.findall(r"\S+", old), re.findall(r"\S+", new)
    shared = 0
    for left, right in zip(old_words, new_words, strict=False):
        if left != right:
            break
        shared += 1
    def tail(words: list[str]) -> str:
        rest = " ".join(words[shared:])
        return (" " if shared and rest else "") + rest
    return " ".join(old_words[:shared]), tail(old_words), tail(new_words)
