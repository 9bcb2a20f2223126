"""Training: the loss is right, the network learns, a run stops and goes on exactly."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rwkvedit.errors import UsageError
from rwkvedit.train.loop import Settings, Trainer
from rwkvedit.train.network import Network, NetworkConfig, product_dtype
from rwkvedit.train.optim import multiplier, orthogonalise

V = 61


@dataclass
class Batch:
    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    stage: str


class Copying:
    """Rows that repeat themselves: the second half can be known from the first."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def batch(self, progress: float) -> Batch:
        half = self.rng.integers(1, V, (4, int(self.rng.integers(8, 12))))
        row = np.concatenate([half, half], 1)
        weights = np.zeros(row.shape, np.float32)
        weights[:, half.shape[1] :] = 1.0
        return Batch(row, np.roll(row, -1, 1), weights, "copy")

    def state_dict(self):
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state["rng"]


def settings(tmp_path, name="run", **more) -> Settings:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("1 'a' 1\n")
    return Settings(
        tmp_path / name, vocab, n_embd=32, n_layer=2, head_size=16, device="cpu", **more
    )


def test_a_killed_run_goes_on_exactly_as_if_never_stopped(tmp_path):
    whole = Trainer(settings(tmp_path, "whole", tokens=900), V, Copying)
    while whole.progress < 1:
        whole.train_step()
    first = Trainer(settings(tmp_path, "parts", tokens=900), V, Copying)
    for _ in range(4):
        first.train_step()
    first.save()
    second = Trainer(settings(tmp_path, "parts", tokens=900, resume=True), V, Copying)
    while second.progress < 1:
        second.train_step()
    assert second.tokens == whole.tokens and second.step == whole.step
    for (name, p), q in zip(
        whole.network.named_parameters(), second.network.parameters(), strict=True
    ):
        assert torch.equal(p, q), name


def test_an_interrupt_saves_and_says_so(tmp_path):
    trainer = Trainer(settings(tmp_path, tokens=10**9), V, Copying)
    lines = []

    def report(record):
        lines.append(record)
        signal.raise_signal(signal.SIGINT)

    assert trainer.run(report) is False
    assert (trainer.settings.out / "checkpoint.pt").exists()
    record = json.loads((trainer.settings.out / "log.jsonl").read_text().splitlines()[0])
    assert record["step"] == 1 and record["loss"] == pytest.approx(lines[0]["loss"])
    with pytest.raises(UsageError, match="--resume"):
        Trainer(settings(tmp_path, tokens=100), V, Copying)


def test_the_loss_falls(tmp_path):
    trainer = Trainer(settings(tmp_path, tokens=10**9), V, Copying)
    losses = [trainer.train_step()["loss"] for _ in range(30)]
    assert np.mean(losses[-5:]) < losses[0] - 0.1


def test_the_exported_file_holds_official_names_and_both_ends_of_a_tied_matrix(tmp_path):
    trainer = Trainer(settings(tmp_path, tokens=100), V, Copying)
    trainer.run(lambda record: None)
    tensors = load_file(trainer.settings.out / "model.safetensors")
    assert torch.equal(tensors["emb.weight"], tensors["head.weight"])
    assert tensors["blocks.1.att.v1"].shape == (32, 32) and "blocks.0.att.v1" not in tensors
    again = Network(trainer.network.cfg, seed=9)
    again.import_({k: v.float() for k, v in tensors.items()})
    assert (again.emb.weight - trainer.network.emb.weight).abs().max() < 1e-2


@pytest.mark.parametrize("tie", [True, False])
def test_selected_loss_and_gradients_equal_plain_cross_entropy(tie):
    g = torch.Generator().manual_seed(0)
    net = Network(NetworkConfig(V, 32, 2, 16, tie), seed=1, dtype=torch.float32)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
    tokens = torch.randint(1, V, (3, 13), generator=g)
    targets = torch.randint(1, V, (3, 13), generator=g)
    weights = torch.rand(3, 13, generator=g) * (torch.rand(3, 13, generator=g) < 0.6)
    loss, hits = net.loss(tokens, targets, weights)
    got = torch.autograd.grad(loss, list(net.parameters()))
    logits = net.logits(tokens)
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    )
    plain = (each * weights.flatten()).sum() / weights.sum()
    want = torch.autograd.grad(plain, list(net.parameters()))
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    right = (logits.argmax(-1) == targets)[weights > 0]
    assert torch.equal(hits, right)
    for (name, _), p, q in zip(net.named_parameters(), got, want, strict=True):
        assert (p - q).norm() <= 1e-4 * q.norm() + 1e-7, name


def test_muon_directions_are_nearly_orthogonal():
    g = torch.Generator().manual_seed(0)
    for shape in ((2, 64, 64), (1, 128, 32), (1, 32, 128)):
        s = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=g)).float())
        assert s.min() > 0.05 and s.max() < 1.4


def test_the_schedule_warms_up_holds_and_falls():
    assert multiplier(0.0, 0) < 0.02 and multiplier(0.3, 500) == 1.0
    assert multiplier(0.7, 500) < multiplier(0.5, 500)
    assert multiplier(1.0, 500) == pytest.approx(0.03)


@pytest.mark.parametrize(("slow", "chosen"), [
    (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (None, torch.bfloat16),
])  # fmt: skip
def test_products_avoid_a_type_that_the_processor_only_emulates(monkeypatch, slow, chosen):
    def mm(a, b):
        time.sleep(0.03 if a.dtype == slow else 0.003)

    monkeypatch.setattr(torch, "mm", mm)
    product_dtype.cache_clear()
    try:
        assert product_dtype(torch.device("cpu")) == chosen
    finally:
        product_dtype.cache_clear()
