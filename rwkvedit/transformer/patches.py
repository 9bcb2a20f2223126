"""Applying ``.lqpatch`` files to a session and reversing them, exactly and in any order.

A patch is for the weights whose digest it carries: those that the session started from, or those
that patches applied before it leave. The result depends on which patches are live alone, never on
the order in which they came (see ``weights``). Writes no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.transformer.patchfile import Patch, load_paths

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

Named = tuple[Path, Patch]


@dataclass(frozen=True)
class Applied:
    """What was done, and the digests of the weights on both sides of it."""

    patches: list[Named]
    before: str
    after: str
    relative: dict[int, float]
    """Layer: ||W - base|| / ||base|| afterwards."""
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "applied": [
                {"path": str(path), "layer": p.delta.layer, "kind": p.delta.kind, "label": p.label}
                for path, p in self.patches
            ],
            "weights_digest_before": self.before,
            "weights_digest_after": self.after,
            "relative_change": self.relative,
        }


def apply_patches(
    session: ModelSession, paths: Iterable[str | Path], stack: bool = False
) -> Applied:
    """Apply patch files (or manifests, or folders of them) to a session's weights, all or none.

    Two patches of one layer, both for the same weights, were never tried together: they are
    refused unless ``stack``. Raises FileFormatError on a patch for other weights, another
    tokenizer or a damaged one, UsageError on one that is applied already.
    """
    named, before, live = _read(paths), session.digest, session.edits.live
    notices = [line for path, patch in named for line in _check(session, path, patch)]
    if not stack:
        _one_a_layer(session, named)
    try:
        _in_order(session, named, before)
        after = session.digest
    except BaseException:
        session.edits.set(live)
        raise
    return Applied(named, before, after, _relative(session, named), notices)


def reverse_patches(session: ModelSession, paths: Iterable[str | Path]) -> Applied:
    """Take patches out again, bit for bit, whatever was applied after them.

    Patches for exactly these weights that are not applied are applied and taken out, which shows
    that nothing is left of them. RwkvEditError where that cannot be exact: the weights are neither
    the patches' base nor known to carry them.
    """
    named, before = _read(paths), session.digest
    notices = [line for path, patch in named for line in _check(session, path, patch)]
    live = {delta.digest for delta in session.edits.live}
    carried = [patch.delta for _, patch in named if patch.delta.digest in live]
    if carried:
        for path, patch in named:
            if patch.delta.digest not in live:
                raise UsageError(f"nothing to reverse: {path} is not applied")
        session.edits.remove(*carried)
        return Applied(named, before, session.digest, _relative(session, named), notices)
    for path, patch in named:
        if patch.base_digest not in (None, before):
            raise RwkvEditError(
                f"{path} cannot be reversed here: these weights ({before[:16]}) are not those it "
                f"was made for ({patch.base_digest[:16]}) and carry no record of it; a folder "
                "that --save wrote does"
            )
    first = session.edits.live
    try:
        session.edits.apply(*(patch.delta for _, patch in named))
    finally:
        session.edits.set(first)
    notices.append("not applied to these weights: applied and taken back, nothing is left of it")
    return Applied(named, before, session.digest, _relative(session, named), notices)


def _read(paths: Iterable[str | Path]) -> list[Named]:
    named = load_paths(paths)
    seen: dict[str, Path] = {}
    for path, patch in named:
        if patch.delta.digest in seen:
            raise UsageError(f"{path} is the same patch as {seen[patch.delta.digest]}")
        seen[patch.delta.digest] = path
    if not named:
        raise UsageError("no patch given: say -p FILE.lqpatch")
    return named


def _check(session: ModelSession, path: Path, patch: Patch) -> list[str]:
    """Refuse what was made for another model; a line where the file does not say what it is for."""
    shape = tuple(session.model.down_proj(0).shape)
    if patch.delta.layer >= session.n_layer or patch.delta.shape != shape:
        raise FileFormatError(
            f"{path}: made for another model: it changes layer {patch.delta.layer} with shape "
            f"{patch.delta.shape}, expected a layer below {session.n_layer} with shape {shape}"
        )
    wanted = session.vocabulary.digest
    if patch.tokenizer_digest not in (None, wanted):
        raise FileFormatError(
            f"{path}: made for another tokenizer: expected digest {wanted[:16]}, found "
            f"{str(patch.tokenizer_digest)[:16]}"
        )
    if patch.base_digest is None:
        return [f"{path} does not say which weights it is for: only its shape could be checked"]
    return []


def _one_a_layer(session: ModelSession, named: Sequence[Named]) -> None:
    seen: dict[tuple[int, str | None], Path] = {}
    for path, patch in named:
        key = (patch.delta.layer, patch.base_digest)
        if key in seen:
            raise UsageError(
                f"{seen[key]} and {path} both change layer {patch.delta.layer}, each made without "
                "the other: make them together (rwkvedit memit), or add --stack to add them up"
            )
        seen[key] = path
    layers = {delta.layer for delta in session.edits.live}
    for path, patch in named:
        if patch.delta.layer in layers and patch.base_digest in (None, session.edits.base_digest):
            raise UsageError(
                f"layer {patch.delta.layer} is changed already and {path} was made without that: "
                "restore it first, or add --stack to add them up"
            )


def _in_order(session: ModelSession, named: Sequence[Named], before: str) -> None:
    """Apply each patch once the weights that it is for have been seen."""
    start, left = {None, before, session.edits.base_digest}, list(named)
    while left:
        ready = [patch for _, patch in left if patch.base_digest in start]
        if not ready:
            path, patch = left[0]
            dtype = str(session.dtype).removeprefix("torch.")
            other = f" in {patch.dtype}" if patch.dtype not in (None, dtype) else ""
            raise FileFormatError(
                f"{path}: made for other weights{other}: expected base digest {before[:16]}"
                f"{f' in {dtype}' if other else ''}, found {str(patch.base_digest)[:16]}"
            )
        for patch in ready:
            session.edits.apply(patch.delta)
            left = [pair for pair in left if pair[1] is not patch]
            if any(other.base_digest not in start for _, other in left):
                start.add(session.digest)


def _relative(session: ModelSession, named: Sequence[Named]) -> dict[int, float]:
    layers = sorted({patch.delta.layer for _, patch in named})
    return {layer: session.edits.relative_change(layer) for layer in layers}
