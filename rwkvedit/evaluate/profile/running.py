"""``rwkvedit bench profile MODEL --edit F``: the thirteen benchmarks of every edit in a file.

A task is one edit and everything that the benchmarks of one kind look at, so that what they share
is made once. The weights are as they were after every task, an error and Ctrl-C included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import FileFormatError, UsageError
from rwkvedit.evaluate import engine
from rwkvedit.evaluate.engine import Factory, Task
from rwkvedit.evaluate.engine.base import Here
from rwkvedit.evaluate.partial import Partial
from rwkvedit.evaluate.profile.case import Case, K, Known
from rwkvedit.evaluate.profile.making import DEFAULT, METHODS, Deltas, Maker, Progress
from rwkvedit.evaluate.profile.registry import NEEDS, Benchmark, benchmarks, row
from rwkvedit.files import read_bytes
from rwkvedit.interrupt import deferred
from rwkvedit.transformer.batch import load_edits
from rwkvedit.transformer.statistics import corpus_text
from rwkvedit.transformer.tuning import settings_for
from rwkvedit.transformer.value import Request

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

FACTORY = "rwkvedit.evaluate.profile.running:worker"
GIVEN = 400
"""Facts of --data that are looked at."""
DATA = "expected a list of facts: known_1000.json, CounterFact's flat records or zsRE's"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?",
                        help="smollm2, toy, embedded, or a path")  # fmt: skip
    parser.add_argument("--edit", metavar="FILE",
                        help="a JSON list of {prompt, subject, target, label?, layer?}")
    parser.add_argument("--method", choices=METHODS, default=DEFAULT,
                        help=f"how edits are made (default {DEFAULT})")  # fmt: skip
    parser.add_argument("--k", type=int, default=K, metavar="K",
                        help=f"edits of a sequence and of a batch (default {K})")  # fmt: skip
    parser.add_argument("--data", metavar="FILE",
                        help="facts for the further edits (default: of the same relation)")
    parser.add_argument("--stats", metavar="FILE", help="a text for the second moments")
    parser.add_argument("--seed", type=int, default=0, help="which further edits (default 0)")
    parser.add_argument("--png", metavar="FILE", help="draw the radar chart there")
    parser.add_argument("--html", metavar="FILE", help="write it there as one self-contained page")
    parser.add_argument("--list", action="store_true", help="say what each benchmark measures")
    engine.add_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The document."""
    from rwkvedit.repl.pictures import Pictures
    from rwkvedit.transformer import open_session

    if args.list:
        return {"benchmarks": [one.to_json() for one in benchmarks()], "list": True}
    if args.model is None or args.edit is None:
        raise UsageError("bench profile needs MODEL and --edit FILE (--list says what it measures)")
    if args.k < 2:
        raise UsageError("--k must be at least 2: a sequence of edits")
    args.pictures = Pictures({"png": args.png, "html": args.html})
    requests = load_edits(args.edit)
    given, digest = load_given(args.data) if args.data else ([], None)
    session = open_session(args.model, args.device or "cpu")
    args.loaded = session
    setup = {
        "model": args.model, "device": args.device or "cpu", "method": args.method, "k": args.k,
        "seed": args.seed, "stats": args.stats, "threads": args.threads,
        "requests": [asdict(r) for r in requests], "given": [asdict(g) for g in given],
    }  # fmt: skip
    asked = {
        "bench": "profile", "method": args.method, "k": args.k, "seed": args.seed, "data": digest,
        "edits": setup["requests"], "model_digest": session.digest,
        "stats": args.stats and corpus_text(args.stats)[1],
        "settings": settings_for(session).to_json(),
    }  # fmt: skip
    partial = Partial(args.out, asked)
    with deferred() as pressed:
        tell = getattr(args, "on_progress", None)
        work = Profiler(session, requests, args.method, args.k, args.seed, given, args.stats,
                        None if tell is None else lambda what, done, of: tell(done, of, what),
                        pressed)  # fmt: skip
        for at in range(len(requests)):
            work.case(at)  # a mistake in the last of them is better known now
        chosen = engine.engine_for(args, Factory(FACTORY, setup), work, pressed)
        document = measure(work, chosen, partial)
    document["method"], document["engine"] = args.method, args.engine
    if document.get("interrupted"):
        document["resume"] = args.out is not None
    return document


def measure(
    work: Profiler,
    chosen: engine.Engine,
    partial: Partial,
) -> dict[str, Any]:
    """``benchmarks`` and ``passed``; after Ctrl-C, those of what was done."""
    listed = benchmarks()
    kinds = [need for need in NEEDS if any(one.needs == need for one in listed)]
    tasks = [Task(f"{at}:{need}", {"edit": at, "needs": need})
             for at in range(len(work.requests)) for need in kinds]  # fmt: skip
    document: dict[str, Any] = {"bench": "profile"}
    try:
        engine.run(chosen, tasks, partial)
    except KeyboardInterrupt:
        document["interrupted"] = True
    done = {r["task"]: r["result"] for r in partial.records}
    rows = []
    for one in listed:
        keys = [f"{at}:{one.needs}" for at in range(len(work.requests))]
        if all(key in done for key in keys):
            rows.append(row(one, [done[key][one.name] for key in keys]))
    edits = [asdict(request) for request in work.requests]
    for at, edit in enumerate(edits):
        edit |= done.get(f"{at}:edit", {}).get("_edit", {})
    return {
        "benchmarks": rows, "passed": sum(r["passed"] for r in rows), "of": len(listed),
        "edits": edits, "k": work.k, **document,
    }  # fmt: skip


def here(work: Profiler) -> engine.Engine:
    """This process as an engine."""
    return Here(work, work.cancel)


def worker(setup: dict[str, Any]) -> Profiler:
    """A worker of another process: it opens the model by itself."""
    from rwkvedit.cli import set_threads
    from rwkvedit.transformer import open_session

    set_threads(setup["threads"])
    return Profiler(
        open_session(setup["model"], setup["device"]),
        [Request(**row) for row in setup["requests"]], setup["method"], setup["k"], setup["seed"],
        [Known(**row) for row in setup["given"]], setup["stats"],
    )  # fmt: skip


class Profiler:
    """A session and the edits to be profiled on it; called with a job, it does it."""

    def __init__(
        self,
        session: ModelSession,
        requests: Sequence[Request],
        method: str = DEFAULT,
        k: int = K,
        seed: int = 0,
        given: Sequence[Known] = (),
        stats: str | None = None,
        progress: Progress | None = None,
        cancel: Callable[[], bool] | None = None,
        made: Deltas | None = None,
    ) -> None:
        """``made``: the first request's edit, found already."""
        self.session, self.requests, self.k, self.seed = session, list(requests), k, seed
        self.given, self.progress, self.cancel = list(given), progress, cancel
        self.maker, self.made = Maker(session, method, stats, progress, cancel), made
        self.cases: dict[int, Case] = {}

    def case(self, at: int) -> Case:
        """One edit's case, with what it found so far."""
        if at not in self.cases:
            made = self.made if at == 0 else None
            request = self.requests[at]
            self.cases[at] = Case(self.maker, request, self.k, self.seed, self.given, made)
        return self.cases[at]

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """Every benchmark that needs ``job``'s kind, of one edit; the weights stay as they were."""
        live = self.session.edits.live
        wanted = [one for one in benchmarks() if one.needs == job["needs"]]
        out: dict[str, Any] = {}
        try:
            case = self.case(job["edit"])
            for at, one in enumerate(wanted):
                self._tell(one, at, len(wanted))
                out[one.name] = one.measure(case).to_json()
            if job["needs"] == "edit":
                out["_edit"] = self._about(case)
        finally:
            self.session.edits.set(live)
        return out

    def _about(self, case: Case) -> dict[str, Any]:
        """What the edit is."""
        with case.edited():
            held = case.holds([case.request])[0]
            relative = {str(d.layer): self.session.edits.relative_change(d.layer)
                        for d in case.deltas}  # fmt: skip
        return {"old": case.old.strip(), "flipped": held, "relative": relative}

    def _tell(self, one: Benchmark, at: int, of: int) -> None:
        if self.cancel is not None and self.cancel():
            raise KeyboardInterrupt
        if self.progress is not None:
            self.progress(one.name, at, of)


def load_given(path: str | Path) -> tuple[list[Known], str]:
    """Facts of ``--data`` (known_1000, CounterFact or zsRE by their keys) and the file's sha256."""
    import hashlib

    from rwkvedit.transformer.known import load_facts

    data = read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    try:
        rows = json.loads(data)
    except ValueError as error:
        raise FileFormatError(f"{path}: {DATA}; found no JSON ({error})") from None
    first = rows[0] if isinstance(rows, list) and rows else None
    if isinstance(first, dict) and {"src", "subject", "alt", "answers"} <= set(first):
        out = [_zsre(path, at, r) for at, r in enumerate(rows)]
    elif isinstance(first, dict) and "target_new" in first:
        from rwkvedit.evaluate.counterfact import load_records

        out = [Known(r.prompt, r.subject, r.ground_truth, r.target_new)
               for r in load_records(path)[0]]  # fmt: skip
    else:
        out = [Known(f.prompt, f.subject, f.attribute) for f in load_facts(path)]
    return out, digest


def _zsre(path: str | Path, at: int, found: Any) -> Known:
    try:
        answer = found["answers"][0]
        values = (found["src"], found["subject"], answer, found["alt"])
    except (KeyError, IndexError, TypeError):
        raise FileFormatError(f"{path}: {DATA}; the fact at {at} is none of them") from None
    if not all(isinstance(v, str) and v.strip() for v in values):
        raise FileFormatError(f"{path}: {DATA}; the fact at {at} has an empty part")
    return Known(f"Question: {values[0]} Answer:", values[1], values[2], values[3])
