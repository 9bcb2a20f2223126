"""Results of ``rome`` and ``memit`` as data for scripts and blocks for eyes. Prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rwkvedit.evaluate.intervals import rate
from rwkvedit.repl.result import Block, Fields, Table, Text

if TYPE_CHECKING:
    from rwkvedit.transformer.batch import BatchResult
    from rwkvedit.transformer.rome import RomeResult
    from rwkvedit.transformer.tuning import Settings

View = tuple[dict[str, Any], list[Block]]


def rome(result: RomeResult, paths: Sequence[str]) -> View:
    """What was changed, what the gate said, and what each layer tried came to."""
    data = {**result.to_json(), "patch": paths[0] if paths else None,
            "specificity": _rate(result.held_out)}  # fmt: skip
    rows = tuple(
        (
            one.layer,
            "-" if one.value is None else f"{one.value.loss:.2f}",
            f"{one.relative_change:.1%}",
            "yes" if one.flipped else "no",
            one.why or ("passed" if one.verdict else ""),
        )
        for one in result.tried
    )
    blocks: list[Block] = [
        Table(("layer", "loss", "relative change", "flips", "gate"), rows),
        Fields.of(before=result.p_new[0], after=result.p_new[1]),
    ]
    blocks += _kept(result.held_out)
    at = result.best
    if result.landed:
        said = (
            f"layer {at.layer}: {result.request.prompt!r} is now answered with {result.new!r}; "
            f"its weights changed by {at.relative_change:.1%}"
        )
    else:
        why = "the gate refused it" if at.flipped else "the answer did not flip"
        layers = ", ".join(str(one.layer) for one in result.tried)
        said = f"{why} at layer {layers}: weights as before"
    return data, [*blocks, Text(said)]


def batch(result: BatchResult, paths: Sequence[str]) -> View:
    """Every edit, and what the batch changed."""
    data = {**result.to_json(), "patch": list(paths) or None,
            "specificity": _rate(result.held_out)}  # fmt: skip
    rows = tuple(
        (r.label or r.prompt, r.target, *p, "yes" if so else "no")
        for r, p, so in zip(result.requests, result.p_new, result.flips, strict=True)
    )
    layers = ", ".join(f"{layer} ({x:.1%})" for layer, x in result.batch.relative.items())
    return data, [
        Table(("edit", "new answer", "P before", "P after", "flips"), rows),
        *_kept(result.held_out),
        Text(f"{sum(result.flips)} of {len(result.flips)} flip; layers changed: {layers}"),
    ]


def settings(found: Settings) -> View:
    """A calibration: what was chosen, and what was tried."""
    data = found.to_json()
    tried = tuple(tuple(row.values()) for row in found.found.get("tried", ()))
    columns = tuple(found.found["tried"][0]) if tried else ()
    chosen = {k: v for k, v in data.items() if k != "found"}
    return data, [Table(columns, tried), Fields.of(**chosen)]


def _rate(kept: Sequence[bool]) -> dict[str, Any] | None:
    return rate([float(x) for x in kept]) if kept else None


def _kept(kept: Sequence[bool]) -> list[Block]:
    if not kept:
        return []
    return [Text(f"{sum(kept)} of {len(kept)} held-out facts are answered as before")]
