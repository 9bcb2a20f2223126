"""Components of the open model's MLPs, and replacing what one of them writes."""

from __future__ import annotations

from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.files import spare_foreign
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.commands.look import found
from rwkvedit.repl.commands.weights import GROUP
from rwkvedit.repl.pictures import HTML, PNG, Pictures
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Result, Text

TEXT = Option("--text", "a text of your own to look in (what ships)", metavar="FILE",
              completer="file")  # fmt: skip
SEED = Option("--seed", "of what is drawn", kind=int, default=0, metavar="S")
COUNT, FORMAT = 32, "components"
LAST = 4
"""Layers that are searched where nothing is said: the last ones, whose writes are read directly."""


@command(
    "components",
    group=GROUP,
    args=[
        Arg("action", choices=("find", "show", "decompose")),
        Arg("component", required=False, rest=True, about="3.17 (a neuron), svd:3.0, random:3.1, "
            "or FILE:3.2 of a decomposition; of decompose: a layer"),
    ],
    options=[
        Option("--layers", "which layers find searches (the last four)", metavar="a:b"),
        Option("--writes", "find by what they write: tokens, comma-separated", metavar="A,B"),
        Option("--top", "how many", kind=int, default=8, metavar="K"),
        Option("--count", "components that decompose trains (32)", kind=int, metavar="C"),
        Option("--steps", "of its training (3000)", kind=int, metavar="N"),
        Option("--to", "where decompose writes them", metavar="FILE", completer="file"),
        TEXT,
        SEED,
    ],
    help="Components of the open model's MLPs: find those that fire sharply or write some tokens, "
    "show one, or decompose a layer into a file of them.",
    example="/components find --layers 2:4",
)  # fmt: skip
def components(ctx: Any, action: str, component: str | None, **options: Any) -> Result:
    from rwkvedit.evaluate.writing_texts import texts
    from rwkvedit.repl import written
    from rwkvedit.transformer import components as parts
    from rwkvedit.transformer.find import find
    from rwkvedit.transformer.words import token_id

    opened, tell = ctx.sessions.current, ctx.on_progress

    def progress(done: int, of: int, what: str = "reading, rows") -> None:
        if tell is not None:
            tell(done, of, what)

    if options["top"] < 1:
        raise UsageError(f"--top takes a number from 1 on, not {options['top']}")
    session = opened.session
    if action == "decompose":
        return _decompose(opened, component, options,
                          lambda done, of: progress(done, of, "training, steps"))  # fmt: skip
    if action == "show":
        if not component:
            raise UsageError(f"/components show needs a component: {parts.EXPECTED}")
        part = parts.component(session, component)
        rows = texts(session, options["text"]).find
        with opened.hooked():
            part, seen = parts.firing(session, part, rows, progress=progress)
        data, blocks = written.component(session, part, seen)
        return found("components", opened, blocks, {"action": action, **data})
    if component:
        raise UsageError(f"find takes no component: /components show {component}")
    default = f"{max(0, session.n_layer - LAST)}:{session.n_layer}"
    layers = session.shape.layers(options["layers"] or default)
    words = [w for w in (options["writes"] or "").split(",") if w]
    tokens = [token_id(session, word) for word in words]
    rows = texts(session, options["text"]).find
    with opened.hooked():
        result = find(session, rows, layers, tokens, options["top"], options["seed"], progress)
    data, blocks = written.found(result)
    return found("components", opened, blocks, {"action": action, "layers": layers, **data})


def _decompose(opened: Any, layer: str | None, options: dict[str, Any], progress: Any) -> Result:
    from rwkvedit.evaluate.writing_texts import texts
    from rwkvedit.repl import written
    from rwkvedit.transformer.decomposing import decompose_layer
    from rwkvedit.transformer.decomposition import STEPS
    from rwkvedit.transformer.stored import save_components
    from rwkvedit.transformer.write_vectors import free

    session = opened.session
    if not layer or not layer.isdigit() or not options["to"]:
        raise UsageError("/components decompose takes a layer and a file: "
                         "/components decompose 3 --to parts.safetensors")  # fmt: skip
    at = session.shape.layer(int(layer))
    free(session, at)  # the file is bound to the base weights
    spare_foreign(options["to"], FORMAT)
    found_ = decompose_layer(
        session, at, texts(session, options["text"]).find,
        COUNT if options["count"] is None else options["count"], options["seed"],
        STEPS if options["steps"] is None else options["steps"], progress,
    )  # fmt: skip
    path = save_components(options["to"], session, {at: (found_.v, found_.u)})
    data, blocks = written.decomposed(at, found_, path)
    return found("components", opened, blocks, {"action": "decompose", **data})


@command(
    "write",
    group=GROUP,
    args=[
        Arg("component", flag=True, about="3.17, svd:3.0, or FILE:3.2 of a decomposition"),
        Arg("target", rest=True, flag=True, about="what is to follow where it fires, one token"),
    ],
    options=[
        Option("--alpha", "from no examples, so strongly (1.5)", kind=float, metavar="A"),
        Option("--train", "from so many examples, by gradient", kind=int, metavar="N"),
        Option("--no-gate", "keep it whatever else it does", flag=True),
        Option("--lenient", "let behaviour move by 0.25 nats", flag=True),
        TEXT,
        SEED,
    ],
    help="Replace what one component of the open model writes, so that a token follows where it "
    "fires.",
    example="/write 3.17 Paris --train 8",
)  # fmt: skip
def write(ctx: Any, component: str, target: str, **options: Any) -> Result:
    from rwkvedit.evaluate.writing_once import write as edit
    from rwkvedit.repl import written

    opened = ctx.sessions.current
    with opened.step(ctx.line):
        done = edit(
            opened.session, component, target, alpha=options["alpha"], train=options["train"],
            gate=not options["no_gate"], strict=not options["lenient"], text=options["text"],
            seed=options["seed"],
        )  # fmt: skip
    if done.landed:
        opened.patches[done.delta.digest] = done.patch
    opened.written = (component, target)
    data, blocks = written.written(done)
    return found("write", opened, blocks, data)


@command(
    "pareto",
    group=GROUP,
    args=[
        Arg("component", required=False, flag=True, about="the last that was written"),
        Arg("target", required=False, rest=True, flag=True, about="the last"),
    ],
    options=[
        Option("--methods", "analytic, trained, lora (all)", default="analytic,trained,lora",
               metavar="M,.."),
        Option("--seeds", "splits into training and held-out rows (1)", kind=int, default=1,
               metavar="N"),
        PNG,
        HTML,
        TEXT,
    ],
    help="What redirecting a component costs: write vectors against rank-one LoRAs; the weights "
    "stay as they are.",
    example="/pareto 3.17 Paris --png pareto.png",
)  # fmt: skip
def pareto(ctx: Any, component: str | None, target: str | None, **options: Any) -> Result:
    from rwkvedit.evaluate.partial import Partial
    from rwkvedit.evaluate.writing import METHODS, Sweep
    from rwkvedit.evaluate.writing_once import HELD, narrowed
    from rwkvedit.evaluate.writing_texts import texts
    from rwkvedit.repl.result import Table
    from rwkvedit.report import writing
    from rwkvedit.report.tables import grid
    from rwkvedit.transformer import components as parts
    from rwkvedit.transformer.words import token_id

    opened, tell, pictures = ctx.sessions.current, ctx.on_progress, Pictures(options)
    session, last = opened.session, opened.written
    if component is None and last is None:
        raise UsageError("/pareto needs a component and a target: /pareto 3.17 Paris")
    if component is not None and not target:
        raise UsageError(f"/pareto needs a target: /pareto {component} Paris")
    name, word = (component, target) if component is not None else last
    methods = tuple(m.strip() for m in options["methods"].split(",") if m.strip())
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"no method '{method}': there are {', '.join(METHODS)}")
    if options["seeds"] < 1 or not methods:
        raise UsageError("--seeds takes a number from 1 on, --methods a name")

    def progress(done: int, of: int) -> None:
        if tell is not None:
            tell(done, of, "settings")

    token, live = token_id(session, word or ""), session.edits.live
    part = parts.component(session, name)
    session.edits.restore()
    try:
        bench = Sweep.of(session, part, token, narrowed(texts(session, options["text"])),
                         options["seeds"], HELD, methods, progress)  # fmt: skip
        partial = Partial(None, bench.asked)
        bench.run(partial)
        document = bench.document()
        tokens = bench.shown(partial) if pictures else {}
    finally:
        session.edits.set(live)
    notices = pictures.write(
        session, ctx.line, lambda: writing.pareto(document),
        lambda meta: writing.page(document, tokens, meta),
    )  # fmt: skip
    titles, rows = grid(writing.table(document))
    blocks = [Table(titles, rows), Text(writing.finding(document))]
    return found("pareto", opened, blocks, document, notices)
