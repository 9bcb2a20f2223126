"""``rwkvedit lens MODEL --prompt P`` and its like: a command of the chat, asked of one model.

Arguments and options come from the chat's registry, so that a verb and its command mean the same;
what the chat takes by its place stands here behind a flag of the same name.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

from rwkvedit.cli import set_threads
from rwkvedit.errors import UsageError
from rwkvedit.repl.registry import Arg, Option, convert
from rwkvedit.repl.result import Result
from rwkvedit.repl.sessions import Sessions

EXIT_INTERRUPTED = 130


class Context:
    """What a command about models needs of the chat: the open ones, and where to report."""

    def __init__(
        self,
        on_text: Callable[[str], None] | None = None,
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self.sessions = Sessions()
        self.line = shlex.join(["rwkvedit", *sys.argv[1:]])
        self.on_text = on_text
        self.on_progress = on_progress


def add_verb(subparsers: Any, name: str) -> argparse.ArgumentParser:
    """The parser of one verb, from the command's declaration."""
    from rwkvedit.repl.commands import REGISTRY

    command = REGISTRY.find(name)
    p = subparsers.add_parser(
        name, help=command.help.replace("%", "%%"), description=command.help.replace("%", "%%")
    )
    p.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    for arg in command.args:
        _add_arg(p, arg)
    for option in command.options:
        _add_option(p, option)
    group = p.add_argument_group("model")
    group.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda")
    group.add_argument("--dtype", default=None, metavar="T", help="fp32, bf16 or fp16")
    group.add_argument("--vocab", default=None, metavar="FILE", help="a vocabulary (RWKV-7)")
    group.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def _add_arg(p: argparse.ArgumentParser, arg: Arg) -> None:
    required = arg.required or arg.name in ("prompt", "part")
    more: dict[str, Any] = {"nargs": "+", "default": []} if arg.many else {}
    p.add_argument(
        f"--{arg.name}", dest=_dest(arg.name), metavar=arg.name.upper(), required=required,
        help=arg.about, **more,
    )  # fmt: skip


def _add_option(p: argparse.ArgumentParser, option: Option) -> None:
    if option.flag:
        p.add_argument(option.name, dest=_dest(option.key), action="store_true", help=option.help)
        return
    more: dict[str, Any] = {"action": "append", "default": []} if option.many else {}
    p.add_argument(
        option.name, dest=_dest(option.key), metavar=option.metavar or option.key.upper(),
        help=option.help, **more,
    )  # fmt: skip


def _dest(name: str) -> str:
    return f"of_{name.replace('-', '_')}"


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.commands import REGISTRY
    from rwkvedit.repl.render import Renderer

    set_threads(args.threads)
    command = REGISTRY.find(args.verb)
    values = values_of(args, command)
    renderer = Renderer()
    ctx = Context(None if args.json else renderer.stream, renderer.progress)
    began = time.perf_counter()
    renderer.progress(0, 0, f"opening {args.model}")
    try:
        opened = ctx.sessions.open(
            args.model, device=args.device, dtype=args.dtype, vocab=args.vocab
        )
        done: Result = command.run(ctx, **values)
    except UsageError as error:
        raise UsageError(str(error).replace(f"/{args.verb} ", f"{args.verb} ")) from None
    finally:
        renderer.end_progress()
    if args.json:
        renderer.document({**done.data, "meta": meta(args, opened.session, began)})
    else:
        renderer.result(done, streamed=True)
    return done.exit_code


def values_of(args: argparse.Namespace, command: Any) -> dict[str, Any]:
    """The command's arguments and options, converted as the chat converts them."""
    values: dict[str, Any] = {}
    for arg in command.args:
        given = getattr(args, _dest(arg.name))
        values[arg.name] = _converted(f"--{arg.name}", given, arg)
    for option in command.options:
        given = getattr(args, _dest(option.key))
        if option.flag:
            values[option.key] = given
        elif given is None:
            values[option.key] = option.default
        else:
            values[option.key] = _converted(option.name, given, option)
    return values


def _converted(flag: str, given: Any, declared: Arg | Option) -> Any:
    if isinstance(given, list):
        return [convert(flag, text, declared.kind, declared.choices) for text in given]
    return None if given is None else convert(flag, given, declared.kind, declared.choices)


def meta(args: argparse.Namespace, session: Any, began: float) -> dict[str, Any]:
    from types import SimpleNamespace

    from rwkvedit.report.meta import meta_of

    command = shlex.join(["rwkvedit", *sys.argv[1:]])
    loaded = SimpleNamespace(model=session, name=session.name)
    seconds = time.perf_counter() - began
    return meta_of(loaded, getattr(args, _dest("seed"), 0), command, seconds)
