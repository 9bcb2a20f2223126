"""The quality benchmarks of an edit, in the chat."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import UsageError
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.commands.look import found
from rwkvedit.repl.commands.weights import GROUP
from rwkvedit.repl.pictures import HTML, PNG, Pictures
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Result

if TYPE_CHECKING:
    from rwkvedit.repl.sessions import Opened
    from rwkvedit.transformer.value import Request
    from rwkvedit.transformer.weights import Delta


@command(
    "profile",
    group=GROUP,
    args=[
        Arg("prompt", required=False, quoted=True, flag=True,
            about="the prompt to be answered otherwise"),
        Arg("target", required=False, rest=True, flag=True, about="the new answer"),
    ],
    options=[
        Option("--subject", "whom it is about (the prompt's last name)", metavar="TEXT"),
        Option("--method", "edit, rome, memit or alphaedit (rome)", metavar="M",
               choices=("edit", "rome", "memit", "alphaedit")),
        Option("--layer", "write there alone", kind=int, metavar="N"),
        Option("--k", "edits of a sequence and of a batch (10)", kind=int, default=10, metavar="K"),
        Option("--seed", "which further edits", kind=int, default=0, metavar="S"),
        PNG,
        HTML,
    ],
    help="Thirteen quality benchmarks of an edit of the open model: of the one named, or without "
    "words of the last change. The weights stay as they are.",
    example='/profile "The capital of France is" Tokyo',
)  # fmt: skip
def profile(ctx: Any, prompt: str | None, target: str | None, **options: Any) -> Result:
    from rwkvedit.evaluate.partial import Partial
    from rwkvedit.evaluate.profile import running
    from rwkvedit.evaluate.profile.making import DEFAULT
    from rwkvedit.repl import profiled
    from rwkvedit.report.profile import page
    from rwkvedit.report.radar import of_profile

    opened, tell, pictures = ctx.sessions.current, ctx.on_progress, Pictures(options)
    if options["k"] < 2:
        raise UsageError("--k must be at least 2: a sequence of edits")
    made: tuple[Delta, ...] | None = None
    method = options["method"]
    if prompt is None:
        request, made, was = last_change(opened)
        method = method or was
    else:
        if not target:
            raise UsageError('profile needs the new answer: /profile "PROMPT" TARGET')
        request = asked(prompt, target, options)
    session, live = opened.session, opened.session.edits.live

    def progress(what: str, done: int, of: int) -> None:
        if tell is not None:
            tell(done, of, what)

    gone = {delta.digest for delta in made or ()}
    try:
        session.edits.set([delta for delta in live if delta.digest not in gone])
        work = running.Profiler(
            session, [request], method or DEFAULT, options["k"], options["seed"],
            progress=progress, made=made,
        )  # fmt: skip
        work.case(0)
        document = running.measure(work, running.here(work), Partial(None, {}))
    finally:
        session.edits.set(live)
    document["method"] = method or DEFAULT
    if document.get("interrupted"):
        raise KeyboardInterrupt
    said = pictures.write(
        session, ctx.line, lambda: of_profile(document), lambda meta: page(document, meta),
        options["seed"],
    )  # fmt: skip
    data, blocks = profiled.profile(document)
    return found("profile", opened, blocks, data, said)


def asked(prompt: str, target: str, options: dict[str, Any]) -> Request:
    """The edit that was typed."""
    from rwkvedit.transformer.rewordings import subject_of
    from rwkvedit.transformer.value import Request

    subject = options["subject"] or subject_of(prompt, "")
    if subject is None:
        raise UsageError(f"whom is {prompt!r} about? Say it with --subject TEXT")
    return Request(prompt.rstrip(), subject, target, "", options["layer"])


def last_change(opened: Opened) -> tuple[Request, tuple[Delta, ...], str]:
    """The last change of weights as (request, deltas, method); UsageError where it is no edit of
    one fact."""
    from rwkvedit.transformer.value import Request

    live = opened.session.edits.live
    if not live:
        raise UsageError(
            "nothing was changed: /profile "
            f"{shlex.quote('The capital of France is')} Tokyo says what to profile"
        )
    patch = opened.patches.get(live[-1].digest)
    about = {} if patch is None else patch.provenance
    words = [about.get(name) for name in ("src_prompt", "subject", "new_token")]
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise UsageError(
            'the last change is not one fact\'s: say which, like /profile "PROMPT" TARGET'
        )
    prompt, subject, new = map(str, words)
    method = str(about.get("method"))
    return Request(prompt, subject, new), (live[-1],), "rome" if method == "rome" else "edit"
