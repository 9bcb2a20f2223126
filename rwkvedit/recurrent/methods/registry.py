"""The registry of editing methods: each turns a workspace into a delta; one function, one entry.

All deltas are (l, H, N, N) over the edited layers, axes (layer, head, value, key); the edit is
``wkv + alpha * delta``. ``auto`` is a name for the chat's default, not a method of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.workspace import Workspace


@dataclass(frozen=True)
class Method:
    """``needs`` are the workspace rows it reads; ``searched`` says if ``--ratio auto`` searches a
    strength (a replayed delta is exact at 1)."""

    name: str
    delta: Callable[[Workspace], Tensor]
    needs: tuple[str, ...]
    calibrated: bool
    searched: bool

    @property
    def summary(self) -> str:
        return (self.delta.__doc__ or "").strip().splitlines()[0]

    def rows(self, ws: Workspace) -> tuple[str, ...]:
        """The rows still to run: none of the calibration's when a saved one stands in."""
        saved = self.calibrated and ws.calibration is not None
        return tuple(n for n in self.needs if not (saved and n.startswith("told")))


METHODS: dict[str, Method] = {}

#: What the chat's ``auto`` tries, in order, until one holds; the report names the one used.
AUTO = ("hyb-u", "probe", "isolate")
#: The same for values of several tokens, whose deltas are of higher rank: the probe whole first
#: (measured: KL of controls to the oracle .004 nats against hyb-u's .035).
AUTO_SEVERAL = ("probe", "hyb-u", "isolate")


def method(name: str, *needs: str, calibrated: bool = False, searched: bool = True):
    """Register a delta function under ``name``."""

    def add(function: Callable[[Workspace], Tensor]) -> Callable[[Workspace], Tensor]:
        METHODS[name] = Method(name, function, needs, calibrated, searched)
        return function

    return add


def find_method(name: str) -> Method:
    """Raises UsageError with the list of methods."""
    if name not in METHODS:
        known = ", ".join(("auto", *METHODS))
        raise UsageError(f"no method called {name}; there are {known}")
    return METHODS[name]
