"""The shell command. Finds the verb, turns errors into one line and an exit code.

Exit codes: 0 ok, 1 a command failed, 2 usage, 3 model or device unavailable, 130 interrupted.
Heavy imports happen inside verbs, so that help is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rwkvedit import __version__
from rwkvedit.errors import RwkvEditError, UsageError

LOOKING = (
    *("gen", "lens", "race", "dla", "neighbors", "patch-act", "ablate", "steer"),
    *("capture", "vector", "attention", "kv-clone"),
)
"""Verbs that are the chat's commands of the same name, asked of a model opened for the occasion."""
VERBS = (
    *("chat", "run", "replay", "calib", "models", "logits", "train", "bench", "study"),
    *LOOKING,
    *("crown", "trace", "edit", "rome", "memit", "apply-patch"),
    *("demo", "commands"),
)
VALUED = (
    *("--model", "--device", "--dtype", "--backend", "--vocab", "--threads"),
    *("--temperature", "--top-p", "--top-k", "--presence", "--frequency", "--seed"),
    *("--max-tokens", "--system", "--load", "--transcript"),
)


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing a usage block."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def model_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that loads a model."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="embedded", metavar="M", help="embedded, or a path")
    group.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda")
    group.add_argument("--dtype", default=None, metavar="T", help="fp32, bf16 or fp16")
    group.add_argument("--backend", default="native", metavar="B", help="native or rwkv")
    group.add_argument("--vocab", default=None, metavar="FILE", help="a vocabulary file")
    group.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads")


def load(args: argparse.Namespace) -> Any:
    """The model that ``model_options`` describe."""
    from rwkvedit.models.catalog import load_model

    set_threads(args.threads)
    return load_model(args.model, args.device, args.dtype, args.backend, vocab=args.vocab)


def set_threads(count: int | None) -> None:
    """Limit the CPU threads of a run; None leaves them alone."""
    if count is None:
        return
    if count < 1:
        raise UsageError(f"--threads takes a number from 1 on, not {count}")
    import torch

    torch.set_num_threads(count)


def build_parser(verb: str | None = None) -> Parser:
    """The whole parser, or one that imports the modules of a single verb."""
    parser = Parser(
        prog="rwkvedit",
        description="Chat with an RWKV-7 model and edit what it remembers, live. "
        "Without a verb it opens the chat.",
    )
    parser.add_argument("--version", action="version", version=f"rwkvedit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name in VERBS if verb is None else (verb,):
        if name in LOOKING:
            look = importlib.import_module("rwkvedit.commands.look")
            look.add_verb(verbs, name).set_defaults(main=look.main)
            continue
        module = importlib.import_module(f"rwkvedit.commands.{name.replace('-', '_')}")
        made = module.add_parser(verbs)
        if made is not None:
            made.set_defaults(main=module.main)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _utf8()
    try:
        argv = with_verb(argv)
        known = argv[0] if argv and argv[0] in VERBS else None
        args, foreign = build_parser(known).parse_known_args(argv)
        if foreign:
            what = " ".join(foreign)
            raise UsageError(f"unrecognized arguments: {what} (see rwkvedit {known} --help)")
        return int(args.main(args) or 0)
    except RwkvEditError as error:
        return fail(argv, str(error), error.exit_code)
    except KeyboardInterrupt:
        print("rwkvedit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _abandon(sys.stdout)
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _abandon(sys.stdout)
        return fail([], f"{where}{error.strerror}", 1)


def fail(argv: Sequence[str], message: str, code: int) -> int:
    """One line on stderr; with --json an object on stdout as well."""
    message = " ".join(message.split())
    if "--json" in argv:
        out = {"error": message} if argv[0] != "run" else {"kind": "error", "message": message}
        with contextlib.suppress(OSError):
            print(json.dumps(out, ensure_ascii=False), flush=True)
    print(f"rwkvedit: {message}", file=sys.stderr)
    return code


def with_verb(argv: list[str]) -> list[str]:
    """``argv`` with its verb first: ``--model X run`` is ``run --model X``, nothing is ``chat``."""
    at = 0
    while at < len(argv) and argv[at].startswith("-"):
        if argv[at] in ("-h", "--help", "--version"):
            return argv
        at += 2 if argv[at] in VALUED else 1
    if at >= len(argv) or (at > 0 and argv[at] not in VERBS):
        return ["chat", *argv]
    verb = argv[at]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        raise UsageError(f"no verb '{verb}': {hint}")
    return [verb, *argv[:at], *argv[at + 1 :]]


def _utf8() -> None:
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _abandon(stream: Any) -> None:
    """Stop Python from flushing a stream that cannot take it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
