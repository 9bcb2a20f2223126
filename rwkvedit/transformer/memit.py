"""``memit`` and ``alphaedit``: many edits at once, the work shared by a spread of layers.

``memit``, Meng et al., "Mass-Editing Memory in a Transformer" (2023), algorithm 1 and equation 14:
what has to be written is found at the highest layer of the spread; then, from the lowest up, each
layer adds its share R / (layers left) of what is still missing there, by least squares against
what it does already: Delta = R K^T (lambda C + K K^T)^-1.

``alphaedit``, Fang et al., "AlphaEdit" (2024), equation 11: the same R, with the update confined to
directions that the corpus hardly uses, P = U0 U0^T over the eigenvectors of C whose eigenvalue is
below a *share* of the mean one (an absolute bound, as in the reference, means something else in
every model), and with the keys Kp of earlier batches held: Delta = R K~^T (Kp~ Kp~^T + K~ K~^T +
mu I)^-1, K~ = P K.

An edit with a layer of its own is written at that layer alone, jointly with others of that layer.

Glossary: D residual width, F MLP width, N edits, M keys of earlier batches, K (F, N) keys averaged
over contexts, R (D, N) what is missing at the highest layer, C (F, F), Delta (D, F).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.statistics import TOKENS, Moments, second_moments
from rwkvedit.transformer.tuning import Settings
from rwkvedit.transformer.value import Aim, NotFoundError, Value, solve_many
from rwkvedit.transformer.weights import Dense

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

METHODS = ("memit", "alphaedit")
ROWS = 64
PORTION = 10
"""Requests whose values are found in the same passes."""
DAMPING = 0.01
"""mu, in units of the mean squared length of the projected keys."""
Progress = Callable[[str, int, int], None]
Cancel = Callable[[], bool]


@dataclass
class Memory:
    """What ``alphaedit`` carries from batch to batch; changed by every batch."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    """Layer: (F, M) float64, projected."""
    projections: dict[int, Tensor] = field(default_factory=dict)
    """Layer: (F, r) float64, an orthonormal basis of the free directions."""

    def copy(self) -> Memory:
        """The same, to go back to."""
        return Memory(dict(self.keys), dict(self.projections))


@dataclass(frozen=True)
class Batch:
    """A batch that was written into the weights."""

    deltas: tuple[Dense, ...]
    values: list[Value | None]
    """One for each edit; None: not reached, and left out."""
    missing: list[str]
    """Why edits were left out."""
    layers: list[int]
    relative: dict[int, float]


def write(
    session: ModelSession,
    goals: Sequence[Aim],
    settings: Settings,
    method: str = "memit",
    *,
    memory: Memory | None = None,
    stats: str | Path | None = None,
    tokens: int = TOKENS,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Batch:
    """Write all of ``goals`` into the weights, on top of what is live.

    Edits whose answer cannot be reached are left out and said in ``missing``; NotFoundError when
    that is all of them. Every error and Ctrl-C leave the weights as they were.
    """
    if method not in METHODS:
        raise UsageError(f"no method {method!r}: choose {' or '.join(METHODS)}")
    if not goals:
        raise UsageError("no edits given: a list of at least one is needed")
    live = session.edits.live
    memory = Memory() if memory is None else memory
    remembered = dict(memory.keys)
    groups: dict[tuple[int, ...], list[int]] = {}
    for at, goal in enumerate(goals):
        own = goal.request.layer
        layers = settings.spread if own is None else (session.shape.layer(own),)
        groups.setdefault(layers, []).append(at)
    wanted = sorted({layer for layers in groups for layer in layers})
    moments = second_moments(
        session, wanted, stats, tokens, _named(progress, "statistics"), cancel
    )
    values: list[Value | None] = [None] * len(goals)
    missing: list[str] = []
    done = 0
    try:
        for layers in sorted(groups, key=lambda layers: layers[-1]):
            for some in _portions(groups[layers]):
                solved = solve_many(
                    session, [goals[at] for at in some], layers[-1], settings, cancel=cancel
                )
                for at, value in zip(some, solved, strict=True):
                    if isinstance(value, NotFoundError):
                        request = goals[at].request
                        missing.append(f"{request.label or request.prompt}: {value}")
                    else:
                        values[at] = value
                done += len(some)
                if progress is not None:
                    progress("values", done, len(goals))
            reached = [at for at in groups[layers] if values[at] is not None]
            if reached:
                _write_group(
                    session, [goals[at] for at in reached],
                    [value for at in reached if (value := values[at]) is not None],
                    layers, moments, settings, method, memory, cancel,
                )  # fmt: skip
        if all(value is None for value in values):
            raise NotFoundError("; ".join(missing))
    except BaseException:
        session.edits.set(live)
        memory.keys = remembered
        raise
    before = {delta.digest for delta in live}
    deltas = tuple(
        d for d in session.edits.live if d.digest not in before and isinstance(d, Dense)
    )
    touched = sorted({delta.layer for delta in deltas})
    relative = {layer: session.edits.relative_change(layer) for layer in touched}
    return Batch(deltas, values, missing, touched, relative)


def _portions(indices: Sequence[int]) -> list[Sequence[int]]:
    return [indices[at : at + PORTION] for at in range(0, len(indices), PORTION)]


def _write_group(
    session: ModelSession,
    goals: Sequence[Aim],
    values: Sequence[Value],
    layers: Sequence[int],
    moments: dict[int, Moments],
    settings: Settings,
    method: str,
    memory: Memory,
    cancel: Cancel | None,
) -> None:
    target = torch.stack([v.h + v.delta for v in values])  # (N, D) at the highest layer
    for at, layer in enumerate(layers):
        if cancel is not None and cancel():
            raise KeyboardInterrupt
        keys, h = look(session, goals, layer, layers[-1])
        share = ((target - h) / (len(layers) - at)).T.double().cpu()  # (D, N)
        k = keys.T.double().cpu()  # (F, N)
        if method == "memit":
            delta = least_squares(share, k, moments[layer], settings)
        else:
            delta = projected(share, k, moments[layer], settings, memory)
        session.edits.apply(Dense(layer, delta.float().to(session.device)))


def least_squares(share: Tensor, k: Tensor, moments: Moments, settings: Settings) -> Tensor:
    """(D, F): R K^T (lambda C + K K^T)^-1, by way of (N, N): R (I + K^T U)^-1 U^T, U = A^-1 K."""
    u = moments.whiten(k, settings.ridge) / settings.weight  # (F, N), A = lambda (C + ridge)
    gram = torch.eye(k.shape[1], dtype=k.dtype) + k.T @ u
    return share @ torch.linalg.solve(gram, u.T)


def projected(
    share: Tensor, k: Tensor, moments: Moments, settings: Settings, memory: Memory
) -> Tensor:
    """(D, F): the update of ``alphaedit``; ``k`` joins the memory."""
    layer = moments.layer
    if layer not in memory.projections:
        memory.projections[layer] = free_directions(moments.c, settings.cut)
    basis = memory.projections[layer]
    fresh = basis @ (basis.T @ k)  # (F, N)
    before = memory.keys.get(layer, fresh[:, :0])
    every = torch.cat([before, fresh], 1)  # (F, M + N)
    gram = every.T @ every
    mu = DAMPING * float(fresh.square().sum(0).mean())
    gram.diagonal().add_(mu)
    wanted = torch.cat([share.new_zeros(len(share), before.shape[1]), share], 1)
    memory.keys[layer] = every
    return torch.linalg.solve(gram, wanted.T).T @ every.T


def free_directions(c: Tensor, cut: float) -> Tensor:
    """(F, r) float64: the eigenvectors of ``c`` below ``cut`` times its mean eigenvalue.

    UsageError where there are none.
    """
    values, vectors = torch.linalg.eigh(c.double())
    free = values < cut * float(values.mean())
    if not bool(free.any()):
        raise UsageError(
            f"no direction of the keys is below {cut} of the mean: raise the cut-off, or give a "
            "larger corpus with --stats"
        )
    return vectors[:, free]


class _Enough(Exception):
    """The highest layer asked for has been seen."""


def look(
    session: ModelSession, goals: Sequence[Aim], layer: int, top: int
) -> tuple[Tensor, Tensor]:
    """((N, F) mean keys at ``layer``, (N, D) residuals after ``top`` in the bare prompts).

    Both at the subject's last token, with the weights as they are.
    """
    rows = [
        (n, which == 0, ids[: at + 1])
        for n, goal in enumerate(goals)
        for which, (ids, at) in enumerate(goal.places)
    ]
    keys = torch.zeros(len(goals), session.shape.d_ffn, device=session.device)
    h = torch.zeros(len(goals), session.d_model, device=session.device)
    rows.sort(key=lambda row: len(row[2]))
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        ends = torch.tensor([len(ids) - 1 for _, _, ids in part], device=session.device)
        every = torch.arange(len(part), device=session.device)

        def keep_key(x: Tensor, part=part, ends=ends, every=every) -> None:
            index = torch.tensor([n for n, _, _ in part], device=x.device)
            keys.index_add_(0, index, x[every, ends].float())

        def keep_h(x: Tensor, part=part, ends=ends, every=every) -> None:
            for b, (n, bare, _) in enumerate(part):
                if bare:
                    h[n] = x[b, ends[b]].float()
            if session.kind == "transformer":
                raise _Enough

        taps = {f"blocks.{layer}.ffn.key": keep_key, f"blocks.{top}.resid_out": keep_h}
        with suppress(_Enough):
            session.run([ids for _, _, ids in part], taps=taps, logits="none")
    counts = torch.tensor([len(goal.places) for goal in goals], device=session.device)
    return keys / counts[:, None], h


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
