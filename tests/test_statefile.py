"""State files: exact, atomic, and refused with one line when anything is off."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import safetensors.torch
import torch
from toy_models import toy_model

from rwkvedit import files
from rwkvedit.errors import FileFormatError, RwkvEditError
from rwkvedit.files import atomic_write, load_tensors, save_tensors
from rwkvedit.recurrent.model import RWKV7
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.statefile import FORMAT, load_state, save_state, state_tensors

WHO = {"model_digest": "a" * 64, "tokenizer_digest": "b" * 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RWKV7:
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def state(model: RWKV7) -> State:
    return model.forward([1, 2, 3])[1]


def refused(path: Path, model: RWKV7, **who: str) -> str:
    with pytest.raises(FileFormatError) as error:
        load_state(path, model.config, **{**WHO, **who})
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_a_state_comes_back_bit_for_bit_with_its_label(
    tmp_path: Path, model: RWKV7, state: State
) -> None:
    path = save_state(tmp_path / "deep" / "s.safetensors", state, **WHO, extra={"prompt": "猫"})
    back, meta = load_state(path, model.config, **WHO)
    assert back.equal(state) and meta["prompt"] == "猫" and meta["format"] == FORMAT
    save_state(path, back, **WHO)  # over itself
    assert load_state(path, model.config, **WHO)[0].equal(state)
    assert [p.name for p in path.parent.iterdir()] == ["s.safetensors"]


def test_another_models_or_tokenizers_file_is_refused_by_both_digests(
    tmp_path: Path, model: RWKV7, state: State
) -> None:
    path = save_state(tmp_path / "s", state, **WHO)
    line = refused(path, model, model_digest="c" * 64)
    assert "model digest " + "c" * 16 in line and "a" * 16 in line
    assert "tokenizer" in refused(path, model, tokenizer_digest="c" * 64)


def test_every_truncation_is_refused(tmp_path: Path, model: RWKV7, state: State) -> None:
    path = save_state(tmp_path / "s", state, **WHO)
    whole = path.read_bytes()
    for size in (0, 4, 8, 40, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, model)


def test_foreign_files_versions_shapes_types_and_nan_are_refused(
    tmp_path: Path, model: RWKV7, state: State
) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"PK\x03\x04" * 50)
    assert "expected a safetensors file" in refused(path, model)
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(2)}))
    assert "no 'rwkvedit' label" in refused(path, model)
    save_state(path, state, **WHO)
    meta = load_tensors(path, FORMAT, 1)[1]
    good = state_tensors(state)
    for tensors, label, words in (
        (good, {"version": 2}, "version 1, found 2"),
        (good, {"format": "other"}, "found 'other'"),
        (good, {"axes": {}}, "expected axes"),
        ({**good, "wkv": state.wkv[:1]}, {}, "wkv expected (2, 4, 16, 16)"),
        ({**good, "wkv": state.wkv.half()}, {}, "found (2, 4, 16, 16) float16"),
        ({"wkv": state.wkv}, {}, "expected a tensor att_x"),
        ({**good, "ffn_x": state.ffn_x * float("nan")}, {}, "NaN or infinity in ffn_x"),
    ):
        save_tensors(path, tensors, {**meta, **label})
        assert words in refused(path, model)


def test_a_missing_file_is_one_line(tmp_path: Path, model: RWKV7) -> None:
    with pytest.raises(RwkvEditError, match=r"cannot read .*No such file"):
        load_state(tmp_path / "none", model.config, **WHO)


def test_a_full_disk_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = atomic_write(tmp_path / "f", "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RwkvEditError, match="No space left on device; nothing was changed"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(RwkvEditError, match="nothing was changed"):
        atomic_write(tmp_path / "d", "x")
    (tmp_path / "f").write_text("x")
    with pytest.raises(RwkvEditError, match="cannot write"):
        atomic_write(tmp_path / "f" / "g", "x")


def test_a_changed_byte_is_refused(tmp_path: Path, model: RWKV7, state: State) -> None:
    path = save_state(tmp_path / "s", state, **WHO)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"s: damaged"):
        load_state(path, model.config, **WHO)
