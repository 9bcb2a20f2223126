"""The registry of editing methods: each turns a workspace into a delta; one function, one entry.

All deltas are (l, H, N, N) over the edited layers, axes (layer, head, value, key); the edit is
``wkv + alpha * delta``. A rule that is not additive (slerp, a projection) gives the difference it
makes to the live state at alpha = 1. ``auto`` is a name for the chat's default, not a method of
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.workspace import Workspace

#: Where the published originals are defined; files are under its ``experiments/``.
PUBLISHED = "marty1885/llama.cpp tools/rwkv-probe"


@dataclass(frozen=True)
class Method:
    """``needs`` are the workspace rows it reads, each a short telling run from a known state;
    ``searched`` says if ``--ratio auto`` searches a strength (a replayed delta is exact at 1, and
    some rules set their own); ``replays`` that it runs the whole conversation again, O(T);
    ``offered`` that the chat names it (the rest are baselines and documented failures, for
    ``bench state``); ``guarded`` that it reads the controls (``ws.controls``). ``more`` is work
    that rows do not tell; ``source`` where it was published.
    """

    name: str
    delta: Callable[[Workspace], Tensor]
    needs: tuple[str, ...]
    calibrated: bool
    searched: bool
    offered: bool = True
    replays: bool = False
    more: str = ""
    source: str = ""
    guarded: bool = False

    @property
    def summary(self) -> str:
        return (self.delta.__doc__ or "").strip().splitlines()[0]

    @property
    def cost(self) -> str:
        """What its delta takes, beside the strength search that all searched methods share."""
        live = sum(not n.startswith("told") for n in self.needs) if self.calibrated else None
        parts = []
        if self.needs:
            rows = f"{len(self.needs)} short rows"
            parts.append(rows if live is None else f"{rows} ({live} with a saved calibration)")
        if self.replays:
            parts.append("two replays of the conversation, O(T)")
        if self.more:
            parts.append(self.more)
        return ", ".join(parts) or "nothing"

    def rows(self, ws: Workspace) -> tuple[str, ...]:
        """The rows still to run: none of the calibration's when a saved one stands in."""
        saved = self.calibrated and ws.calibration is not None
        return tuple(n for n in self.needs if not (saved and n.startswith("told")))

    def describe(self) -> dict[str, str | bool]:
        """One line of a listing: name, summary, cost, source, offered, searched."""
        return {
            "name": self.name, "summary": self.summary, "cost": self.cost, "source": self.source,
            "offered": self.offered, "searched": self.searched,
        }


METHODS: dict[str, Method] = {}

#: What the chat's ``auto`` tries, in order, until one holds; the report names the one used.
AUTO = ("hyb-u", "probe", "isolate", "nullspace", "nullspace-firm", "optimised")
#: The same for values of several tokens, whose deltas are of higher rank and read by more of the
#: others' questions: bent off those first (measured on another seed, 38 and 25 worlds: ten edits in
#: a row all hold in .895 instead of .789, seven people of two facts clean .96 instead of .92).
AUTO_SEVERAL = ("nullspace", "nullspace-firm", "probe", "hyb-u", "isolate", "optimised")


def method(
    name: str,
    *needs: str,
    calibrated: bool = False,
    searched: bool = True,
    offered: bool = True,
    replays: bool = False,
    more: str = "",
    source: str = "",
    guarded: bool = False,
):
    """Register a delta function under ``name``; one function may have several names.

    The first line of its docstring is the listing's summary.
    """

    def add(function: Callable[[Workspace], Tensor]) -> Callable[[Workspace], Tensor]:
        assert name not in METHODS, f"two methods called {name}"
        METHODS[name] = Method(
            name, function, needs, calibrated, searched, offered, replays, more, source,
            guarded,
        )
        return function

    return add


def published(file: str, label: str) -> str:
    """The ``source`` of a published original: its file and the name it has there."""
    return f"{PUBLISHED}/experiments/{file} ({label})"


def offered() -> tuple[str, ...]:
    """The names a chat may complete and list, ``auto`` first."""
    return ("auto", *(name for name, m in METHODS.items() if m.offered))


def find_method(name: str) -> Method:
    """Any method, offered or not. Raises UsageError with the list of those offered."""
    if name not in METHODS:
        raise UsageError(f"no method called {name}; there are {', '.join(offered())}")
    return METHODS[name]
