"""``bench write``: redirecting one component's write vector, against a rank-one LoRA.

For each of SEEDS seeds the examples (unique rows in which the component fires) are split anew: HELD
are held out, the rest is there to train on. On the held-out rows are measured

    p_target      P(target), mean over fire positions
    kl_surround   KL(before || after), nats, mean over the other positions of the same rows
    kl_global     the same over other text, fire positions left out
    *_reverse     the same with KL(after || before)
    blast         the share of the other positions (both texts) whose KL(before || after) is at
                  least .001, .01, .1 and 1 nat
    same          the share of them whose likeliest token is as before

No fire position counts among the others: what happens there is the edit. Component and threshold
come from a third text. Intervals are bootstrapped over the seeds, each of which has its own
held-out rows, training examples and order.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.intervals import rate
from rwkvedit.evaluate.partial import Partial
from rwkvedit.evaluate.writing_texts import Texts, texts
from rwkvedit.interrupt import deferred
from rwkvedit.transformer import lora
from rwkvedit.transformer.components import Component, Firing, component, firing
from rwkvedit.transformer.effects import Effects, Place, effects
from rwkvedit.transformer.write_vectors import ALPHAS, analytic, free, trained, unit_of

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

METHODS = ("analytic", "trained", "lora")
COUNTS = (1, 4, 8, 16)
"""Examples of a trained write vector."""
SEEDS, HELD, OTHER = 5, 32, 16
BLAST = (0.001, 0.01, 0.1, 1.0)
MEASURES = (
    "p_target", "p_before", "kl_surround", "kl_surround_reverse", "kl_global",
    "kl_global_reverse", "same", *(f"blast_{level:g}" for level in BLAST),
)  # fmt: skip
CHOSEN = {
    "smollm2": ("29.805", "7"),
    "embedded": ("5.878", "Hello"),
}
"""Components found by ``find`` (see the README), and a target for each."""
WANTED = {"analytic": 0.85, "trained": 0.95, "kl": 0.02, "ratio": 5.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    parser.add_argument("--component", metavar="C", help="like 29.805 or svd:29.0 (default: the "
                        "model's own where one is known, else the best that fires)")  # fmt: skip
    parser.add_argument("--target", metavar="TOKEN", help="what is to follow where it fires")
    parser.add_argument("--methods", default=",".join(METHODS), metavar="M,..",
                        help="analytic, trained, lora (all)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="splits (5)")
    parser.add_argument("--held", type=int, default=HELD, metavar="N", help="rows held out (32)")
    parser.add_argument("--text", metavar="FILE", help="a text of your own")
    parser.add_argument("--out", metavar="FILE", help="keep partial results there, and go on")
    parser.add_argument("--png", metavar="FILE", help="draw the Pareto plot there")
    parser.add_argument("--html", metavar="FILE", help="write the page there: plot, table, tokens")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The document: points by method and setting."""
    from rwkvedit.repl.pictures import Pictures
    from rwkvedit.transformer import open_session

    methods = tuple(name.strip() for name in args.methods.split(",") if name.strip())
    for name in methods:
        if name not in METHODS:
            raise UsageError(f"no method '{name}': there are {', '.join(METHODS)}")
    if args.seeds < 1 or args.held < 1 or not methods:
        raise UsageError("--seeds and --held take a number from 1 on, --methods a name")
    pictures = Pictures(vars(args))
    session = open_session(args.model, getattr(args, "device", None) or "cpu")
    args.loaded = session
    found = texts(session, args.text)
    with deferred() as pressed:
        part, target = chosen(session, args.component, args.target, found)
        bench = Sweep.of(session, part, target, found, args.seeds, args.held, methods,
                         args.on_progress, pressed)  # fmt: skip
        partial = Partial(args.out, bench.asked)
        try:
            bench.run(partial)
        except KeyboardInterrupt:
            return {**bench.document(), "interrupted": True, "resume": args.out is not None}
    document = bench.document()
    if pictures:
        from rwkvedit.report import writing

        shown = bench.shown(partial)
        document["wrote"] = pictures.write(
            session, bench.command, lambda: writing.pareto(document),
            lambda meta: writing.page(document, shown, meta),
        )  # fmt: skip
    return document


def chosen(
    session: ModelSession, name: str | None, target: str | None, found: Texts
) -> tuple[Component, int]:
    """The component and the target's id. UsageError where nothing says which."""
    from rwkvedit.transformer.words import token_id

    known = CHOSEN.get(session.name)
    if name is None and known is not None:
        name, usual = known
    else:
        usual = None
    wanted = target if target is not None else usual
    if wanted is None:
        raise UsageError("which token is to follow where the component fires? say --target TOKEN")
    token = token_id(session, wanted)
    if name is None:
        from rwkvedit.transformer.find import find

        best = find(session, found.find, [session.n_layer - 1], top=1).found
        if not best:
            raise UsageError("no component fires clearly in the last layer: say --component C")
        name = best[0].name
    return component(session, name), token


@dataclass
class Split:
    """One seed's rows: where to train, and where to measure."""

    held: list[int]
    train: list[int]
    fires: list[Place]
    around: list[Place]
    elsewhere: list[Place]

    @property
    def places(self) -> list[Place]:
        return [*self.fires, *self.around, *self.elsewhere]


class Sweep:
    """One component and one target: every method's settings over several seeds."""

    def __init__(
        self, world: Effects, part: Component, seen: Firing, unit: float, target: int,
        first_other: int, source: Texts, seeds: int = SEEDS, held: int = HELD,
        methods: Sequence[str] = METHODS,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        """``seen``: where the component fires in the world's rows, of which those from
        ``first_other`` on are other text; ``unit`` of ``analytic``. UsageError where too few
        rows fire."""
        self.world, self.part, self.seen, self.target = world, part, seen, target
        self.session, self.source = world.session, source
        self.unit, self.seeds, self.methods = unit, seeds, tuple(methods)
        self.progress = progress or (lambda done, of: None)
        self.command = ""
        self.began = time.perf_counter()
        fires, counted = seen.fires, seen.counted
        self.fires = {n: _places(n, fires) for n in range(len(seen.rows))}
        self.rests = {n: _places(n, counted & ~fires) for n in range(len(seen.rows))}
        self.examples = [n for n in range(first_other) if self.fires[n]]
        self.others = list(range(first_other, len(seen.rows)))[:OTHER]
        self.held = min(held, len(self.examples) // 2)
        if self.held < 1:
            raise UsageError(
                f"no examples: {part.name} fires in {len(self.examples)} of {first_other} rows, "
                "and two are needed at least (one to hold out); /components find lists what fires"
            )
        self.records: list[dict[str, Any]] = []

    @classmethod
    def of(
        cls, session: ModelSession, part: Component, target: int, source: Texts,
        seeds: int = SEEDS, held: int = HELD, methods: Sequence[str] = METHODS,
        progress: Callable[[int, int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Sweep:  # fmt: skip
        """Threshold and sign from ``source.find``, then the rows' own activations."""
        free(session, part.layer)
        part, known = firing(session, part, source.find, cancel=cancel)
        rows = [*source.examples, *source.other[:OTHER]]
        world = effects(session, part.layer, rows, cancel)
        seen = Firing(world.reads() @ part.read.cpu(), known.threshold, rows)
        return cls(
            world, part, seen, unit_of(session, part, known), target, len(source.examples), source,
            seeds, held, methods, progress,
        )

    @property
    def asked(self) -> dict[str, Any]:
        """Everything that the records depend on."""
        return {
            "bench": "write", "model_digest": self.session.digest, "component": self.part.name,
            "target": self.target, "text": self.source.digest, "seeds": self.seeds,
            "held": self.held, "methods": list(self.methods),
        }  # fmt: skip

    # -- measuring --------------------------------------------------------------------------

    def split(self, seed: int) -> Split:
        """Rows held out and to train on, in the order in which examples are taken."""
        order = torch.randperm(
            len(self.examples), generator=torch.Generator().manual_seed(seed)
        ).tolist()
        rows = [self.examples[i] for i in order]
        held, train = rows[: self.held], rows[self.held :]
        return Split(
            held, train, [p for n in held for p in self.fires[n]],
            [p for n in held for p in self.rests[n]],
            [p for n in self.others for p in self.rests[n]],
        )  # fmt: skip

    def run(self, partial: Partial) -> None:
        """Every unit that ``partial`` does not hold yet; Ctrl-C raises KeyboardInterrupt."""
        self.records = list(partial.records)
        done = {(r["seed"], r["method"], r["unit"]) for r in partial.records}
        units = [(seed, name, unit) for seed in range(self.seeds) for name in self.methods
                 for unit in _units(name)]  # fmt: skip
        split: Split | None = None
        at = -1
        for count, (seed, name, unit) in enumerate(units):
            if (seed, name, str(unit)) not in done:
                if split is None or at != seed:
                    split, at = self.split(seed), seed
                for record in self._unit(split, seed, name, unit):
                    partial.add({"seed": seed, "method": name, "unit": str(unit), **record})
                    self.records.append(partial.records[-1])
            self.progress(count + 1, len(units))

    def _unit(self, split: Split, seed: int, name: str, unit: Any) -> list[dict[str, Any]]:
        if name == "lora":
            if unit is not None and unit > len(split.train):
                return []
            used = split.train[:unit]
            return [
                {"params": {"examples": one.examples, "lambda": one.weight,
                            "all": unit is None},
                 **self.measure(split, one.left, one.right)}
                for one in self._adapters(used, seed)
            ]  # fmt: skip
        if name == "trained":
            if unit > len(split.train):
                return []
            new, params = self.train(split, unit, seed), {"examples": unit}
        else:
            new, params = self.analytic(unit), {"alpha": unit}
        old = self.part.write.to(new.device)
        return [{"params": params, **self.measure(split, new - old, self.part.read)}]

    def analytic(self, alpha: float) -> Tensor:
        """The write vector from no examples."""
        return analytic(self.session, self.part, self.target, alpha, self.unit)

    def train(self, split: Split, examples: int, seed: int) -> Tensor:
        """A write vector from the split's first examples."""
        used = split.train[:examples]
        return trained(
            self.world, self.part, self.target, [p for n in used for p in self.fires[n]],
            [p for n in used for p in self.rests[n]], self.unit, seed,
        )  # fmt: skip

    def _adapters(self, used: Sequence[int], seed: int) -> list[lora.Lora]:
        return lora.train(
            self.world, self.target, [p for n in used for p in self.fires[n]],
            [p for n in used for p in self.rests[n]], len(used), self.scale(), lora.LAMBDAS, seed,
        )  # fmt: skip

    def scale(self) -> tuple[float, float]:
        """(rms of x, rms of what the layer's MLP writes) over some of the rows."""
        rows = self.world.rows[:64]
        some: list[Tensor] = []
        self.session.run(
            rows, logits="none", taps={f"blocks.{self.part.layer}.ffn.key": some.append}
        )
        x = some[0][:, 1:].detach().float().flatten(0, 1)
        wrote = x @ self.session.model.down_proj(self.part.layer).float().T
        return float(x.pow(2).mean().sqrt()), float(wrote.pow(2).mean().sqrt())

    def measure(self, split: Split, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Means over the held-out rows and the other text."""
        e = self.world.measure(split.places, left, right, self.target)
        a, b = len(split.fires), len(split.fires) + len(split.around)
        rest = e.forward[a:]
        return {
            "p_target": float(e.p_after[:a].mean()), "p_before": float(e.p_before[:a].mean()),
            "kl_surround": float(e.forward[a:b].mean()),
            "kl_surround_reverse": float(e.reverse[a:b].mean()),
            "kl_global": float(e.forward[b:].mean()),
            "kl_global_reverse": float(e.reverse[b:].mean()),
            "same": float(e.same[a:].float().mean()),
            **{f"blast_{level:g}": float((rest >= level).float().mean()) for level in BLAST},
            "fires": a, "around": b - a,
        }  # fmt: skip

    # -- reporting --------------------------------------------------------------------------

    def points(self) -> list[dict[str, Any]]:
        """One a setting: means over seeds with intervals."""
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for r in self.records:
            groups.setdefault((r["method"], str(r["params"])), []).append(r)
        return [
            {
                "method": name, "params": some[0]["params"],
                **{m: rate([r[m] for r in some], share=False) for m in MEASURES},
                "fires": sum(r["fires"] for r in some),
            }
            for (name, _), some in groups.items()
        ]  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The benchmark's JSON."""
        points = self.points()
        seen = self.seen
        return {
            "bench": "write", "component": self.part.name, "target": self.target,
            "target_text": self.session.piece(self.target), "threshold": seen.threshold,
            "fires_share": seen.share, "sign_agreement": seen.agreement,
            "sign": "V.x is positive at most fire positions",
            "alpha": "new U = alpha * unit * unembed(target) / |unembed(target)|",
            "unit": self.unit,
            "kl": "kl_*: KL(before || after); kl_*_reverse: KL(after || before); nats",
            "text": self.source.source, "rows_with_fires": len(self.examples),
            "rows_held_out": self.held, "seeds": self.seeds, "points": points,
            "verdict": verdict(points), "rows": [_row(p) for p in points],
        }  # fmt: skip

    def shown(self, partial: Partial, rows: int = 12) -> dict[str, Any]:
        """Token by token, what the write vector trained on 8 examples (or the analytic one of
        the middle alpha) does to the first held-out rows of seed 0."""
        from rwkvedit.evaluate.writing_tokens import tokens

        split = self.split(0)
        if "trained" in self.methods and len(split.train) >= 8:
            new, what = self.train(split, 8, 0), "trained on 8 examples"
        else:
            middle = ALPHAS[len(ALPHAS) // 2]
            new, what = self.analytic(middle), f"analytic, alpha {middle:g}"
        left = new - self.part.write.to(new.device)
        return {"what": what, **tokens(self, split.held[:rows], left)}


def verdict(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each wanted number beside what was measured; ``ratio`` is LoRA's divergence over ours."""
    found: dict[str, Any] = {"wanted": WANTED}
    near = [p for p in points if p["kl_surround"]["mean"] <= WANTED["kl"]]
    first = [p for p in near if p["method"] == "analytic"]
    eight = [p for p in near if p["method"] == "trained" and p["params"]["examples"] == 8]
    best = max(first, key=lambda p: p["p_target"]["mean"], default=None)
    for name, point in (("analytic", best), ("trained", eight[0] if eight else None)):
        if point is None:
            found[name] = None
            continue
        other = rival(points, point["p_target"]["mean"])
        found[name] = {
            "params": point["params"], "p_target": point["p_target"]["mean"],
            "kl_surround": point["kl_surround"]["mean"],
            "reached": point["p_target"]["mean"] >= WANTED[name],
            "lora": other and {"params": other["params"], "p_target": other["p_target"]["mean"],
                               "kl_surround": other["kl_surround"]["mean"]},
            "ratio": other and other["kl_surround"]["mean"] / max(
                1e-12, point["kl_surround"]["mean"]),
        }  # fmt: skip
    return found


def rival(points: Sequence[dict[str, Any]], p: float) -> dict[str, Any] | None:
    """The LoRA with the least surrounding divergence among those at least as accurate."""
    able = [x for x in points if x["method"] == "lora" and x["p_target"]["mean"] >= p]
    return min(able, key=lambda x: x["kl_surround"]["mean"], default=None)


def _units(name: str) -> tuple[Any, ...]:
    if name == "analytic":
        return (*ALPHAS, *(-alpha for alpha in ALPHAS))
    return COUNTS if name == "trained" else lora.COUNTS


def _places(n: int, mask: Tensor) -> list[Place]:
    return [(n, int(t)) for t in torch.nonzero(mask[n])[:, 0]]


def _row(point: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    params = point["params"]
    said = f"alpha {params['alpha']:g}" if "alpha" in params else f"n {params['examples']}"
    if "lambda" in params:
        said += f", lambda {params['lambda']:g}"
    shown = ("p_target", "kl_surround", "kl_global", "blast_0.01")
    return {"method": point["method"], "setting": said, **{k: point[k] for k in shown}}
