"""One edit's working memory: which token rows must be run, from which state, and what came of it.

The calibration's tellings, the probe's branches and the questions asked before the edit share one
batched forward. Knows no method; a method names the rows it needs and reads their ``wkv``.

Row names, each with ``-old`` and ``-new``:

    told    the fact told as an acknowledged turn, from the calibration's start
    alone   the same from a fresh state
    bare    the sentence by itself, outside any turn, from a fresh state
    free    its words around the value without whom they are about ("lives in Austin"), fresh
    token   a user's turn opened and the words spoken up to the value, then its tokens, fresh
    probe   the same in the live state
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from rwkvedit_kernels.dispatch import torch_threads
from rwkvedit_kernels.prefixes import Tree
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.recurrent.asking import Ask, Reading, Rows, make_asks, read_rows
from rwkvedit.recurrent.calibrate import Calibration, told_turn
from rwkvedit.recurrent.controls import Control
from rwkvedit.recurrent.hooks import Record
from rwkvedit.recurrent.midway import Midway, Sites, above, below
from rwkvedit.recurrent.pairs import Pair
from rwkvedit.recurrent.spectrum import Triples, top_triples
from rwkvedit.recurrent.state import State

P = ParamSpec("P")
R = TypeVar("R")

LONGEST = 512  # tokens of one typed fact
BUDGET_MS = 2000.0  # what a method that trains may spend


def layer_range(spec: str, n_layer: int) -> tuple[int, int]:
    """``upper``, ``lower``, ``all`` or ``a:b`` (b excluded) as (a, b).

    Raises UsageError for anything else, with the range the model has.
    """
    half = n_layer // 2
    named = {"upper": (half, n_layer), "lower": (0, max(1, half)), "all": (0, n_layer)}
    if spec in named:
        return named[spec]
    first, colon, last = str(spec).partition(":")
    try:
        a, b = int(first or 0), int(last or n_layer) if colon else int(first) + 1
    except ValueError:
        a, b = -1, -1
    if not 0 <= a < b <= n_layer:
        raise UsageError(
            f"--layers {spec} is not a range of this model; say upper, lower, all "
            f"or a:b within 0:{n_layer}"
        )
    return a, b


def kernels_first(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Decorates an edit of ``loaded`` (its first argument): where one CPU kernel runs whole
    passes, torch's own threads stay out of its way."""

    @wraps(function)
    def alone(loaded: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        fused = getattr(loaded.model, "fused", False)
        with torch_threads(1) if fused else nullcontext():
            return function(loaded, *args, **kwargs)

    return alone


class Workspace:
    """Rows to run and what they gave. ``layers`` is the edited slice; shapes: l = edited layers."""

    def __init__(
        self,
        loaded: Any,
        state: State,
        pair: Pair,
        layers: tuple[int, int],
        *,
        start: State | None = None,
        history: Sequence[int] | None = None,
        calibration: Calibration | None = None,
        n_asks: int = 2,
        budget_ms: float = BUDGET_MS,
        cancel: Callable[[], bool] | None = None,
    ) -> None:
        self.loaded, self.model, self.state, self.pair = loaded, loaded.model, state, pair
        self.lo, self.hi = layers
        if not bool(torch.isfinite(state.wkv).all()):
            raise RwkvEditError(
                "the state holds numbers that are not finite; /undo, or /load a good one"
            )
        self.history, self.calibration = history, calibration
        self.fresh: State = self.model.zero_state()
        self.start = state if start is None else start
        self.cancel = cancel
        self.controls: list[Control] = []  # what methods that guard them must leave alone
        self.warm: Tensor | None = None  # the best attempt's delta so far, at its strength
        self.budget_ms = budget_ms
        self.forwards = 0
        self.spent = 0.0  # positions run; those run through some layers only count by their share
        tok = loaded.tokenizer
        self.told = loaded.template.encode_user_opening(tok, pair.told)
        self.old, self.new = tok.encode(pair.old), tok.encode(pair.new)
        self.said_old, self.said_new = tok.encode(pair.answer_old), tok.encode(pair.answer_new)
        if self.several:
            # where a value of several tokens ends must be remembered too ("Cebu", not "Cebue")
            stop = tok.encode(pair.answer_closing)[:1]
            self.said_old, self.said_new = self.said_old + stop, self.said_new + stop
            stop = tok.encode(pair.closing)[:1]
            self.old, self.new = self.old + stop, self.new + stop
        if max(map(len, (self.told, self.old, self.new))) > LONGEST:
            raise UsageError(f"that fact is longer than {LONGEST} tokens; say it shorter")
        questions = pair.questions[:n_asks]
        self.asks: list[Ask] = make_asks(loaded, questions, pair.answer)
        self._wkv: dict[str, Tensor] = {}
        self._midway: dict[tuple[int, ...], Midway] = {}  # rows from the live state
        self._sites: dict[tuple[int, ...], Sites] = {}
        self._cache: dict[tuple[str, int], Triples] = {}

    @property
    def layers(self) -> slice:
        return slice(self.lo, self.hi)

    @property
    def decodes(self) -> int:
        """Tokens run so far, in whole passes."""
        return round(self.spent)

    @property
    def shares(self) -> bool:
        """Can rows share the layers below the edit? (One CPU kernel runs whole passes.)"""
        return getattr(self.model, "fused", False)

    @property
    def several(self) -> bool:
        """Does either value take several tokens?"""
        return max(len(self.said_old), len(self.said_new)) > 1

    @property
    def rank(self) -> int:
        """The rank a delta needs: a value of k tokens is written at k addresses (at most 4)."""
        return min(4, max(len(self.old), len(self.new)))

    def check(self) -> None:
        """Raises when the caller has asked to stop; nothing has been changed by then."""
        if self.cancel is not None and self.cancel():
            raise RwkvEditError("interrupted; the conversation is as it was")

    def forward(
        self, rows: list[list[int]], state: State, tails: Sequence[int] | None = None
    ) -> tuple[list[Tensor], State]:
        """One counted batched forward; logits of the last ``tails[i]`` positions (1) of each."""
        self.check()
        self.forwards += 1
        if self.shares and state.batch is None:  # what rows begin with alike is run once
            self.spent += len(Tree.of(rows, [0] * len(rows)).picks)
        else:
            self.spent += sum(map(len, rows))
        with torch.no_grad():
            return self.model.forward(rows, state, tails=tails or [1] * len(rows))

    def row(self, name: str) -> tuple[list[int], State]:
        """Tokens and start state of a named row."""
        what, _, which = name.partition("-")
        value = {"old": self.pair.old, "new": self.pair.new}[which]
        if what in ("probe", "token"):
            spoken = self.told + {"old": self.old, "new": self.new}[which]
            return spoken, self.state if what == "probe" else self.fresh
        if what in ("bare", "free"):
            words = self.pair.statement(value) if what == "bare" else self.pair.fragment + value
            return self.loaded.tokenizer.encode(words), self.fresh
        turn = told_turn(self.loaded, self.pair.statement(value))
        return turn, self.fresh if what == "alone" else self.start

    def gather(
        self, names: Sequence[str], rows: Rows | None = None, sites: bool = False
    ) -> list[Reading]:
        """Run the named rows that are still missing, and ``rows`` from the live state.

        Both in one forward, unless the layers below the edit are to be shared with later ones;
        ``sites`` then keeps where the rows read (for :meth:`sites`).
        """
        missing = [name for name in names if name not in self._wkv]
        asked = rows if rows is not None and rows.rows else None
        readings: list[Reading] = []
        if asked is not None and self.shares:
            readings = asked.read(*self._above(asked.rows, self.state, asked.tails, sites=sites))
            asked = None
        if not missing and asked is None:
            return readings
        pairs = [self.row(name) for name in missing]
        tokens = [t for t, _ in pairs] + (asked.rows if asked else [])
        starts = [s for _, s in pairs] + [self.state] * len(asked.rows if asked else [])
        same = all(s is self.state for s in starts)
        tails = [1] * len(missing) + (asked.tails if asked else [])
        logits, after = self.forward(tokens, self.state if same else State.stack(starts), tails)
        for at, name in enumerate(missing):
            self._wkv[name] = after.wkv[at, self.lo : self.hi]
        return asked.read(torch.cat(logits[len(missing):])) if asked else readings

    def _above(
        self, rows: Sequence[Sequence[int]], states: State, tails: Sequence[int],
        owner: Sequence[int] | None = None, sites: bool = False,
    ) -> tuple[Tensor, np.ndarray]:
        """Logits of ``rows`` from one state or a stack, which are the live one below the edit, as
        ``Rows.read`` takes them."""
        self.check()
        keys = [tuple(row) for row in rows]
        new = list(dict.fromkeys(key for key in keys if key not in self._midway))
        upper = (self.state.n_layer - self.lo) / self.state.n_layer
        self.forwards += 1
        if new:
            found, run = below(self.model, new, self.state, self.lo)
            self.spent += run * (1 - upper)
            self._midway.update(zip(new, found, strict=True))
        if states.batch is None:
            states, owner = State(*(x[None] for x in states.tensors())), [0] * len(rows)
        assert owner is not None, "a stack of states needs to know whose each row is"
        logits, places, seen, run = above(
            self.model, [self._midway[key] for key in keys], states, owner, tails, sites)
        self.spent += run * upper
        self._sites.update(zip(keys, seen, strict=False))
        return logits, places

    def sites(self, rows: Sequence[Sequence[int]]) -> list[Sites]:
        """Where each row reads the live state, layer ``lo`` up; runs those not yet run so."""
        new = [list(key) for key in dict.fromkeys(map(tuple, rows)) if key not in self._sites]
        if new:
            self._above(new, self.state, [1] * len(new), sites=True)
        return [self._sites[tuple(row)] for row in rows]

    def receptances(self) -> Tensor:
        """``r`` of every ask where it reads the value's first token, (asks, l, H, N).

        One counted forward of the asks from the live state. Raises UsageError on a backend without
        hooks.
        """
        names = [f"blocks.{i}.att.r" for i in range(self.lo, self.hi)]
        record = Record(names)
        rows = [list(ask.tokens) for ask in self.asks]
        self.check()
        self.forwards += 1
        self.spent += sum(map(len, rows))
        with torch.no_grad():
            self.model.forward(rows, self.state, hooks=record.hooks)
        last = [len(row) - 1 for row in rows]
        return torch.stack(
            [torch.stack([record[n][at, t] for n in names]) for at, t in enumerate(last)])

    def delta(self, what: str) -> Tensor:
        """``wkv(what-new) - wkv(what-old)`` over the edited layers, (l, H, N, N)."""
        self.gather((f"{what}-old", f"{what}-new"))
        return self._wkv[f"{what}-new"] - self._wkv[f"{what}-old"]

    def triples(self, what: str, rank: int) -> Triples:
        """Leading triples of :meth:`delta`; a saved calibration stands in for ``told``."""
        key = (what, rank)
        if key not in self._cache:
            if what == "told" and self.calibration is not None:
                found = self.calibration.pair(*self.pair.names, self.layers, rank)
                self._cache[key] = Triples(*(x.to(self.state.wkv.device) for x in found))
            else:
                self._cache[key] = top_triples(self.delta(what), rank)
        return self._cache[key]

    def read(self, rows: Rows, edited: State) -> list[Reading]:
        """Readings of ``rows`` from a stack of edited states; none, and no forward, of no rows."""
        self.check()
        if not rows.rows:
            return []
        if self.shares:
            return rows.read(*self._above(rows.rows, edited, rows.tails, rows.owner))
        self.forwards += 1
        self.spent += rows.n_tokens
        with torch.no_grad():
            return read_rows(self.model, rows, edited.unstack())

    def edited(self, delta: Tensor, alphas: Sequence[float]) -> State:
        """The live state plus each multiple of ``delta`` (l, H, N, N): a stack of B states."""
        B = len(alphas)
        scale = torch.tensor(alphas, dtype=delta.dtype, device=delta.device)
        wkv = self.state.wkv.expand(B, *self.state.wkv.shape).clone()
        wkv[:, self.lo : self.hi] += scale[:, None, None, None, None] * delta
        whole = self.state.expand(B)
        return State(whole.att_x, wkv, whole.ffn_x)
