"""The models that are open beside the conversation, and what is switched on in each.

Knows no screen and no commands. The conversation is not one of them: nothing here can change it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from rwkvedit.transformer.hooks import Hook
    from rwkvedit.transformer.memit import Memory
    from rwkvedit.transformer.patchfile import Patch
    from rwkvedit.transformer.session import ModelSession
    from rwkvedit.transformer.weights import Delta

CHAT = "chat"
"""The name under which ``use`` goes back to the conversation."""


def _memory() -> Memory:
    from rwkvedit.transformer.memit import Memory

    return Memory()


@dataclass(frozen=True)
class Held:
    """A hook that stays on, and the words that put it there."""

    text: str
    hook: Hook


@dataclass(frozen=True)
class WeightStep:
    """A command that changed weights, and what was live on its other side."""

    text: str
    live: tuple[Delta, ...]
    memory: Memory


@dataclass
class Opened:
    """An open model: ``steering`` and ``ablations`` act on everything that is asked of it."""

    name: str
    session: ModelSession
    steering: list[Held] = field(default_factory=list)
    ablations: list[Held] = field(default_factory=list)
    past: list[WeightStep] = field(default_factory=list)
    """Changes of weights that can be undone, the last one last."""
    future: list[WeightStep] = field(default_factory=list)
    """Those that were, the next to be done again last."""
    patches: dict[str, Patch] = field(default_factory=dict)
    """By digest: the patches of changes made or applied here."""
    written: tuple[str, str] | None = None
    """Component and target of the last write-vector edit."""
    memory: Memory = field(default_factory=_memory)
    """What ``alphaedit`` holds of the batches that are live."""

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Remember what the block does to the weights as one step."""
        before, held = self.session.edits.live, self.memory.copy()
        yield
        after = self.session.edits.live
        if not after:
            self.memory = _memory()
        if [d.digest for d in after] != [d.digest for d in before]:
            self.past.append(WeightStep(text, before, held))
            self.future.clear()

    def undo(self, steps: int) -> list[str]:
        """Take back weight steps, bit for bit; UsageError when there are not so many."""
        return self._move(self.past, self.future, steps, "undo")

    def redo(self, steps: int) -> list[str]:
        """Do weight steps again that were undone."""
        return self._move(self.future, self.past, steps, "redo")

    def _move(
        self, source: list[WeightStep], target: list[WeightStep], steps: int, what: str
    ) -> list[str]:
        if not 1 <= steps <= len(source):
            raise UsageError(
                f"{self.name} has {len(source)} changes of weights to {what}, not {steps}"
            )
        said = []
        for _ in range(steps):
            step, now = source[-1], self.session.edits.live
            self.session.edits.set(step.live)
            source.pop()
            target.append(WeightStep(step.text, now, self.memory))
            self.memory = step.memory
            said.append(step.text)
        return said

    @property
    def held(self) -> list[Held]:
        return [*self.steering, *self.ablations]

    @property
    def active(self) -> list[str]:
        """What is switched on, in words."""
        return [each.text for each in self.held]

    @contextmanager
    def hooked(self) -> Iterator[ModelSession]:
        """The session with everything that is switched on."""
        with self.session.hooked(*(each.hook for each in self.held)) as session:
            yield session


class Sessions:
    """Open models by name, and the one in use (None: the conversation)."""

    def __init__(self) -> None:
        self.opened: dict[str, Opened] = {}
        self.using: str | None = None

    def open(self, model: str, name: str | None = None, **options: Any) -> Opened:
        """Load ``model`` (see ``transformer.open_session``) and use it.

        Whatever goes wrong while loading leaves everything as it was. UsageError when ``name`` is
        taken.
        """
        from rwkvedit.transformer import open_session

        short = name or short_name(model)
        if short == CHAT:
            raise UsageError(f"{CHAT} is the conversation itself: say another with --name NAME")
        if short in self.opened:
            raise UsageError(
                f"{short} is open already: /use {short}, or open another with --name NAME"
            )
        known(model)
        opened = Opened(short, open_session(model, **options))
        self.opened[short] = opened
        self.using = short
        return opened

    def use(self, name: str) -> Opened | None:
        """Turn to an open model, or with ``chat`` back to the conversation (None)."""
        if name != CHAT:
            self.find(name)
        self.using = None if name == CHAT else name
        return self.opened.get(name)

    def close(self, name: str) -> Opened:
        """Let a model go; the conversation takes its place when it was in use."""
        gone = self.find(name)
        del self.opened[name]
        if self.using == name:
            self.using = None
        return gone

    def find(self, name: str) -> Opened:
        if name in self.opened:
            return self.opened[name]
        near = difflib.get_close_matches(name, [CHAT, *self.opened], n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"/open {name} opens it"
        raise UsageError(f"no open session '{name}': {hint}")

    @property
    def in_use(self) -> Opened | None:
        """The model in use, or None: the conversation."""
        return None if self.using is None else self.opened[self.using]

    @property
    def current(self) -> Opened:
        """The model in use; UsageError says how to get one."""
        if self.using is not None:
            return self.opened[self.using]
        if self.opened:
            raise UsageError(f"no session is in use: /use {' or /use '.join(self.opened)}")
        raise UsageError(
            "no session is open: /open smollm2, /open toy, or /open embedded (the chat's own model)"
        )


def model_names() -> list[str]:
    """The models that have a name."""
    from rwkvedit.models.catalog import DEFAULT
    from rwkvedit.models.fetch import PULLS
    from rwkvedit.transformer.loading import TOYS

    return [*PULLS, *TOYS, DEFAULT]


def known(model: str) -> None:
    """UnavailableError on what is neither a name nor there; it says the nearest name."""
    names = model_names()
    if model in names or Path(model).expanduser().exists():
        return
    near = difflib.get_close_matches(model, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "there is no such file"
    raise UnavailableError(f"no model '{model}': {hint} (names: {', '.join(names)}; or a path)")


def short_name(model: str) -> str:
    """A model's name, or a path's last part without its ending."""
    path = Path(model)
    if len(path.parts) <= 1 and path.suffix not in (".gguf", ".pth", ".safetensors"):
        return model
    return path.stem if path.suffix in (".gguf", ".pth", ".safetensors") else path.name
