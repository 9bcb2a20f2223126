"""How likely answers are after prompts, and what is written after them, many at a time.

Each row of a batch may carry a change of its own: a rank-one update of one layer's weights, added
where the layer computes, W k + left (right . k), instead of being written into the weights. That
is the same function, so many single edits can be measured in one batch. Changes no weights.

Glossary: B rows, T tokens, D residual width, F MLP width, k tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwkvedit.transformer.weights import RankOne

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

TOKENS = 1024
"""Of one batch, padding included."""


@dataclass(frozen=True)
class Asked:
    """A prompt and an answer to it, as tokens; ``change`` is in force for this row alone."""

    prompt: list[int]
    answer: list[int]
    change: RankOne | None = None


@dataclass(frozen=True)
class Said:
    logp: float
    """log P(answer), nats, the mean over its tokens (as CounterFact's measures take it)."""
    greedy: bool
    """Does greedy decoding give exactly the answer?"""


def say(session: ModelSession, asked: Sequence[Asked]) -> list[Said]:
    """What each row says of its answer; rows that feed the same tokens are run once."""
    fed: dict[tuple[tuple[int, ...], str], list[int]] = {}
    for at, one in enumerate(asked):
        tokens = (*one.prompt, *one.answer[:-1])
        change = "" if one.change is None else one.change.digest
        fed.setdefault((tokens, change), []).append(at)
    rows = sorted(fed, key=lambda row: len(row[0]))
    out: list[Said | None] = [None] * len(asked)
    for part in _batches([len(tokens) for tokens, _ in rows]):
        chosen = [rows[i] for i in part]
        seen: list[Tensor] = []
        taps = changes([asked[fed[row][0]].change for row in chosen])
        last = f"blocks.{session.n_layer - 1}.resid_out"
        assert last not in taps  # changes come at ffn.key and ffn.out
        taps[last] = seen.append
        session.run([list(tokens) for tokens, _ in chosen], taps=taps, logits="none")
        spots = [(b, at) for b, row in enumerate(chosen) for at in fed[row]]
        h = torch.cat([seen[0][b, _span(asked[at])] for b, at in spots])
        logp = session.unembed(h).log_softmax(-1)
        start = 0
        for _, at in spots:
            ids = torch.tensor(asked[at].answer, device=logp.device)
            mine = logp[start : start + len(ids)]
            start += len(ids)
            out[at] = Said(
                float(mine.gather(-1, ids[:, None]).double().mean()),
                mine.argmax(-1).tolist() == asked[at].answer,
            )
    return [one for one in out if one is not None]


def write_on(
    session: ModelSession,
    prompts: Sequence[list[int]],
    tokens: int,
    each: Sequence[RankOne | None] | None = None,
) -> list[list[int]]:
    """``tokens`` greedy tokens after each prompt; end tokens do not stop it."""
    each = [None] * len(prompts) if each is None else each
    out: list[list[int]] = [[] for _ in prompts]
    by_length: dict[int, list[int]] = {}
    for at, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(at)
    for rows in by_length.values():
        taps = changes([each[at] for at in rows])
        feed, cache = [prompts[at] for at in rows], None
        for _ in range(tokens):
            run = session.run(feed, taps=taps, cache=cache, keep_cache=True)
            best, cache = run.logits.argmax(-1).tolist(), run.cache
            for at, token in zip(rows, best, strict=True):
                out[at].append(token)
            feed = [[token] for token in best]
    return out


def changes(each: Sequence[RankOne | None]) -> dict[str, Callable[[Tensor], Tensor | None]]:
    """Taps under which row b computes with ``each[b]`` in its weights."""
    taps: dict[str, Callable[[Tensor], Tensor | None]] = {}
    for layer in {change.layer for change in each if change is not None}:
        mine = {b: change for b, change in enumerate(each)
                if change is not None and change.layer == layer}  # fmt: skip
        index = torch.tensor(list(mine))
        left = torch.stack([change.left for change in mine.values()])  # (b, D)
        right = torch.stack([change.right for change in mine.values()])  # (b, F)
        kept: list[Tensor] = []

        def key(x: Tensor, index=index, right=right, kept=kept) -> None:
            kept[:] = [torch.einsum("btf,bf->bt", x[index.to(x.device)].float(), right)]

        def out(x: Tensor, index=index, left=left, kept=kept) -> Tensor:
            added = x.clone()
            more = kept[0][..., None] * left[:, None, :]
            return added.index_add_(0, index.to(x.device), more.to(x.dtype))

        taps[f"blocks.{layer}.ffn.key"], taps[f"blocks.{layer}.ffn.out"] = key, out
    return taps


def _span(one: Asked) -> slice:
    """Where the answer's tokens are predicted."""
    first = len(one.prompt) - 1
    return slice(first, first + len(one.answer))


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of rows (sorted by length) in batches of at most TOKENS tokens."""
    out: list[list[int]] = []
    for at, length in enumerate(lengths):
        if out and (len(out[-1]) + 1) * length <= TOKENS:
            out[-1].append(at)
        else:
            out.append([at])
    return out
