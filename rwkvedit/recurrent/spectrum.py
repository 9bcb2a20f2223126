"""Leading singular triples of every head at once. Knows nothing of models or facts.

Glossary (``*lead`` is any batch shape, usually (layers, H)):
    delta   (*lead, N, N)   fp32   axes (value, key)
    u       (*lead, N, k)   fp32   value directions, orthonormal columns (rows of the state)
    sigma   (*lead, k)      fp32   strengths, descending
    v       (*lead, N, k)   fp32   addresses, orthonormal columns (columns of the state)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from rwkvedit_kernels.svd import top1
from torch import Tensor


class Triples(NamedTuple):
    """``delta ~ u @ diag(sigma) @ v.T`` (see the module's glossary)."""

    u: Tensor
    sigma: Tensor
    v: Tensor

    def matrix(self) -> Tensor:
        """The rank-k matrix, (*lead, N, N)."""
        return (self.u * self.sigma[..., None, :]) @ self.v.transpose(-1, -2)


def top_triples(delta: Tensor, rank: int = 1) -> Triples:
    """The ``rank`` leading singular triples of each (N, N) matrix of ``delta``.

    One triple comes from the batched kernel; more from the eigenvectors of the Gram matrix
    ``delta^T delta`` (N, N), then an exact SVD of the small (M, k) projection. Squaring costs half
    the digits: a direction under 3e-4 of the largest comes out as noise, at its own small strength.
    """
    n = delta.shape[-1]
    if rank == 1:
        one = top1(delta)
        return Triples(one.u[..., None], one.s[..., None], one.v[..., None])
    _, vectors = torch.linalg.eigh(delta.transpose(-1, -2) @ delta)  # ascending
    basis = vectors[..., -min(rank, n) :]  # (*lead, N, k)
    u, sigma, wt = torch.linalg.svd(delta @ basis, full_matrices=False)
    return Triples(u, sigma, basis @ wt.transpose(-1, -2))


def truncated(delta: Tensor, rank: int) -> Tensor:
    """The best rank-``rank`` approximation of each matrix (Eckart, Young 1936), (*lead, N, N)."""
    return top_triples(delta, rank).matrix()


def dominance(delta: Tensor) -> Tensor:
    """``sigma1 / sum_i sigma_i`` (*lead,): 1 for a rank-1 matrix, 1/N for a multiple of a rotation.

    A matrix of zeros has 0.
    """
    sigma = torch.linalg.svdvals(delta)  # (*lead, N)
    total = sigma.sum(-1)
    return torch.where(total > 0, sigma[..., 0] / total.clamp_min(1e-30), 0.0)


def rotate_onto(u: Tensor, reference: Tensor) -> Tensor:
    """The orthogonal R (*lead, k, k) that best turns ``u`` onto ``reference``: polar of u.T @ ref.

    For k = 1 this is the sign of <u, reference>, which an SVD leaves arbitrary (and the reason why
    directions from two SVDs may never be mixed unaligned).
    """
    overlap = u.transpose(-1, -2) @ reference
    if overlap.shape[-1] == 1:
        return torch.where(overlap < 0, -1.0, 1.0)
    left, _, right = torch.linalg.svd(overlap)
    return left @ right
