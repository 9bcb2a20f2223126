"""``rwkvedit run``: the chat without a terminal. Lines from -c, a file, or stdin."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rwkvedit.cli import load, model_options
from rwkvedit.errors import RwkvEditError, UsageError


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("run", help="run chat lines without a terminal")
    p.add_argument("file", nargs="?", metavar="FILE", help="lines to run (- is stdin)")
    p.add_argument("-c", dest="lines", action="append", default=[], metavar="LINE", help="a line")
    p.add_argument("--json", action="store_true", help="print one JSON object a line")
    p.add_argument("--stop-on-error", action="store_true", help="stop at the first that fails")
    talk_options(p)
    model_options(p)
    return p


def talk_options(p: argparse.ArgumentParser) -> None:
    """Options of every verb that talks."""
    group = p.add_argument_group("conversation")
    group.add_argument("--greedy", action="store_true", help="temperature 0 (the default)")
    group.add_argument("--temperature", metavar="T")
    group.add_argument("--top-p", metavar="P")
    group.add_argument("--top-k", metavar="K")
    group.add_argument("--presence", metavar="X")
    group.add_argument("--frequency", metavar="X")
    group.add_argument("--seed", metavar="S")
    group.add_argument("--max-tokens", metavar="N", help="longest reply")
    group.add_argument("--system", metavar="TEXT", help="how the model should behave")
    group.add_argument("--load", dest="saved", metavar="NAME", help="go on with a saved one")
    group.add_argument("--transcript", metavar="FILE", help="record the session")


def open_shell(args: argparse.Namespace) -> Any:
    """A Shell set up as ``talk_options`` and ``model_options`` ask.

    What ``--load`` and ``--system`` do is done as commands, so that a transcript holds it.
    """
    from rwkvedit.recurrent.generate import Sampler
    from rwkvedit.repl.shell import Shell
    from rwkvedit.repl.words import quote
    from rwkvedit.session import Session
    from rwkvedit.settings import SAMPLING, setting

    chosen = {n: getattr(args, n) for n in (*SAMPLING, "max_tokens")}
    if args.greedy:
        chosen["temperature"] = 0
    values = {n: setting(n, value) for n, value in chosen.items() if value is not None}
    sampling = {n: values.pop(n) for n in SAMPLING if n in values}
    shell = Shell(Session(load(args), Sampler(**sampling), **values))
    if args.transcript:
        shell.record_to(Path(args.transcript).expanduser())
    for command, text in (("load", args.saved), ("system", args.system)):
        result = None if text is None else shell.execute(f"/{command} {quote(text)}")
        if result is not None and result.kind == "error":
            kind = UsageError if result.exit_code == UsageError.exit_code else RwkvEditError
            raise kind(str(result.data["message"]))
    return shell


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.render import Renderer

    lines = _source(args)
    shell = open_shell(args)
    return run_lines(shell, lines, Renderer(json_lines=args.json), args.stop_on_error)


def run_lines(shell: Any, lines: Iterable[str], renderer: Any, stop_on_error: bool = False) -> int:
    """Run every line and print its result; returns the exit code."""
    code = 0
    shell.on_progress = renderer.progress
    try:
        for line in joined(lines):
            result = shell.execute(line, renderer.stream)
            if result is None:
                continue
            renderer.result(result, streamed=True)
            if result.exit_code == 130:
                return 130
            if result.kind == "error":
                code = 1
                if stop_on_error:
                    break
            if shell.quit:
                break
    except KeyboardInterrupt:
        renderer.notice(shell.interrupted)
        return 130
    finally:
        shell.close()
    return code


def joined(lines: Iterable[str]) -> Iterator[str]:
    """Lines without their ends; one that ends in a backslash goes on with the next."""
    held: list[str] = []
    for line in lines:
        line = line.rstrip("\r\n")
        if line.endswith("\\") and not line.endswith("\\\\"):
            held.append(line[:-1])
            continue
        yield "\n".join([*held, line])
        held = []
    if held:
        yield "\n".join(held)


def _source(args: argparse.Namespace) -> Iterable[str]:
    if args.file and args.file != "-":
        try:
            text = Path(args.file).expanduser().read_bytes().decode("utf-8")
        except OSError as error:
            raise RwkvEditError(f"cannot read {args.file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise RwkvEditError(f"{args.file}: expected lines of UTF-8 text") from None
        return [*args.lines, *text.split("\n")]
    return args.lines if args.lines and args.file != "-" else sys.stdin
