"""The batched top-1 SVD against ``torch.linalg.svd``, degenerate matrices included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rwkvedit_kernels import svd
from rwkvedit_kernels.dispatch import use_backend
from rwkvedit_kernels.svd import energy, rank_k, top1
from torch import Tensor

BACKENDS = ("numba", "ref")


def check(a: Tensor, triple: svd.Triple) -> None:
    """s is the largest singular value, u and v are unit and belong to it."""
    values = torch.linalg.svdvals(a.double())[..., 0]
    wide = a.double()
    u, s, v = (t.double() for t in triple)
    assert (u.shape, s.shape, v.shape) == (a.shape[:-1], values.shape, (*a.shape[:-2], a.shape[-1]))
    floor = values.clamp_min(1e-30)
    assert ((s - values).abs() <= 1e-4 * floor).all()
    assert torch.allclose(u.norm(dim=-1), torch.ones_like(s), atol=1e-5)
    assert torch.allclose(v.norm(dim=-1), torch.ones_like(s), atol=1e-5)
    left = ((wide @ v.unsqueeze(-1)).squeeze(-1) - s.unsqueeze(-1) * u).norm(dim=-1)
    right = ((u.unsqueeze(-2) @ wide).squeeze(-2) - s.unsqueeze(-1) * v).norm(dim=-1)
    assert (left <= 1e-4 * floor).all()
    assert (right <= 1e-4 * floor).all()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape", [(3, 4, 64, 64), (64, 64), (9, 30, 17), (5, 3, 70), (40, 16, 16), (2, 1, 1), (3, 1, 8)]
)
def test_random_matrices_of_any_shape(shape: tuple[int, ...], backend: str) -> None:
    a = random(*shape)
    with use_backend(backend):
        check(a, top1(a))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearly_rank_one(backend: str) -> None:
    a = random(20, 64, 1) @ random(20, 1, 64, seed=1) + 0.02 * random(20, 64, 64, seed=2)
    with use_backend(backend):
        triple = top1(a)
    check(a, triple)
    assert ((a - triple.matrix()).norm() / a.norm()) < 0.05
    assert (triple.s.square() <= energy(a) * 1.0001).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_give_some_leading_pair(backend: str) -> None:
    a = torch.stack([torch.eye(8), torch.diag(torch.tensor([2.0, 2, 1, 0, 0, 0, 0, 0]))])
    with use_backend(backend):
        check(a, top1(a))


@pytest.mark.parametrize("backend", BACKENDS)
def test_zeros_give_zero_and_unit_vectors(backend: str) -> None:
    with use_backend(backend):
        u, s, v = top1(torch.zeros(2, 3, 4))
    assert (s == 0).all()
    assert torch.equal(u.norm(dim=-1), torch.ones(2))
    assert torch.equal(v.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_strong_direction_spread_over_weaker_columns_is_found(backend: str) -> None:
    a = torch.zeros(1, 8, 8)
    a[0, 0, 0] = 1.0  # the longest column ...
    a[0, 1, 1] = a[0, 1, 2] = 0.9  # ... and a stronger direction over two others
    with use_backend(backend):
        assert top1(a).s.item() == pytest.approx(0.9 * 2**0.5, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_tiny_and_huge_entries(scale: float, backend: str) -> None:
    a = random(6, 12, 12)
    with use_backend(backend):
        assert torch.allclose(top1(a * scale).s / scale, top1(a).s, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(bad: float, backend: str) -> None:
    a = random(3, 8, 8)
    a[1, 2, 3] = bad
    with use_backend(backend), pytest.raises(ValueError, match="NaN or infinity"):
        top1(a)
    with pytest.raises(ValueError, match="NaN or infinity"):
        rank_k(a, 1)


def test_what_fails_the_check_goes_to_the_full_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    a = random(5, 16, 16)
    solve = svd._top1_numba

    def unlucky(flat: Tensor) -> tuple[Tensor, ...]:
        u, s, v, bad = solve(flat)
        s[2], bad[2] = 123.0, True
        return u, s, v, bad

    monkeypatch.setattr(svd, "_top1_numba", unlucky)
    check(a, top1(a))


def test_float64_keeps_its_precision() -> None:
    a = random(4, 16, 16).double()
    assert torch.allclose(top1(a).s, torch.linalg.svdvals(a)[:, 0], rtol=1e-12)


def test_the_same_input_gives_the_same_bits() -> None:
    a = random(50, 16, 16)
    for x, y in zip(top1(a), top1(a), strict=True):
        assert torch.equal(x, y)


def test_an_empty_batch_and_no_matrix() -> None:
    assert top1(torch.zeros(0, 3, 4)).u.shape == (0, 3)
    with pytest.raises(ValueError, match="matrices"):
        top1(torch.zeros(3))


def test_rank_k_rebuilds_a_matrix_of_that_rank() -> None:
    a = random(2, 16, 3) @ random(2, 3, 12, seed=1)
    u, s, v = rank_k(a, 3)
    assert torch.allclose((u * s[..., None, :]) @ v.transpose(-1, -2), a, atol=1e-5)
    assert rank_k(a, 99)[1].shape == (2, 12)
    with pytest.raises(ValueError, match="at least 1"):
        rank_k(a, 0)


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=3, max_side=9),
        elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
    )
)
def test_any_matrix(values: np.ndarray) -> None:
    a = torch.from_numpy(values.copy())
    check(a, top1(a))
