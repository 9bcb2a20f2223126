"""A list of edits made together (``memit``), or one after another in one session (``alphaedit``).

Reads ``edits.json`` and says what became of every edit; ``memit`` writes the weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvedit.errors import FileFormatError, UsageError
from rwkvedit.files import read_bytes
from rwkvedit.transformer.asking import ask, likeliest
from rwkvedit.transformer.facts import held_out
from rwkvedit.transformer.hooks import Layers
from rwkvedit.transformer.memit import Batch, Cancel, Memory, Progress, write
from rwkvedit.transformer.patchfile import Patch
from rwkvedit.transformer.rewordings import subject_of
from rwkvedit.transformer.tuning import Settings, settings_for
from rwkvedit.transformer.value import Request, aim
from rwkvedit.transformer.weights import Dense

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

EXPECTED = "expected a JSON list of edits, each with prompt (or src), subject and target"


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch; it is in the weights."""

    method: str
    requests: list[Request]
    batch: Batch
    flips: list[bool]
    """Of each edit: does greedy decoding give the new answer?"""
    p_new: list[tuple[float, float]]
    """Probability of each whole new answer (before, after)."""
    held_out: list[bool]
    """Of each held-out fact asked: is it answered as before?"""
    patches: list[Patch]
    settings: Settings
    seconds: float
    notices: list[str] = field(default_factory=list)

    @property
    def relative_change(self) -> float:
        return max(self.batch.relative.values())

    def named_patches(self) -> list[tuple[str, Patch]]:
        """File names and patches: one a layer."""
        return [(f"layer-{patch.delta.layer:02d}", patch) for patch in self.patches]

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "layers": self.batch.layers,
            "flipped": sum(self.flips),
            "of": len(self.flips),
            "relative_change": self.relative_change,
            "relative": {str(layer): x for layer, x in self.batch.relative.items()},
            "gate": None,
            "edits": [
                {
                    "label": r.label, "prompt": r.prompt, "subject": r.subject,
                    "target": r.target, "flipped": so, "p_new": {"before": a, "after": b},
                    "loss": None if value is None else value.loss,
                }
                for r, so, (a, b), value in zip(
                    self.requests, self.flips, self.p_new, self.batch.values, strict=True
                )
            ],
            "settings": self.settings.to_json(),
            "seconds": self.seconds,
        }  # fmt: skip


def load_edits(path: str | Path) -> list[Request]:
    """``edits.json``. FileFormatError, in one line, on anything else.

    ``subject`` left out: the last capitalised words of the prompt.
    """
    try:
        rows = json.loads(read_bytes(path))
    except ValueError as error:
        raise FileFormatError(f"{path}: {EXPECTED}; found no JSON ({error})") from None
    if not isinstance(rows, list) or not rows:
        raise FileFormatError(f"{path}: {EXPECTED}; found none")
    return [_request(path, at, row) for at, row in enumerate(rows)]


def _request(path: str | Path, at: int, row: Any) -> Request:
    if not isinstance(row, dict):
        raise FileFormatError(f"{path}: {EXPECTED}; found {type(row).__name__} at {at}")
    prompt = row.get("prompt", row.get("src"))
    target = row.get("target", row.get("new_token"))
    subject, layer = row.get("subject"), row.get("layer")
    for name, value in (("prompt", prompt), ("target", target)):
        if not isinstance(value, str) or not value.strip():
            raise FileFormatError(f"{path}: {EXPECTED}; the edit at {at} has no {name}")
    if subject is None:
        subject = subject_of(str(prompt), "")
    if not isinstance(subject, str) or not subject.strip():
        raise FileFormatError(f"{path}: {EXPECTED}; the edit at {at} has no subject")
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int)):
        raise FileFormatError(f"{path}: the edit at {at} has layer {layer!r}, expected a number")
    return Request(str(prompt).rstrip(), subject, str(target), str(row.get("label", "")), layer)


def edit_many(
    session: ModelSession,
    requests: Sequence[Request],
    method: str = "memit",
    *,
    layers: Layers = None,
    crown: bool = False,
    settings: Settings | None = None,
    memory: Memory | None = None,
    stats: str | Path | None = None,
    specificity: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> BatchResult:
    """Write ``requests`` into the weights together, on top of what is live.

    ``layers`` None: the settings' spread; ``crown``: each edit at the layer whose MLP its current
    answer most depends on, jointly with the others of that layer. UsageError on two edits of one
    prompt, on a subject that is not in its prompt and on an answer that is the current one;
    NotFoundError when no new answer could be reached; the weights are then as they were.
    """
    began, base_digest = time.perf_counter(), session.digest
    settings = settings or settings_for(session)
    notices = [] if settings.found else [
        "no calibration of this model is known: layers and steps are a guess "
        "(rwkvedit rome MODEL --calibrate FILE finds them)"
    ]  # fmt: skip
    if layers is not None:
        settings = replace(settings, spread=tuple(session.shape.layers(layers)))
    requests = list(requests)
    seen: set[str] = set()
    for request in requests:
        if request.prompt in seen:
            raise UsageError(f"two edits of one prompt: {request.prompt!r}")
        seen.add(request.prompt)
    if crown:
        requests = [
            r if r.layer is not None else replace(r, layer=session.crown(r.prompt).crown)
            for r in requests
        ]
    goals = [aim(session, request, settings.contexts) for request in requests]
    before = [ask(session, [goal.places[0][0]], goal.target) for goal in goals]
    for request, said in zip(requests, before, strict=True):
        if said.says[0]:
            raise UsageError(
                f"the model answers {request.prompt!r} with {request.target.strip()!r} already: "
                "leave that edit out"
            )
    rng = np.random.default_rng(seed + 1)
    share = -(-specificity // len(requests)) if specificity else 0
    asked = {text for r in requests for text in held_out(r.prompt, r.subject, share, rng)} - seen
    probes = [session.tokens(text) for text in sorted(asked)[:specificity]]
    kept = likeliest(session, probes) if probes else []
    live = session.edits.live
    batch = write(
        session, goals, settings, method, memory=memory, stats=stats, progress=progress,
        cancel=cancel,
    )  # fmt: skip
    try:
        after = [ask(session, [goal.places[0][0]], goal.target) for goal in goals]
        same = likeliest(session, probes) if probes else []
        patches = [_patch(session, delta, base_digest, method, requests) for delta in batch.deltas]
    except BaseException:
        session.edits.set(live)
        raise
    return BatchResult(
        method, requests, batch, [said.says[0] for said in after],
        [(a.p[0], b.p[0]) for a, b in zip(before, after, strict=True)],
        [a == b for a, b in zip(kept, same, strict=True)], patches, settings,
        round(time.perf_counter() - began, 3), [*notices, *batch.missing],
    )  # fmt: skip


def _patch(
    session: ModelSession, delta: Dense, base: str, method: str, requests: Sequence[Request]
) -> Patch:
    edits = [{"label": r.label, "prompt": r.prompt, "subject": r.subject, "target": r.target}
             for r in requests]  # fmt: skip
    return Patch.of(
        session, delta, base, method=method, edits=edits,
        label=f"{method}: {len(edits)} edits, layer {delta.layer}",
    )  # fmt: skip
