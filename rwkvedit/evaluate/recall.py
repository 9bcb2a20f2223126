"""``bench recall``: what the model remembers of what it was told, read from whole replies.

Worlds use names, values and phrasings held out of training (or a lexicon file's words). Each
question is asked on a copy of the state at the conversation's end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.intervals import rate
from rwkvedit.evaluate.loading import load_once
from rwkvedit.evaluate.replies import gives, greedy_replies, is_unknown
from rwkvedit.evaluate.worlds import Maker, World
from rwkvedit.facts import Fact
from rwkvedit.facts.lexicon import Lexicon, heldout, load_lexicon
from rwkvedit.models.catalog import LoadedModel
from rwkvedit.recurrent.state import State

BATCH = 25  # worlds decoded together


@dataclass(frozen=True)
class Question:
    text: str
    fact: Fact
    unknown: bool = False  # the right answer is "I don't know"


@dataclass(frozen=True)
class Case:
    """A world and what is asked at its end."""

    world: World
    questions: tuple[Question, ...]


def _ask_all(maker: Maker, world: World) -> tuple[Question, ...]:
    return tuple(Question(maker.ask(fact), fact) for fact in world.facts)


def _few(maker: Maker, length: Callable[[str], int]) -> Case:
    world = maker.told(maker.facts(int(maker.rng.integers(1, 4)), 1))
    return Case(world, _ask_all(maker, world))


def _five(maker: Maker, length: Callable[[str], int]) -> Case:
    world = maker.told(maker.facts(5, 1))
    return Case(world, _ask_all(maker, world))


def _seven_by_two(maker: Maker, length: Callable[[str], int]) -> Case:
    world = maker.told(maker.facts(7, 2))
    return Case(world, _ask_all(maker, world))


def _corrected(maker: Maker, length: Callable[[str], int]) -> Case:
    world = maker.told(maker.facts(3, 1))
    world = maker.correct(world, int(maker.rng.integers(3)))
    fact = world.facts[world.target]
    return Case(world, (Question(maker.ask(fact), fact),))


def _distance(tokens: int) -> Callable[[Maker, Callable[[str], int]], Case]:
    def make(maker: Maker, length: Callable[[str], int]) -> Case:
        world = maker.told(maker.facts(2, 1))
        turns, far = list(world.turns), 0
        while far < tokens:
            turn = maker.small_talk()
            turns.append(turn)
            far += length(turn.user) + length(turn.reply) + 6
        return Case(World(tuple(turns), world.facts), _ask_all(maker, world))

    return make


def _unknown(maker: Maker, length: Callable[[str], int]) -> Case:
    world = maker.told(maker.facts(int(maker.rng.integers(1, 4)), 1))
    fact = maker.untold(world)
    return Case(world, (Question(maker.ask(fact), fact, unknown=True),))


ROWS: dict[str, Callable[[Maker, Callable[[str], int]], Case]] = {
    "1-3": _few, "5": _five, "7x2": _seven_by_two, "corrected": _corrected,
    "distance-500": _distance(500), "distance-1000": _distance(1000), "unknown": _unknown,
}


def conversation_tokens(loaded: LoadedModel, world: World) -> list[int]:
    """The whole conversation as the chat would have fed it, ending after the last turn."""
    ids: list[int] = []
    for turn in world.turns:
        ids += loaded.template.encode_turn(loaded.tokenizer, turn.user, turn.reply)
    return ids


def answers(loaded: LoadedModel, cases: list[Case]) -> Iterator[list[str]]:
    """The replies to each case's questions, in order."""
    for start in range(0, len(cases), BATCH):
        group = cases[start : start + BATCH]
        with torch.no_grad():
            _, states = loaded.model.forward([conversation_tokens(loaded, c.world) for c in group])
        prompts, rows = [], []
        for row, case in enumerate(group):
            for question in case.questions:
                prompts.append(loaded.template.encode_user(loaded.tokenizer, question.text))
                rows.append(row)
        index = torch.tensor(rows)
        picked = State(*(part[index] for part in states.tensors()))
        replies = iter(greedy_replies(loaded, picked, prompts))
        for case in group:
            yield [next(replies) for _ in case.questions]


def right_answer(world: World, question: Question, reply: str) -> bool:
    """Does a reply give the fact's value, and no other that the world ever told of its kind?"""
    if question.unknown:
        return is_unknown(reply)
    kind = question.fact.kind
    told = (fact.value for turn in world.turns for fact in turn.facts if fact.kind == kind)
    return gives(reply, question.fact.value, told)


def measure(loaded: LoadedModel, lexicon: Lexicon, worlds: int, seed: int,
            names: tuple[str, ...] = tuple(ROWS), on_row: Callable[[str], None] | None = None,
            wrong: list[tuple[str, str, str, str]] | None = None) -> list[dict[str, Any]]:
    """Rows ``{"name", "accuracy": rate}``; ``wrong`` collects (row, question, wanted, reply)."""
    rows: dict[str, dict[str, Any]] = {}
    false_unknown: list[float] = []
    false_groups: list[int] = []

    def length(text: str) -> int:
        return len(loaded.tokenizer.encode(text))

    for number, (name, make) in enumerate(ROWS.items()):
        if name not in names:
            continue
        if on_row:
            on_row(name)
        maker = Maker(lexicon, np.random.default_rng([seed, number]))
        cases = [make(maker, length) for _ in range(worlds)]
        right: list[float] = []
        groups: list[int] = []
        for i, (case, replies) in enumerate(zip(cases, answers(loaded, cases), strict=True)):
            for question, reply in zip(case.questions, replies, strict=True):
                good = right_answer(case.world, question, reply)
                right.append(float(good))
                groups.append(i)
                if name in ("1-3", "5"):
                    false_unknown.append(float(is_unknown(reply)))
                    false_groups.append(len(rows) * worlds + i)
                if not good and wrong is not None:
                    wrong.append((name, question.text, question.fact.value, reply))
        rows[name] = {"name": name, "accuracy": rate(right, groups)}
    if false_unknown:
        rows["false-unknown"] = {
            "name": "false-unknown", "accuracy": rate(false_unknown, false_groups)}
    return list(rows.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worlds", type=int, default=300, help="worlds a row (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lexicon", help="a JSON file of words to use instead of the built-in")
    parser.add_argument("--rows", help=f"comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--show-wrong", action="store_true", help="list the answers that failed")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The document of ``bench recall`` without its meta. Raises UsageError for bad arguments."""
    if args.worlds < 1:
        raise UsageError("--worlds must be at least 1; try --worlds 300")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed} must be 0 or more; try --seed 0")
    names = tuple(args.rows.split(",")) if args.rows else tuple(ROWS)
    for name in names:
        if name not in ROWS:
            raise UsageError(f"no row {name!r}; rows are {', '.join(ROWS)}")
    lexicon = load_lexicon(args.lexicon) if args.lexicon else heldout()
    loaded = load_once(args)
    lexicon.check(loaded.tokenizer)
    wrong: list[tuple[str, str, str, str]] | None = [] if args.show_wrong else None
    document: dict[str, Any] = {
        "lexicon": lexicon.source, "worlds": args.worlds,
        "rows": measure(loaded, lexicon, args.worlds, args.seed, names, wrong=wrong),
    }
    if wrong is not None:
        document["wrong"] = [
            {"row": row, "question": question, "wanted": wanted, "reply": reply}
            for row, question, wanted, reply in wrong]
    return document
