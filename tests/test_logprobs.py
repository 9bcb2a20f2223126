"""Log probabilities of chosen tokens equal a whole softmax's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rwkvedit_kernels.logprobs import chosen, chosen_ref


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e-3])
def test_they_equal_plain_torch(scale):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn((7, 501), generator=g) * scale + 3
    rows = torch.randint(0, 7, (40,), generator=g).numpy()
    tokens = torch.randint(0, 501, (40,), generator=g).numpy()
    tokens[:7], rows[:7] = logits.argmax(-1).numpy(), np.arange(7)
    logp, first = chosen(logits, rows, tokens)
    other, likeliest = chosen_ref(logits, rows, tokens)
    np.testing.assert_allclose(logp, other, rtol=1e-5, atol=1e-5)
    assert first == likeliest and all(first[:7]) and not all(first)


def test_what_is_not_a_number_stays_so():
    logits = torch.tensor([[0.0, float("nan"), 1.0], [0.0, 1.0, 2.0]])
    logp, _ = chosen(logits, np.array([0, 1]), np.array([0, 2]))
    assert np.isnan(logp[0]) and np.isfinite(logp[1])
