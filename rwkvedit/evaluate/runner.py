"""``bench state``: every editing method over a suite's worlds, judged by whole greedy replies.

A world counts when the unedited model answers all its questions and the oracle (the conversation
replayed with the facts changed) flips; all methods are judged on the same worlds. The measures are
told in :mod:`~rwkvedit.evaluate.measures`. ``ms``, ``decodes`` (tokens run through the model) and
``forwards`` are of one edit, its strength search and verification included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from rwkvedit import __version__
from rwkvedit.errors import UsageError
from rwkvedit.evaluate.applying import Job, choose_methods, known_methods, make, replay
from rwkvedit.evaluate.intervals import rate
from rwkvedit.evaluate.loading import load_once
from rwkvedit.evaluate.measures import (
    Continued,
    Judged,
    continue_answers,
    holds,
    judge,
    knows,
    likelihood,
    score,
    score_more,
)
from rwkvedit.evaluate.partial import Partial
from rwkvedit.evaluate.suites import SUITES, EditCase, Suite, find_suite
from rwkvedit.evaluate.worlds import Maker, Turn
from rwkvedit.facts.lexicon import Lexicon, heldout, load_lexicon
from rwkvedit.models.catalog import LoadedModel
from rwkvedit.recurrent.workspace import layer_range

BATCH = 20  # worlds judged together
MEASURES = (
    "flip", "keep", "clean", "leak", "reply", "kl_target", "kl_control", "ms", "decodes",
    "forwards", "held", "keep_same", "keep_other", "fluency", "same_40", "stutter", "old_40",
)
ERASE_MEASURES = (*MEASURES, "still_first")
QUANTITIES = ("kl_target", "kl_control", "ms", "decodes", "forwards", "fluency")  # no shares
BY_MEASURES = ("flip", "keep", "clean", "leak", "reply", "kl_target", "kl_control")


def make_cases(
    suite: Suite, lexicon: Lexicon, worlds: int, seed: int,
    length: Callable[[Turn], int] | None = None,
) -> list[EditCase]:
    """The suite's first ``worlds`` cases; more worlds begin with the same ones."""
    maker = Maker(lexicon, np.random.default_rng([seed, crc32(suite.name.encode())]), length)
    return [suite(maker, i) for i in range(worlds)]


def measure(
    loaded: LoadedModel, suite: str, lexicon: Lexicon, worlds: int, seed: int,
    methods: Sequence[str] | None = None, *, layers: str = "upper", heard: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    wrong: list[dict[str, Any]] | None = None, out: str | Path | None = None,
) -> dict[str, Any]:
    """``{"suite", "rows", "worlds", "worlds_counted"}``; ``methods`` None: the usual ones.

    ``heard`` gives the edits the controls that a chat session would (the other facts heard).
    ``wrong`` collects what was not clean. With ``out`` every finished batch is kept in that file
    and a run that finds it goes on behind them. Ctrl-C ends the run early: the document then has
    the finished batches' rows, ``interrupted`` and ``worlds_done``. Raises UsageError for bad
    arguments, a lexicon too small for the suite, and an ``out`` of another run.
    """
    chosen = find_suite(suite)
    names = tuple(methods) if methods else choose_methods(None, chosen.erases)
    layer_range(layers, loaded.model.config.n_layer)
    partial = Partial(out, {
        "program": __version__, "suite": suite, "worlds": worlds, "seed": seed,
        "lexicon": _digest(lexicon), "methods": list(names), "layers": layers, "heard": heard,
        "model": loaded.model.digest, "tokenizer": loaded.tokenizer.digest,
        "device": loaded.model.device.type, "dtype": str(loaded.model.dtype),
        "backend": loaded.model.backend, "batch": BATCH,
    })
    cases = make_cases(chosen, lexicon, worlds, seed, lambda turn: len(
        loaded.template.encode_turn(loaded.tokenizer, turn.user, turn.reply)))
    done = len(partial.records)
    interrupted = False
    try:
        for first in range(done * BATCH, worlds, BATCH):
            if on_progress:
                on_progress(first, worlds)
            group = list(enumerate(cases))[first : first + BATCH]
            partial.add(_batch(loaded, group, names, layers, heard))
    except KeyboardInterrupt:
        interrupted = True
    document: dict[str, Any] = {
        "suite": suite, "worlds": worlds, **summary(partial.records, names, chosen)}
    if interrupted:
        document["interrupted"] = True
        document["worlds_done"] = min(len(partial.records) * BATCH, worlds)
        document["resume"] = bool(out)
    if wrong is not None:
        wrong += [one for record in partial.records for one in record["wrong"]]
    return document


def _digest(lexicon: Lexicon) -> str:
    words = json.dumps(lexicon.words, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _batch(
    loaded: LoadedModel, group: Sequence[tuple[int, EditCase]], methods: Sequence[str],
    layers: str, heard: bool,
) -> dict[str, Any]:
    """One batch's record: ``{"first", "worlds": [..], "wrong": [..]}``, all of it JSON."""
    histories = [Job(loaded, case, loaded.model.zero_state(), i).tokens(0) for i, case in group]
    with torch.no_grad():
        _, live = loaded.model.forward(histories)
    jobs = [
        Job(loaded, case, live[at], i, layers, heard) for at, (i, case) in enumerate(group)
    ]
    before = judge(loaded, [job.case for job in jobs], [job.live for job in jobs])
    jobs = [job for job, seen in zip(jobs, before, strict=True) if knows(seen, job.case)]
    replay(loaded, jobs)
    ideal = _judge_all(loaded, jobs, "oracle") if jobs else []
    flips = [all(holds(seen[len(job.case.steps)], job.case))
             for job, seen in zip(jobs, ideal, strict=True)]
    jobs = [job for job, good in zip(jobs, flips, strict=True) if good]
    ideal = [seen for seen, good in zip(ideal, flips, strict=True) if good]
    record: dict[str, Any] = {
        "first": group[0][0], "wrong": [],
        "worlds": [{"world": job.number, "group": job.case.group, "scores": {}} for job in jobs],
    }
    if not jobs:
        return record
    more, likely = _continue(loaded, jobs, "oracle", ideal)
    for method in methods:
        for job in jobs:
            job.made[method] = make(job, method)
        seen = ideal if method == "oracle" else _judge_all(loaded, jobs, method)
        further = (more, likely) if method == "oracle" else _continue(loaded, jobs, method, seen)
        for at, job in enumerate(jobs):
            scores = {
                str(stop): score(job.case, seen[at][stop], ideal[at][stop], stop)
                for stop in job.stops
            }
            whole = scores[str(job.stops[-1])]
            whole |= score_more(
                loaded, job.case, further[0][at], more[at], further[1][at], likely[at])
            made = job.made[method]
            whole |= {"ms": made.ms, "decodes": made.decodes, "forwards": made.forwards}
            record["worlds"][at]["scores"][method] = scores
            if not whole["clean"] and method not in ("none", "random"):
                record["wrong"].append(_fault(method, job, seen[at][job.stops[-1]], whole))
    return record


def _judge_all(loaded: LoadedModel, jobs: Sequence[Job], method: str) -> list[dict[int, Judged]]:
    """What every world answers after each of its stops."""
    found: list[dict[int, Judged]] = [{} for _ in jobs]
    cases = [job.case for job in jobs]
    for stop in jobs[0].stops:  # a suite's worlds stop alike, but for their number of edits
        steps = [stop if stop in job.stops[:-1] else job.stops[-1] for job in jobs]
        states = [make(job, "oracle").states[n] if method == "oracle" else
                  job.made[method].states[n] for job, n in zip(jobs, steps, strict=True)]
        one = None if stop == jobs[0].stops[-1] else stop
        for at, seen in enumerate(judge(loaded, cases, states, one)):
            found[at][steps[at]] = seen
    return found


def _continue(
    loaded: LoadedModel, jobs: Sequence[Job], method: str, seen: Sequence[dict[int, Judged]]
) -> tuple[list[Continued], list[float]]:
    """40 more tokens of every world after all its edits, and how likely the oracle finds them."""
    oracle = [make(job, "oracle").states[job.stops[-1]] for job in jobs]
    states = oracle if method == "oracle" else [
        job.made[method].states[job.stops[-1]] for job in jobs]
    judged = [answers[job.stops[-1]] for job, answers in zip(jobs, seen, strict=True)]
    texts = continue_answers(loaded, [job.case for job in jobs], states, judged)
    return texts, likelihood(loaded, oracle, texts)


def _fault(method: str, job: Job, seen: Judged, numbers: dict[str, Any]) -> dict[str, Any]:
    """What ``--show-wrong`` tells of a world that is not clean."""
    case, facts = job.case, job.case.world.facts
    missed = [i for i, good in zip(case.targets(), numbers["held"], strict=True) if not good]
    shown = missed[0] if missed else case.target
    now = case.truth()[shown]
    return {
        "method": method, "world": job.number, "group": case.group,
        "used": job.made[method].note, "old": facts[shown].statement(),
        "new": now.statement() if now else "", "asked": case.asks[shown],
        "reply": seen.replies[shown], "missed": len(missed),
        "lost": [f"{case.asks[i]} {seen.replies[i]} ({facts[i].value})"
                 for i, kept in zip(case.controls, numbers["keep"], strict=True) if not kept],
    }


# -- rates ----------------------------------------------------------------------------------


def summary(
    records: Sequence[dict[str, Any]], methods: Sequence[str], suite: Suite
) -> dict[str, Any]:
    """``rows`` and ``worlds_counted``; where a suite tells groups of worlds apart, ``by_what`` and
    ``by``: group -> method -> rates."""
    worlds = [world for record in records for world in record["worlds"]]
    names = ERASE_MEASURES if suite.erases else MEASURES
    rows = []
    by: dict[str, dict[str, Any]] = {}
    for method in methods:
        mine = [(w["world"], w["group"], w["scores"][method]) for w in worlds]
        row: dict[str, Any] = {"method": method, "worlds_counted": len(worlds)}
        rows.append(row | _rates(((i, _last(scores)) for i, _, scores in mine), names))
        for group, found in _grouped(mine).items():
            by.setdefault(group, {})[method] = {
                "worlds_counted": len(found), **_rates(found, BY_MEASURES)}
    document: dict[str, Any] = {"worlds_counted": len(worlds), "rows": rows}
    return document | ({"by_what": suite.groups, "by": by} if suite.groups else {})


def _last(scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return scores[max(scores, key=int)]


def _grouped(
    worlds: Iterable[tuple[int, str, dict[str, dict[str, Any]]]]
) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Worlds by their group, or by the number of edits where they were judged on the way."""
    by: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for i, group, scores in worlds:
        if len(scores) > 1:
            for stop, numbers in scores.items():
                by[stop].append((i, numbers))
        elif group:
            by[group].append((i, _last(scores)))
    numbered = all(key.isdigit() for key in by)
    return dict(sorted(by.items(), key=lambda item: (int(item[0]) if numbered else 0, item[0])))


def _rates(
    worlds: Iterable[tuple[int, dict[str, Any]]], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """A rate a measure, resampled by worlds. A measure nobody has is a rate of nothing."""
    values: dict[str, list[float]] = defaultdict(list)
    owners: dict[str, list[int]] = defaultdict(list)
    for i, numbers in worlds:
        for name in names:
            found = numbers.get(name, [])
            found = found if isinstance(found, list) else [found]
            values[name] += found
            owners[name] += [i] * len(found)
    return {name: rate(values[name], owners[name], share=name not in QUANTITIES) for name in names}


# -- the command ----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", "--suites", default="five-entity", metavar="NAME",
                        help="a suite (--list shows them all; default five-entity)")
    parser.add_argument("--worlds", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--lexicon", metavar="FILE",
                        help="a JSON file of words to use instead of the built-in")
    parser.add_argument("--methods", metavar="A,B",
                        help="methods to measure, or all (--list shows them)")
    parser.add_argument("--no-baselines", dest="beside", action="store_false",
                        help="only the methods named, without none, tell, oracle and random")
    parser.add_argument("--layers", default="upper", metavar="R",
                        help="upper, lower, all or a:b (default upper)")
    parser.add_argument("--no-heard", dest="heard", action="store_false",
                        help="do not give the edits the other facts as controls, as the chat does")
    parser.add_argument("--out", metavar="FILE",
                        help="keep finished batches here; the same command then goes on from it")
    parser.add_argument("--show-wrong", action="store_true", help="list what was not clean")
    parser.add_argument("--list", action="store_true", help="list the suites and methods, and stop")


def listing(suites: bool = True, methods: bool = True) -> dict[str, Any]:
    """The suites and methods there are, each with its summary in one line."""
    document: dict[str, Any] = {}
    if suites:
        document["suites"] = [{"name": s.name, "summary": s.summary} for s in SUITES.values()]
    if methods:
        for key, erases in (("methods", False), ("erase_methods", True)):
            document[key] = [
                {"name": name, "summary": summary} for name, summary in
                known_methods(erases).items()
            ]
    return document


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The document of ``bench state`` without its meta. Raises UsageError for bad arguments."""
    asked = [args.suite == "help", args.methods == "help"]
    if args.list or any(asked):
        return listing(args.list or asked[0], args.list or asked[1])
    suite = find_suite(args.suite)
    if args.worlds < 1:
        raise UsageError(f"--worlds {args.worlds} measures nothing; try --worlds 200")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed} must be 0 or more; try --seed 1")
    methods = choose_methods(args.methods, suite.erases, args.beside)
    lexicon = load_lexicon(args.lexicon) if args.lexicon else heldout()
    loaded = load_once(args)
    lexicon.check(loaded.tokenizer)
    wrong: list[dict[str, Any]] | None = [] if args.show_wrong else None
    document = measure(
        loaded, args.suite, lexicon, args.worlds, args.seed, methods,
        layers=args.layers, heard=args.heard, wrong=wrong, out=args.out,
        on_progress=getattr(args, "on_progress", None),
    )
    document["lexicon"] = lexicon.source
    if wrong is not None:
        document["wrong"] = wrong
    return document
