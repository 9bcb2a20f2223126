"""Where an answer comes from: the crown layer, and causal traces."""

from __future__ import annotations

from typing import Any

from rwkvedit.repl.commands.base import command
from rwkvedit.repl.commands.look import GROUP, LAYERS, QUOTED_PROMPT, found
from rwkvedit.repl.commands.sessions import BOS, PROMPT
from rwkvedit.repl.pictures import HTML, PNG, Pictures
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Result

EXPECT = Option("--expect", "the answer to watch (the model's own)", metavar="TEXT")


@command(
    "crown",
    group=GROUP,
    args=[PROMPT],
    options=[EXPECT, LAYERS, PNG, HTML, BOS],
    help="The layer whose MLP the open model's answer depends on most.",
    example='/crown "The capital of France is"',
)
def crown(ctx: Any, prompt: str, **options: Any) -> Result:
    from rwkvedit.repl import located
    from rwkvedit.report.locate import crown_page, crown_plot

    opened, pictures = ctx.sessions.current, Pictures(options)
    with opened.hooked() as session:
        seen = session.crown(prompt, options["expect"], options["layers"], options["bos"] or None)
    data, blocks = located.crown(seen)
    said = [seen.answer.read_as] if seen.answer.read_as else []
    said += pictures.write(
        session, ctx.line, lambda: crown_plot(seen), lambda meta: crown_page(seen, meta)
    )
    return found("crown", opened, blocks, {"prompt": prompt, **data}, said)


@command(
    "trace",
    group=GROUP,
    args=[QUOTED_PROMPT, Arg("subject", rest=True, flag=True, about="whom or what it is about")],
    options=[
        EXPECT,
        Option("--kinds", "what is restored: state, mlp, attn (all three)",
               default="state,mlp,attn", metavar="K,.."),
        Option("--runs", "runs with noise (10)", kind=int, default=10, metavar="N"),
        Option("--noise", "how much, in standard deviations (3)", kind=float, default=3.0,
               metavar="X"),
        Option("--window", "layers of an MLP or attention window (10)", kind=int, default=10,
               metavar="N"),
        Option("--seed", "of the noise", kind=int, default=0, metavar="S"),
        PNG,
        HTML,
        BOS,
    ],
    help="Causal trace: which states bring a fact back that noise on its subject took away.",
    example='/trace "The capital of France is" France',
)  # fmt: skip
def trace(ctx: Any, prompt: str, subject: str, **options: Any) -> Result:
    from rwkvedit.repl import located
    from rwkvedit.report.locate import trace_page, trace_plot

    opened, tell, pictures = ctx.sessions.current, ctx.on_progress, Pictures(options)

    def progress(done: int, of: int) -> None:
        if tell is not None:
            tell(done, of, "tracing, cells")

    kinds = [kind.strip() for kind in options["kinds"].split(",") if kind.strip()]
    with opened.hooked() as session:
        seen = session.trace(
            prompt, subject, options["expect"], kinds=kinds, noise=options["noise"],
            runs=options["runs"], seed=options["seed"], window=options["window"],
            bos=options["bos"] or None, progress=progress,
        )  # fmt: skip
    data, blocks = located.trace(seen)
    said = [seen.answer.read_as] if seen.answer.read_as else []
    said += pictures.write(
        session, ctx.line, lambda: trace_plot(seen), lambda meta: trace_page(seen, meta),
        options["seed"],
    )  # fmt: skip
    return found("trace", opened, blocks, {"prompt": prompt, **data}, said)
