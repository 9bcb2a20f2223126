"""Components, write-vector edits and their LoRA baseline: what is said is what the model does."""

from __future__ import annotations

import pytest
import torch
from toy_models import toy_loaded

from rwkvedit.errors import FileFormatError, UsageError
from rwkvedit.evaluate.writing_texts import counted, cut
from rwkvedit.recurrent.checkpoint import tensors_digest
from rwkvedit.transformer import lora, open_session
from rwkvedit.transformer.components import component, firing, gap, neuron, random_component
from rwkvedit.transformer.decomposition import decompose
from rwkvedit.transformer.effects import Readout, Through, effects
from rwkvedit.transformer.find import find
from rwkvedit.transformer.patches import apply_patches, reverse_patches
from rwkvedit.transformer.patchfile import Patch, save_patch
from rwkvedit.transformer.rwkv import RwkvModel
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.stored import load_components, save_components
from rwkvedit.transformer.vocabulary import Vocabulary, WorldCodec
from rwkvedit.transformer.weights import RankOne
from rwkvedit.transformer.write_vectors import analytic, delta_of, trained, u_replaced, unit_of

PROMPT = "The capital of France is"


@pytest.fixture(params=["toy", "toy-gpt2", "toy-neox", "rwkv7"])
def any_toy(request, tmp_path):
    if request.param != "rwkv7":
        return open_session(request.param)
    loaded = toy_loaded(tmp_path, seed=4, n_layer=3)
    return ModelSession(
        RwkvModel(loaded.model), Vocabulary(WorldCodec(loaded.tokenizer)), "toy-rwkv7"
    )


@pytest.fixture
def toy():
    return open_session("toy")


def bits(session) -> str:
    return tensors_digest(session.model.named_weights())


def rows_of(session, documents=2):
    return cut(session, counted(3, documents))


# -- components -----------------------------------------------------------------------------


def test_all_components_of_each_source_add_up_to_the_matrix(any_toy):
    weight = any_toy.model.down_proj(1).float()
    d, f = weight.shape
    for name, count in (("1.{}", f), ("svd:1.{}", min(d, f))):
        parts = [component(any_toy, name.format(c)) for c in range(count)]
        total = sum(torch.outer(p.write, p.read) for p in parts)
        assert torch.allclose(total, weight, atol=1e-4)


def test_the_sign_makes_most_of_the_firing_positive_and_changes_nothing_else(toy):
    part = neuron(toy, 2, 5)
    for given in (part, part.flipped()):
        signed, seen = firing(toy, given, rows_of(toy))
        assert float(seen.values[seen.fires].sum()) > 0
        assert torch.equal(
            torch.outer(signed.write, signed.read), torch.outer(part.write, part.read)
        )
        assert not seen.fires[:, 0].any() and 0 < seen.share <= 0.06


def test_the_threshold_lies_in_the_gap():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2000, generator=generator) * 0.1
    values[:60] = -(3.0 + torch.rand(60, generator=generator))
    level, ratio = gap(values)
    assert 0.4 < level < 3.0 and ratio > 5 and int((values.abs() >= level).sum()) == 60


def test_a_component_that_was_planted_is_found_by_how_it_fires_and_by_what_it_writes(toy):
    """A neuron of the last layer is made to read one word's residual sharply, and to write
    another word; the rest of the layer's neurons are what they were."""
    rows = cut(toy, counted(5, 14))
    every = [(n, t) for n, row in enumerate(rows) for t in range(1, len(row))]
    share = {t: sum(rows[n][at] == t for n, at in every) / len(every) for t in rows[0]}
    word = next(t for t, part in share.items() if 0.018 <= part <= 0.03)
    base, fires = toy.run, [(n, t) for n, t in every if rows[n][t] == word]

    def run(batch, *args, taps=None, **kwargs):
        """The session's own run, with the neuron's activation planted."""

        def plant(x):
            x = x.clone()
            for b, row in enumerate(batch):
                for t, token in enumerate(row):
                    x[b, t, 9] = 5.0 if token == word else 0.01 * ((t % 3) - 1)
            return x

        taps = dict(taps or {})
        seen = taps.pop("blocks.3.ffn.key", None)

        def key(x):
            x = plant(x)
            if seen is not None:
                seen(x)
            return x

        return base(batch, *args, taps={"blocks.3.ffn.key": key, **taps}, **kwargs)

    target = toy.token_id(" Paris")
    with torch.no_grad():
        toy.model.down_proj(3)[:, 9] = 3 * toy.model.unembedding[target]
    toy.run = run
    by_firing = find(toy, rows, [2, 3], top=3)
    by_writing = find(toy, rows, [3], [target], top=3)
    best = by_firing.found[0]
    assert best.name == "3.9" and best.fires == len(fires) and best.score > 10 * max(
        by_firing.random)  # fmt: skip
    assert by_writing.found[0].name == "3.9" and by_writing.found[0].score > 1.0
    assert by_writing.found[0].writes[0] == " Paris"
    assert len(by_firing.random) == 3 and by_firing.searched == 96


# -- the edit -------------------------------------------------------------------------------


def test_a_replaced_write_vector_is_the_change_of_weights_it_stands_for(any_toy):
    part, before = component(any_toy, "svd:1.2"), bits(any_toy)
    new = torch.randn(any_toy.d_model, generator=torch.Generator().manual_seed(0))
    plain = any_toy.forward(PROMPT).logits
    with u_replaced(any_toy, part, new):
        hooked = any_toy.forward(PROMPT).logits
    assert bits(any_toy) == before and (any_toy.forward(PROMPT).logits == plain).all()
    with any_toy.edits.applied(delta_of(part, new)):
        written = any_toy.forward(PROMPT).logits
        weight = any_toy.model.down_proj(1).float()
        change = weight - any_toy.edits.base(1).float()
        assert torch.allclose(change @ part.read, (new - part.write) * part.read.dot(part.read),
                              atol=1e-4)  # fmt: skip
    assert torch.allclose(torch.tensor(hooked), torch.tensor(written), atol=1e-3)
    assert bits(any_toy) == before and abs(hooked - plain).max() > 1e-3
    with u_replaced(any_toy, part, part.write):
        same = any_toy.forward(PROMPT).logits
    assert torch.allclose(torch.tensor(same), torch.tensor(plain), atol=1e-5)


def test_only_one_edit_sits_on_a_layer(toy):
    part = neuron(toy, 2, 1)
    adapter = lora.Lora(2, torch.ones(32), torch.ones(48), 1, 0.0)
    with lora.lora_on(toy, adapter):
        with (
            pytest.raises(UsageError, match="layer 2: a LoRA is still on: leave its block first"),
            u_replaced(toy, part, part.write),
        ):
            pass
        world = effects(toy, 2, rows_of(toy))
        with pytest.raises(UsageError, match="a LoRA is still on"):
            trained(world, part, 5, [(0, 1)], [(0, 2)], 1.0)
        with u_replaced(toy, neuron(toy, 1, 1), part.write):
            pass
    with (
        toy.edits.applied(RankOne(2, torch.ones(32), torch.ones(48))),
        pytest.raises(UsageError, match="layer 2's weights are changed already: /undo"),
        u_replaced(toy, part, part.write),
    ):
        pass
    assert not toy.hooks


def test_the_closed_form_of_the_last_layer_is_what_the_model_does(any_toy):
    layer, rows = any_toy.n_layer - 1, rows_of(any_toy)[:3]
    closed, run = Readout(any_toy, rows), Through(any_toy, layer, rows)
    assert isinstance(effects(any_toy, layer, rows), Readout)
    assert isinstance(effects(any_toy, 0, rows), Through)
    places, f = [(0, 1), (2, 5), (1, 31), (0, 2)], any_toy.shape.d_ffn
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(2, any_toy.d_model, generator=generator) * 0.3
    right = torch.randn(2, f, generator=generator) * 0.2
    with torch.no_grad():
        assert torch.allclose(closed.before(places), run.before(places), atol=1e-4)
        a, b = (w.logits(places, left, right) for w in (closed, run))
        assert torch.allclose(a, b, atol=1e-3)
    one, two = (w.measure(places, left[0], right[0], 7) for w in (closed, run))
    for name in ("p_before", "p_after", "forward", "reverse"):
        assert torch.allclose(getattr(one, name), getattr(two, name), atol=1e-4), name
    assert torch.allclose(closed.reads(), run.reads(), atol=1e-5)
    weights = torch.tensor([1.0, 0.25]), torch.tensor([0.5, 3.0])
    grads = []
    for w in (closed, run):
        x, y = left.clone().requires_grad_(), right.clone().requires_grad_()
        loss = w.losses(places[:2], places[2:], x, y, 7, weights)
        loss.backward()
        grads.append((loss.detach(), x.grad, y.grad))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_divergences_are_those_of_the_two_distributions(toy):
    rows = rows_of(toy)[:1]
    part = neuron(toy, 3, 4)
    new = torch.ones(32)
    e = effects(toy, 3, rows).measure([(0, 9)], new - part.write, part.read, 5)
    was = torch.tensor(toy.forward(rows[0][:10]).logits).log_softmax(-1)
    with u_replaced(toy, part, new):
        now = torch.tensor(toy.forward(rows[0][:10]).logits).log_softmax(-1)
    assert float(e.forward) == pytest.approx(float((was.exp() * (was - now)).sum()), abs=1e-5)
    assert float(e.reverse) == pytest.approx(float((now.exp() * (now - was)).sum()), abs=1e-5)
    assert float(e.p_after) == pytest.approx(float(now[5].exp()), abs=1e-6)


def test_more_alpha_makes_the_target_likelier_and_the_other_sign_less_likely(any_toy):
    layer, rows = any_toy.n_layer - 1, rows_of(any_toy, 6)
    part, seen = firing(any_toy, neuron(any_toy, layer, 3), rows)
    fires = [(n, int(t)) for n in range(len(rows)) for t in torch.nonzero(seen.fires[n])[:, 0]]
    unit = unit_of(any_toy, part, seen)
    world, target = effects(any_toy, layer, rows), 260
    p = {}
    for alpha in (-1.0, 0.5, 2.0):
        new = analytic(any_toy, part, target, alpha, unit)
        assert float(new.norm()) == pytest.approx(abs(alpha) * unit, rel=1e-5)
        p[alpha] = float(
            world.measure(fires, new - part.write, part.read, target).p_after.mean()
        )
    assert p[-1.0] < p[0.5] < p[2.0]


@pytest.mark.parametrize("layer", [1, 3])
def test_training_moves_u_alone_towards_the_target_and_spares_the_rest(toy, layer):
    rows = rows_of(toy, 6)
    part, seen = firing(toy, neuron(toy, layer, 3), rows)
    fires = [(n, int(t)) for n in range(len(rows)) for t in torch.nonzero(seen.fires[n])[:, 0]]
    rests = [(n, t) for n in range(2) for t in range(1, 32) if not seen.fires[n, t]]
    world, before, unit = effects(toy, layer, rows), bits(toy), unit_of(toy, part, seen)
    spare, free_ = (
        trained(world, part, 270, fires, rests, unit, 0, 40, keep) for keep in (30.0, 0.0)
    )
    a, b = (world.measure([*fires, *rests], new - part.write, part.read, 270)
            for new in (spare, free_))  # fmt: skip
    n = len(fires)
    assert float(b.p_after[:n].mean()) > 2 * float(b.p_before[:n].mean())
    assert float(a.forward[n:].mean()) < float(b.forward[n:].mean())
    assert bits(toy) == before
    again = trained(world, part, 270, fires, rests, unit, 0, 40, 0.0)
    assert torch.equal(again, free_)


def test_loras_of_larger_lambda_move_the_rest_less(toy):
    rows = rows_of(toy, 4)
    fires, rests = [(0, 4), (1, 7), (2, 9)], [(n, t) for n in range(3) for t in (2, 11, 20, 28)]
    world = effects(toy, 3, rows)
    some = lora.train(world, 270, fires, rests, 3, (1.0, 1.0), (0.0, 100.0), steps=60, rate=0.05)
    assert [one.weight for one in some] == [0.0, 100.0]
    kl = []
    for one in some:
        e = world.measure([*fires, *rests], one.left, one.right, 270)
        kl.append(float(e.forward[3:].mean()))
    first = world.measure(fires, some[0].left, some[0].right, 270)
    assert float(first.p_after.mean()) > 0.5 and kl[1] < kl[0] / 5
    assert some[0].delta.shape == tuple(toy.model.down_proj(3).shape)


def test_an_edit_goes_through_its_file_there_and_back(toy, tmp_path):
    part, before = neuron(toy, 3, 2), bits(toy)
    delta = delta_of(part, analytic(toy, part, 260, 1.0, 2.0))
    path = save_patch(tmp_path / "write.lqpatch", Patch.of(toy, delta, component=part.name))
    done = apply_patches(toy, [path])
    assert done.patches[0][1].delta.kind == "rank_one" and bits(toy) != before
    reverse_patches(toy, [path])
    assert bits(toy) == before


# -- decompositions -------------------------------------------------------------------------


def test_a_decomposition_finds_the_components_that_are_known():
    """Four orthogonal reads, each with a write of its own, few of them active at once."""
    generator = torch.Generator().manual_seed(3)
    v = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    u = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0][:4] * 4

    def run(linear, drawn):
        on = (torch.rand(64, 4, generator=drawn) < 0.2).float()
        return linear((on * (0.5 + torch.rand(64, 4, generator=drawn))) @ v.T)

    found = decompose((v @ u).T, run, 8, seed=1)
    true = torch.einsum("fk,kd->kfd", v, u).flatten(1)
    got = torch.einsum("fk,kd->kfd", found.v, found.u).flatten(1)
    cosine = (true / true.norm(dim=1, keepdim=True)) @ (got / got.norm(dim=1, keepdim=True)).T
    best = cosine.max(1)
    assert float(best.values.min()) > 0.95 and len(set(best.indices.tolist())) == 4
    assert found.faithfulness < 0.001
    # The other four of the eight have fallen silent.
    assert set(torch.nonzero(found.active > 0.02)[:, 0].tolist()) == set(best.indices.tolist())
    with pytest.raises(UsageError, match="takes a component or more"):
        decompose(torch.ones(2, 2), run, 0)


def saved_spd(folder, session, *, layer=2, count=6, form="new", model=True, seed=0):
    """A run as SPD stores it, with seeded numbers."""
    generator = torch.Generator().manual_seed(seed)
    weight = session.model.down_proj(layer)
    d, f = weight.shape
    name = session.model.down_proj_name(layer).removesuffix(".weight")
    v = torch.randn(f, count, generator=generator)
    u = torch.randn(count, d, generator=generator)
    prefix = f"{name}.components" if form == "old" else f"_components.{name.replace('.', '-')}"
    state = {f"{prefix}.V": v, f"{prefix}.U": u}
    if model:
        state |= {f"target_model.{k}": t.clone() for k, t in session.model.named_weights().items()}
    path = folder / "model_100.pth"
    torch.save(state, path)
    (folder / "final_config.yaml").write_text(f"C: {count}\nseed: {seed}\n")
    return path, v, u


@pytest.mark.parametrize("form", ["new", "old"])
def test_a_stored_spd_run_gives_its_components(toy, tmp_path, form):
    path, v, u = saved_spd(tmp_path, toy, form=form)
    parts = load_components(toy, path)
    assert list(parts) == [2] and parts[2].count == 6 and parts[2].remainder > 0.5
    part = component(toy, f"{path}:2.4")
    assert torch.equal(part.read, v[:, 4]) and torch.equal(part.write, u[4]) and part.layer == 2
    with pytest.raises(UsageError, match=r"has layers 2 \(6 components\)"):
        component(toy, f"{path}:2.6")


def test_a_decomposition_for_another_model_is_refused(toy, tmp_path):
    path, *_ = saved_spd(tmp_path, toy)
    with torch.no_grad():
        toy.model.down_proj(2).mul_(1.5)
    with pytest.raises(FileFormatError, match="target_model has other weights in layer 2"):
        load_components(toy, path)
    with pytest.raises(FileFormatError, match="made for another model: it decomposes"):
        load_components(open_session("toy-gpt2"), path)
    (tmp_path / "final_config.yaml").write_text("C: 9\n")
    with pytest.raises(FileFormatError, match="expected 9 components, found 6"):
        load_components(toy, path)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(FileFormatError, match="expected an SPD run"):
        load_components(toy, path)
    path.write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(FileFormatError, match="expected a torch state dict"):
        load_components(toy, path)


def test_our_own_decompositions_are_bound_to_their_weights(toy, tmp_path):
    v, u = torch.randn(48, 3), torch.randn(3, 32)
    path = save_components(tmp_path / "parts.safetensors", toy, {1: (v, u)})
    assert torch.equal(component(toy, f"{path}:1.2").write, u[2])
    with pytest.raises(FileFormatError, match="made for another model: expected model digest"):
        load_components(open_session("toy-neox"), path)


# -- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("3.99", "no component 3.99: a layer has neurons 0 to 47"),
        ("9.1", "no layer 9: the model has layers 0 to 3"),
        ("svd:1.32", "ranks run from 0 to 31"),
        ("neuron", "no component 'neuron': say LAYER.NEURON like 3.17"),
        ("gone.pth:1.2", "there is no file gone.pth"),
    ],
)
def test_a_component_that_is_not_there_is_refused_in_one_line(toy, name, message):
    with pytest.raises(UsageError, match=message):
        component(toy, name)


def test_empty_examples_and_wrong_vectors_are_refused(toy):
    part, world = neuron(toy, 3, 1), effects(toy, 3, rows_of(toy))
    with pytest.raises(UsageError, match=r"no examples: 3\.1 fires nowhere"):
        trained(world, part, 5, [], [(0, 1)], 1.0)
    with pytest.raises(UsageError, match="no examples"):
        lora.train(world, 5, [], [], 0, (1.0, 1.0))
    with pytest.raises(UsageError, match="no examples"):
        firing(toy, part, [])
    with (
        pytest.raises(UsageError, match="the residual is 32 wide"),
        u_replaced(toy, part, torch.ones(31)),
    ):
        pass
    assert random_component(toy, 1, 3).name == "random:1.3"
