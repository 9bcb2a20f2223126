"""Commands as decorated functions: parsing, help and the README table come from one place.

A command is a function ``(ctx, **values) -> Result`` whose arguments and options are declared in
its decorator. The registry knows neither the model nor the screen.

    @command("rwkv-ask", args=[Arg("question", rest=True)], help="...")
    def ask(ctx, question): ...
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.repl.result import Result
from rwkvedit.repl.words import Word, next_word, split

ARROWS = ("->", "=>", "→")


@dataclass(frozen=True)
class Arg:
    """A positional argument.

    ``rest`` takes the remaining line as free text; ``many`` takes all remaining words as a list;
    ``completer`` names a source of completions ("fact", "file", "branch", ...). ``flag`` says that
    it may also be given by its name, as the shell's verb takes it: ``--prompt WORDS``.
    """

    name: str
    required: bool = True
    rest: bool = False
    many: bool = False
    quoted: bool = False
    kind: type = str
    choices: tuple[str, ...] = ()
    completer: str | None = None
    flag: bool = False
    about: str = ""


@dataclass(frozen=True)
class Option:
    """``--name VALUE`` or, with ``flag``, just ``--name``. ``many`` collects repeats in a list."""

    name: str
    help: str
    kind: Callable[[str], Any] = str
    default: Any = None
    flag: bool = False
    many: bool = False
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    completer: str | None = None

    @property
    def key(self) -> str:
        return self.name.lstrip("-").replace("-", "_")

    @property
    def shown(self) -> str:
        if self.flag:
            return self.name
        value = self.metavar or ("|".join(self.choices) if self.choices else self.key.upper())
        return f"{self.name} {value}"


@dataclass(frozen=True)
class Command:
    name: str
    run: Callable[..., Result]
    help: str
    group: str
    aliases: tuple[str, ...] = ()
    args: tuple[Arg, ...] = ()
    options: tuple[Option, ...] = ()
    subcommands: tuple[str, ...] = ()
    example: str = ""

    @property
    def usage(self) -> str:
        parts = [f"/{self.name}"]
        for arg in self.args:
            shown = "|".join(arg.choices) if arg.choices else arg.name.upper()
            if arg.quoted:
                shown = f'"{shown}"'
            shown = f"{shown}..." if arg.many else shown
            parts.append(shown if arg.required else f"[{shown}]")
        parts += [f"[{option.shown}]" for option in self.options]
        return " ".join(parts)

    def option(self, name: str) -> Option | None:
        return next((o for o in self.options if o.name == name), None)


@dataclass
class Registry:
    """Commands by name and alias, in the order they were declared."""

    commands: list[Command] = field(default_factory=list)
    names: dict[str, Command] = field(default_factory=dict)

    def command(
        self,
        name: str,
        *,
        help: str,
        group: str,
        aliases: Sequence[str] = (),
        args: Sequence[Arg] = (),
        options: Sequence[Option] = (),
        subcommands: Sequence[str] = (),
        example: str = "",
    ) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
        """Declare a command; the decorated function stays an ordinary function."""

        def declare(function: Callable[..., Result]) -> Callable[..., Result]:
            new = Command(
                name,
                function,
                help,
                group,
                tuple(aliases),
                tuple(args),
                tuple(options),
                tuple(subcommands),
                example,
            )
            for key in (name, *aliases):
                if key in self.names:
                    raise ValueError(f"command /{key} is declared twice")
                self.names[key] = new
            self.commands.append(new)
            return function

        return declare

    def find(self, name: str) -> Command:
        """The command called ``name`` (without its slash), or a UsageError naming the nearest."""
        if name in self.names:
            return self.names[name]
        near = difflib.get_close_matches(name.lower(), self.names, n=1, cutoff=0.6)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        raise UsageError(f"unknown command /{name}: {hint}")

    def parse(self, line: str) -> tuple[Command, dict[str, Any]]:
        """``"/name words..."`` to a command and its values. Raises UsageError, one line."""
        head = next_word(line)
        if head is None or not head.text.startswith("/"):
            raise UsageError("a command begins with /")
        command = self.find(head.text[1:])
        return command, parse_arguments(command, line, head.end)

    def groups(self) -> dict[str, list[Command]]:
        out: dict[str, list[Command]] = {}
        for item in self.commands:
            out.setdefault(item.group, []).append(item)
        return out

    def markdown(self) -> str:
        """The command table of the README."""
        rows = ["| command | what it does |", "|---|---|"]
        for item in self.commands:
            also = "".join(f", `/{alias}`" for alias in item.aliases)
            usage = item.usage.replace("|", "\\|")
            rows.append(f"| `{usage}`{also} | {item.help} |")
        return "\n".join(rows) + "\n"


def parse_arguments(command: Command, line: str, start: int) -> dict[str, Any]:
    """The values of ``command``'s arguments and options found in ``line[start:]``."""
    values = _defaults(command)
    args = list(command.args)
    named: dict[str, Any] = {}
    taken: list[str] = []
    at = start
    options_open = bool(command.options)
    while (word := next_word(line, at)) is not None:
        if options_open and not word.quoted and word.text == "--":
            options_open, at = False, word.end
            continue
        if options_open and not word.quoted and word.text.startswith("--"):
            arg = _named(command, word.text)
            if arg is not None:
                at = _take_option(command, line, word, named, _as_option(arg))
                args = [a for a in command.args if a.name not in named or a.many]
            else:
                at = _take_option(command, line, word, values)
            continue
        index = len(taken)
        if index < len(args) and args[index].rest:
            text, at = _free_text(command, line, word, options_open)
            taken.append(text)
            continue
        if index < len(args) and args[index].quoted and not word.quoted:
            text, at = _before_arrow(command, line, word)
            taken.append(text)
            continue
        taken.append(word.text)
        at = word.end
    _bind(command, args, taken, values, named)
    return values


def _named(command: Command, word: str) -> Arg | None:
    """The argument that ``--name`` means, where no option is called so."""
    name = word.partition("=")[0]
    if command.option(name) is not None:
        return None
    return next((a for a in command.args if a.flag and f"--{a.name}" == name), None)


def _as_option(arg: Arg) -> Option:
    return Option(f"--{arg.name}", arg.about, arg.kind, many=arg.many, choices=arg.choices)


def _defaults(command: Command) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in command.options:
        values[option.key] = [] if option.many else (False if option.flag else option.default)
    return values


def _take_option(
    command: Command, line: str, word: Word, values: dict[str, Any], option: Option | None = None
) -> int:
    name, equals, inline = word.text.partition("=")
    option = option or command.option(name)
    if option is None:
        known = [o.name for o in command.options]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
        raise UsageError(f"/{command.name} has no option {name}: {hint}")
    if option.flag:
        if equals:
            raise UsageError(f"{name} takes no value")
        values[option.key] = True
        return word.end
    at = word.end
    if not equals:
        following = next_word(line, at)
        if following is None:
            raise UsageError(f"{name} needs a value: {option.shown}")
        inline, at = following.text, following.end
    elif inline[:1] in ('"', "'"):
        following = next_word(line, word.start + len(name) + 1)
        assert following is not None, "text follows the equals sign"
        inline, at = following.text, following.end
    value = convert(name, inline, option.kind, option.choices)
    if option.many:
        values[option.key] = [*values.get(option.key, ()), value]
    else:
        values[option.key] = value
    return at


def _free_text(command: Command, line: str, word: Word, options_open: bool) -> tuple[str, int]:
    """The rest of the line as text: one quoted word, or everything up to an option.

    A command with options is strict (a quoted word is the whole text, ``--x`` is an option);
    one without takes what it is given.
    """
    if word.quoted and (options_open or not line[word.end :].strip()):
        return word.text, word.end
    end = at = word.end
    while at < len(line):
        while at < len(line) and line[at].isspace():
            at += 1
        stop = at
        while stop < len(line) and not line[stop].isspace():
            stop += 1
        piece = line[at:stop]
        if not piece or (options_open and len(piece) > 2 and piece.startswith("--")):
            break
        end = at = stop
    return line[word.start : end], end


def _before_arrow(command: Command, line: str, word: Word) -> tuple[str, int]:
    """``old -> new`` without quotes."""
    for arrow in ARROWS:
        found = line.find(f" {arrow} ", word.start)
        if found > 0:
            return line[word.start : found].strip(), found + len(arrow) + 2
    shown = " ".join(f'"{arg.name}"' for arg in command.args if arg.required)
    raise UsageError(f"put each one in quotes: /{command.name} {shown}")


def _bind(
    command: Command,
    args: list[Arg],
    taken: list[str],
    values: dict[str, Any],
    named: dict[str, Any],
) -> None:
    values.update(named)
    for index, arg in enumerate(args):
        if arg.many:
            words = [*named.get(arg.name, ()), *taken[index:]]
            if arg.required and not words:
                raise UsageError(f"/{command.name} needs {arg.name}: {command.usage}")
            values[arg.name] = [convert(arg.name, w, arg.kind, arg.choices) for w in words]
            return
        if index < len(taken):
            values[arg.name] = convert(arg.name, taken[index], arg.kind, arg.choices)
        elif arg.required:
            raise UsageError(f"/{command.name} needs {arg.name}: {command.usage}")
        else:
            values[arg.name] = None
    if len(taken) > len(args):
        extra = taken[len(args)]
        raise UsageError(
            f"/{command.name} does not know what to do with '{extra}': {command.usage}"
        )


def convert(name: str, text: str, kind: Callable[[str], Any], choices: Iterable[str]) -> Any:
    """``text`` as ``name`` takes it; UsageError says what it takes."""
    choices = tuple(choices)
    if choices and text not in choices:
        near = difflib.get_close_matches(text, choices, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{name} is one of {', '.join(choices)}, not '{text}'{hint}")
    try:
        return kind(text)
    except UsageError:
        raise
    except (ValueError, OverflowError):
        wanted = {int: "a whole number", float: "a number"}.get(kind, "something else")  # type: ignore[call-overload]
        raise UsageError(f"{name} takes {wanted}, not '{text}'") from None


__all__ = ["Arg", "Command", "Option", "Registry", "Result", "parse_arguments", "split"]
