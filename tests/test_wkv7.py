"""The numba WKV-7 kernels against the plain reference in float64, by relative error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rwkvedit_kernels import wkv7_numba
from rwkvedit_kernels.wkv7_autograd import wkv7
from rwkvedit_kernels.wkv7_ref import wkv7_ref

NAMES = ("r", "w", "k", "v", "a", "b", "state")


def inputs(B: int, T: int, H: int, N: int, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    r, k, v = (randn(B, T, H, N) * 0.5 for _ in range(3))
    w = torch.exp(-0.606531 * torch.sigmoid(randn(B, T, H, N) * 2))
    kk = torch.nn.functional.normalize(randn(B, T, H, N), dim=-1)
    iclr = torch.sigmoid(randn(B, T, H, N))
    return [r, w, k, v, -kk, kk * iclr, randn(B, H, N, N) * 0.3]


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.double() - y.double()).norm() / y.double().norm().clamp_min(1e-30))


SHAPES = [
    (1, 1, 1, 64),
    (2, 17, 3, 64),
    (1, 33, 2, 32),
    (3, 16, 1, 16),
    (2, 5, 2, 10),
    (1, 50, 1, 24),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_equals_the_reference(shape):
    x = inputs(*shape)
    y, end = wkv7_ref(*x)
    y2, end2 = wkv7(*(t.float() for t in x))
    assert relative(y2, y) < 1e-5
    assert relative(end2, end) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_backward_equals_autograd_through_the_reference(shape):
    x = [t.requires_grad_() for t in inputs(*shape)]
    x32 = [t.detach().float().requires_grad_() for t in x]
    g = torch.Generator().manual_seed(1)
    y, end = wkv7_ref(*x)
    dy = torch.randn(y.shape, generator=g, dtype=torch.float64)
    dend = torch.randn(end.shape, generator=g, dtype=torch.float64)
    want = torch.autograd.grad([y, end], x, [dy, dend])
    y2, end2 = wkv7(*x32)
    got = torch.autograd.grad([y2, end2], x32, [dy.float(), dend.float()])
    for name, p, q in zip(NAMES, got, want, strict=True):
        assert relative(p, q) < 2e-5, name


def test_rows_of_different_length_stop_at_their_own():
    x = inputs(3, 20, 2, 16)
    lengths = torch.tensor([20, 7, 1])
    y, end = wkv7_ref(*x, lengths=lengths)
    arrays = [t.float().numpy() for t in x]
    y2, end2, _ = wkv7_numba.wkv7_forward(*arrays, lengths=lengths.numpy())
    assert relative(torch.from_numpy(y2), y) < 1e-5
    assert relative(torch.from_numpy(end2), end) < 1e-5
    assert not y2[1, 7:].any()
    alone, end3, _ = wkv7_numba.wkv7_forward(*(t[1:2, :7] for t in arrays[:6]), arrays[6][1:2])
    assert np.array_equal(alone[0], y2[1, :7]) and np.array_equal(end3[0], end2[1])


def test_a_split_sequence_equals_the_whole():
    x = [t.float() for t in inputs(2, 40, 2, 32)]
    y, end = wkv7(*x)
    y1, mid = wkv7(*(t[:, :13] for t in x[:6]), x[6])
    y2, end2 = wkv7(*(t[:, 13:] for t in x[:6]), mid)
    assert torch.equal(torch.cat([y1, y2], 1), y) and torch.equal(end2, end)


def test_the_inputs_are_left_alone():
    x = [t.float() for t in inputs(1, 9, 1, 16)]
    copies = [t.clone() for t in x]
    wkv7(*x)
    assert all(torch.equal(p, q) for p, q in zip(x, copies, strict=True))
