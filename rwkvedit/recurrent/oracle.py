"""Counterfactual replay: the conversation with the told fact changed, what an edit should equal.

O(T) in the conversation's length where an edit is O(1). Works on the token stream: turns that do
not speak of the fact keep their tokens; those that do are rewritten and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rwkvedit.errors import RwkvEditError
from rwkvedit.facts import parse_fact, parse_facts
from rwkvedit.facts.kinds import article
from rwkvedit.recurrent.pairs import Pair, pair_of_facts


def _turns(tokens: Sequence[int], end: Sequence[int]) -> list[list[int]]:
    """The stream cut after every turn end; the pieces join to the stream again."""
    pieces: list[list[int]] = [[]]
    for token in tokens:
        pieces[-1].append(token)
        if pieces[-1][-len(end):] == list(end):
            pieces.append([])
    return [piece for piece in pieces if piece]


def _rewrite(text: str, pair: Pair) -> str:
    """``text`` with the pair's old value replaced where this fact is spoken of."""
    for old, new, lead in (
        (pair.old, pair.new, pair.told), (pair.answer_old, pair.answer_new, pair.answer.strip()),
    ):
        pattern = re.compile(re.escape(lead + old) + r"(?!\w)")
        text = pattern.sub(lambda _m, new=new, lead=lead: lead + new, text)
    if pair.fact is None:
        return text
    bare_new = pair.names[1]
    sentences = re.split(r"(?<=[.!?])(\s+)", text)
    for at, sentence in enumerate(sentences):
        if any(
            fact.key == pair.fact.key and fact.value.lower() == pair.fact.value.lower()
            for fact in (parse_fact(sentence), *parse_facts(sentence))
            if fact is not None
        ):
            value = re.compile(r"(?<!\w)(an? )?" + re.escape(pair.fact.value) + r"(?!\w)", re.I)
            sentences[at] = value.sub(
                lambda m: f"{article(bare_new)} {bare_new}" if m.group(1) else bare_new,
                sentence, count=1,
            )
    return "".join(sentences)


def counterfactual_tokens(loaded: Any, history: Sequence[int], pair: Pair) -> list[int]:
    """``history`` with the old fact replaced by the new one wherever a turn says it.

    Raises RwkvEditError when no turn does.
    """
    tok, template = loaded.tokenizer, loaded.template
    end = tok.encode(template.turn_end)
    out: list[int] = []
    changed = False
    for turn in _turns(history, end):
        text = tok.decode(turn)
        closed = turn[-len(end):] == list(end)
        body = text[: -len(template.turn_end)] if closed else text
        speaker, colon, words = body.partition(":")
        rewritten = _rewrite(words.strip(), pair) if colon else words
        if not colon or rewritten == words.strip():
            out += turn
            continue
        changed = True
        out += [*tok.encode(f"{speaker}:"), *tok.encode(f" {rewritten}"), *(end if closed else [])]
    if not changed:
        raise RwkvEditError(
            f'this conversation never says "{pair.statement(pair.old)}"; '
            "a replay needs the words the fact was told in (try --method hyb-u)"
        )
    return out


def as_edited(loaded: Any, history: Sequence[int], pair: Pair) -> list[int]:
    """``history`` with ``pair.old`` said where the user last said a value that was edited since.

    Its own tokens where nothing came between, or the fact is of no kind and cannot be read in it.
    """
    said = None
    if pair.fact is not None:
        end = loaded.tokenizer.encode(loaded.template.turn_end)
        for turn in _turns(history, end):
            speaker, _, words = loaded.tokenizer.decode(turn).partition(":")
            if speaker == loaded.template.user_name:
                told = [fact for fact in parse_facts(words) if fact.key == pair.fact.key]
                said = told[-1] if told else said
    if pair.fact is None or said is None or said.value.lower() == pair.fact.value.lower():
        return list(history)
    return counterfactual_tokens(loaded, history, pair_of_facts(said, pair.fact))


def replayed_delta(ws: Any) -> Tensor:
    """``wkv(replay with the new fact) - wkv(replay as told)`` over a workspace's layers.

    Both from the model's start, in one forward: what an earlier edit did to the live state is in
    neither, and stays; only where it was an edit of this very fact both say what it made of it, so
    that it goes. (l, H, N, N). Raises RwkvEditError without the conversation's tokens or when
    it never told the old fact.
    """
    if not ws.history:
        raise RwkvEditError(
            "this method replays the conversation and its tokens are not at hand "
            "(a loaded bare state has none); try --method hyb-u"
        )
    told = as_edited(ws.loaded, ws.history, ws.pair)
    tokens = counterfactual_tokens(ws.loaded, told, ws.pair)
    _, after = ws.forward([tokens, told], ws.fresh)
    return after.wkv[0, ws.lo : ws.hi] - after.wkv[1, ws.lo : ws.hi]
