"""What is wrong with a checkpoint is said by name, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_models import save_toy, toy_tensors, toy_vocabulary

from rwkvedit.errors import FileFormatError, RwkvEditError, UnavailableError, UsageError
from rwkvedit.models.catalog import list_models, load_model
from rwkvedit.recurrent.checkpoint import load_checkpoint, load_tuned_state


def refused(path: Path) -> str:
    with pytest.raises(FileFormatError) as error:
        load_checkpoint(path)
    line = str(error.value)
    assert "\n" not in line and str(path) in line
    return line


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_missing_extra_and_misshapen_tensors_are_all_listed(tmp_path: Path, suffix: str) -> None:
    z = toy_tensors()
    del z["blocks.1.att.v1"], z["head.weight"]
    z["blocks.0.ffn.s_emb.weight"] = torch.zeros(3)
    z["blocks.1.att.w2"] = z["blocks.1.att.w2"][:5]
    z["blocks.0.att.x_r"] = torch.zeros(1, 1, 63)
    line = refused(save_toy(tmp_path / f"bad.{suffix}", z))
    assert "missing blocks.1.att.v1, head.weight;" in line
    assert "extra blocks.0.ffn.s_emb.weight;" in line
    assert "blocks.1.att.w2 expected (8, 64) found (5, 64)" in line
    assert "blocks.0.att.x_r expected (64) found (1, 1, 63)" in line


def test_both_file_kinds_give_one_digest_and_other_bytes_another(tmp_path: Path) -> None:
    z = toy_tensors()
    a = load_checkpoint(save_toy(tmp_path / "a.pth", z))
    b = load_checkpoint(save_toy(tmp_path / "b.safetensors", z))
    assert a.digest == b.digest and a.config == b.config
    z["ln_out.bias"][3] += 1
    assert load_checkpoint(save_toy(tmp_path / "c.pth", z)).digest != a.digest


def test_layer_zero_may_carry_unused_value_loras(tmp_path: Path) -> None:
    z = toy_tensors()
    z.update({f"blocks.0.att.v{n}": z[f"blocks.1.att.v{n}"].clone() for n in range(3)})
    checkpoint = load_checkpoint(save_toy(tmp_path / "v.pth", z))
    assert "blocks.0.att.v1" not in checkpoint.tensors


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = save_toy(tmp_path / f"cut.{suffix}", toy_tensors())
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "foreign or truncated" in refused(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.pth"
    text.write_text("these are not weights " * 20)
    refused(text)
    torch.save({"a": 1}, tmp_path / "number.pth")
    assert "table of named tensors" in refused(tmp_path / "number.pth")
    other = save_toy(tmp_path / "other.safetensors", {"model.embed.weight": torch.zeros(2, 2)})
    assert "expected an RWKV-7" in refused(other)
    old = save_toy(tmp_path / "v6.pth", {"blocks.0.att.time_maa_x": torch.zeros(1, 1, 8)})
    assert "RWKV-4/5/6" in refused(old)


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"emb.weight": Trap()}, tmp_path / "trap.pth")
    line = refused(tmp_path / "trap.pth")
    assert "no pickle of tensors alone" in line and "weights_only" not in line
    assert not (tmp_path / "sprung").exists()


def test_nan_is_refused_by_name(tmp_path: Path) -> None:
    z = toy_tensors()
    z["blocks.1.att.key.weight"][2, 2] = float("nan")
    z["ln_out.bias"][0] = float("inf")
    line = refused(save_toy(tmp_path / "nan.pth", z))
    assert "blocks.1.att.key.weight" in line and "ln_out.bias" in line


def test_tuned_states_of_another_shape_are_refused(tmp_path: Path) -> None:
    config = load_checkpoint(save_toy(tmp_path / "m.pth", toy_tensors())).config
    path = save_toy(tmp_path / "s.pth", {"blocks.0.att.time_state": torch.zeros(4, 16, 8)})
    with pytest.raises(FileFormatError, match=r"missing blocks.1.*found \(4, 16, 8\)"):
        load_tuned_state(path, config)


def test_a_missing_model_or_device_is_unavailable(tmp_path: Path) -> None:
    for name in ("nosuch", str(tmp_path / "none.pth"), "smollm2"):
        with pytest.raises(UnavailableError) as error:
            load_model(name)
        assert error.value.exit_code == 3 and "\n" not in str(error.value)
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match="0 CUDA devices"):
            load_model(device="cuda")
    with pytest.raises(UsageError, match="auto, cpu or cuda"):
        load_model(device="tpu")


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "m.pth", toy_tensors())
    with pytest.raises(RwkvEditError, match="not its vocabulary; give its own with --vocab"):
        load_model(path, "cpu")
    toy_vocabulary(tmp_path / "vocab.txt")
    assert load_model(path, "cpu").tokenizer.vocab_size == 270
    with pytest.raises(UsageError, match="choose native or rwkv"):
        load_model(path, "cpu", backend="other")
    with pytest.raises(UsageError, match="choose fp32"):
        load_model(path, "cpu", "int3")


def test_the_catalogue_lists_the_embedded_model() -> None:
    rows = {row["name"]: row for row in list_models()}
    assert rows["embedded"]["kind"] == "rwkv7" and rows["smollm2"]["kind"] == "transformer"
    assert rows["embedded"]["available"] and rows["embedded"]["digest"] == load_model().model.digest
