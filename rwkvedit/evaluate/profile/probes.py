"""Probes made from an edit's subject and relation, and which of them count.

Nothing is made by hand for a fact: a probe is a wording with a subject in it, and what it should be
answered with. It counts where the unedited model gives the answer that stood before the edit.
Edits nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvedit.evaluate.profile.knowledge import (
    ALIASES,
    NOUNS,
    RELATIONS,
    Relation,
    relations_of,
)
from rwkvedit.evaluate.saying import Asked, Said, say
from rwkvedit.transformer.asking import ROWS
from rwkvedit.transformer.facts import PEOPLE as NAMES
from rwkvedit.transformer.rewordings import others, relation_of, rewordings
from rwkvedit.transformer.value import target_ids

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

SURE = 0.5
"""An answer of the model's own counts as something it knows from this probability on."""
BEFORE = (
    "The weather was fine that day.", "She opened the old book and read.",
    "We had lunch at noon.", "The train was late again.", "He paid for the coffee and left.",
    "The meeting ended early.", "My brother plays the violin.", "It rained all night.",
    "The museum opens at nine.",
)
"""Sentences that say nothing of anything: put in front, they change nothing that is asked."""
QUESTIONS = (
    "Question: What is the {relation} of {subject}?\nAnswer: The {relation} of {subject} is",
    "Q: What is the {relation} of {subject}?\nA:",
    "Question: What is the {relation} of {subject}? Answer:",
    "User: What is the {relation} of {subject}?\nAssistant: The {relation} of {subject} is",
    "Q: Can you tell me the {relation} of {subject}?\nA: Yes, it is",
    "What is the {relation} of {subject}? The answer is",
    "Answer in one word. What is the {relation} of {subject}? Answer:",
    "Quiz, question one: what is the {relation} of {subject}? Correct answer:",
)
FILLED = (
    "Question: how does this go on? {prompt}\nAnswer: {prompt}",
    "Q: Complete: {prompt}\nA: {prompt}", "Fill in the blank: {prompt} ___. Answer:",
    "User: Complete this: {prompt}\nAssistant: {prompt}",
)  # fmt: skip
"""Questions for prompts of any other form than "The R of S is"."""
OPEN = (
    "{} is a", "{} is known for its", "{} was born in", "{} is located in", "{} is one of the",
    "{} is famous for", "The history of {} begins in the", "{} was founded in the",
    "{} and its neighbor", "The population of {} is about", "The people of {} are proud of their",
    "The flag of {} is red,", "The northern part of {} is", "Many people visit {} every",
    "The economy of {} is based on", "{} is bordered to the north by",
)  # fmt: skip
"""After these a model tells something of its own about a subject."""


@dataclass(frozen=True)
class Probe:
    """``text`` is to be answered with ``after``; it counts where the unedited model says
    ``before``."""

    text: str
    before: str
    after: str
    kind: str = ""


NOT_SAID = Said(-math.inf, False)
"""Of a text that is too long for the model."""


def answers(session: ModelSession, asked: Sequence[tuple[str, str]]) -> list[Said]:
    """How each text is answered with its answer, with the weights as they are."""
    rows: dict[int, Asked] = {}
    for at, (text, answer) in enumerate(asked):
        ids = session.tokens(text)
        target = target_ids(session, ids, answer)
        if fits(session, len(ids) + len(target)):
            rows[at] = Asked(ids, target)
    said = dict(zip(rows, say(session, list(rows.values())), strict=True))
    return [said.get(at, NOT_SAID) for at in range(len(asked))]


def fits(session: ModelSession, tokens: int) -> bool:
    """Can the model be fed so many?"""
    return session.shape.context is None or tokens <= session.shape.context


def counted(session: ModelSession, probes: Sequence[Probe]) -> list[Probe]:
    """The probes that the model, as it is, answers with what stood before the edit."""
    said = answers(session, [(p.text, p.before) for p in probes])
    return [p for p, so in zip(probes, said, strict=True) if so.greedy]


def own_answers(session: ModelSession, texts: Sequence[str]) -> list[tuple[str, float]]:
    """The likeliest next token after each text as the model would write it, and its P."""
    out = []
    for at in range(0, len(texts), ROWS):
        p = session.run([session.tokens(t) for t in texts[at : at + ROWS]]).logits.softmax(-1)
        best = p.max(-1)
        out += zip(map(session.piece, best.indices.tolist()), best.values.tolist(), strict=True)
    return out


# -- the edited fact, asked otherwise ---------------------------------------------------------


def behind_sentences(prompt: str) -> list[str]:
    """The prompt as it is, and behind unrelated sentences."""
    return [prompt, *(f"{sentence} {prompt}" for sentence in BEFORE)]


def paraphrases(prompt: str, subject: str, relation: Relation | None) -> list[str]:
    """Other wordings of what the prompt asks."""
    said = [*rewordings(prompt, subject), *others(prompt, subject)]
    if relation is not None:
        said += [w.format(subject) for w in relation.prompts]
    return [text for text in dict.fromkeys(said) if text != prompt]


def questions(prompt: str, subject: str) -> list[str]:
    """The same as a question."""
    relation = relation_of(prompt, subject)
    if relation is None:
        return [wording.format(prompt=prompt) for wording in FILLED]
    return [wording.format(relation=relation, subject=subject) for wording in QUESTIONS]


# -- around the subject -----------------------------------------------------------------------


def nearby(session: ModelSession, prompt: str, subject: str, edited: str | None) -> list[Probe]:
    """Other facts of the subject: the list's, and what the model says of it with P >= SURE.

    ``edited`` names the relation that the edit changes. An own answer is its own ``before``.
    """
    listed = [
        Probe(text, relation.values[subject], relation.values[subject], relation.name)
        for relation in relations_of(subject) if relation.name != edited
        for text in (w.format(subject) for w in relation.prompts) if text != prompt
    ]  # fmt: skip
    texts = [w.format(subject) for w in OPEN]
    said = own_answers(session, texts)
    own = [
        Probe(text, answer, answer, "its own")
        for text, (answer, p) in zip(texts, said, strict=True) if p >= SURE and answer.strip()
    ]  # fmt: skip
    return [*listed, *own]


def neighbours(prompt: str, subject: str, relation: Relation | None) -> list[tuple[str, str, str]]:
    """(prompt, subject, value) of others of which the same is asked.

    Without a relation of the list: others of the subject's kind, value empty (the model's own).
    """
    if relation is not None:
        return [(prompt.replace(subject, other), other, value)
                for other, value in relation.values.items() if other != subject]
    kinds = {r.kind for r in relations_of(subject)}
    there = dict.fromkeys(name for r in RELATIONS if r.kind in kinds for name in r.values)
    there = there or dict.fromkeys(NAMES)
    return [(prompt.replace(subject, other), other, "") for other in there if other != subject]


def aliases(prompt: str, subject: str) -> list[str]:
    """The prompt with the subject called otherwise."""
    kinds = dict.fromkeys(NOUNS[r.kind] for r in relations_of(subject) if r.kind in NOUNS)
    bare = subject.removeprefix("the ").removeprefix("The ")
    names = [f"the {noun} of {bare}" for noun in kinds]
    names += [f"the {noun} called {subject}" for noun in kinds]
    names += [ALIASES[subject]] if subject in ALIASES else []
    names += [f"{subject} (the {noun})" for noun in kinds]
    if not kinds:
        names = [f"the one called {subject}", f"what people call {subject}", f'"{subject}"']
    capital = prompt.startswith(subject)
    made = [prompt.replace(subject, name, 1) for name in names]
    return [text[:1].upper() + text[1:] if capital else text for text in made]

