"""Opening models beside the conversation, and text written by them."""

from __future__ import annotations

from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Result, Table, Text, Written, result, say
from rwkvedit.repl.sessions import CHAT, Opened

GROUP = "models"
PROMPT = Arg("prompt", rest=True, flag=True, about="the text it is asked about")
BOS = Option("--bos", "put the model's BOS in front of the text", flag=True)


def hooks_note(opened: Opened) -> list[str]:
    """What was on while this was measured."""
    return [f"with {', '.join(opened.active)}"] if opened.active else []


def about(opened: Opened) -> dict[str, Any]:
    s = opened.session
    return {
        "name": opened.name,
        "model": s.name,
        "kind": s.kind,
        "architecture": s.architecture,
        "layers": s.n_layer,
        "width": s.d_model,
        "heads": s.shape.n_head,
        "vocabulary": s.shape.vocab_size,
        "parameters": s.parameters,
        "dtype": str(s.dtype).removeprefix("torch."),
        "device": str(s.device),
        "active": opened.active,
    }


def described(d: dict[str, Any]) -> str:
    millions = d["parameters"] / 1e6
    size = f"{millions:.0f}M" if millions >= 10 else f"{millions:.2f}M"
    return (
        f"{d['architecture']}, {d['layers']} layers, {d['width']} wide, {size} parameters, "
        f"{d['dtype']} on {d['device']}"
    )


@command(
    "open",
    group=GROUP,
    args=[Arg("model", rest=True, completer="model")],
    options=[
        Option("--name", "what to call it here", metavar="NAME"),
        Option("--device", "auto, cpu or cuda", default="auto", metavar="D"),
        Option("--dtype", "fp32, bf16 or fp16", metavar="T", choices=("fp32", "bf16", "fp16")),
        Option("--bos", "put a BOS in front of every text", flag=True),
        Option("--vocab", "a vocabulary file (RWKV-7)", metavar="FILE", completer="file"),
    ],
    help="Open a model to look into: smollm2, toy, embedded, a folder, a .gguf, .pth or "
    ".safetensors file.",
    example="/open smollm2",
)
def open_(ctx: Any, model: str, name: str | None, **options: Any) -> Result:
    if ctx.on_progress:
        ctx.on_progress(0, 0, f"opening {model}")
    opened = ctx.sessions.open(model, name, **options)
    data = about(opened)
    hint = f"text you type is continued by it; /use {CHAT} goes back to the conversation"
    return result("open", Text(f"{opened.name}: {described(data)}\n{hint}"), **data)


@command("sessions", group=GROUP, help="The open models, and what is switched on in each.")
def sessions(ctx: Any) -> Result:
    here = ctx.sessions
    rows = [("*" if here.using is None else "", CHAT, "the conversation")]
    data = [about(opened) for opened in here.opened.values()]
    for each in data:
        active = f" [{', '.join(each['active'])}]" if each["active"] else ""
        mark = "*" if each["name"] == here.using else ""
        rows.append((mark, each["name"], described(each) + active))
    using = here.using or CHAT
    return result("sessions", Table(("", "", ""), tuple(rows)), using=using, sessions=data)


@command(
    "use",
    group=GROUP,
    args=[Arg("name", rest=True, completer="opened")],
    help="Turn to an open model; chat goes back to the conversation.",
    example="/use chat",
)
def use(ctx: Any, name: str) -> Result:
    opened = ctx.sessions.use(name)
    if opened is None:
        return say("use", "back in the conversation, which is as it was", using=CHAT)
    active = f", with {', '.join(opened.active)}" if opened.active else ""
    return say("use", f"{name}: {described(about(opened))}{active}", using=name)


@command(
    "close",
    group=GROUP,
    args=[Arg("name", required=False, rest=True, completer="opened")],
    help="Let an open model go (the one in use without a name).",
)
def close(ctx: Any, name: str | None) -> Result:
    if name == CHAT:
        raise UsageError(f"{CHAT} is the conversation itself: /quit leaves it")
    gone = ctx.sessions.close(name or ctx.sessions.current.name)
    using = ctx.sessions.using or CHAT
    back = "; back in the conversation" if using == CHAT else ""
    return say("close", f"closed {gone.name}{back}", name=gone.name, using=using)


@command(
    "gen",
    group=GROUP,
    args=[PROMPT],
    options=[
        Option("--tokens", "the most to write (40)", kind=int, default=40, metavar="N"),
        Option("--temperature", "0 always takes the likeliest", kind=float, default=0.0,
               metavar="T"),
        Option("--top-p", "keep the likeliest up to this mass", kind=float, default=1.0,
               metavar="P"),
        Option("--seed", "of the sampling", kind=int, default=0, metavar="S"),
        BOS,
    ],
    help="Let the open model continue a text, with whatever is switched on.",
    example='/gen "The capital of France is" --tokens 10',
)  # fmt: skip
def gen(
    ctx: Any,
    prompt: str,
    tokens: int = 40,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    bos: bool = False,
) -> Result:
    from rwkvedit.interrupt import deferred
    from rwkvedit.recurrent.generate import Sampler
    from rwkvedit.repl.views import visible

    opened = ctx.sessions.current
    if tokens < 1:
        raise UsageError(f"--tokens takes a number from 1 on, not {tokens}")
    if seed < 0:
        raise UsageError(f"--seed takes a number from 0 on, not {seed}")
    say_on = ctx.on_text
    on_text = None if say_on is None else lambda text: say_on(visible(text))
    sampler = Sampler(temperature, top_p, seed=seed)
    with opened.hooked() as session, deferred() as cancel:
        written = session.generate_with_hooks(
            prompt, (), tokens, sampler=sampler, bos=bos or None, on_text=on_text, cancel=cancel,
        )  # fmt: skip
    text = visible(written.text)
    blocks = [Written(text) if text else Text("(it ends the text at once)")]
    data = {
        "session": opened.name,
        "prompt": prompt,
        "text": written.text,
        "tokens": written.tokens,
        "stopped": written.stopped,
        "active": opened.active,
    }
    notices = tuple(hooks_note(opened))
    code = 130 if written.stopped == "cancelled" else 0
    return Result("result", "gen", data, tuple(blocks), notices, code)
