"""Our forward pass against the ``rwkv`` package: logits and every state tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_models import save_toy, toy_tensors

from rwkvedit.errors import UsageError
from rwkvedit.models.catalog import load_model
from rwkvedit.recurrent.checkpoint import load_checkpoint
from rwkvedit.recurrent.hooks import Hooks
from rwkvedit.recurrent.model import RWKV7
from rwkvedit.recurrent.reading import read_addresses
from rwkvedit.recurrent.rwkv_backend import RwkvPackage
from rwkvedit.recurrent.state import State

TOLERANCE = 1e-4
SHAPES = [
    (64, 16, 1), (64, 32, 2), (64, 64, 2), (128, 16, 2), (128, 32, 5), (128, 64, 1),
    (320, 16, 1), (320, 32, 2), (320, 64, 5),
]  # fmt: skip


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-6))


def assert_agree(ours: tuple, theirs: tuple) -> None:
    assert far(ours[0], theirs[0]) < TOLERANCE
    for name, a, b in zip(
        ("att_x", "wkv", "ffn_x"), ours[1].tensors(), theirs[1].tensors(), strict=True
    ):
        assert a.shape == b.shape
        for layer in range(ours[1].n_layer):
            pick = (..., layer, slice(None)) if name != "wkv" else (..., layer, *[slice(None)] * 3)
            assert far(a[pick], b[pick]) < TOLERANCE, (name, layer)


def tokens(n: int, vocab: int, seed: int) -> list[int]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, (n,), generator=g).tolist()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory):
    """(ours, theirs) by (width, head size, layers), made once each."""
    made: dict[tuple[int, int, int], tuple[RWKV7, RwkvPackage]] = {}

    def get(D: int, N: int, L: int) -> tuple[RWKV7, RwkvPackage]:
        if (D, N, L) not in made:
            suffix = "pth" if L == 2 else "safetensors"
            path = tmp_path_factory.mktemp("toy") / f"toy.{suffix}"
            tensors = toy_tensors(D + N + L, n_embd=D, head_size=N, n_layer=L)
            checkpoint = load_checkpoint(save_toy(path, tensors))
            made[D, N, L] = RWKV7(checkpoint), RwkvPackage(checkpoint)
        return made[D, N, L]

    return get


@pytest.mark.parametrize(("D", "N", "L"), SHAPES)
def test_prefill_then_steps_agree(pairs, D: int, N: int, L: int) -> None:
    ours, theirs = pairs(D, N, L)
    prompt = tokens(11, 300, seed=1)
    a, b = ours.forward(prompt), theirs.forward(prompt)
    assert_agree(a, b)
    for token in tokens(3, 300, seed=2):
        a, b = ours.forward([token], a[1]), theirs.forward([token], b[1])
        assert_agree(a, b)


def test_chunked_calls_equal_one_call(pairs) -> None:
    ours, theirs = pairs(128, 32, 5)
    prompt = tokens(40, 300, seed=3)
    whole = theirs.forward(prompt)
    state = None
    for start, end in ((0, 1), (1, 17), (17, 18), (18, 40)):
        logits, state = ours.forward(prompt[start:end], state)
    assert_agree((logits, state), whole)


def test_a_prefill_longer_than_one_span_agrees(pairs) -> None:
    ours, theirs = pairs(64, 16, 1)
    prompt = tokens(700, 300, seed=4)
    assert_agree(ours.forward(prompt), theirs.forward(prompt))


def test_full_logits_agree_at_every_position(pairs) -> None:
    ours, theirs = pairs(64, 32, 2)
    prompt = tokens(9, 300, seed=5)
    a, b = ours.forward(prompt, full=True), theirs.forward(prompt, full=True)
    assert a[0].shape == (9, 300)
    assert_agree(a, b)
    one = ours.forward(prompt[:1], full=True)[0]
    assert one.shape == (1, 300)


@pytest.mark.parametrize("lengths", [(7, 1, 12), (600, 3, 512), (1, 1, 1)])
def test_prompts_of_different_lengths_at_once_agree_with_each_alone(pairs, lengths) -> None:
    ours, theirs = pairs(64, 64, 2)
    start = ours.forward(tokens(5, 300, seed=6))[1]
    prompts = [tokens(n, 300, seed=7 + n) for n in lengths]
    logits, state = ours.forward(prompts, start)
    assert logits.shape == (3, 300) and state.batch == 3
    for b, prompt in enumerate(prompts):
        assert_agree((logits[b], state[b]), theirs.forward(prompt, start))
    full, again = ours.forward(prompts, start, full=True)
    assert [len(x) for x in full] == list(lengths)
    assert far(torch.stack([x[-1] for x in full]), logits) < TOLERANCE
    assert far(again.wkv, state.wkv) < TOLERANCE


def test_a_stack_of_states_steps_row_by_row(pairs) -> None:
    ours, theirs = pairs(128, 64, 1)
    starts = [ours.forward(tokens(4, 300, seed=s))[1] for s in range(3)]
    logits, state = ours.forward([[5], [6], [7]], State.stack(starts))
    for b in range(3):
        assert_agree((logits[b], state[b]), theirs.forward([5 + b], starts[b]))


@pytest.mark.parametrize("which", [0, 1])
def test_the_callers_state_is_never_touched(pairs, which: int) -> None:
    model = pairs(64, 32, 2)[which]
    state = model.forward(tokens(6, 300, seed=8))[1]
    before = state.clone()
    model.forward([1], state)
    model.forward([1, 2, 3], state)
    model.forward([[1, 2], [3]], state)
    assert state.equal(before)


def test_half_precision_files_agree(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        path = save_toy(tmp_path / "half.safetensors", toy_tensors(3, dtype=dtype))
        checkpoint = load_checkpoint(path)
        prompt = tokens(8, 300, seed=9)
        assert_agree(RWKV7(checkpoint).forward(prompt), RwkvPackage(checkpoint).forward(prompt))


def test_bf16_weights_stay_near_fp32_and_the_state_stays_fp32(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save_toy(tmp_path / "t.pth", toy_tensors(3)))
    prompt = tokens(8, 300, seed=9)
    wide, narrow = RWKV7(checkpoint), RWKV7(checkpoint, dtype=torch.bfloat16)
    a, b = wide.forward(prompt), narrow.forward(prompt)
    assert b[1].wkv.dtype == torch.float32 and b[0].dtype == torch.float32
    assert 0 < far(b[0], a[0]) < 0.05


def test_a_tuned_initial_state_is_where_both_start(tmp_path: Path) -> None:
    z = toy_tensors(4, head_size=32)
    g = torch.Generator().manual_seed(0)
    tuned = {f"blocks.{i}.att.time_state": torch.randn(2, 32, 32, generator=g) for i in (0, 1)}
    inside = load_checkpoint(save_toy(tmp_path / "in.safetensors", {**z, **tuned}))
    assert torch.equal(RWKV7(inside).zero_state().wkv[1], tuned["blocks.1.att.time_state"])
    assert_agree(RWKV7(inside).forward([1, 2]), RwkvPackage(inside).forward([1, 2]))
    plain = save_toy(tmp_path / "plain.safetensors", z)
    beside = save_toy(tmp_path / "tuned.pth", tuned)
    from_file = load_model(plain, "cpu", vocab=_vocab(tmp_path), state_file=beside).model
    assert torch.equal(from_file.forward([1, 2])[0], RWKV7(inside).forward([1, 2])[0])
    assert from_file.zero_state(3).wkv.shape == (3, 2, 2, 32, 32)


def _vocab(folder: Path) -> Path:
    path = folder / "v.txt"
    path.write_text("1 'a' 1\n")
    return path


def test_the_embedded_model_agrees() -> None:
    ours, theirs = load_model(), load_model(backend="rwkv")
    assert theirs.model.backend == "rwkv" and ours.model.digest == theirs.model.digest
    prompt = ours.template.encode_user(ours.tokenizer, "Bob lives in Austin.")
    a, b = ours.model.forward(prompt), theirs.model.forward(prompt)
    assert_agree(a, b)
    assert_agree(ours.model.forward([5], a[1]), theirs.model.forward([5], b[1]))


def test_gradients_reach_an_injected_state_through_uneven_prompts(pairs) -> None:
    ours, _ = pairs(64, 16, 1)
    start = ours.forward(tokens(5, 300, seed=10))[1]
    wkv = start.wkv.clone().requires_grad_()
    prompts = [tokens(3, 300, seed=11), tokens(6, 300, seed=12)]
    logits, _ = ours.forward(prompts, start.replace(wkv=wkv))
    loss = logits[0, 7] + 2 * logits[1, 9]
    (grad,) = torch.autograd.grad(loss, wkv)
    direction = torch.randn(wkv.shape, generator=torch.Generator().manual_seed(1))

    def at(step: float) -> float:
        got, _ = ours.forward(prompts, start.replace(wkv=start.wkv + step * direction))
        return float(got[0, 7].double() + 2 * got[1, 9].double())

    slope = (at(1e-2) - at(-1e-2)) / 2e-2
    assert float((grad * direction).sum()) == pytest.approx(slope, rel=2e-2)


def test_bad_tokens_and_states_are_one_line_errors(pairs) -> None:
    ours, _ = pairs(64, 32, 2)
    for bad in ([], [[]], [300], [-1], [[1], []], ["a"]):
        with pytest.raises(UsageError, match="token"):
            ours.forward(bad)
    with pytest.raises(UsageError, match="expected a State of batch 2"):
        ours.forward([[1], [2]], ours.zero_state(3))
    with pytest.raises(UsageError, match="another shape"):
        ours.forward([1], pairs(64, 16, 1)[0].zero_state())


@pytest.mark.parametrize("hooked", [False, True])
def test_tails_are_the_last_rows_of_full(pairs, hooked):
    ours, theirs = pairs(64, 16, 1)
    prompts = [tokens(n, 300, n) for n in (5, 9, 1)]
    hooks = Hooks({"blocks.0.att.out": lambda x: None}) if hooked else None
    whole, after = ours.forward(prompts, full=True, hooks=hooks)
    tails, again = ours.forward(prompts, tails=[2, 9, 1], hooks=hooks)
    for want, got, n in zip(whole, tails, (2, 9, 1), strict=True):
        assert got.shape[0] == n
        assert far(got, want[len(want) - n :]) < 1e-6
    assert torch.equal(after.wkv, again.wkv)
    other, _ = theirs.forward(prompts, tails=[2, 9, 1])
    assert all(far(a, b) < TOLERANCE for a, b in zip(tails, other, strict=True))


def test_addresses_predict_what_a_read_out_gains(pairs):
    ours, _ = pairs(128, 32, 5)
    state = ours.forward(tokens(12, 300, 3))[1]
    row, last = tokens(7, 300, 4), 4  # the last layer: nothing above it can answer back
    (address,), _ = read_addresses(ours, [row], [[6]], state, (last, last + 1))
    change = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1
    wkv = state.wkv.clone()
    wkv[last] += change
    seen: dict[str, torch.Tensor] = {}
    hooks = Hooks({f"blocks.{last}.att.r": lambda r: seen.__setitem__("r", r)})
    before = ours.forward(row, state, hooks=hooks)[1].wkv[last]
    after = ours.forward(row, state.replace(wkv=wkv))[1].wkv[last]
    gained = ((after - before) @ seen["r"][0, -1].unsqueeze(-1)).squeeze(-1)
    assert far((change @ address[0]).squeeze(-1), gained) < 1e-3
