"""Edits of weights and patches as data for scripts and blocks for eyes. Prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rwkvedit.evaluate.intervals import rate
from rwkvedit.repl.result import Block, Fields, Table, Text

if TYPE_CHECKING:
    from rwkvedit.transformer.patches import Applied
    from rwkvedit.transformer.rank1 import EditResult
    from rwkvedit.transformer.session import ModelSession

View = tuple[dict[str, Any], list[Block]]
TOP = 5


def edit(result: EditResult, paths: Sequence[str]) -> View:
    """What was changed, what the gate said, and what each layer tried came to."""
    data = result.to_json()
    kept = result.held_out
    data["specificity"] = rate([float(x) for x in kept]) if kept else None
    data["patch"] = paths[0] if len(paths) == 1 else list(paths) or None
    verdict = data["gate"]
    rows = tuple(
        (
            a.layer, f"{a.scale:.2f}", f"{a.relative_change:.1%}", "yes" if a.flipped else "no",
            f"{a.kept[0]}/{a.kept[1]}",
            "" if a.verdict is None else "passed" if a.verdict.passed else "; ".join(a.verdict.why),
        )
        for a in result.attempts
    )  # fmt: skip
    blocks: list[Block] = [
        Table(("layer", "scale", "relative change", "flips", "others kept", "gate"), rows),
        Table(
            ("answer", "before", "after"),
            ((result.old, *result.p_old), (result.new, *result.p_new)),
        ),
    ]
    if verdict is not None:
        moved = ", ".join(verdict["moved"]) or "none"
        blocks.append(
            Fields.of(
                paraphrases=verdict["paraphrase"], kl=verdict["kl"],
                fingerprint=verdict["fingerprint"], layers_moved=moved,
            )
        )  # fmt: skip
    if kept:
        blocks.append(Text(f"{sum(kept)} of {len(kept)} held-out facts are answered as before"))
    blocks.append(Text(finding(result)))
    return data, blocks


def finding(result: EditResult) -> str:
    """One sentence."""
    at = result.attempt
    if result.landed:
        return (
            f"layer {at.layer}: {result.prompt!r} is now answered with {result.new!r}; "
            f"its weights changed by {at.relative_change:.1%}"
        )
    why = "the answer did not flip" if not at.flipped else "the gate refused it"
    return f"{why} at layer {', '.join(str(a.layer) for a in result.attempts)}: weights as before"


def applied(done: Applied, top: list[dict[str, Any]], reverse: bool) -> View:
    """Which patches, the digests on both sides, and what a prompt is answered with."""
    data = {**done.to_json(), "reversed": reverse, "top": top}
    word = "reversed" if reverse else "applied"
    rows = tuple(
        (path.name, p.delta.layer, p.delta.kind, p.label, f"{done.relative[p.delta.layer]:.1%}")
        for path, p in done.patches
    )
    blocks: list[Block] = [
        Table(("patch", "layer", "kind", "what", "relative change"), rows),
        Fields.of(**{word: len(rows), "before": done.before[:16], "after": done.after[:16]}),
    ]
    if top:
        blocks.append(Table(("likeliest", "P"), tuple((t["token"], t["p"]) for t in top)))
    return data, blocks


def top_of(session: ModelSession, prompt: str | None) -> list[dict[str, Any]]:
    """The likeliest tokens after a prompt; none without one."""
    if prompt is None:
        return []
    return [{"token": t.piece, "p": t.p} for t in session.forward(prompt).top(TOP)]
