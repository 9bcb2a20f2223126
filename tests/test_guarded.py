"""Deltas that mind the other facts: what they promise, on the embedded model."""

import pytest
import torch

from rwkvedit.recurrent.asking import Rows, read_rows
from rwkvedit.recurrent.controls import make_controls
from rwkvedit.recurrent.methods import find_method
from rwkvedit.recurrent.methods.nullspace import question_addresses
from rwkvedit.recurrent.pairs import read_pair
from rwkvedit.recurrent.workspace import Workspace, layer_range

TOLD = ("Bob lives in Austin.", "Alice lives in Paris.", "Carol lives in Rome.")


@pytest.fixture
def ws(embedded):
    template, tokenizer = embedded.template, embedded.tokenizer
    tokens = [t for said in TOLD for t in template.encode_turn(tokenizer, said, "Got it.")]
    with torch.no_grad():
        _, state = embedded.model.forward(tokens)
    pair = read_pair("Bob lives in Austin", "Bob lives in Chicago")
    ws = Workspace(embedded, state, pair, layer_range("upper", state.n_layer), n_asks=2)
    ws.controls = make_controls(embedded, TOLD[1:], pair.fact)
    return ws


def gain(delta, addresses):
    return float((delta @ addresses).norm())


def test_nullspace_is_read_by_the_fact_and_less_by_the_others(ws):
    own, others = question_addresses(ws)
    plain, bent = ws.delta("probe"), find_method("nullspace").delta(ws)
    assert gain(bent, others) < 0.7 * gain(plain, others)
    assert gain(bent, own) > 0.5 * gain(plain, own)


def test_nullspace_without_controls_keeps_what_the_fact_reads(ws):
    ws.controls = []
    own, none = question_addresses(ws)
    assert none is None
    plain, bent = ws.delta("probe"), find_method("nullspace").delta(ws)
    assert gain(plain - bent, own) < 0.25 * gain(plain, own)


def p_new(ws, delta):
    rows = Rows()
    handles = [rows.add(ask, ws.said_new) for ask in ws.asks]
    with torch.no_grad():
        readings = read_rows(ws.model, rows, ws.edited(delta, [1.0]).unstack())
    return min(readings[h].p for h in handles)


def test_optimised_learns_the_new_value_from_a_useless_start(ws):
    generator = torch.Generator().manual_seed(0)
    start = ws.delta("probe")
    ws.budget_ms = 60_000.0  # what it learns, not how fast this machine is
    ws.warm = 0.3 * start + 0.05 * start.norm() * torch.nn.functional.normalize(
        torch.randn(start.shape, generator=generator), dim=(-2, -1)) / start.shape[0]
    before = p_new(ws, ws.warm)
    assert p_new(ws, find_method("optimised").delta(ws)) > max(0.6, before)


def test_optimised_stops_at_its_budget(ws):
    ws.budget_ms = 0.0
    before = ws.forwards
    delta = find_method("optimised").delta(ws)
    assert ws.forwards - before <= 2 and bool(torch.isfinite(delta).all())


def test_optimised_keeps_the_rank_it_was_given(ws):
    delta = find_method("optimised").delta(ws)
    sigma = torch.linalg.svdvals(delta)
    assert float(sigma[..., ws.rank:].max()) < 1e-3 * float(sigma.max())
