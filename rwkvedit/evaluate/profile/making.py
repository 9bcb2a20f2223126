"""Edits made by any method: singly, all in one batch, or one after another. Measures nothing.

Every call takes the weights as they are, and leaves them so: what it returns is what to apply.
The methods that make one edit at a time (``edit``, ``rome``) make a batch of edits that were each
found without the others; those of many (``memit``, ``alphaedit``) find a batch jointly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rwkvedit.errors import UsageError
from rwkvedit.transformer.memit import Memory, write
from rwkvedit.transformer.rome import CANDIDATES, update
from rwkvedit.transformer.statistics import second_moments
from rwkvedit.transformer.tuning import Settings, settings_for
from rwkvedit.transformer.value import NotFoundError, Request, aim, solve_many
from rwkvedit.transformer.weights import Delta, Dense

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

METHODS = ("edit", "rome", "memit", "alphaedit")
DEFAULT = "rome"
Deltas = tuple[Delta, ...]
Progress = Callable[[str, int, int], None]


class Maker:
    """One model and one method."""

    def __init__(
        self,
        session: ModelSession,
        method: str = DEFAULT,
        stats: str | None = None,
        progress: Progress | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> None:
        if method not in METHODS:
            raise UsageError(f"no method {method!r}: choose {', '.join(METHODS)}")
        self.session, self.method, self.stats = session, method, stats
        self.progress, self.cancel = progress, cancel
        self.settings = settings_for(session)

    def one(self, request: Request, like: str | None = None) -> Deltas:
        """One edit. NotFoundError when the answer cannot be reached.

        ``like``: a prompt that is answered with the new answer already (``edit`` starts there).
        """
        with self._as_it_was():
            if self.method == "edit":
                return self._edit(request, like)
            if self.method == "rome":
                found = self._rome([request])[0]
                if found is None:
                    raise NotFoundError(
                        f"{request.prompt!r} could not be made to go on with "
                        f"{request.target.strip()!r} at any layer"
                    )
                return found
            return self._written([request], None)

    def singly(self, requests: Sequence[Request], likes: Sequence[str | None]) -> list[Deltas]:
        """Each edit without the others; empty where it cannot be made."""
        with self._as_it_was():
            if self.method == "rome":
                return [found or () for found in self._rome(requests)]
        out: list[Deltas] = []
        for request, like in zip(requests, likes, strict=True):
            self._tell(f"single edits of {len(requests)}", len(out), len(requests))
            try:
                out.append(self.one(request, like))
            except (NotFoundError, UsageError):  # another fact's: it is left out
                out.append(())
        return out

    def together(self, requests: Sequence[Request], singly: Sequence[Deltas]) -> Deltas:
        """All of them in one batch; ``singly`` is what ``singly`` gave for them."""
        if self.method in ("edit", "rome"):
            return tuple({d.digest: d for deltas in singly for d in deltas}.values())
        with self._as_it_was():
            return self._written(requests, None)

    def after_another(
        self, requests: Sequence[Request], likes: Sequence[str | None]
    ) -> Iterator[tuple[Deltas, bool]]:
        """After each edit: all that is live on top of what was, and whether it could be made.

        The weights are the caller's between two edits: they must be as they were by the next.
        """
        session, memory = self.session, Memory()
        start = session.edits.live
        live: Deltas = ()
        for at, (request, like) in enumerate(zip(requests, likes, strict=True)):
            self._tell("edits in sequence", at, len(requests))
            made = True
            with self._as_it_was():
                session.edits.set([*start, *live])
                try:
                    if self.method in ("memit", "alphaedit"):
                        more = self._written([request], memory)
                    else:
                        more = self.one(request, like)
                except (NotFoundError, UsageError):
                    made, more = False, ()
                live = _summed([*live, *more])
            yield live, made

    # -- methods ----------------------------------------------------------------------------

    def _edit(self, request: Request, like: str | None) -> Deltas:
        from rwkvedit.transformer.rank1 import edit

        result = edit(
            self.session, request.prompt, like or request.prompt, request.target, request.layer,
            subject=request.subject, gate=False, stats=self.stats, cancel=self.cancel,
            progress=self.progress,
        )  # fmt: skip
        if not result.landed:
            raise NotFoundError(
                f"{request.prompt!r} is not answered with {request.target.strip()!r} at any "
                "strength"
            )
        return (result.delta,)

    def _rome(self, requests: Sequence[Request]) -> list[Deltas | None]:
        """Found in the same passes, at the first of the candidate layers where each is reached."""
        session, out = self.session, list[Deltas | None]([None] * len(requests))
        goals = [aim(session, request, self.settings.contexts) for request in requests]
        for rank in range(CANDIDATES):
            layers: dict[int, list[int]] = {}
            for at, request in enumerate(requests):
                layer = self._layer(request, rank)
                if out[at] is None and layer is not None:
                    layers.setdefault(layer, []).append(at)
            for layer, some in layers.items():
                moments = second_moments(session, [layer], self.stats, cancel=self.cancel)[layer]
                found = solve_many(
                    session, [goals[at] for at in some], layer, self.settings,
                    self._named(f"layer {layer}"), self.cancel,
                )  # fmt: skip
                for at, value in zip(some, found, strict=True):
                    if not isinstance(value, NotFoundError):
                        out[at] = (update(value, moments, layer, self.settings.ridge),)
        return out

    def _layer(self, request: Request, rank: int) -> int | None:
        if request.layer is not None:
            return self.session.shape.layer(request.layer) if rank == 0 else None
        layers = self.settings.layers
        return layers[rank] if rank < len(layers) else None

    def _written(self, requests: Sequence[Request], memory: Memory | None) -> Deltas:
        settings: Settings = self.settings
        goals = [aim(self.session, request, settings.contexts) for request in requests]
        return write(
            self.session, goals, settings, self.method, memory=memory, stats=self.stats,
            progress=self.progress, cancel=self.cancel,
        ).deltas  # fmt: skip

    # -- the weights as they were ---------------------------------------------------------------

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        live = self.session.edits.live
        try:
            yield
        finally:
            self.session.edits.set(live)

    def _named(self, what: str) -> Callable[[int, int], None] | None:
        tell = self.progress
        return None if tell is None else lambda done, of: tell(what, done, of)

    def _tell(self, what: str, done: int, of: int) -> None:
        if self.cancel is not None and self.cancel():
            raise KeyboardInterrupt
        if self.progress is not None:
            self.progress(what, done, of)


def _summed(deltas: Sequence[Delta]) -> Deltas:
    """One delta a layer: a long sequence would hold many, and one cannot be there twice."""
    by_layer: dict[int, list[Delta]] = {}
    for delta in deltas:
        by_layer.setdefault(delta.layer, []).append(delta)
    out = []
    for layer, some in sorted(by_layer.items()):
        if len(some) == 1:
            out.append(some[0])
            continue
        total = some[0].matrix()
        for delta in some[1:]:
            total = total + delta.matrix()
        out.append(Dense(layer, total.float()))
    return tuple(out)
