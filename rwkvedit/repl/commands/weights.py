"""Changing the open model's weights: edits, patches, and taking them back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.interrupt import deferred
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.commands.look import found
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Result, say

GROUP = "weights"
SUFFIX = ".lqpatch"

LAYER = Option("--layer", "only this one (up to three)", kind=int, metavar="N")
NO_GATE = Option("--no-gate", "keep it whatever else it does", flag=True)
LENIENT = Option("--lenient", "let behaviour move by 0.25 nats", flag=True)
STATS = Option("--stats", "text for the key statistics (shipped)", metavar="FILE",
               completer="file")  # fmt: skip


def _telling(ctx: Any) -> Callable[[str, int, int], None]:
    """Progress of an edit as the chat tells it."""

    def progress(what: str, done: int, of: int) -> None:
        if ctx.on_progress is not None:
            ctx.on_progress(done, of, what)

    return progress


@command(
    "weight-edit",
    group=GROUP,
    args=[
        Arg("src", quoted=True, flag=True, about="the prompt to be answered otherwise"),
        Arg("tgt", quoted=True, flag=True, about="one that is answered so already"),
        Arg("new", rest=True, flag=True, about="the new answer, one token"),
    ],
    options=[
        LAYER,
        Option("--subject", "whom it is about (where the two prompts differ)", metavar="TEXT"),
        Option("--plain", "d = W_down (k_tgt - k_src) at the crown", flag=True),
        NO_GATE,
        LENIENT,
        STATS,
    ],
    help="Change what the open model's weights answer to a prompt (while it is in use, /edit "
    "means this).",
    example='/weight-edit "The capital of France is" "The capital of Japan is" Tokyo',
)  # fmt: skip
def weight_edit(ctx: Any, src: str, tgt: str, new: str, **options: Any) -> Result:
    from rwkvedit.repl import edited
    from rwkvedit.transformer.rank1 import edit

    opened = ctx.sessions.current
    with opened.step(ctx.line), deferred() as pressed:
        done = edit(
            opened.session, src, tgt, new, options["layer"],
            method="plain" if options["plain"] else "whitened", subject=options["subject"],
            gate=not options["no_gate"], strict=not options["lenient"], stats=options["stats"],
            progress=_telling(ctx), cancel=pressed,
        )  # fmt: skip
    if done.landed:
        opened.patches[done.delta.digest] = done.patch
    data, blocks = edited.edit(done, [])
    return found("weight-edit", opened, blocks, data, done.notices)


@command(
    "rome",
    group=GROUP,
    args=[
        Arg("prompt", quoted=True, flag=True, about="what stands before the answer"),
        Arg("subject", flag=True, about="the words of the prompt it is about"),
        Arg("target", rest=True, flag=True, about="the new answer, of any number of tokens"),
    ],
    options=[LAYER, NO_GATE, LENIENT, STATS],
    help="Change a fact in the open model's weights by one rank-one update found by gradient.",
    example='/rome "The capital of France is" "France" Tokyo',
)
def rome(ctx: Any, prompt: str, subject: str, target: str, **options: Any) -> Result:
    from rwkvedit.repl import rewritten
    from rwkvedit.transformer.rome import rome as change

    opened = ctx.sessions.current
    with opened.step(ctx.line), deferred() as pressed:
        done = change(
            opened.session, prompt, subject, target, options["layer"],
            gate=not options["no_gate"], strict=not options["lenient"], stats=options["stats"],
            progress=_telling(ctx), cancel=pressed,
        )  # fmt: skip
    if done.landed:
        opened.patches[done.patch.delta.digest] = done.patch
    data, blocks = rewritten.rome(done, [])
    return found("rome", opened, blocks, data, done.notices)


@command(
    "memit",
    group=GROUP,
    args=[Arg("edits", rest=True, flag=True, completer="file",
              about="a JSON list of {prompt, subject, target, label?, layer?}")],
    options=[
        Option("--method", "memit, or alphaedit: keep to directions the corpus hardly uses, and "
               "hold earlier batches", default="memit", choices=("memit", "alphaedit")),
        Option("--layers", "the spread (this model's settings)", metavar="a:b"),
        Option("--crown", "each edit at the layer its answer most depends on", flag=True),
        STATS,
    ],
    help="Change many facts at once, from a list in a file, on top of earlier changes.",
    example="/memit edits.json",
)  # fmt: skip
def memit(ctx: Any, edits: str, **options: Any) -> Result:
    from rwkvedit.repl import rewritten
    from rwkvedit.transformer.batch import edit_many, load_edits

    opened, requests = ctx.sessions.current, load_edits(Path(edits).expanduser())
    with opened.step(ctx.line), deferred() as pressed:
        done = edit_many(
            opened.session, requests, options["method"], layers=options["layers"],
            crown=options["crown"], memory=opened.memory, stats=options["stats"],
            progress=_telling(ctx), cancel=pressed,
        )  # fmt: skip
    opened.patches |= {patch.delta.digest: patch for patch in done.patches}
    data, blocks = rewritten.batch(done, [])
    return found("memit", opened, blocks, data, done.notices)


@command(
    "apply-patch",
    group=GROUP,
    args=[Arg("file", rest=True, flag=True, completer="file")],
    options=[
        Option("--reverse", "take it out instead", flag=True),
        Option("--stack", "let it add up with one of the same layer that it was made without",
               flag=True),
        Option("--prompt", "show what this is answered with afterwards", metavar="TEXT"),
    ],
    help="Apply a saved change to the open model's weights, or reverse it, exactly.",
    example="/apply-patch tokyo.lqpatch",
)  # fmt: skip
def apply_patch(ctx: Any, file: str, **options: Any) -> Result:
    from rwkvedit.repl import edited
    from rwkvedit.transformer.patches import apply_patches, reverse_patches
    from rwkvedit.transformer.saving import adopt_saved

    opened, reverse = ctx.sessions.current, options["reverse"]
    with opened.step(ctx.line):
        if reverse:
            adopt_saved(opened.session)
            done = reverse_patches(opened.session, [file])
        else:
            done = apply_patches(opened.session, [file], options["stack"])
    if not reverse:
        opened.patches |= {patch.delta.digest: patch for _, patch in done.patches}
    data, blocks = edited.applied(done, edited.top_of(opened.session, options["prompt"]), reverse)
    return found("apply-patch", opened, blocks, data, done.notices)


@command(
    "save-patch",
    group=GROUP,
    args=[Arg("file", rest=True, flag=True, completer="file")],
    help="Write the last change of the open model's weights to a .lqpatch file, or all of them "
    "into a folder.",
    example="/save-patch tokyo.lqpatch",
)
def save_patch(ctx: Any, file: str) -> Result:
    from rwkvedit.transformer import patchfile

    opened, path = ctx.sessions.current, Path(file).expanduser()
    live = [d for d in opened.session.edits.live if d.digest in opened.patches]
    if not live:
        raise UsageError("no change of weights to save: /weight-edit, /rome and /memit make some")
    patches = [opened.patches[delta.digest] for delta in live]
    if path.suffix == SUFFIX:
        wrote, count = [patchfile.save_patch(path, patches[-1])], 1
    else:
        wrote = patchfile.save_batch(path, [(f"{i:03d}", p) for i, p in enumerate(patches)])
        count = len(patches)
    what = "the last change" if path.suffix == SUFFIX else f"{count} changes and their manifest"
    return say("save-patch", f"wrote {what} to {path}", paths=[str(p) for p in wrote])


@command("restore", group=GROUP, help="Take every change of the open model's weights out again.")
def restore(ctx: Any) -> Result:
    opened = ctx.sessions.current
    count = len(opened.session.edits.live)
    with opened.step(ctx.line):
        change = opened.session.edits.restore()
    layers = ", ".join(map(str, change.layers))
    text = f"took {count} change{'s' * (count != 1)} out (layer {layers}); /undo puts them back"
    return say(
        "restore", text if count else "nothing to restore: the weights are as they were read",
        restored=count, layers=change.layers, weights_digest=opened.session.digest,
    )  # fmt: skip
