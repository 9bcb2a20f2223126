"""Commands that change or read what the model remembers."""

from __future__ import annotations

import difflib
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Report, Result, Table, Text, result

GROUP = "memory"


def ratio(text: str) -> float | str:
    """``--ratio``: a number above 0, or ``auto``."""
    from rwkvedit import settings

    return settings.ratio(text, "--ratio")


RATIO = Option("--ratio", "strength: auto, or ||edit|| as a share of ||state||", kind=ratio,
               metavar="R")
LAYERS = Option("--layers", "which layers: upper, lower, all or a:b", metavar="a:b")
DRY = Option("--dry-run", "measure and report, change nothing", flag=True)
CHECK = Option(
    "--check", "a fact that must not move (may repeat)", many=True, metavar="FACT", completer="fact"
)


def method_name(text: str) -> str:
    """``--method``: a method that the chat offers (see ``rwkvedit.recurrent.methods``)."""
    from rwkvedit.recurrent.methods import METHODS, offered

    if text in METHODS and not METHODS[text].offered:
        raise UsageError(
            f"--method {text} is kept for comparison only (rwkvedit bench state --methods {text}); "
            "try auto, or Tab for those on offer"
        )
    if text not in offered():
        near = difflib.get_close_matches(text, offered(), n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"--method is one of {', '.join(offered())}, not '{text}'{hint}")
    return text


def milliseconds(text: str) -> float:
    """``--budget``: a number of milliseconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e7:
        raise UsageError(f"--budget {text} must be a number of milliseconds like 500")
    return value


def erasing(text: str) -> str:
    """``--method`` of an erasure."""
    from rwkvedit.recurrent.erase import BASELINES

    if text not in ("auto", *BASELINES):
        raise UsageError(f"--method is one of auto, {', '.join(BASELINES)}, not '{text}'")
    return text


ERASING = Option("--method", "how: auto is the default", kind=erasing, metavar="NAME",
                 completer="erasing")
BUDGET = Option("--budget", "milliseconds that the method optimised may spend", kind=milliseconds,
                metavar="MS")


def edit_result(ctx: Any, report: Any, asked: dict[str, str]) -> Result:
    """An EditReport as a Result: the JSON of contracts, and a report to look at."""
    data = {**report.to_json(), "asked": asked}
    data.pop("kind", None)
    return Result("edit", f"rwkv-{data['verb']}", data, (Report(data),))


@command(
    "rwkv-edit",
    aliases=["edit"],
    group=GROUP,
    args=[Arg("old", quoted=True, completer="fact"), Arg("new", rest=True, completer="fact")],
    options=[
        Option("--method", "how: auto is the default", kind=method_name, metavar="NAME",
               completer="method"),
        RATIO,
        LAYERS,
        Option(
            "--from",
            "where the calibration is told: auto, live, fresh or library",
            choices=("auto", "live", "fresh", "library"),
        ),
        BUDGET,
        DRY,
        CHECK,
    ],
    help="Replace a fact in the live memory.",
    example='/rwkv-edit "Bob lives in Austin" "Bob lives in Chicago"',
)
def rwkv_edit(ctx: Any, old: str, new: str, **options: Any) -> Result:
    report = ctx.session.edit(
        old,
        new,
        method=options["method"],
        ratio=options["ratio"],
        layers=options["layers"],
        start=options["from"],
        check=options["check"],
        dry_run=options["dry_run"],
        budget_ms=options["budget"],
    )
    return edit_result(ctx, report, {"old": old, "new": new})


@command(
    "rwkv-forget",
    aliases=["forget"],
    group=GROUP,
    args=[Arg("fact", quoted=True, completer="fact"), Arg("entity", rest=True, completer="entity")],
    options=[ERASING, RATIO, LAYERS, BUDGET, DRY, CHECK],
    help="Remove one property and keep the one who had it.",
    example='/rwkv-forget "Bob has a car" "Bob"',
)
def rwkv_forget(ctx: Any, fact: str, entity: str, **options: Any) -> Result:
    report = ctx.session.forget(
        fact,
        entity,
        method=options["method"] or "auto",
        ratio=options["ratio"],
        layers=options["layers"],
        check=options["check"],
        dry_run=options["dry_run"],
        budget_ms=options["budget"],
    )
    return edit_result(ctx, report, {"fact": fact, "entity": entity})


@command(
    "rwkv-nuke",
    aliases=["nuke"],
    group=GROUP,
    args=[Arg("fact", rest=True, completer="fact")],
    options=[ERASING, RATIO, LAYERS, BUDGET, DRY, CHECK],
    help="Remove a fact whole, against a neutral base.",
    example='/rwkv-nuke "Bob is a baker in Paris"',
)
def rwkv_nuke(ctx: Any, fact: str, **options: Any) -> Result:
    report = ctx.session.nuke(
        fact,
        method=options["method"] or "auto",
        ratio=options["ratio"],
        layers=options["layers"],
        check=options["check"],
        dry_run=options["dry_run"],
        budget_ms=options["budget"],
    )
    return edit_result(ctx, report, {"fact": fact})


@command(
    "ask",
    group=GROUP,
    args=[Arg("question", rest=True)],
    help="Ask on a copy: the conversation does not change.",
    example="/ask Where does Bob live?",
)
def ask(ctx: Any, question: str) -> Result:
    reply = ctx.session.ask(question)
    shown = ctx.reply(reply, "result", "ask")
    return Result(
        "result",
        "ask",
        {**shown.data, "question": question},
        (Text(reply.text),),
        shown.notices,
        shown.exit_code,
    )


@command(
    "prob",
    group=GROUP,
    args=[Arg("prompt", quoted=True), Arg("tokens", many=True, required=False)],
    help='P of each word after a prompt; up to "?" it is asked, the rest is the reply so far.',
    example='/prob "Where does Bob live? Bob lives in" Austin Chicago',
)
def prob(ctx: Any, prompt: str, tokens: list[str]) -> Result:
    found = ctx.session.prob(prompt, tokens)
    rows = tuple((_shown(word), float(p)) for word, p in found.items())
    return result("prob", Table(("word", "P"), rows), prompt=prompt, p=found)


@command(
    "heard",
    aliases=["facts"],
    group=GROUP,
    help="Facts you told that are still current, edits included.",
)
def heard(ctx: Any) -> Result:
    facts = ctx.session.heard
    rows = [
        {"kind": f.kind, "entity": f.entity, "value": f.value, "thing": f.thing, "text": text}
        for f, text in zip(ctx.session.heard_facts, facts, strict=True)
    ]
    text = "\n".join(facts) if facts else "no facts heard yet"
    return result("heard", Text(text), facts=rows)


@command(
    "state",
    group=GROUP,
    args=[
        Arg("what", required=False, choices=("show", "diff", "stats", "save", "load")),
        Arg("more", required=False, rest=True, completer="file"),
    ],
    help="The memory itself: its shape, what the last step (or N steps) changed, or its numbers; "
    "save FILE and load FILE keep it alone, without the words.",
)
def state(ctx: Any, what: str | None, more: str | None) -> Result:
    from rwkvedit.repl.commands import stateview

    if what in ("save", "load"):
        return stateview.kept(ctx.session, what, more)
    return stateview.view(ctx.session, what or "show", stateview.number_of_steps(more))


def _shown(word: str) -> str:
    return word if word.strip() == word and word else repr(word)
