"""Rows of tokens that begin alike, as a tree: what they have in common is run once.

Questions asked of one state share their openings, and the answers tried to one question share all
up to where they part. A segment is a stretch of tokens that every row through it has whole; it goes
on from its parent's end, or from a state.

Glossary (B rows of T_b tokens, S segments, M tokens of all segments laid end to end):
    segments' order    parents before children, so that those of one depth can run side by side
    at                 (sum T_b,)  which of the M each token of each row is
    picks              (M,)        where the M stand among the rows laid end to end
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from .passes import Layout


@njit(nogil=True, cache=True)
def _grow(flat, begins, owner):
    """A tree's arrays, from tokens laid end to end: starts, row_seq, parents, source, levels, ends,
    at, picks.

    Nodes, one a distinct token in its place, are numbered as rows first bring them; a segment's
    follow one another, since what comes after a row's end or a fork begins another segment.
    """
    count = len(begins) - 1
    node_of = np.empty(len(flat), np.int64)
    before = np.empty(len(flat), np.int64)  # a node's parent, or -1 - its state
    found = np.empty(len(flat), np.int64)  # where the node stands among the rows
    nodes = 0
    for row in range(count):
        first, size = begins[row], begins[row + 1] - begins[row]
        common, like = 0, 0
        for other in range(row):
            if owner[other] != owner[row]:
                continue
            start, same = begins[other], 0
            most = min(size, begins[other + 1] - start)
            while same < most and flat[start + same] == flat[first + same]:
                same += 1
            if same > common:
                common, like = same, start
        here = -1 - owner[row]
        for i in range(size):
            if i < common:
                node_of[first + i] = node_of[like + i]
            else:
                node_of[first + i], before[nodes], found[nodes] = nodes, here, first + i
                nodes += 1
            here = node_of[first + i]

    children = np.zeros(nodes, np.int64)
    closed = np.zeros(nodes, np.bool_)
    for node in range(nodes):
        if before[node] >= 0:
            children[before[node]] += 1
    for row in range(count):
        closed[node_of[begins[row + 1] - 1]] = True

    segment = np.empty(nodes, np.int64)
    head = np.empty(nodes, np.int64)
    depth = np.empty(nodes, np.int64)
    segments, deepest = 0, 0
    for node in range(nodes):
        up = before[node]
        if up >= 0 and children[up] == 1 and not closed[up]:
            segment[node] = segment[up]
            continue
        segment[node], head[segments] = segments, node
        depth[segments] = depth[segment[up]] + 1 if up >= 0 else 0
        deepest = max(deepest, depth[segments])
        segments += 1

    levels = np.zeros(deepest + 1, np.int64)
    place = np.empty(segments, np.int64)  # in the order of depth
    order = np.empty(segments, np.int64)
    placed = 0
    for level in range(deepest + 1):
        for s in range(segments):
            if depth[s] == level:
                levels[level] += 1
                place[s], order[placed] = placed, s
                placed += 1

    starts = np.zeros(segments + 1, np.int64)
    row_seq = np.empty(nodes, np.int64)
    parents = np.empty(segments, np.int64)
    source = np.zeros(segments, np.int64)
    picks = np.empty(nodes, np.int64)
    moved = np.empty(nodes, np.int64)
    placed = 0
    for i in range(segments):
        node = head[order[i]]
        up = before[node]
        parents[i] = place[segment[up]] if up >= 0 else -1
        if up < 0:
            source[i] = -1 - up
        while node < nodes and segment[node] == order[i]:
            moved[node], picks[placed], row_seq[placed] = placed, found[node], i
            placed += 1
            node += 1
        starts[i + 1] = placed
    at = np.empty(len(flat), np.int64)
    for i in range(len(flat)):
        at[i] = moved[node_of[i]]
    ends = np.empty(count, np.int64)
    for row in range(count):
        ends[row] = row_seq[at[begins[row + 1] - 1]]
    return starts, row_seq, parents, source, levels, ends, at, picks


@dataclass(frozen=True)
class Tree:
    """``parents`` (S,) a segment each, -1 at a root; ``source`` (S,) the state that a root goes on
    from; ``levels`` how many segments there are of each depth; ``ends`` (B,) the segment that each
    row ends with."""

    layout: Layout
    parents: np.ndarray
    source: np.ndarray
    levels: tuple[int, ...]
    ends: np.ndarray
    at: np.ndarray
    picks: np.ndarray

    @staticmethod
    def of(rows: Sequence[Sequence[int] | np.ndarray], owner: Sequence[int]) -> Tree:
        """The tree of ``rows``; row b goes on from state ``owner[b]``. Raises ValueError for a row
        without tokens."""
        if not all(len(row) for row in rows):
            raise ValueError("every row needs at least one token")
        begins = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=begins[1:])
        flat = np.concatenate([np.asarray(row, np.int64) for row in rows])
        starts, row_seq, parents, source, levels, ends, at, picks = _grow(
            flat, begins, np.asarray(owner, np.int64))
        layout = Layout(len(picks), starts, row_seq)
        return Tree(layout, parents, source, tuple(levels.tolist()), ends, at, picks)
