"""Markdown tables of the documents in ``tests/measured``, for the README and the model's card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from measure import FOLDER, METHODS, RUNS, STATE, SUITES

from rwkvedit.report.writing import finding

RECALL = {
    "1-3": ("one to three people", ">= .98"),
    "5": ("five people", ">= .95"),
    "7x2": ("seven people, two facts each", ">= .90"),
    "corrected": ("the latest value after a correction", ">= .95"),
    "distance-500": ("500 tokens between fact and question", ">= .95"),
    "distance-1000": ("1,000 tokens between", ">= .90"),
    "unknown": ('"I don\'t know" when never told', ">= .90"),
    "false-unknown": ('"I don\'t know" when it was told', "<= .03"),
}
#: What each suite's ``auto`` is to reach: (measure, at least).
AIMS: dict[str, tuple[tuple[str, float], ...]] = {
    "five-entity": (("flip", 0.99), ("keep", 0.995), ("clean", 0.98)),
    "seven-entity-two-facts": (("clean", 0.93),),
    "same-entity": (("clean", 0.96),),
    "ambiguous": (("clean", 0.92),),
    "wording": (("clean", 0.96),),
    "cross-context": (("clean", 0.96),),
    "distance": (("clean", 0.92),),
    "long": (("clean", 0.92),),
    "sequential": (("flip", 0.92), ("keep", 0.92)),
    "property-erase": (("flip", 0.97), ("keep", 0.98)),
    "entity-erase": (("flip", 0.97), ("keep", 0.98)),
}


def load(name: str) -> dict[str, Any] | None:
    """A measured document, or None when that run has not been made."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rate(value: dict | None, digits: int = 3) -> str:
    """``0.993 [0.978, 1.000]``."""
    if not value or value.get("mean") is None:
        return "-"
    return f"{value['mean']:.{digits}f} [{value['lo']:.{digits}f}, {value['hi']:.{digits}f}]"


def mean(value: dict | None, digits: int = 3) -> str:
    return "-" if not value or value.get("mean") is None else f"{value['mean']:.{digits}f}"


def _titled(name: str, body: str) -> str:
    document = load(name)
    made = document["meta"] if document else {}
    about = f"model {str(made.get('model_digest', ''))[:12]}, {made.get('threads')} threads"
    return f"`rwkvedit {RUNS[name]} --json` ({about}):\n\n{body}"


def recall() -> str:
    document = load("recall")
    assert document is not None
    return _titled("recall", table(
        ("row", "what", "measured", "aimed at"),
        [(f"`{r['name']}`", RECALL[r["name"]][0], rate(r["accuracy"]), RECALL[r["name"]][1])
         for r in document["rows"]],
    ))


def methods(name: str, wanted: Sequence[str] | None = None) -> str:
    """One suite, a row a method."""
    document = load(name)
    assert document is not None
    rows = [r for r in document["rows"] if wanted is None or r["method"] in wanted]
    return _titled(name, table(
        ("method", "flip", "keep", "clean", "leak", "KL target", "KL control", "ms", "decodes"),
        [(f"`{r['method']}`", mean(r["flip"]), mean(r["keep"]), rate(r["clean"]), mean(r["leak"]),
          mean(r["kl_target"]), mean(r["kl_control"], 4), mean(r["ms"], 0), mean(r["decodes"], 0))
         for r in rows],
    )) + f"\n{document['worlds_counted']} of {document['worlds']} worlds counted.\n"


def suites() -> str:
    """``auto`` in every suite that has been run."""
    rows = []
    for name in SUITES:
        document = load(f"suite-{name}")
        if document is None:
            continue
        row = next(r for r in document["rows"] if r["method"] == "auto")
        aims = ", ".join(
            f"{m} >= {least:g} {'met' if row[m]['mean'] >= least else 'missed'}"
            for m, least in AIMS.get(name, ()) if document["worlds_counted"]
        )
        rows.append((
            name, f"{document['worlds_counted']}", rate(row["flip"]), rate(row["keep"]),
            rate(row["clean"]), mean(row.get("same_40")), mean(row.get("stutter")),
            aims or "none set",
        ))
    head = ("suite", "counted", "flip", "keep", "clean", "same 40", "stutter", "aim")
    return f"`rwkvedit {STATE.format('NAME')} --methods auto --json`:\n\n{table(head, rows)}"


def speed() -> str:
    document = load("speed")
    assert document is not None
    machine = document["machine"]
    rows = []
    for r in document["rows"]:
        share = r.get("fraction_of_bandwidth")
        peer = f"{r['peer']:,.1f} ({r['peer_name']})" if r.get("peer") else "-"
        ratio = f"{r['ratio']:.2f}x" if r.get("ratio") else "-"
        rows.append((r["task"], r["size"], f"{r['ours']:,.1f}", peer, r["unit"], ratio,
                     f"{share:.0%}" if share else "-"))
    about = (
        f"Best read bandwidth seen {machine['read_gb_per_s']:.1f} GB/s, fp32 matrix product "
        f"{machine['matmul_gflop_per_s']:.0f} GFLOP/s; shares are weight bytes read\nover "
        "what the same rounds' readings of memory reached.\n\n"
    )
    return _titled("speed", about + table(
        ("task", "size", "ours", "peer", "unit", "ratio", "share of read bandwidth"), rows))


def capitals() -> str:
    """One capital moved, and five."""
    document = load("capitals")
    assert document is not None
    return _titled("capitals", table(
        ("method", "layers", "flip", "other capitals kept", "reworded", "relative change",
         "patch, bytes", "gate", "s"),
        [(f"`{r['method']}`", ", ".join(map(str, r["layers"])), f"{r['flips']}/{r['of']}",
          f"{r['kept']}/{r['others']}", f"{r['reworded']}/{r['reworded_of']}",
          f"{r['relative_change']:.1%}", f"{r['bytes']:,}",
          {True: "passed", False: "refused", None: "none"}[r["gate"]], f"{r['seconds']:.1f}")
         for r in document["rows"]],
    ))


WRITES = ("write-smollm2", "write-embedded")
SINGLE_RUNS = ("edit-rome", "edit-preferred")
LORA_AS_GOOD_AS = 0.95
"""Of each number of examples, the LoRA shown is the least divergent that reaches this P(target),
or else the most accurate."""
FACTS_RUNS = ("edit-rome", "edit-preferred", "edit-memit", "edit-alphaedit", "edit-sequence")


def facts() -> str:
    """CounterFact's known records: every method beside the unedited model and random changes."""
    commands, rows = [], []
    for name in FACTS_RUNS:
        document = load(name)
        if document is None:
            continue
        commands.append(f"`rwkvedit {RUNS[name]} --json`")
        for r in document["rows"]:
            if r["method"] == "unedited" and rows and r["group"] == "known":
                continue
            k = r.get("k") or (1 if name in SINGLE_RUNS else r["efficacy"]["n"])
            how = f"{k} one after another" if r.get("k") else f"{k} at once" if k > 1 else "singly"
            rows.append((
                f"`{r['method']}`", r["group"], "-" if r["method"] == "unedited" else how,
                f"{r['efficacy']['n']}", rate(r["efficacy"]), rate(r["paraphrase"]),
                rate(r["neighbourhood"]), f"{r['score']:.3f}", mean(r["neighbourhood_prepended"]),
                mean(r.get("generation")), mean(r.get("entropy"), 2), mean(r.get("retention"), 2),
                f"{r['perplexity_ratio']:.3f}" if "perplexity_ratio" in r else "-",
                f"{r['seconds_per_edit']:.1f}",
            ))
    head = ("method", "records", "edits", "n", "efficacy", "paraphrase", "neighbourhood", "score",
            "neighb. prepended", "said", "entropy", "first 10", "perplexity", "s an edit")
    return ",\n".join(commands) + f":\n\n{table(head, rows)}"


def studies() -> str:
    document = load("studies")
    assert document is not None
    return _titled("studies", table(
        ("study", "found on the embedded model"),
        [(f"`{d['study']}`", d["finding"]) for d in document["studies"]],
    ))


def profile() -> str:
    """The thirteen benchmarks of one edit."""
    document = load("profile")
    assert document is not None
    edit = document["edits"][0]
    moved = ", ".join(f"layer {layer} by {x:.1%}" for layer, x in edit["relative"].items())
    about = (
        f"`{edit['prompt']}` -> `{edit['target'].strip()}` by `{document['method']}` ({moved}): "
        f"{document['passed']} of {document['of']} passed, in {document['meta']['seconds']:.0f} "
        "s.\n\n"
    )
    return _titled("profile", about + table(
        ("benchmark", "score", "threshold", "passed", "probes that count"),
        [(f"`{b['name']}`", "-" if b["score"] is None else f"{b['score']:.2f}",
          f"{b['threshold']:g}", "yes" if b["passed"] else "**no**",
          f"{b['counted']} of {b['of']}") for b in document["benchmarks"]],
    ))


def written() -> str:
    """Write vectors beside the LoRAs that do as much: a table for each model."""
    return "\n\n".join(_written(name) for name in WRITES if load(name) is not None)


def _written(name: str) -> str:
    document = load(name)
    assert document is not None
    points = document["points"]
    rows = [p for p in points if p["params"].get("alpha", 99) <= 3 and p["params"]["alpha"] > 0]
    rows += [p for p in points if p["method"] == "trained"]
    loras: dict[Any, list[dict[str, Any]]] = {}
    for p in points:
        if p["method"] == "lora":
            key = None if p["params"]["all"] else p["params"]["examples"]
            loras.setdefault(key, []).append(p)
    for some in loras.values():
        able = [p for p in some if p["p_target"]["mean"] >= LORA_AS_GOOD_AS]
        rows.append(min(able, key=lambda p: p["kl_surround"]["mean"]) if able
                    else max(some, key=lambda p: p["p_target"]["mean"]))  # fmt: skip
    about = (
        f"{document['component']} -> {document['target_text']!r}. {finding(document)}\n\n"
    )
    return _titled(name, about + table(
        ("method", "setting", "P(target)", "surrounding KL", "global KL", "KL over .01 nat"),
        [(f"`{p['method']}`", _setting(p["params"]), rate(p["p_target"]),
          rate(p["kl_surround"], 4), rate(p["kl_global"], 4), f"{p['blast_0.01']['mean']:.1%}")
         for p in rows],
    ))


def _setting(params: dict[str, Any]) -> str:
    if "alpha" in params:
        return f"no examples, alpha {params['alpha']:g}"
    some = f"{params['examples']} example{'s' * (params['examples'] != 1)}"
    return f"{some}, lambda {params['lambda']:g}" if "lambda" in params else some


def blocks() -> dict[str, str]:
    """The measured blocks that can be made from what has been run."""
    made = {
        "recall": ("recall", recall),
        "editing": ("editing", lambda: methods("editing", METHODS.split(","))),
        "same": ("editing-same", lambda: methods("editing-same", METHODS.split(","))),
        "methods": ("methods", lambda: methods("methods")),
        "suites": ("suite-five-entity", suites),
        "speed": ("speed", speed),
        "studies": ("studies", studies),
        "capitals": ("capitals", capitals),
        "facts": ("edit-rome", facts),
        "profile": ("profile", profile),
        "write": (WRITES[0], written),
    }
    return {name: make() for name, (needs, make) in made.items() if load(needs) is not None}
