"""Deltas that mind the other facts: what they promise, on the embedded model."""

import pytest
import torch

from rwkvedit.recurrent.asking import Rows, read_rows
from rwkvedit.recurrent.controls import make_controls
from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.methods import find_method, optimised
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


def test_the_firm_one_is_read_less_still_by_the_others(ws):
    own, others = question_addresses(ws)
    bent, firm = (find_method(name).delta(ws) for name in ("nullspace", "nullspace-firm"))
    assert gain(firm, others) < 0.8 * gain(bent, others)
    assert gain(firm, own) > 0.3 * gain(bent, own)


def test_a_control_ends_where_its_value_does(embedded):
    """Else an edit could leave a value of several tokens to go on as another word."""
    control = make_controls(embedded, ["Vera's favorite drink is kombucha."], None)[0]
    assert embedded.tokenizer.decode(list(control.value)) == " kombucha."


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


class Clock:
    """Time that passes only in forwards and in what follows them."""

    def __init__(self, monkeypatch, forward, back):
        self.now = 0.0
        monkeypatch.setattr(optimised.time, "perf_counter", lambda: self.now)
        losses, step = optimised._losses, optimised._Adam.__call__

        def slow_losses(*args):
            self.now += forward
            return losses(*args)

        def slow_step(*args, **options):
            self.now += back
            return step(*args, **options)

        monkeypatch.setattr(optimised, "_losses", slow_losses)
        monkeypatch.setattr(optimised._Adam, "__call__", slow_step)
        monkeypatch.setattr(optimised, "LEARNT", -1.0)  # it never has learnt enough


@pytest.mark.parametrize(("forward", "back"), [(0.1, 0.2), (0.3, 0.1), (0.7, 1.4)])
def test_optimised_is_over_its_budget_by_no_step_and_uses_most_of_it(
    ws, monkeypatch, forward, back
):
    clock = Clock(monkeypatch, forward, back)
    ws.budget_ms = 2000.0
    find_method("optimised").delta(ws)
    assert clock.now <= 2.0 and clock.now > 2.0 - 2 * (forward + back)


def test_the_budget_is_an_option_of_an_edit(embedded, ws, monkeypatch):
    clock = Clock(monkeypatch, 0.1, 0.2)
    apply_edit(embedded, ws.state, TOLD[0], "Bob lives in Chicago", method="optimised",
               budget_ms=900.0, dry_run=True)
    assert 0.4 <= clock.now <= 0.9


def test_the_chat_passes_a_budget_on_and_refuses_a_bad_one(shell, monkeypatch):
    shell.execute("Bob lives in Austin.")
    asked = []
    real = shell.session.edit
    monkeypatch.setattr(
        shell.session, "edit", lambda *a, **o: (asked.append(o["budget_ms"]), real(*a, **o))[1])
    line = '/rwkv-edit "Bob lives in Austin" "Bob lives in Rome" --dry-run'
    assert shell.execute(f"{line} --budget 250").kind == "edit" and asked == [250.0]
    erased = []
    real_forget = shell.session.forget
    monkeypatch.setattr(
        shell.session, "forget",
        lambda *a, **o: (erased.append(o["budget_ms"]), real_forget(*a, **o))[1])
    shell.execute('/rwkv-forget "Bob lives in Austin" Bob --dry-run --budget 250')
    assert erased == [250.0]
    for bad in ("soon", "0", "-3", "nan"):
        refused = shell.execute(f"{line} --budget {bad}")
        assert refused.kind == "error" and "milliseconds like 500" in refused.data["message"]


def test_optimised_keeps_the_rank_it_was_given(ws):
    delta = find_method("optimised").delta(ws)
    sigma = torch.linalg.svdvals(delta)
    assert float(sigma[..., ws.rank:].max()) < 1e-3 * float(sigma.max())
