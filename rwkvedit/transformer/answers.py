"""The answer that is watched while a model is looked into: its tokens, its probability, its place.

Probabilities are full-softmax, so never 0 because a token fell outside a list of the likeliest; an
answer of several tokens has its sequence log-probability, teacher forced. Changes no model.

Glossary: k tokens of the answer, B rows, V vocabulary, D residual width, T tokens of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.hooks import Fn, Window

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

Expect = str | int | Sequence[int] | None


@dataclass(frozen=True)
class Answer:
    """What is expected after a prompt."""

    tokens: list[int]
    text: str
    own: bool = False
    """Is it the model's own answer (nothing was expected)?"""
    spaced: bool = False
    """Was a space put in front, because the model reads the text so?"""

    @property
    def read_as(self) -> str | None:
        """A line for whoever typed it, where it was not read as it was typed."""
        if not self.spaced:
            return None
        return f"the answer is read as {self.text!r}, with a space in front"

    def to_json(self) -> dict[str, Any]:
        return {
            "token": self.text,
            "tokens": self.tokens,
            "own": self.own,
            "spaced": self.spaced,
        }


def answer_of(session: ModelSession, ids: list[int], expect: Expect = None) -> Answer:
    """The answer to watch after ``ids``: text, ids, or None for the model's likeliest token.

    A word after a prompt that does not end in white space usually comes with a space of its own,
    so a text without one is read as it is and with a space, and the likelier one is taken
    (``spaced`` says so). UsageError on a text without tokens and on one that does not fit.
    """
    if expect is None:
        token = session.forward(ids).argmax
        return Answer([token], session.piece(token), own=True)
    if not isinstance(expect, str):
        given = [expect] if isinstance(expect, int) else list(expect)
        tokens = [session.shape.token(t) for t in given]
        _some(tokens, expect)
        session.check_length(len(ids) + len(tokens) - 1)
        return Answer(tokens, session.text(tokens))
    tokens = session.vocabulary.encode(expect)
    _some(tokens, expect)
    session.check_length(len(ids) + len(tokens))
    said = Answer(tokens, expect)
    if expect[0].isspace() or session.text(ids)[-1:].isspace():
        return said
    spaced = Answer(session.vocabulary.encode(" " + expect), " " + expect, spaced=True)
    return max((said, spaced), key=lambda a: float(log_p(watch(session, [ids], a), a)[0]))


def _some(tokens: list[int], expect: object) -> None:
    if not tokens:
        raise UsageError(
            f"the expected answer {expect!r} has no tokens: give a word, or leave it out "
            "for the model's own answer"
        )


def watch(
    session: ModelSession,
    rows: Sequence[Sequence[int]],
    answer: Answer,
    *,
    taps: Mapping[str, Fn] | None = None,
    cache: Any = None,
    enter: tuple[int, Tensor] | None = None,
    keep_cache: bool = False,
    kept: list[Any] | None = None,
) -> Tensor:
    """(B, k, V) fp32 logits where the answer's tokens are predicted.

    ``rows``: B equally long ends of the prompt, after ``cache``; the answer is fed behind them.
    A hook's last row is the prompt's own (and every row of the answer after it). The cache after
    the run is appended to ``kept`` with ``keep_cache``.
    """
    k, last = len(answer.tokens), session.n_layer - 1
    seen: list[Tensor] = []
    before = 0 if cache is None else cache.length
    end = before + len(rows[0])
    run = session.run(
        [[*row, *answer.tokens[:-1]] for row in rows],
        taps={**(taps or {}), f"blocks.{last}.resid_out": _then(taps, last, seen, k)},
        cache=cache, logits="none", keep_cache=keep_cache, enter=enter,
        window=window_for(end, answer),
    )  # fmt: skip
    if kept is not None:
        kept.append(run.cache)
    return session.unembed(seen[0])


def window_for(length: int, answer: Answer) -> Window:
    """What hooks see as the run: ``length`` tokens of a prompt and the answer fed behind them."""
    return Window(0, length - 1, length + len(answer.tokens) - 1)


def _then(taps: Mapping[str, Fn] | None, last: int, seen: list[Tensor], k: int) -> Fn:
    """Whatever ``taps`` do at the last residual, then keep its last ``k`` positions."""
    inner = (taps or {}).get(f"blocks.{last}.resid_out")

    def keep(x: Tensor) -> Tensor | None:
        new = None if inner is None else inner(x)
        seen.append((x if new is None else new)[:, -k:])
        return new

    return keep


def log_p(logits: Tensor, answer: Answer) -> Tensor:
    """(B,) float64 log-probability (nats) of the whole answer from (B, k, V) logits."""
    ids = torch.tensor(answer.tokens, device=logits.device)
    chosen = logits[:, torch.arange(len(ids), device=ids.device), ids]  # (B, k)
    return (chosen.double() - logits.logsumexp(-1).double()).sum(-1).cpu()


def find_subject(session: ModelSession, ids: Sequence[int], subject: str) -> list[int]:
    """The positions of ``subject`` in a prompt, wherever it stands as whole words.

    A token that holds a part of it counts. UsageError where it is empty or not there.
    """
    wanted = subject.strip()
    if not wanted:
        raise UsageError("no subject: give the words of the prompt that name it")
    starts, stops = [0], []
    for i in range(1, len(ids) + 1):
        said = session.text(ids[:i])
        whole = said.rstrip("\N{REPLACEMENT CHARACTER}")  # the last character may be cut in two
        stops.append(len(whole) + (said != whole))
        starts.append(len(whole))
    text = session.text(ids)
    word = re.escape(wanted)
    spans = [m.span() for m in re.finditer(rf"(?<!\w){word}(?!\w)", text)]
    spans = spans or [m.span() for m in re.finditer(word, text)]
    if not spans:
        raise UsageError(f"the subject {wanted!r} is not in the prompt {text!r}")
    return [
        i for i in range(len(ids))
        if any(starts[i] < stop and stops[i] > start for start, stop in spans)
    ]  # fmt: skip
