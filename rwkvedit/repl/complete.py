"""Completion for the prompt: commands, options, file names, heard facts, branches, settings.

The sources are plain functions ``(ctx, command, before) -> list of candidates``; ``prompt_toolkit``
only sees their result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import RwkvEditError
from rwkvedit.repl.registry import Arg, Command, Registry
from rwkvedit.repl.words import PAIRS, next_word, quote

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer

MAX_FILES = 200


def candidates(ctx: Any, registry: Registry, line: str) -> Iterator[tuple[str, int, str]]:
    """Completions of ``line`` at its end: (text, start position relative to the end, note)."""
    if not line.startswith("/") or "\n" in line:
        return
    head, space, _ = line.partition(" ")
    if not space:
        for name, command in sorted(registry.names.items()):
            if name.startswith(head[1:]):
                yield f"/{name} ", -len(line), command.help
        return
    try:
        command = registry.find(head[1:])
    except RwkvEditError:
        return
    done, partial = _partial(line, len(head))
    if partial.startswith("--") and command.options:
        for option in command.options:
            if option.name.startswith(partial):
                yield option.name + " ", -len(partial), option.help
        return
    last = done[-1] if done else ""
    option = command.option(last) if last.startswith("--") else None
    if option is not None and not option.flag:
        values = list(option.choices) or source(ctx, option.completer, partial)
        yield from _matching(values, partial)
        return
    arg = _argument(command, done)
    if arg is not None:
        values = list(arg.choices) or source(ctx, arg.completer, partial)
        yield from _matching(values, partial)
    if not partial and command.options and len(_positional(command, done)) >= _required(command):
        for option in command.options:
            yield option.name + " ", 0, option.help


def source(ctx: Any, name: str | None, partial: str) -> list[str]:
    """The candidates of a named source."""
    function = SOURCES.get(name or "")
    return function(ctx, partial) if function else []


def _facts(ctx: Any, partial: str) -> list[str]:
    return [quote(fact.rstrip(".")) for fact in reversed(ctx.session.heard)]


def _entities(ctx: Any, partial: str) -> list[str]:
    seen = dict.fromkeys(fact.entity for fact in ctx.session.heard_facts)
    return [quote(entity) for entity in seen]


def _branches(ctx: Any, partial: str) -> list[str]:
    return sorted(ctx.session.branches)


def _settings(ctx: Any, partial: str) -> list[str]:
    return sorted(ctx.session.settings)


def _methods(ctx: Any, partial: str) -> list[str]:
    from rwkvedit.recurrent.methods import offered

    return list(offered())


def _erasing(ctx: Any, partial: str) -> list[str]:
    from rwkvedit.recurrent.erase import BASELINES

    return ["auto", *BASELINES]


def _commands(ctx: Any, partial: str) -> list[str]:
    return sorted(ctx.registry.names)


def _calibrations(ctx: Any, partial: str) -> list[str]:
    return ctx.calibration_names()


def _sessions(ctx: Any, partial: str) -> list[str]:
    return [*ctx.saved_sessions(), *_files(ctx, partial)]


def _models(ctx: Any, partial: str) -> list[str]:
    from rwkvedit.repl.sessions import model_names

    return [*model_names(), *_files(ctx, partial)]


def _opened(ctx: Any, partial: str) -> list[str]:
    from rwkvedit.repl.sessions import CHAT

    return [CHAT, *ctx.sessions.opened]


def _parts(ctx: Any, partial: str) -> list[str]:
    return ["mlp:", "attention:", "residual:", "off"]


def _vectors(ctx: Any, partial: str) -> list[str]:
    kinds = ("embedding", "unembedding", "residual", "difference", "random")
    return [f'"{kind}: ' for kind in kinds]


def _files(ctx: Any, partial: str) -> list[str]:
    bare = partial.strip("\"'")
    folder, _, stem = bare.rpartition("/")
    base = Path(folder + "/" if folder or bare.startswith("/") else ".").expanduser()
    out = []
    try:
        for index, path in enumerate(sorted(base.iterdir())):
            if index >= MAX_FILES:
                break
            if path.name.startswith(stem) and (stem.startswith(".") or path.name[0] != "."):
                shown = f"{folder}/{path.name}" if folder or bare.startswith("/") else path.name
                shown += "/" if path.is_dir() else ""
                out.append(quote(shown) if any(c.isspace() for c in shown) else shown)
    except OSError:
        return []
    return out


SOURCES: dict[str, Callable[[Any, str], list[str]]] = {
    "fact": _facts,
    "entity": _entities,
    "branch": _branches,
    "setting": _settings,
    "command": _commands,
    "method": _methods,
    "erasing": _erasing,
    "calibration": _calibrations,
    "session": _sessions,
    "model": _models,
    "opened": _opened,
    "part": _parts,
    "vector": _vectors,
    "file": _files,
}


def _partial(line: str, start: int) -> tuple[list[str], str]:
    """Finished words after the command's name, and the unfinished one at the end."""
    done: list[str] = []
    at = start
    while True:
        while at < len(line) and line[at].isspace():
            at += 1
        if at == len(line):
            return done, ""
        try:
            word = next_word(line, at)
        except RwkvEditError:
            return done, line[at:]
        if word is None:
            return done, ""
        if word.end == len(line):
            return done, line[at:]
        done.append(word.text)
        at = word.end


def _positional(command: Command, done: list[str]) -> list[str]:
    out: list[str] = []
    skip = False
    for word in done:
        if skip:
            skip = False
            continue
        option = command.option(word.partition("=")[0]) if word.startswith("--") else None
        if option is not None:
            skip = not option.flag and "=" not in word
            continue
        out.append(word)
    return out


def _argument(command: Command, done: list[str]) -> Arg | None:
    index = len(_positional(command, done))
    if not command.args:
        return None
    if index < len(command.args):
        return command.args[index]
    last = command.args[-1]
    return last if last.many else None


def _required(command: Command) -> int:
    return sum(arg.required for arg in command.args)


def _matching(values: list[str], partial: str) -> Iterator[tuple[str, int, str]]:
    opening = partial[:1] in PAIRS
    for value in values:
        bare = value.strip('"').lower()
        typed = (partial[1:] if opening else partial).lower()
        if bare.startswith(typed):
            yield value, -len(partial), ""


def completer(ctx: Any, registry: Registry) -> Completer:
    """The same as a ``prompt_toolkit`` completer."""
    from prompt_toolkit.completion import Completer, Completion

    class _Completer(Completer):
        def get_completions(self, document, complete_event):
            for text, start, note in candidates(ctx, registry, document.text_before_cursor):
                yield Completion(text, start, display=text.strip(), display_meta=note)

    return _Completer()
