"""``rwkvedit bench recall|state|speed``: measurements, as a table or one JSON document."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
from typing import Any

from rwkvedit.cli import model_options, set_threads

BENCHES = {
    "recall": ("rwkvedit.evaluate.recall", "what the model remembers of what it was told"),
    "state": ("rwkvedit.evaluate.runner", "editing methods on the live state"),
    "speed": ("rwkvedit.evaluate.speed", "tokens per second beside the rwkv package"),
    "hooks": ("rwkvedit.evaluate.hooking", "what looking inside a model costs"),
    "edit": ("rwkvedit.evaluate.editing", "weight edits on CounterFact's records"),
    "capitals": ("rwkvedit.evaluate.capitals", "one capital moved in the weights, and five"),
    "profile": ("rwkvedit.evaluate.profile.running", "thirteen quality benchmarks of an edit"),
    "write": ("rwkvedit.evaluate.writing", "a write vector replaced, against a rank-one LoRA"),
}

COUNTED = {
    "edit": "edits", "capitals": "methods", "profile": "benchmarks", "write": "settings",
}  # fmt: skip
"""What progress counts, where it is not worlds."""

ONE_MODEL = ("recall", "state")
"""Benchmarks of one loaded model, by whatever engine; the others choose engines themselves."""

COMMON: dict[str, dict[str, Any]] = {
    "--model": {"default": "embedded", "metavar": "M", "help": "embedded, or a path"},
    "--device": {"default": None, "metavar": "D", "help": "auto, cpu or cuda"},
    "--threads": {"type": int, "metavar": "N", "help": "CPU threads"},
    "--json": {"action": "store_true", "help": "print one JSON document"},
}

INTERRUPTED = 130


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("bench", help="measure recall, editing or speed")
    kinds = p.add_subparsers(dest="bench", required=True, metavar="WHAT")
    for name, (where, about) in BENCHES.items():
        one = kinds.add_parser(name, help=about)
        importlib.import_module(where).add_arguments(one)
        if name in ONE_MODEL:
            model_options(one)
        known = {flag for action in one._actions for flag in action.option_strings}
        for flag, options in COMMON.items():
            if flag not in known:
                one.add_argument(flag, **options)
    return p


def main(args: argparse.Namespace) -> int:
    """Exit code 0, or 130 when Ctrl-C cut the measurement short: what was done is still shown."""
    from rwkvedit.repl.render import Renderer
    from rwkvedit.report import bench

    set_threads(args.threads)
    began = time.perf_counter()
    renderer = Renderer(json_lines=args.json)
    counted = COUNTED.get(args.bench, "worlds")
    args.on_progress = lambda done, of, what=counted: renderer.progress(done, of, what)
    document = importlib.import_module(BENCHES[args.bench][0]).run(args)
    if "rows" in document or "passed" in document:
        about = meta(args, time.perf_counter() - began)
        document["meta"] = {**about, **document.get("meta", {})}
    for notice in drawn(args, document):
        renderer.notice(notice)
    if args.json:
        renderer.document(document)
    else:
        renderer.show(*bench.render(document, renderer.width))
    return INTERRUPTED if document.get("interrupted") else 0


def drawn(args: argparse.Namespace, document: dict[str, Any]) -> list[str]:
    """Pictures of a profile, where they were asked for; a notice for each file."""
    if not getattr(args, "pictures", None) or not document["benchmarks"]:
        return []
    from rwkvedit.report.profile import page
    from rwkvedit.report.radar import of_profile

    made = document["meta"]
    return args.pictures.write(
        args.loaded, made["command"], lambda: of_profile(document),
        lambda about: page(document, {**about, "seconds": made["seconds"]}), made["seed"],
    )  # fmt: skip


def meta(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Where the numbers come from. The model is the benchmark's own where it left one behind."""
    from rwkvedit.evaluate.loading import load_once
    from rwkvedit.report.meta import meta_of

    command = shlex.join(["rwkvedit", *sys.argv[1:]])
    return meta_of(load_once(args), getattr(args, "seed", None), command, seconds)

