"""One write-vector edit into a session's weights: made, measured, and held against the gate.

Where ``bench write`` asks what such edits cost over many settings, this makes one of them, in the
same way and on the same texts, and says what it came to on rows that it was not made from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.writing import Split, Sweep
from rwkvedit.evaluate.writing_texts import Texts, texts
from rwkvedit.transformer.components import component
from rwkvedit.transformer.gate import Gate, Verdict
from rwkvedit.transformer.patchfile import Patch
from rwkvedit.transformer.weights import RankOne
from rwkvedit.transformer.words import token_id
from rwkvedit.transformer.write_vectors import delta_of

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

ALPHA = 1.5
"""Where neither --alpha nor --train says."""
ROWS, OTHER, HELD, PROMPTS = 160, 16, 24, 7
"""Rows looked at, rows of other text, rows held out at most, and prompts of the gate."""
Cancel = Callable[[], bool]


@dataclass(frozen=True)
class Written:
    """What was made of it; it is in the weights if ``landed``."""

    component: str
    layer: int
    target: int
    target_text: str
    how: dict[str, Any]
    """``{"alpha": 1.5}`` or ``{"examples": 8}``."""
    measured: dict[str, Any]
    """As ``Sweep.measure`` has it."""
    threshold: float
    share: float
    """Of positions at which it fires."""
    verdict: Verdict | None
    landed: bool
    delta: RankOne
    patch: Patch
    relative_change: float
    held: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "component": self.component, "layers": [self.layer], "target": self.target,
            "target_text": self.target_text, **self.how, **self.measured,
            "threshold": self.threshold, "fires_share": self.share, "landed": self.landed,
            "gate": self.verdict and self.verdict.to_json(),
            "relative_change": self.relative_change, "rows_held_out": self.held,
            "seconds": self.seconds,
        }  # fmt: skip


def narrowed(found: Texts, rows: int = ROWS) -> Texts:
    """A part of the texts, evenly spread."""
    step = max(1, len(found.examples) // rows)
    return replace(
        found, find=found.find[:rows], examples=found.examples[::step][:rows],
        other=found.other[:OTHER],
    )  # fmt: skip


def write(
    session: ModelSession,
    name: str,
    target: str,
    *,
    alpha: float | None = None,
    train: int | None = None,
    gate: bool = True,
    strict: bool = True,
    text: str | Path | None = None,
    seed: int = 0,
    cancel: Cancel | None = None,
) -> Written:
    """Replace a component's write vector so that ``target`` follows where it fires.

    ``alpha``: from no examples; ``train``: from so many. The change is put into the weights on top
    of what is live on other layers; a gate that refuses it takes it out again. UsageError on a
    component that is not there or does not fire, a target of several tokens, both or an empty
    number of examples, and on a layer that is changed already; nothing is changed then.
    """
    began = time.perf_counter()
    if alpha is not None and train is not None:
        raise UsageError("--alpha is without examples, --train with: say one of them")
    if train is not None and train < 1:
        raise UsageError(f"no examples: --train takes a number from 1 on, not {train}")
    token = token_id(session, target)
    part = component(session, name)
    bench = Sweep.of(session, part, token, narrowed(texts(session, text)), 1, HELD, (),
                     cancel=cancel)  # fmt: skip
    part, split = bench.part, bench.split(seed)
    if train is not None and train > len(split.train):
        raise UsageError(
            f"{train} examples are too many: {part.name} fires in {len(split.train)} rows beside "
            f"the {len(split.held)} held out"
        )
    how: dict[str, Any] = {"examples": train}
    if train is None:
        how = {"alpha": ALPHA if alpha is None else alpha}
        new = bench.analytic(how["alpha"])
    else:
        new = bench.train(split, train, seed)
    measured = bench.measure(split, new - part.write.to(new.device), part.read)
    door = Gate(session, prompts(bench, split), [token], strict) if gate else None
    delta, live = delta_of(part, new), session.edits.live
    patch = Patch.of(
        session, delta, session.digest, method="write vector", component=part.name,
        new_token=session.piece(token), **how,
        label=f"{part.name} writes {session.piece(token)!r}",
    )  # fmt: skip
    try:
        change = session.edits.apply(delta)
        verdict = None if door is None else door.check([part.layer])
        landed = verdict is None or verdict.passed
    except BaseException:
        session.edits.set(live)
        raise
    if not landed:
        session.edits.set(live)
    return Written(
        part.name, part.layer, token, session.piece(token), how, measured, bench.seen.threshold,
        bench.seen.share, verdict, landed, delta, patch, change.relative_change,
        len(split.held), round(time.perf_counter() - began, 3),
    )  # fmt: skip


def prompts(bench: Sweep, split: Split) -> list[Sequence[int]]:
    """Held-out texts up to a fire position, for the gate's first question."""
    return [bench.world.rows[n][: t + 1] for n, t in split.fires[:PROMPTS]]
