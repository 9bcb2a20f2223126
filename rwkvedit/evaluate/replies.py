"""Whole greedy replies for many conversations at once, and the rule that reads them.

Every benchmark judges replies here, so that "it said the value" means one thing everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

from rwkvedit.models.catalog import LoadedModel
from rwkvedit.recurrent.state import State

#: Where one clause ends and another begins, as far as a denial reaches.
CLAUSE = re.compile(r"[.!?;:,]\s|\bbut\b|\band\b(?=\s+not\b)")
DENIAL = re.compile(r"\b(?:not?|never|nor|neither|cannot)\b|n['’]t\b")


def greedy_replies(
    loaded: LoadedModel, states: State, prompts: Sequence[list[int]], max_tokens: int = 40
) -> list[str]:
    """Continue each of B prompts (token ids) from its state, greedily, to its stop text.

    ``states``: batch (B,), or one unbatched state shared by all. Returns B texts without the stop
    text. Rows that have stopped are dropped from the batch.
    """
    texts = [""] * len(prompts)
    ids: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    stops = loaded.template.stops
    with torch.no_grad():
        logits, state = loaded.model.forward([list(p) for p in prompts], states)
        for _ in range(max_tokens):
            assert isinstance(logits, torch.Tensor)  # (B, V), since not full
            best = logits.argmax(-1).tolist()
            keep = []
            for row, token in enumerate(best):
                place = alive[row]
                ids[place].append(token)
                text = loaded.tokenizer.decode([t for t in ids[place] if t])
                cut = min((i for i in map(text.find, stops) if i >= 0), default=-1)
                if token == 0 or cut >= 0:
                    texts[place] = text if cut < 0 else text[:cut]
                else:
                    texts[place] = text
                    keep.append(row)
            if not keep:
                break
            if len(keep) < len(best):
                index = torch.tensor(keep)
                state = State(*(part[index] for part in state.tensors()))
            alive = [alive[row] for row in keep]
            logits, state = loaded.model.forward([[best[row]] for row in keep], state)
    return [text.strip() for text in texts]


def says(reply: str, value: str) -> bool:
    """Whether a reply gives a value: as whole words, in any case, in a clause that denies nothing.

    >>> says("Bob does not live in Austin, he lives in Graz.", "Austin")
    False
    """
    if is_unknown(reply):
        return False
    text = reply.lower()
    for found in _whole(value).finditer(text):
        before = CLAUSE.split(text[: found.start()])[-1]
        after = CLAUSE.split(text[found.end() :])[0]
        if not DENIAL.search(before) and not DENIAL.search(after):
            return True
    return False


def mentions(reply: str, value: str) -> bool:
    """Whether a reply has a value in it at all, denied or not; one that does not know has none."""
    return not is_unknown(reply) and _whole(value).search(reply.lower()) is not None


def gives(reply: str, value: str, others: Iterable[str] = ()) -> bool:
    """Whether a reply says ``value`` and mentions none of ``others`` (``value`` itself aside)."""
    rivals = (other for other in others if other.lower() != value.lower())
    return says(reply, value) and not any(mentions(reply, other) for other in rivals)


def _whole(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(value.lower())}(?!\w)")


def is_unknown(reply: str) -> bool:
    """Whether a reply says that it does not know."""
    return re.match(r"(?:sorry, )?i (?:don['’]t|do not) know", reply.strip().lower()) is not None
