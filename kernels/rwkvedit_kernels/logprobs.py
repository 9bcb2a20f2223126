"""Log probabilities of chosen tokens, without a softmax of the whole vocabulary being kept.

Glossary (R rows of logits, V vocabulary, K tokens asked about):
    logits    (R, V)  float32, nats before softmax
    rows      (K,)    the row that each token is asked of; a row may be asked of any number
    tokens    (K,)
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .simd import exp32


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _ask(logits, rows, tokens, logp, first):
    many, width = logits.shape
    largest = np.empty(many, np.float32)
    total = np.zeros(many, np.float32)  # of exp(logit - largest); 0: not looked at yet
    for k in range(len(rows)):
        row = rows[k]
        if total[row] == np.float32(0.0):
            most = logits[row, 0]
            for i in range(width):
                most = max(most, logits[row, i])
            summed = np.float32(0.0)
            for i in range(width):
                summed += exp32(logits[row, i] - most)
            largest[row], total[row] = most, summed
        here = logits[row, tokens[k]]
        logp[k] = here - largest[row] - np.log(total[row])
        first[k] = here >= largest[row]


def chosen(logits: Tensor, rows: np.ndarray, tokens: np.ndarray) -> tuple[list[float], list[bool]]:
    """(log P of each token in nats, whether it is the likeliest of its row)."""
    if logits.device.type != "cpu":
        return chosen_ref(logits, rows, tokens)
    logp, first = np.empty(len(rows)), np.empty(len(rows), np.bool_)
    _ask(logits.detach().float().contiguous().numpy(), rows, tokens, logp, first)
    return logp.tolist(), first.tolist()


def chosen_ref(
    logits: Tensor, rows: np.ndarray, tokens: np.ndarray
) -> tuple[list[float], list[bool]]:
    """The same in plain torch, on any device."""
    at = torch.from_numpy(rows).to(logits.device)
    told = torch.from_numpy(tokens).to(logits.device)
    scores = logits.float()
    here = scores[at, told]
    logp = here - scores.logsumexp(-1)[at]
    return logp.tolist(), (here >= scores.amax(-1)[at]).tolist()
