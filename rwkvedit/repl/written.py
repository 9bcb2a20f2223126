"""Components and write-vector edits as data for scripts and blocks for eyes. Prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvedit.repl.result import Block, Fields, Table, Text

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvedit.evaluate.writing_once import Written
    from rwkvedit.transformer.components import Component, Firing
    from rwkvedit.transformer.decomposition import Decomposition
    from rwkvedit.transformer.find import Findings
    from rwkvedit.transformer.session import ModelSession

View = tuple[dict[str, Any], list[Block]]
TOP = 8
SILENT = 0.01
"""Mean importance up to which a component is never needed."""


def found(result: Findings) -> View:
    """What was found, and what chance finds."""
    what = "PMI, nats" if result.by == "writes" else "contrast"
    rows = tuple(
        (f.name, f"{f.score:.2f}", f.fires, f"{f.threshold:.3g}", shown(f.examples[:3]),
         shown(f.writes[:3])) for f in result.found
    )
    chance = f"{max(result.random):.2f}" if result.random else "-"
    return result.to_json(), [
        Table(("component", what, "fires", "from |V.x|", "fires after", "writes"), rows),
        Text(f"{result.searched} neurons over {result.positions} positions; the best of as many "
             f"random components: {chance}"),
    ]  # fmt: skip


def shown(texts: list[str]) -> str:
    """Ends of texts, or tokens, beside each other."""
    return "  ".join(repr(text[-14:]) for text in texts)


def component(session: ModelSession, part: Component, seen: Firing) -> View:
    """One component: what it reads, writes, and after which texts it fires."""
    fires = seen.fires
    order = (seen.values.abs() * fires).flatten().argsort(descending=True)[:TOP].tolist()
    width = seen.values.shape[1]
    examples = [
        {
            "text": session.text(seen.rows[i // width][max(0, i % width - 8) : i % width + 1]),
            "activation": float(seen.values[i // width, i % width]),
        }
        for i in order if bool(fires[i // width, i % width])
    ]  # fmt: skip
    writes = session.project_through_unembed(part.write.cpu().numpy(), TOP)
    count = int(fires.sum())
    data = {
        "component": part.name, "layer": part.layer, "threshold": seen.threshold, "fires": count,
        "share": seen.share, "agreement": seen.agreement if count else None,
        "read_norm": float(part.read.norm()), "write_norm": float(part.write.norm()),
        "promotes": [{"token": p, "id": i, "logit": v} for i, p, v in writes.top],
        "suppresses": [{"token": p, "id": i, "logit": v} for i, p, v in writes.bottom],
        "examples": examples,
    }  # fmt: skip
    agree = f"{seen.agreement:.0%} positive" if count else "nowhere"
    blocks: list[Block] = [
        Fields.of(layer=part.layer, fires=f"{count} of {int(seen.counted.sum())} positions",
                  threshold=seen.threshold, sign=agree),
        Text("promotes directly: " + ", ".join(repr(p) for _, p, _ in writes.top)),
        Text("suppresses: " + ", ".join(repr(p) for _, p, _ in writes.bottom)),
        Table(("fires after", "V.x"),
              tuple((e["text"].replace("\n", "\\n"), f"{e['activation']:.3g}")
                    for e in examples)),
    ]  # fmt: skip
    return data, blocks


def decomposed(layer: int, result: Decomposition, path: Path) -> View:
    """A layer's components, the most important first, and how they add up."""
    order = result.active.argsort(descending=True).tolist()
    data = {
        "layer": layer, "path": str(path), "faithfulness": result.faithfulness,
        "remainder": result.remainder, "reconstruction": result.reconstruction,
        "components": [{"component": f"{path}:{layer}.{c}", "active": float(result.active[c])}
                       for c in order],
    }  # fmt: skip
    used = sum(one["active"] > SILENT for one in data["components"])
    top = tuple((one["component"], f"{one['active']:.3f}") for one in data["components"][:TOP])
    return data, [
        Fields.of(components=f"{used} of {len(order)} are ever needed",
                  remainder=f"{result.remainder:.1%} of the matrix",
                  reconstruction=f"{result.reconstruction:.4f} nats"),
        Table(("component", "mean importance"), top),
        Text(f"written to {path}: /components show {data['components'][0]['component']}"),
    ]  # fmt: skip


def written(result: Written) -> View:
    """What the edit came to."""
    m = result.measured
    blocks: list[Block] = [
        Table(
            ("where", "before", "after"),
            ((f"P of {result.target_text!r} where it fires", m["p_before"], m["p_target"]),),
        ),
        Table(
            ("elsewhere, nats", "KL(before || after)", "KL(after || before)"),
            (
                ("same rows", f"{m['kl_surround']:.5f}", f"{m['kl_surround_reverse']:.5f}"),
                ("other text", f"{m['kl_global']:.5f}", f"{m['kl_global_reverse']:.5f}"),
            ),
        ),
    ]
    verdict = result.verdict
    if verdict is not None:
        moved = ", ".join(map(str, verdict.moved)) or "none"
        blocks.append(Fields.of(
            prompts=verdict.paraphrase, kl=verdict.kl, fingerprint=verdict.fingerprint,
            layers_moved=moved,
        ))  # fmt: skip
    how = f"alpha {result.how['alpha']:g}" if "alpha" in result.how else (
        f"{result.how['examples']} examples")  # fmt: skip
    if result.landed:
        line = (
            f"{result.component} now writes {result.target_text!r} ({how}); layer "
            f"{result.layer}'s weights changed by {result.relative_change:.2%}"
        )
    else:
        why = "; ".join(verdict.why) if verdict is not None else ""
        line = f"the gate refused it ({why}): weights as before; --no-gate keeps it all the same"
    blocks.append(Text(line))
    return result.to_json(), blocks
