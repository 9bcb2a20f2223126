"""Rows run in two halves give what whole passes give."""

from __future__ import annotations

import pytest
import torch
from rwkvedit_kernels.dispatch import addresses
from rwkvedit_kernels.reads_numba import addresses_ref

from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.hooks import Record
from rwkvedit.recurrent.midway import above, below
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.workspace import Workspace

TEXTS = (
    "User: Where does Bob live?\n\nAssistant: Bob lives in", "User:",
    "User: And what about Alice, whom nobody has told us of?\n\nAssistant:",
)


@pytest.fixture
def live(embedded):
    ids = embedded.tokenizer.encode("User: Bob lives in Austin.\n\nAssistant: Got it.\n\n")
    return embedded.model.forward(ids)[1]


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_two_halves_answer_as_one_pass_from_every_state(embedded, live, layer):
    model = embedded.model
    rows = [embedded.tokenizer.encode(text) for text in TEXTS]
    wkv = live.wkv.clone()
    wkv[layer:] *= 0.8
    other = State(live.att_x, wkv, live.ffn_x)
    tails = [2, 1, 3]
    whole = [x for state in (live, other) for x in model.forward(rows, state, tails=tails)[0]]
    half, _ = below(model, rows, live, layer)
    states = State.stack([live, other])
    logits, places, none, _ = above(model, [*half, *half], states, [0, 0, 0, 1, 1, 1], tails * 2)
    found = list(logits[torch.from_numpy(places)].split(tails * 2))
    assert not none
    for want, got in zip(whole, found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[3], atol=1e-2)  # the states do differ


def test_the_sites_of_the_upper_half_are_those_hooks_see(embedded, live):
    model, rows = embedded.model, [embedded.tokenizer.encode(text) for text in TEXTS]
    record = Record([f"blocks.{i}.att.{s}" for i in range(3, 6) for s in ("r", "w", "kk", "b")])
    with torch.no_grad():
        model.forward(rows, live, hooks=record.hooks)
    half, _ = below(model, rows, live, 3)
    _, _, sites, _ = above(model, half, State.stack([live]), [0, 0, 0], [1, 1, 1], sites=True)
    for row, at in enumerate(sites):
        for name in ("r", "w", "kk", "b"):
            seen = [record[f"blocks.{i}.att.{name}"][row, : len(rows[row])] for i in range(3, 6)]
            torch.testing.assert_close(getattr(at, name), torch.stack(seen), rtol=1e-4, atol=1e-4)


def test_the_address_kernel_equals_plain_torch():
    draw = torch.Generator().manual_seed(3)
    r, w, kk, b = (torch.rand(2, 9, 3, 16, generator=draw) for _ in range(4))
    wanted = [0, 4, 8]
    torch.testing.assert_close(
        addresses(r, w, kk, b, wanted), addresses_ref(r, w, kk, b, wanted), rtol=1e-4, atol=1e-3)


def test_an_edit_that_shares_lower_layers_is_the_same_edit_for_fewer_tokens(
    embedded, live, monkeypatch
):
    def edit():
        return apply_edit(
            embedded, live, "Bob lives in Austin", "Bob lives in Chicago",
            controls=["Alice has a cat"],
        )

    shared = edit()
    monkeypatch.setattr(Workspace, "shares", False)
    whole = edit()
    assert shared.report.method == whole.report.method
    assert shared.report.alpha == whole.report.alpha
    torch.testing.assert_close(shared.state.wkv, whole.state.wkv, rtol=1e-3, atol=1e-3)
    assert shared.report.decodes < whole.report.decodes
