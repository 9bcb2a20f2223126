"""``bench edit``: single, joint and sequential weight edits on CounterFact-shaped records.

Protocols, each named in the document:

    teacher-forced   mean log P a token of the new and the true answer are compared:
                     efficacy (prompt: new above true), paraphrase (rephrased prompt: new above
                     true), neighbourhood (another subject: its true answer above the new one),
                     neighbourhood_prepended (the same behind the edit's own sentence)
    argmax           greedy decoding gives exactly the answer: efficacy_argmax, paraphrase_argmax
    generation       the new answer stands in WRITTEN greedy tokens after the prompt; entropy is
                     their n-gram entropy, (2 H2 + 4 H3) / 6 in bits (Meng et al. 2022, appendix)

``score`` is the harmonic mean of efficacy, paraphrase and neighbourhood. ``unedited`` is the model
as it is; ``random`` writes a random direction of the same length for the same key.
``rome`` and ``edit`` are measured one edit at a time, ``memit`` and ``alphaedit`` all at once; with
``--sequential K`` edits come one after another and stay.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from rwkvedit.errors import UsageError
from rwkvedit.evaluate import engine
from rwkvedit.evaluate.counterfact import GROUPS, Record, load_records, select
from rwkvedit.evaluate.engine import Factory, Task
from rwkvedit.evaluate.engine.base import Here
from rwkvedit.evaluate.intervals import rate
from rwkvedit.evaluate.partial import Partial
from rwkvedit.evaluate.saying import Asked, Said, say, write_on
from rwkvedit.interrupt import deferred
from rwkvedit.transformer.memit import Memory, write
from rwkvedit.transformer.rome import update
from rwkvedit.transformer.statistics import TOKENS, chunks, corpus_text, second_moments
from rwkvedit.transformer.tuning import Settings, settings_for
from rwkvedit.transformer.value import NotFoundError, aim, solve_many, target_ids
from rwkvedit.transformer.weights import Dense, RankOne

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

FACTORY = "rwkvedit.evaluate.editing:worker"
SINGLE, JOINT = ("rome", "edit"), ("memit", "alphaedit")
WRITTEN = 24
CHUNK = 25
FIRST = 10
"""Of a sequence, the edits whose retention is told."""
STOPS = (1, 10, 100)
RATES = (
    "efficacy", "paraphrase", "neighbourhood", "neighbourhood_prepended", "generation",
    "efficacy_argmax", "paraphrase_argmax",
)  # fmt: skip
PROTOCOLS = {
    **dict.fromkeys(RATES[:4], "teacher-forced"), "generation": "generation",
    **dict.fromkeys(RATES[5:], "argmax"), "entropy": "generation",
}  # fmt: skip
SOFT = ("efficacy_soft", "paraphrase_soft", "neighbourhood_soft")
"""The same by how much: what a calibration looks at, since it sees few records."""
Values = dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    parser.add_argument("--method", required=True, choices=(*SINGLE, *JOINT))
    parser.add_argument("--data", required=True, metavar="FILE", help="CounterFact's flat records")
    parser.add_argument("--n", type=int, default=50, metavar="N", help="records a group (50)")
    parser.add_argument("--seed", type=int, default=0, help="which records (default 0)")
    parser.add_argument("--group", choices=GROUPS, help="default: known, then preferred")
    parser.add_argument("--sequential", type=int, metavar="K",
                        help="K edits one after another, all staying")  # fmt: skip
    parser.add_argument("--layer", type=int, metavar="L", help="write there alone")
    parser.add_argument("--stats", metavar="FILE", help="a text for the second moments")
    engine.add_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The document: rows by group and method."""
    from rwkvedit.transformer import open_session
    from rwkvedit.transformer.rome import with_layer

    if args.n < 1 or (args.sequential is not None and args.sequential < 1):
        raise UsageError("--n and --sequential must be at least 1")
    if args.sequential is not None and args.method == "edit":
        raise UsageError("--sequential goes with rome, memit and alphaedit")
    records, digest = load_records(args.data)
    session = open_session(args.model, getattr(args, "device", None) or "cpu")
    args.loaded = session
    settings = settings_for(session)
    if args.layer is not None:
        settings = with_layer(settings, session.shape.layer(args.layer))
    n = args.sequential or args.n
    asked = {
        "bench": "edit", "method": args.method, "data": digest, "n": n, "seed": args.seed,
        "model_digest": session.digest, "settings": settings.to_json(),
        "sequential": args.sequential, "groups": [args.group] if args.group else list(GROUPS[:2]),
        "stats": args.stats and corpus_text(args.stats)[1],
    }  # fmt: skip
    partial = Partial(args.out, asked)
    rows: list[dict[str, Any]] = []
    document: dict[str, Any] = {"bench": "edit", "method": args.method, "rows": rows,
                                "protocols": PROTOCOLS, "settings": settings.to_json(),
                                "data_digest": digest, "sequential": args.sequential}  # fmt: skip
    with deferred() as pressed:
        try:
            for group in asked["groups"]:
                chosen = select(session, records, digest, group, n, args.seed, None, pressed)
                if not chosen:
                    raise UsageError(f"{args.data}: no record of the group {group}")
                bench = Bench(
                    session, [records[i] for i in chosen], settings, args.method, args.stats,
                    args.seed, args.on_progress, pressed,
                )  # fmt: skip
                if args.sequential is not None:
                    found = bench.sequential()
                elif args.method in SINGLE:
                    factory = Factory(FACTORY, {
                        "model": args.model, "device": getattr(args, "device", None) or "cpu",
                        "threads": getattr(args, "threads", None), "settings": settings.to_json(),
                        "method": args.method, "stats": args.stats, "seed": args.seed,
                        "records": [asdict(record) for record in bench.records],
                    })  # fmt: skip
                    chosen_engine = engine.engine_for(args, factory, bench, pressed)
                    found = bench.single(partial, group, chosen_engine)
                else:
                    found = bench.joint()
                rows += [{"method": row.pop("method"), "group": group, **row} for row in found]
        except KeyboardInterrupt:
            document["interrupted"], document["resume"] = True, args.out is not None
    return document


def worker(setup: dict[str, Any]) -> Bench:
    """A worker of another process: it opens the model by itself."""
    from rwkvedit.cli import set_threads
    from rwkvedit.transformer import open_session
    from rwkvedit.transformer.tuning import from_json

    set_threads(setup["threads"])
    return Bench(
        open_session(setup["model"], setup["device"]), [Record(**r) for r in setup["records"]],
        from_json(setup["settings"]), setup["method"], setup["stats"], setup["seed"],
    )  # fmt: skip


class Bench:
    """The records of one group, and a method."""

    def __init__(
        self,
        session: ModelSession,
        records: Sequence[Record],
        settings: Settings,
        method: str,
        stats: str | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> None:
        self.session, self.records, self.settings = session, records, settings
        self.method, self.stats, self.seed = method, stats, seed
        self.progress, self.cancel = progress or (lambda done, of: None), cancel

    # -- one edit at a time -----------------------------------------------------------------

    def single(
        self, partial: Partial, group: str, chosen: engine.Engine | None = None
    ) -> list[dict[str, Any]]:
        """Rows unedited, random and the method's own; chunks that ``partial`` holds are kept."""
        tasks = [Task(f"{group}:{at}", {"at": at}) for at in range(0, len(self.records), CHUNK)]
        done: list[Task] = []

        def progress(task: Task) -> None:
            done.append(task)
            self.progress(min(len(done) * CHUNK, len(self.records)), len(self.records))

        found = engine.run(chosen or Here(self, self.cancel), tasks, partial, progress)
        chunks_ = [found[task.key] for task in tasks]
        out = []
        for name in ("unedited", "random", self.method):
            values = [v for chunk in chunks_ for v in chunk["rows"][name]]
            own = name == self.method
            seconds = [s for chunk in chunks_ for s in chunk["seconds"]] if own else [0.0]
            out.append(summary(name, values, sum(seconds) / len(seconds)))
            if own:
                out[-1]["failed"] = sum(chunk["failed"] for chunk in chunks_)
        return out

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """One chunk of single edits: the engine's work."""
        at = job["at"]
        part = self.records[at : at + CHUNK]
        found = self._rome(part) if self.method == "rome" else [self._edit(r) for r in part]
        deltas = [delta for delta, _ in found]
        noise = [self._random(delta, at + i) for i, delta in enumerate(deltas)]
        return {
            "seconds": [seconds for _, seconds in found],
            "failed": sum(delta is None for delta in deltas),
            "rows": {
                "unedited": self.measure(part), "random": self.measure(part, noise),
                self.method: self.measure(part, deltas),
            },
        }  # fmt: skip

    def _rome(self, records: Sequence[Record]) -> list[tuple[RankOne | None, float]]:
        """Each record's update (None: not reached) and seconds, found in the same passes."""
        began, layer = time.perf_counter(), self.settings.layers[0]
        moments = second_moments(self.session, [layer], self.stats, cancel=self.cancel)[layer]
        goals = [aim(self.session, r.request(), self.settings.contexts) for r in records]
        found = solve_many(self.session, goals, layer, self.settings, cancel=self.cancel)
        deltas = [
            None if isinstance(value, NotFoundError)
            else update(value, moments, layer, self.settings.ridge) for value in found
        ]
        each = (time.perf_counter() - began) / len(records)
        return [(delta, each) for delta in deltas]

    def _edit(self, record: Record) -> tuple[RankOne | None, float]:
        """The update of ``edit`` without its gate; None for an answer of several tokens."""
        from rwkvedit.transformer.rank1 import edit

        if self.cancel is not None and self.cancel():
            raise KeyboardInterrupt
        began, live = time.perf_counter(), self.session.edits.live
        try:
            delta = edit(
                self.session, record.prompt, record.prompt, record.target_new,
                subject=record.subject, gate=False, stats=self.stats, cancel=self.cancel,
            ).delta  # fmt: skip
        except UsageError:
            delta = None
        finally:
            self.session.edits.set(live)
        return delta, time.perf_counter() - began

    def _random(self, delta: RankOne | None, at: int) -> RankOne | None:
        """The same length and key, another direction."""
        if delta is None:
            return None
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + at)
        left = torch.randn(delta.left.shape, generator=generator).to(delta.left.device)
        return RankOne(delta.layer, left * (delta.left.norm() / left.norm()), delta.right)

    # -- all at once, and one after another -------------------------------------------------

    def joint(self) -> list[dict[str, Any]]:
        """Rows unedited, random and the method's, every record edited in one batch."""
        before = self.session.edits.live
        rows = [summary("unedited", self.measure(self.records), 0.0)]
        began = time.perf_counter()
        batch = self._write(self.records, None)
        seconds = (time.perf_counter() - began) / len(self.records)
        try:
            own = summary(self.method, self.measure(self.records), seconds)
            own |= {"failed": len(batch.missing), "layers": batch.layers,
                    "relative_change": max(batch.relative.values()),
                    "perplexity_ratio": self._perplexity()}  # fmt: skip
            generator = torch.Generator().manual_seed(self.seed)
            noise = [_shuffled(delta, generator) for delta in batch.deltas]
            self.session.edits.set([*before, *noise])
            rows += [summary("random", self.measure(self.records), 0.0), own]
        finally:
            self.session.edits.set(before)
        own["perplexity_ratio"] /= self._perplexity()
        return rows

    def sequential(self) -> list[dict[str, Any]]:
        """Rows at 1, 10, 100 and the last of the edits so far, those before still live."""
        session, total = self.session, len(self.records)
        before, memory = session.edits.live, Memory()
        base = self._perplexity()
        rows = [{**summary("unedited", self.measure(self.records), 0.0), "k": 0}]
        took: list[bool] = []
        failed, seconds, began = 0, 0.0, time.perf_counter()
        try:
            for k, record in enumerate(self.records, 1):
                began = time.perf_counter()
                try:
                    self._add(record, memory)
                except NotFoundError:
                    failed += 1
                seconds += time.perf_counter() - began
                if k <= FIRST:
                    took.append(self.measure([record], generate=False)[0]["efficacy"] == 1.0)
                self.progress(k, total)
                if k in STOPS or k == total:
                    values = self.measure(self.records[:k])
                    held = [v["efficacy"] for v, so in zip(values, took, strict=False) if so]
                    rows.append({
                        **summary(self.method, values, seconds / k), "k": k, "failed": failed,
                        "retention": rate(held), "perplexity_ratio": self._perplexity() / base,
                    })  # fmt: skip
        finally:
            session.edits.set(before)
        return rows

    def _add(self, record: Record, memory: Memory) -> None:
        """One more edit on top of the weights as they are; each layer's deltas are kept as one."""
        session = self.session
        if self.cancel is not None and self.cancel():
            raise KeyboardInterrupt
        if self.method == "rome":
            delta, _ = self._rome([record])[0]
            if delta is None:
                raise NotFoundError(record.prompt)
            session.edits.apply(delta)
        else:
            self._write([record], memory)
        summed: dict[int, torch.Tensor] = {}
        for delta in session.edits.live:
            matrix = delta.matrix()
            summed[delta.layer] = summed[delta.layer] + matrix if delta.layer in summed else matrix
        session.edits.set([Dense(layer, total.float()) for layer, total in summed.items()])

    def _write(self, records: Sequence[Record], memory: Memory | None) -> Any:
        goals = [aim(self.session, r.request(), self.settings.contexts) for r in records]
        named = None if memory is not None else lambda what, done, of: self.progress(done, of)
        return write(
            self.session, goals, self.settings, self.method, memory=memory, stats=self.stats,
            progress=named, cancel=self.cancel,
        )  # fmt: skip

    def _perplexity(self) -> float:
        """Of the shipped corpus behind the tokens that its statistics use."""
        text, _ = corpus_text(None)
        rows = [row for row in chunks(self.session, text, 10 * TOKENS) if len(row) > 1]
        held = rows[-6:]
        nats = [-one.logp for one in say(self.session, [Asked(r[:1], r[1:]) for r in held])]
        return math.exp(sum(nats) / len(nats))

    # -- measuring --------------------------------------------------------------------------

    def values(self, generate: bool = True) -> list[Values]:
        """Every record's measures under the method: alone (rome, edit), else all at once."""
        if self.method in JOINT:
            before = self.session.edits.live
            self._write(self.records, None)
            try:
                return self.measure(self.records, generate=generate)
            finally:
                self.session.edits.set(before)
        out = []
        for at in range(0, len(self.records), CHUNK):
            part = self.records[at : at + CHUNK]
            found = self._rome(part) if self.method == "rome" else [self._edit(r) for r in part]
            out += self.measure(part, [delta for delta, _ in found], generate)
        return out

    def measure(
        self,
        records: Sequence[Record],
        deltas: Sequence[RankOne | None] | None = None,
        generate: bool = True,
    ) -> list[Values]:
        """Every measure of every record, with ``deltas`` each in its own row's weights."""
        session = self.session
        each = [None] * len(records) if deltas is None else deltas
        asked: list[Asked] = []
        for record, delta in zip(records, each, strict=True):
            sentence = f"{record.prompt} {record.target_new.strip()}. {record.locality_prompt}"
            near = record.locality_ground_truth
            for prompt, true in (
                (record.prompt, record.ground_truth), (record.rephrase_prompt, record.ground_truth),
                (record.locality_prompt, near), (sentence, near),
            ):  # fmt: skip
                ids = session.tokens(prompt)
                asked += [Asked(ids, target_ids(session, ids, text), delta)
                          for text in (record.target_new, true)]  # fmt: skip
        said = say(session, asked)
        out = [_values(said[8 * i : 8 * i + 8]) for i in range(len(records))]
        if generate:
            prompts = [session.tokens(record.prompt) for record in records]
            for values, record, ids in zip(
                out, records, write_on(session, prompts, WRITTEN, each), strict=True
            ):
                new = record.target_new.strip().lower()
                values["generation"] = float(new in session.text(ids).lower())
                values["entropy"] = ngram_entropy(ids)
        return out


def _values(said: Sequence[Said]) -> Values:
    """Eight answers: (new, true) after prompt, rephrased, neighbour, neighbour prepended."""
    pairs = list(zip(said[::2], said[1::2], strict=True))
    above = [float(new.logp > true.logp) for new, true in pairs]
    below = [float(true.logp > new.logp) for new, true in pairs]
    gaps = [new.logp - true.logp for new, true in pairs]
    return {
        "efficacy": above[0], "paraphrase": above[1], "neighbourhood": below[2],
        "neighbourhood_prepended": below[3], "efficacy_argmax": float(said[0].greedy),
        "paraphrase_argmax": float(said[2].greedy),
        **dict(zip(SOFT, (_sigmoid(x) for x in (gaps[0], gaps[1], -gaps[2])), strict=True)),
    }  # fmt: skip


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))


def summary(name: str, values: Sequence[Values], seconds: float) -> dict[str, Any]:
    """One row: rates with intervals, the score, and what it cost."""
    row: dict[str, Any] = {"method": name}
    row |= {key: rate([v[key] for v in values]) for key in RATES if key in values[0]}
    row["score"] = harmonic([row[key]["mean"] for key in RATES[:3]])
    if "entropy" in values[0]:
        row["entropy"] = rate([v["entropy"] for v in values], share=False)
    return row | {"seconds_per_edit": round(seconds, 3), "peak_mb": peak_mb()}


def harmonic(values: Sequence[float]) -> float:
    """The harmonic mean; 0 where one of them is."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / v for v in values)


def ngram_entropy(tokens: Sequence[int]) -> float:
    """(2 H2 + 4 H3) / 6 in bits, Hn the entropy of the n-grams' frequencies."""

    def entropy(n: int) -> float:
        counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        total = sum(counts.values())
        return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0

    return (2 * entropy(2) + 4 * entropy(3)) / 6


def peak_mb() -> float:
    """Most memory this process ever held, MB (with CUDA: that the device's tensors took)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)


def _shuffled(delta: Dense, generator: torch.Generator) -> Dense:
    """The same keys and size, other directions: rows mixed by a random rotation of signs."""
    noise = torch.randn(delta.delta.shape[0], generator=generator, dtype=torch.float64)
    order = torch.randperm(len(noise), generator=generator)
    signs = noise.sign()[:, None].to(delta.delta)
    return Dense(delta.layer, delta.delta[order.to(delta.delta.device)] * signs)
