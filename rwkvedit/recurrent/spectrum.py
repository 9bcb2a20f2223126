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

    One triple comes from the batched kernel; more from subspace iteration on the Gram matrix
    raised to the 32nd power, then an exact SVD of the small (N, k + 4) projection
    (Halko, Martinsson, Tropp 2011, algorithm 4.4). The start block is the
    matrix's own longest columns, so that the result does not depend on a seed.
    """
    n = delta.shape[-1]
    if rank == 1:
        one = top1(delta)
        return Triples(one.u[..., None], one.s[..., None], one.v[..., None])
    if rank >= n // 2:
        u, sigma, vt = torch.linalg.svd(delta)
        return Triples(u[..., :rank], sigma[..., :rank], vt[..., :rank, :].transpose(-1, -2))
    wide = min(n, rank + 4)
    gram = delta.transpose(-1, -2) @ delta  # (*lead, N, N)
    power = gram
    for _ in range(5):
        scale = power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-30)[..., None, None]
        power = power / scale
        power = power @ power
    longest = gram.diagonal(dim1=-2, dim2=-1).topk(wide, dim=-1).indices  # (*lead, k + 4)
    block = torch.gather(gram, -1, longest[..., None, :].expand(*gram.shape[:-1], wide))
    basis, _ = torch.linalg.qr(power @ block)
    # one plain step after the powers cleans directions that fell below rounding
    basis, _ = torch.linalg.qr(gram @ basis)
    u, sigma, wt = torch.linalg.svd(delta @ basis, full_matrices=False)
    v = basis @ wt.transpose(-1, -2)
    return Triples(u[..., :rank], sigma[..., :rank], v[..., :rank])


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
