"""A profile as data for scripts and blocks for eyes. Prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwkvedit.repl.result import Block, Table, Text
from rwkvedit.report.profile import finding

View = tuple[dict[str, Any], list[Block]]


def profile(document: Mapping[str, Any]) -> View:
    """The benchmarks and their thresholds, and what was found in a sentence."""
    rows = tuple(
        (
            r["name"], "-" if r["score"] is None else f"{r['score']:.2f}", f"{r['threshold']:g}",
            "yes" if r["passed"] else "no", f"{r['counted']} of {r['of']}",
        )
        for r in document["benchmarks"]
    )  # fmt: skip
    return dict(document), [
        Table(("benchmark", "score", "threshold", "passed", "probes that count"), rows),
        Text(finding(document)),
        Text("rwkvedit bench profile --list says what each measures"),
    ]
