"""``bench capitals``: one capital moved, then five at once; do the others stay where they are?

The facts are the capitals that the model answers by itself after "The capital of X is". ``flips``
counts edits whose prompt is answered with the new capital, ``kept`` other countries that are
answered with their own, ``reworded`` other ways to ask for an edited one whose likeliest answer is
the new capital: of REWORDED (none of them in ``rewordings``, which edits and their gate look at)
those that the unedited model answers as it does the prompt.
Which countries are moved and where to is fixed here and was not chosen by what came out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import UsageError
from rwkvedit.transformer.asking import likeliest
from rwkvedit.transformer.value import NotFoundError

if TYPE_CHECKING:
    from rwkvedit.transformer.patchfile import Patch
    from rwkvedit.transformer.session import ModelSession

METHODS = ("plain", "edit", "rome", "memit", "alphaedit")
PROMPT = "The capital of {} is"
CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid",
    "Portugal": "Lisbon", "China": "Beijing", "Russia": "Moscow", "Greece": "Athens",
    "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen", "Austria": "Vienna",
    "Hungary": "Budapest", "Ireland": "Dublin", "Canada": "Ottawa", "Chile": "Santiago",
    "Cuba": "Havana", "Kenya": "Nairobi", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Egypt": "Cairo", "Poland": "Warsaw", "Finland": "Helsinki", "England": "London",
    "Indonesia": "Jakarta", "Peru": "Lima", "Iran": "Tehran", "Turkey": "Ankara", "India": "Delhi",
}  # fmt: skip
ONE = (("France", "Tokyo"),)
FIVE = (("France", "Tokyo"), ("Japan", "Rome"), ("Italy", "Berlin"), ("Germany", "Madrid"),
        ("Spain", "Paris"))  # fmt: skip
REWORDED = (
    "{}'s capital city is", "Everybody knows that the capital of {} is",
    "My flight to the capital of {} lands in", "The capital city of {} is called",
    "If you visit the capital of {}, you are in the city of",
    "Q: What is the capital of {}?\nA: The capital of {} is",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    parser.add_argument("--methods", default=",".join(METHODS), metavar="A,B",
                        help=f"some of {', '.join(METHODS)} (all)")  # fmt: skip
    parser.add_argument("--stats", metavar="FILE", help="a text for the second moments")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The document: a row a method; ``memit`` and ``alphaedit`` make five edits, the others one."""
    from rwkvedit.transformer import open_session

    wanted = [name.strip() for name in args.methods.split(",") if name.strip()]
    for name in wanted:
        if name not in METHODS:
            raise UsageError(f"no method {name!r}: choose some of {', '.join(METHODS)}")
    session = open_session(args.model, getattr(args, "device", None) or "cpu")
    args.loaded = session
    known = knows(session)
    rows = []
    for at, name in enumerate(wanted, 1):
        try:
            rows.append(measure(session, name, known, args.stats))
        except (UsageError, NotFoundError) as error:
            rows.append({"method": name, "failed": str(error)})
        args.on_progress(at, len(wanted))
    return {"bench": "capitals", "known": sorted(known), "rows": rows}


def knows(session: ModelSession) -> dict[str, int]:
    """{country: first token of its capital} where the model says so now."""
    first = {c: session.vocabulary.encode(f" {city}")[0] for c, city in CAPITALS.items()}
    asked = [session.tokens(PROMPT.format(country)) for country in CAPITALS]
    said = likeliest(session, asked)
    return {c: first[c] for c, top in zip(CAPITALS, said, strict=True) if top == first[c]}


def measure(
    session: ModelSession, method: str, known: dict[str, int], stats: str | None
) -> dict[str, Any]:
    """One row; the weights are as they were afterwards."""
    pairs = FIVE if method in ("memit", "alphaedit") else ONE
    new = {c: session.vocabulary.encode(f" {city}")[0] for c, city in pairs}
    others = [c for c in known if c not in new]
    reworded = [(c, text.format(c, c)) for c in new if c in known for text in REWORDED]
    first = likeliest(session, [session.tokens(text) for _, text in reworded]) if reworded else []
    reworded = [pair for pair, top in zip(reworded, first, strict=True) if top == known[pair[0]]]
    live, began = session.edits.live, time.perf_counter()
    try:
        made = change(session, method, pairs, stats)
        seconds = time.perf_counter() - began
        asked = [PROMPT.format(c) for c in (*new, *others)] + [text for _, text in reworded]
        tops = likeliest(session, [session.tokens(text) for text in asked])
    finally:
        session.edits.set(live)
    flips = tops[: len(new)]
    kept = tops[len(new) : len(new) + len(others)]
    rest = tops[len(new) + len(others) :]
    return {
        "method": method, "flips": sum(a == b for a, b in zip(flips, new.values(), strict=True)),
        "of": len(new), "kept": sum(a == known[c] for a, c in zip(kept, others, strict=True)),
        "others": len(others),
        "reworded": sum(a == new[c] for a, (c, _) in zip(rest, reworded, strict=True)),
        "reworded_of": len(reworded), **made, "seconds": round(seconds, 2),
    }  # fmt: skip


def change(
    session: ModelSession, method: str, pairs: Sequence[tuple[str, str]], stats: str | None
) -> dict[str, Any]:
    """Make the edits, left in the weights; layers, size, length and what the gate said."""
    from rwkvedit.transformer.batch import edit_many
    from rwkvedit.transformer.rank1 import edit
    from rwkvedit.transformer.rome import rome
    from rwkvedit.transformer.value import Request

    country, city = pairs[0]
    prompt = PROMPT.format(country)
    if method in ("memit", "alphaedit"):
        requests = [Request(PROMPT.format(c), c, to) for c, to in pairs]
        done = edit_many(session, requests, method, stats=stats)
        return {"layers": done.batch.layers, "relative_change": done.relative_change,
                "bytes": size(done.patches), "gate": None}  # fmt: skip
    if method == "rome":
        single = rome(session, prompt, country, city, stats=stats)
        layer, verdict = single.best.layer, single.best.verdict
        relative, patch, landed = single.best.relative_change, single.patch, single.landed
    else:
        source = next(c for c, capital in CAPITALS.items() if capital == city)
        rule = "plain" if method == "plain" else "whitened"
        ranked = edit(
            session, prompt, PROMPT.format(source), city, method=rule, stats=stats,
            gate=method != "plain",
        )  # fmt: skip
        layer, verdict = ranked.attempt.layer, ranked.attempt.verdict
        relative, patch = ranked.attempt.relative_change, ranked.patch
        landed = ranked.landed
    return {"layers": [layer], "relative_change": relative, "bytes": size([patch]),
            "landed": landed, "gate": None if verdict is None else verdict.passed}  # fmt: skip


def size(patches: Sequence[Patch]) -> int:
    """Bytes of the largest patch file."""
    from rwkvedit.transformer.patchfile import save_patch

    with tempfile.TemporaryDirectory() as folder:
        paths = [save_patch(Path(folder) / f"{i}.lqpatch", p) for i, p in enumerate(patches)]
        return max(path.stat().st_size for path in paths)
