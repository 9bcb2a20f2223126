"""What an MLP must write at a subject's last token so that a whole answer follows: by gradient.

Meng et al., "Locating and Editing Factual Associations in GPT" (2022), section 3.1, step 2, and
Meng et al., "Mass-Editing Memory in a Transformer" (2023), section 4.2: minimise the mean of
-log P(answer) over contexts, plus a KL term that keeps what the model says of the subject itself,
plus a penalty on length. Answers may have several tokens. Only what the vector can reach is run:
the layers above (transformers), and behind contexts the positions from the subject's last token
on. Many requests are solved in the same passes, each by itself. Changes no weights.

Glossary: D residual width, F MLP width, B contexts, k tokens of the answer, V vocabulary, h (D,)
the residual leaving the layer at the subject's last token, v* = W k* + d in the paper's words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.transformer.answers import find_subject
from rwkvedit.transformer.kvcache import KVCache
from rwkvedit.transformer.running import one_line_when_out_of_memory
from rwkvedit.transformer.statistics import corpus_text

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession
    from rwkvedit.transformer.tuning import Settings

Place = tuple[list[int], int]
"""A prompt's tokens, and the position of its subject's last one."""
Cancel = Callable[[], bool]

LEAST, STEP = 5, 8
"""A context has at least LEAST tokens and at most STEP more."""
ESSENCE = "{} is a"
"""After this the KL term looks at what is said of the subject (Meng et al. 2022, section 3.1)."""
HIGH = 0.05
"""An answer that stays less likely than this, as its mean over the contexts, was not found."""


class NotFoundError(RwkvEditError):
    """The answer stayed unlikely: there is no edit here that would do it."""


@dataclass(frozen=True)
class Request:
    """One edit that is wanted: ``prompt``, which names ``subject``, is to go on with ``target``."""

    prompt: str
    subject: str
    target: str
    label: str = ""
    layer: int | None = None
    """Write at this layer alone (None: where the method would)."""


@dataclass(frozen=True)
class Aim:
    """A request as tokens."""

    request: Request
    places: list[Place]
    """The bare prompt first, then the same behind contexts."""
    target: list[int]
    essence: Place


@dataclass(frozen=True)
class Value:
    """What was found for one request at one layer."""

    delta: Tensor
    """(D,) fp32: d, to be added to what the MLP writes at the subject's last token."""
    key: Tensor
    """(F,) fp32: k*, the mean of the keys there over the contexts."""
    h: Tensor
    """(D,) fp32: the residual there in the bare prompt, before anything is added."""
    loss: float
    """-log P(answer), nats a token, the mean over the contexts."""
    p: float
    """exp(-loss)."""
    steps: int


def aim(session: ModelSession, request: Request, contexts: int) -> Aim:
    """Tokens of a request, with ``contexts`` contexts from the corpus that ships.

    Contexts are as long as puts the subject's last token at a multiple of STEP, so that many
    requests can be run together. UsageError where the subject is not in the prompt or the target
    has no tokens.
    """
    ids = session.tokens(request.prompt)
    places = [(ids, find_subject(session, ids, request.subject)[-1])]
    answer = target_ids(session, ids, request.target)
    inner = session.vocabulary.encode(f" {request.prompt}")
    at = find_subject(session, inner, request.subject)[-1]
    said = session.vocabulary.encode(" " + ESSENCE.format(request.subject.strip()))
    end = find_subject(session, said, request.subject)[-1]
    spot = -(-(max(at, end) + LEAST) // STEP) * STEP
    ends = _sentence_ends(session, max(1, contexts), spot)
    places += [([*before[at:], *inner], spot) for before in ends[:contexts]]
    return Aim(request, places, answer, ([*ends[0][end:], *said], spot))


def target_ids(session: ModelSession, prompt: Sequence[int], target: str) -> list[int]:
    """The answer's tokens, with a space in front unless the prompt or the answer brings its own."""
    spaced = target[:1].isspace() or session.text(prompt)[-1:].isspace()
    found = session.vocabulary.encode(target if spaced else f" {target}")
    if not target.strip() or not found:
        raise UsageError(f"the new answer {target!r} has no tokens: give a word")
    return found


def _sentence_ends(session: ModelSession, count: int, length: int) -> list[list[int]]:
    """``length`` tokens up to the end of a sentence, ``count`` times, from all over the corpus."""
    text = corpus_text(None)[0].replace("\n", " ")
    out = []
    for i in range(count):
        stop = text.find(". ", (i + 1) * len(text) // (count + 1)) + 1
        ids = session.vocabulary.encode(text[max(0, stop - 16 * length) : stop])
        out.append(ids[-length:])
    return out


def solve(
    session: ModelSession,
    goal: Aim,
    layer: int,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Value:
    """Find d of one request at ``layer``. NotFoundError when P(answer) stays below HIGH."""
    found = solve_many(session, [goal], layer, settings, progress, cancel)[0]
    if isinstance(found, NotFoundError):
        raise found
    return found


def solve_many(
    session: ModelSession,
    goals: Sequence[Aim],
    layer: int,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> list[Value | NotFoundError]:
    """Find d of each request, every one by itself, all in the same passes (N requests).

    ``progress(steps, at most)``; ``cancel`` true raises KeyboardInterrupt between steps.
    """
    layer = session.shape.layer(layer)
    groups = _groups(session, goals, layer)
    n = len(goals)
    size = _means([(row.owner, g.h[b, g.spots[b]].norm()) for g in groups
                   for b, row in enumerate(g.rows) if row.answer], n)  # fmt: skip
    unit = (size / session.d_model**0.5)[:, None]
    x = torch.zeros(n, session.d_model, device=session.device, requires_grad=True)
    optimiser = torch.optim.Adam([x], lr=settings.rate)
    keys = torch.stack([
        torch.stack([g.keys[b] for g in groups for b, row in enumerate(g.rows)
                     if row.owner == owner and row.answer]).mean(0)
        for owner in range(n)
    ])  # fmt: skip
    bare = {row.owner: g.h[b, g.spots[b]].float() for g in groups
            for b, row in enumerate(g.rows) if row.bare}  # fmt: skip
    best: list[tuple[float, Tensor, int]] = [(math.inf, x[0], 0)] * n
    first: dict[int, float] = {}
    for step in range(settings.steps + 1):
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        d = x * unit
        loss = settings.decay * x.square().mean(1).sum()  # (||d|| / ||h||)^2
        nats: dict[int, list[Tensor]] = {}
        for g in groups:
            rows, drift = g.look(d)
            for owner, value in rows:
                nats.setdefault(owner, []).append(value)
            loss = loss + settings.kl * drift
        done = set()
        for owner, values in nats.items():
            mean = torch.stack(values).mean()
            loss = loss + mean
            first.setdefault(owner, float(mean.detach()))
            if float(mean.detach()) < best[owner][0]:
                best[owner] = (float(mean.detach()), d[owner].detach().clone(), step)
            if max(float(v.detach()) for v in values) <= -math.log(settings.enough):
                done.add(owner)
        if progress is not None:
            progress(step, settings.steps)
        if step == settings.steps or len(done) == len(nats):
            break
        optimiser.zero_grad()
        with one_line_when_out_of_memory():
            loss.backward()
        optimiser.step()
        with torch.no_grad():
            longest = settings.clamp * session.d_model**0.5
            x.mul_((longest / x.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0))
        if done:
            groups = [kept for g in groups if (kept := g.without(done)) is not None]
    return [
        _value(goal, layer, best[i], first[i], keys[i], bare[i]) for i, goal in enumerate(goals)
    ]


def _value(
    goal: Aim, layer: int, best: tuple[float, Tensor, int], first: float, key: Tensor, h: Tensor
) -> Value | NotFoundError:
    loss, d, steps = best
    if math.exp(-loss) >= HIGH:
        return Value(d, key, h, loss, math.exp(-loss), steps)
    return NotFoundError(
        f"the new answer {goal.request.target.strip()!r} was not reached at layer {layer}: the "
        f"loss went from {first:.2f} to {loss:.2f} nats (P {math.exp(-loss):.3f}, at least {HIGH} "
        "wanted); try another layer, or calibrate"
    )


def _means(values: Sequence[tuple[int, Tensor]], n: int) -> Tensor:
    """(n,) the mean of each owner's values."""
    sums = [torch.stack([v for o, v in values if o == owner]) for owner in range(n)]
    return torch.stack([s.float().mean() for s in sums])


@dataclass(frozen=True)
class Row:
    """One prompt of one request."""

    owner: int
    ids: list[int]
    spot: int
    """Of the subject's last token."""
    answer: list[int]
    """Empty: the essence, whose every next token is held."""
    bare: bool = False


def _groups(session: ModelSession, goals: Sequence[Aim], layer: int) -> list[Group]:
    """Rows that can be run together: bare prompts whole, those behind contexts by their spot."""
    whole: list[Row] = []
    behind: dict[int, list[Row]] = {}
    for owner, goal in enumerate(goals):
        (ids, at), *others = goal.places
        whole.append(Row(owner, ids, at, goal.target, bare=True))
        for ids, at in others:
            behind.setdefault(at, []).append(Row(owner, ids, at, goal.target))
        ids, at = goal.essence
        behind.setdefault(at, []).append(Row(owner, ids, at, []))
    return [
        Group.of(session, whole, 0, layer),
        *(Group.of(session, rows, at, layer) for at, rows in behind.items()),
    ]


@dataclass(frozen=True)
class Group:
    """Rows run together, behind ``cached`` tokens of each and from above the layer on."""

    session: ModelSession
    layer: int
    rows: list[Row]
    cached: int
    cache: Any
    fed: list[list[int]]
    spots: Tensor
    """(B,) where the subject ends, counted behind the cache."""
    keys: Tensor
    """(B, F) there."""
    h: Tensor
    """(B, T, D) leaving the layer."""
    was: Tensor | None = None
    """(essences, V) log-probabilities before anything is written."""

    @classmethod
    def of(cls, session: ModelSession, rows: list[Row], cached: int, layer: int) -> Group:
        cache = None
        if cached:
            before = [row.ids[:cached] for row in rows]
            cache = session.run(before, logits="none", keep_cache=True).cache
        fed = [[*row.ids[cached:], *row.answer[:-1]] for row in rows]
        kept: dict[str, Tensor] = {}

        def keeping(site: str) -> Callable[[Tensor], None]:
            return lambda x: kept.__setitem__(site, x)

        taps = {f"blocks.{layer}.{site}": keeping(site) for site in ("ffn.key", "resid_out")}
        session.run(fed, taps=taps, cache=cache, logits="none")
        spots = torch.tensor([row.spot - cached for row in rows], device=session.device)
        keys = kept["ffn.key"][torch.arange(len(rows), device=session.device), spots].float()
        group = cls(session, layer, rows, cached, cache, fed, spots, keys, kept["resid_out"])
        if not any(not row.answer for row in rows):
            return group
        with torch.no_grad():
            nothing = torch.zeros(max(r.owner for r in rows) + 1, session.d_model)
            return replace(group, was=group._held(group.logp(nothing.to(session.device))).clone())

    def without(self, done: set[int]) -> Group | None:
        """The rows of the other requests (RWKV-7: every row stays); None when there are none."""
        left = [b for b, row in enumerate(self.rows) if row.owner not in done]
        if not left:
            return None
        if self.session.kind != "transformer" or len(left) == len(self.rows):
            return self
        index = torch.tensor(left, device=self.session.device)
        cache = self.cache and KVCache(tuple((k[index], v[index]) for k, v in self.cache.layers))
        fed = [self.fed[b] for b in left]
        essences = [b for b, row in enumerate(self.rows) if not row.answer]
        held = [i for i, b in enumerate(essences) if b in left]
        return replace(
            self, rows=[self.rows[b] for b in left], cache=cache, fed=fed, spots=self.spots[index],
            keys=self.keys[index], h=self.h[index, : max(map(len, fed))],
            was=None if self.was is None else self.was[held],
        )  # fmt: skip

    def look(self, d: Tensor) -> tuple[list[tuple[int, Tensor]], Tensor]:
        """([(owner, -log P(answer) a token)], summed KL of the essences) with ``d`` written."""
        logp, at = self.logp(d), 0
        nats = []
        for row in self.rows:
            k = max(1, len(row.answer))
            if row.answer:
                ids = torch.tensor(row.answer, device=logp.device)
                nats.append((row.owner, -logp[at : at + k].gather(-1, ids[:, None]).mean()))
            at += k
        if self.was is None:
            return nats, logp.new_zeros(())
        return nats, (self.was.exp() * (self.was - self._held(logp))).sum()

    def _held(self, logp: Tensor) -> Tensor:
        """(essences, V) of what ``logp`` gives."""
        at, where = 0, []
        for row in self.rows:
            if not row.answer:
                where.append(at)
            at += max(1, len(row.answer))
        return logp[where]

    def logp(self, d: Tensor) -> Tensor:
        """(M, V): log-probabilities where each row's answer is predicted, row after row."""
        seen: list[Tensor] = []
        last, session = f"blocks.{self.session.n_layer - 1}.resid_out", self.session
        every = torch.arange(len(self.rows), device=session.device)
        mine = d[[row.owner for row in self.rows]]  # (B, D)

        def add(x: Tensor) -> Tensor:
            more = torch.zeros_like(x).index_put((every, self.spots), mine.to(x.dtype))
            return x + more

        grad = torch.is_grad_enabled()
        if session.kind == "transformer" and self.layer + 1 < session.n_layer:
            session.run(
                self.fed, taps={last: seen.append}, cache=self.cache, logits="none", grad=grad,
                enter=(self.layer + 1, add(self.h)),
            )  # fmt: skip
        else:
            session.run(
                self.fed, taps={f"blocks.{self.layer}.ffn.out": add, last: seen.append},
                cache=self.cache, logits="none", grad=grad,
            )  # fmt: skip
        at = []
        for b, row in enumerate(self.rows):
            start = len(row.ids) - self.cached - 1
            at += [(b, start + i) for i in range(max(1, len(row.answer)))]
        b, t = torch.tensor(at, device=session.device).T
        return session.unembed(seen[0][b, t]).log_softmax(-1)
