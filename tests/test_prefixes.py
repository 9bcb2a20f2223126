"""Rows that begin alike, run once: the tree, and that nothing read from it differs."""

from __future__ import annotations

import pytest
import torch
from rwkvedit_kernels.packed import PackedModel
from rwkvedit_kernels.prefixes import Tree
from toy_models import toy_tensors

ROWS = ([1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4], [7], [1, 2], [1, 2, 5, 6, 8])


def unrolled(tree: Tree, state_of: list[int]) -> list[tuple[int, list[int]]]:
    """Each row's (state, tree rows from its root on), followed from its end through parents."""
    found = []
    for end in tree.ends:
        spots: list[int] = []
        segment = int(end)
        while True:
            starts = tree.layout.starts
            spots[:0] = range(starts[segment], starts[segment + 1])
            if tree.parents[segment] < 0:
                break
            segment = int(tree.parents[segment])
        found.append((int(tree.source[segment]), spots))
    return found


@pytest.mark.parametrize("owner", [[0] * 6, [0, 1, 1, 0, 1, 0], list(range(6))])
def test_every_row_can_be_followed_through_the_tree(owner):
    tree = Tree.of(ROWS, owner)
    flat = [t for row in ROWS for t in row]
    at = 0
    for row, state, (source, spots) in zip(ROWS, owner, unrolled(tree, owner), strict=True):
        assert source == state
        assert [flat[tree.picks[s]] for s in spots] == row
        assert list(tree.at[at : at + len(row)]) == spots
        at += len(row)
    distinct = {(s, tuple(row[: i + 1])) for s, row in zip(owner, ROWS, strict=True)
                for i in range(len(row))}
    assert tree.layout.rows == len(tree.picks) == len(distinct)
    first = 0
    for depth, count in enumerate(tree.levels):  # parents stand before their children
        above = tree.parents[first : first + count]
        assert (above < first).all() and ((above < 0).all() if depth == 0 else (above >= 0).all())
        first += count
    assert first == len(tree.parents)


@pytest.mark.parametrize("dims", [{}, {"n_embd": 128, "head_size": 64, "n_layer": 3}])
@pytest.mark.parametrize("one_state", [True, False])
def test_shared_openings_change_no_answer(dims, one_state):
    model = PackedModel(toy_tensors(**dims))
    g = torch.Generator().manual_seed(2)
    long = torch.randint(1, model.vocab_size, (50,), generator=g).tolist()
    rows = [*map(list, ROWS), long, [*long[:40], 9, 9], [*long, *ROWS[0]]]
    lead = 1 if one_state else len(rows)
    state = [torch.randn((lead, *shape), generator=g) for shape in model.state_shapes]
    tails = [min(3, len(row)) for row in rows]
    together = model.forward(rows, *state, tails=tails, threads=2)
    for b, row in enumerate(rows):
        own = [t[0 if one_state else b][None] for t in state]
        alone = model.forward([row], *own, tails=[tails[b]], threads=1)
        torch.testing.assert_close(together[0][b], alone[0][0], rtol=1e-4, atol=1e-4)
        for shared, single in zip(together[1:], alone[1:], strict=True):
            torch.testing.assert_close(shared[b], single[0], rtol=1e-4, atol=1e-4)
