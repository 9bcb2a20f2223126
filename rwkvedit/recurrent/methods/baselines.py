"""What an edit must beat. Not offered: a baseline for ``bench state``."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkvedit.recurrent.methods.hybrid import PROBE, TOLD, hyb_u
from rwkvedit.recurrent.methods.registry import method
from rwkvedit.recurrent.workspace import Workspace


def seed_of(*words: str) -> int:
    """A seed from text, the same on every machine (63 bits of its SHA-256)."""
    digest = hashlib.sha256("\n".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@method("random", *TOLD, *PROBE, calibrated=True, searched=False, offered=False,
        source="baseline: isotropic directions")
def random(ws: Workspace) -> Tensor:
    """A random rank-1 direction in every head, of the norm that hyb-u's delta has there.

    ``delta_h = ||hyb-u_h|| p q^T`` with p, q uniform on the unit sphere, from a generator seeded by
    the two facts' text. At alpha = 1: its norm is compared, not its search.
    """
    norm = hyb_u(ws).norm(dim=(-2, -1))  # (l, H)
    pair = ws.pair
    generator = torch.Generator().manual_seed(
        seed_of(pair.statement(pair.old), pair.statement(pair.new)))
    n = ws.state.head_size
    drawn = F.normalize(torch.randn(2, *norm.shape, n, generator=generator), dim=-1).to(norm.device)
    return norm[..., None, None] * drawn[0][..., :, None] * drawn[1][..., None, :]
