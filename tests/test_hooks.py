"""Hooks read and replace what flows through a forward pass, and come off."""

from __future__ import annotations

import pytest
import torch
from toy_models import toy_model

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.hooks import ALIASES, Hooks, Record, hook_names
from rwkvedit.recurrent.model import RWKV7

TOKENS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RWKV7:
    return toy_model(tmp_path_factory.mktemp("toy"), seed=2)


def test_every_site_is_seen_with_its_shape_and_reading_changes_nothing(model: RWKV7) -> None:
    names = hook_names(2)
    record = Record(names)
    logits, state = model.forward(TOKENS, hooks=record.hooks)
    plain, plain_state = model.forward(TOKENS)
    assert set(record) == set(names)
    assert torch.allclose(logits, plain, atol=1e-5)
    assert torch.allclose(state.wkv, plain_state.wkv, atol=1e-5)
    heads, width = (1, 5, 4, 16), (1, 5, 64)
    for name, x in record.items():
        site = name.split(".", 2)[2]
        expected = {"ffn.key": (1, 5, 256), "att.wkv_before": (1, 4, 16, 16),
                    "att.wkv_after": (1, 4, 16, 16)}.get(site)  # fmt: skip
        if expected is None:
            expected = width if site.startswith("resid") or site.endswith("out") else heads
        assert x.shape == expected, name
    assert torch.equal(record["blocks.1.att.wkv_after"][0], state.wkv[1])
    b = record["blocks.0.att.kk"] * record["blocks.0.att.a"]
    assert torch.equal(b, record["blocks.0.att.b"])
    assert torch.equal(record["blocks.0.resid_out"], record["blocks.1.resid_in"])


@pytest.mark.parametrize("site", sorted({n.split(".", 2)[2] for n in hook_names(1)}))
def test_replacing_any_site_changes_what_follows(model: RWKV7, site: str) -> None:
    plain = model.forward(TOKENS, model.forward(TOKENS)[1])
    hooks = Hooks({f"blocks.1.{site}": lambda x: x.roll(1, -1)})
    logits, state = model.forward(TOKENS, model.forward(TOKENS)[1], hooks=hooks)
    if site == "att.wkv_after":  # the state that leaves the call, not its read-outs
        torch.testing.assert_close(state.wkv[1], plain[1].wkv[1].roll(1, -1))
        torch.testing.assert_close(logits, plain[0])
    else:
        assert not torch.allclose(logits, plain[0], atol=1e-4)


def test_zeroed_attention_and_mlp_leave_the_embedding(model: RWKV7) -> None:
    hooks = Hooks({f"blocks.{i}.{s}.out": torch.zeros_like for i in (0, 1) for s in ("att", "ffn")})
    logits, _ = model.forward(TOKENS, hooks=hooks, full=True)
    assert torch.allclose(logits, model.unembed(model.embedding[TOKENS].float()), atol=1e-5)


def test_transformerlens_names_are_aliases(model: RWKV7) -> None:
    for alias, site in ALIASES.items():
        record = Record([f"blocks.1.{alias}", f"blocks.1.{site}"])
        model.forward(TOKENS, hooks=record.hooks)
        one, two = record.values()
        assert torch.equal(one, two)


def test_hooks_come_off_even_when_the_block_raises(model: RWKV7) -> None:
    seen = []
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        model.hooked(Hooks({"blocks.0.resid_in": seen.append})),
    ):
        model.forward(TOKENS)
        raise RuntimeError("on purpose")
    model.forward(TOKENS)
    assert len(seen) == 1


def test_a_hook_on_one_token_is_seen_too(model: RWKV7) -> None:
    record = Record(["blocks.0.att.r"])
    model.forward([1], hooks=record.hooks)
    assert record["blocks.0.att.r"].shape == (1, 1, 4, 16)


def test_unknown_names_list_near_ones(model: RWKV7) -> None:
    with pytest.raises(UsageError, match=r"near names: .*blocks\.1\.att\.wkv_after"):
        model.forward(TOKENS, hooks=Hooks({"blocks.1.att.wkv_afer": print}))
    with (
        pytest.raises(UsageError, match="layers 0 to 1"),
        model.hooked(Hooks({"blocks.2.att.r": print})),
    ):
        pass


def test_a_replacement_of_another_shape_is_refused(model: RWKV7) -> None:
    with pytest.raises(UsageError, match=r"gave shape \(1, 64\), expected \(1, 5, 64\)"):
        model.forward(TOKENS, hooks=Hooks({"blocks.0.resid_in": lambda x: x[:, 0]}))


def test_gradients_flow_through_a_replaced_residual(model: RWKV7) -> None:
    push = torch.zeros(64, requires_grad=True)
    hooks = Hooks({"blocks.0.resid_mid": lambda x: x + push})
    logits, _ = model.forward(TOKENS, hooks=hooks)
    (grad,) = torch.autograd.grad(logits[7], push)
    assert grad.abs().max() > 0
    with torch.no_grad():
        assert not model.forward(TOKENS, hooks=hooks)[0].requires_grad
    assert not model.forward(TOKENS)[0].requires_grad
