"""The speed benchmark's document on a toy shape: its keys, its ratios, its errors."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from rwkvedit_kernels.machine import matmul_rate, read_bandwidth

from rwkvedit.errors import UnavailableError, UsageError
from rwkvedit.evaluate import speed
from rwkvedit.evaluate.shapes import SHAPES, low_ranks, seeded_checkpoint
from rwkvedit.recurrent import edit
from rwkvedit.recurrent.checkpoint import check_tensors
from rwkvedit.recurrent.model import RWKV7


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    speed.add_arguments(parser)
    parser.add_argument("--model")
    parser.add_argument("--device")
    return parser.parse_args(words)


def test_a_toy_run_has_every_row_and_true_ratios() -> None:
    document = speed.run(arguments("--quick", "--sizes", "tiny"))
    assert [row["task"] for row in document["rows"]] == [
        "prefill-512", "decode", "decode-bf16", "decode-batch-8",
    ]  # fmt: skip
    for row in document["rows"]:
        assert {"task", "size", "ours", "peer", "peer_name", "unit", "ratio"} <= row.keys()
        assert row["size"] == "tiny"
        assert row["unit"] == "tokens/s"
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
    assert document["machine"]["read_gb_per_s"] > 0
    assert document["machine"]["matmul_gflop_per_s"] > 0


def test_an_edit_is_timed_with_and_without_the_controls_of_a_chat(embedded, monkeypatch) -> None:
    asked = []
    real = edit.apply_edit
    monkeypatch.setattr(edit, "apply_edit", lambda *a, controls, **k: (
        asked.append(len(controls)), real(*a, controls=controls, **k))[1])
    row = speed.edit_row(embedded, 1)
    assert row["verdict"] == "took" and row["checked_ms"] > 0
    assert set(asked) == {0, 4}


def test_svd_row_compares_times() -> None:
    row = speed.svd_row(RWKV7(seeded_checkpoint(SHAPES["tiny"])), 1, quick=True)
    assert row["unit"] == "ms"
    assert row["heads"] == speed.HEADS // 16
    assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])


def test_seeded_weights_are_a_model_and_repeat() -> None:
    one, two = seeded_checkpoint(SHAPES["tiny"], 4), seeded_checkpoint(SHAPES["tiny"], 4)
    assert all(torch.equal(one.tensors[k], two.tensors[k]) for k in one.tensors)
    assert check_tensors(Path("seeded"), one.tensors)[1] == one.config
    logits, _ = RWKV7(one).forward([1, 2, 3])
    assert torch.isfinite(logits).all()


def test_low_ranks_are_the_official_ones() -> None:
    assert low_ranks(768) == {"w": 64, "a": 64, "v": 32, "g": 128}
    assert low_ranks(2560) == {"w": 96, "a": 96, "v": 64, "g": 320}


def test_bad_arguments_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="no size 'huge'"):
        speed.run(arguments("--sizes", "huge"))
    with pytest.raises(UsageError, match="--repeats"):
        speed.run(arguments("--repeats", "-1"))
    with pytest.raises(UsageError, match="--repeats"):
        speed.run(arguments("--repeats", "0"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_an_absent_gpu_is_one_line() -> None:
    with pytest.raises(UnavailableError, match="cuda"):
        speed.run(arguments("--device", "cuda"))


def test_yardsticks_are_plausible() -> None:
    assert 1e6 < read_bandwidth(16, 1) < 1e13
    assert 1e5 < matmul_rate(128, 1) < 1e16  # even on a machine with much else to do
