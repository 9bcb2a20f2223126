"""Methods that replay the conversation with the fact changed: exact, O(T), needing its tokens."""

from __future__ import annotations

from torch import Tensor

from rwkvedit.recurrent.methods.registry import method
from rwkvedit.recurrent.oracle import replayed_delta
from rwkvedit.recurrent.spectrum import top_triples
from rwkvedit.recurrent.workspace import Workspace


@method("uniform", searched=False)
def uniform(ws: Workspace) -> Tensor:
    """The full delta: the conversation replayed with the new fact, minus as it was.

    ``delta = state(replay with new) - state(live)`` in the edited layers, every head alike. Exact
    at alpha = 1 and O(T): it costs a replay, and needs the conversation's tokens.
    """
    return replayed_delta(ws)


@method("full-r1", searched=False)
def full_r1(ws: Workspace) -> Tensor:
    """The rank-1 part of uniform's delta in every head: ``sigma1 u1 v1^T``."""
    return top_triples(replayed_delta(ws), 1).matrix()
