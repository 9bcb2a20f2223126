"""Commands that write and read files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvedit import config
from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.files import atomic_write, read_bytes, spare_foreign
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg
from rwkvedit.repl.result import Fields, Result, result, say
from rwkvedit.sessionfile import FORMAT

GROUP = "files"


@command(
    "save",
    group=GROUP,
    args=[Arg("name", rest=True, completer="session")],
    help="Keep state, tokens, sampler and journal in one file (a name or a path).",
)
def save(ctx: Any, name: str) -> Result:
    path = ctx.session_path(name)
    former = _set_aside(path) if path not in ctx.session.files else None
    path = ctx.session.save(path)
    notices = []
    if former is not None:
        shown = former.stem if ctx.session_path(former.stem) == former else former
        notices = [f"another conversation was saved there; /load {shown} has it"]
    return say("save", f"saved to {path}", path=str(path), bytes=path.stat().st_size,
               former=str(former) if former else None, notices=notices)


def _set_aside(path: Path) -> Path | None:
    """A copy, ``NAME~``, of the conversation at ``path``; None where there is none."""
    spare_foreign(path, FORMAT)
    if not path.is_file() or not path.stat().st_size:
        return None
    return atomic_write(path.with_name(f"{path.stem}~{path.suffix}"), read_bytes(path))


@command(
    "load",
    group=GROUP,
    args=[Arg("name", rest=True, completer="session")],
    help="Go on with a saved conversation.",
)
def load(ctx: Any, name: str) -> Result:
    path = ctx.session_path(name)
    if not path.exists():
        saved = ", ".join(ctx.saved_sessions())
        hint = f"saved ones: {saved}" if saved else "nothing is saved yet; /save NAME does"
        raise RwkvEditError(f"no saved conversation '{name}'; {hint}")
    branch = ctx.session.load(path)
    tokens, turns = len(ctx.session.place.tokens), len(ctx.session.turns)
    text = f"loaded {name}: {turns} turns, {tokens} tokens"
    if ctx.session.journal.here.verb == "load":
        text += "; /undo brings the last one back"
    notices = [] if branch is None else [f"its own steps are on branch {branch}"]
    return say("load", text, path=str(path), tokens=tokens, turns=turns, branch=branch,
               notices=notices)


@command(
    "transcript",
    group=GROUP,
    args=[Arg("file", required=False, rest=True, completer="file")],
    help="Record this session to a file, from here on; off stops.",
)
def transcript(ctx: Any, file: str | None) -> Result:
    recorder = ctx.recorder
    if file is None:
        where = f"recording to {recorder.path}" if recorder else "not recording"
        return say("transcript", where, path=str(recorder.path) if recorder else None)
    if file == "off":
        if recorder is None:
            raise UsageError("nothing is being recorded; /transcript FILE starts")
        ctx.record_to(None)
        return say("transcript", f"recorded {recorder.steps} steps to {recorder.path}", path=None)
    path = Path(file).expanduser()
    if recorder is None or path != recorder.path:
        ctx.record_to(path)
    before = len(ctx.session.place.tokens)
    note = f"the {before} tokens so far are not in it: a replay starts without them"
    return say(
        "transcript", f"recording to {path}", path=str(path), notices=[note] if before else []
    )


@command("paths", group=GROUP, help="Where things are kept.")
def paths(ctx: Any) -> Result:
    from rwkvedit.recurrent.library import shipped_folder, user_folder
    from rwkvedit.repl.shell import sessions_dir

    where = {
        "model": ctx.session.loaded.path,
        "calibrations": user_folder(),
        "shipped_calibrations": shipped_folder(),
        "sessions": sessions_dir(),
        "history": config.state_dir() / "history",
        "cache": config.cache_dir(),
    }
    shown = {name: str(path) for name, path in where.items()}
    return result("paths", Fields.of(**shown), **shown)
