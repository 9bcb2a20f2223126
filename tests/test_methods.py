"""Editing methods: what each formula promises on seeded workspaces, and each once on the model."""

from types import SimpleNamespace

import pytest
import torch

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.hooks import Record
from rwkvedit.recurrent.methods import METHODS, find_method, offered, replayed
from rwkvedit.recurrent.methods.donorless import strong_heads
from rwkvedit.recurrent.methods.projected import RATIO
from rwkvedit.recurrent.oracle import counterfactual_tokens
from rwkvedit.recurrent.pairs import read_pair
from rwkvedit.recurrent.spectrum import dominance, top_triples, truncated
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.workspace import Workspace
from rwkvedit.repl.complete import candidates

OLD, NEW = "Bob lives in Austin", "Bob lives in Chicago"
L, LO, H, N = 3, 1, 4, 16  # layers of the toy state, the first edited one, heads, head size
ROWS = ("told", "alone", "bare", "free", "token", "probe")
HIDDEN = {"glob-proj", "head-proj", "head-sign", "proj-norm", "slerp", "random"}
NEED_A_MODEL = {"nullspace", "nullspace-firm", "optimised"}  # with tests of their own
OWN_STRENGTH = ("uniform", "full-r1", "donor-free-remove", *sorted(HIDDEN))


class Toy(Workspace):
    """A workspace whose rows have been run: random states, the rest as it is."""

    def __init__(self, seed: int = 0, old: str = OLD, new: str = NEW, tokens: int = 1) -> None:
        g = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
        self.state = State(draw(L, H * N), draw(L, H, N, N), draw(L, H * N))
        self.lo, self.hi = LO, L
        self.pair = read_pair(old, new)
        self.old, self.new = [1] * tokens, [2] * tokens
        self.calibration = None
        self._cache = {}
        self._wkv = {f"{r}-{w}": draw(L - LO, H, N, N) for r in ROWS for w in ("old", "new")}
        self.replayed = draw(L - LO, H, N, N)
        self.r = draw(2, L - LO, H, N)

    @property
    def live(self) -> torch.Tensor:
        return self.state.wkv[self.layers]

    def receptances(self) -> torch.Tensor:
        return self.r


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(replayed, "replayed_delta", lambda ws: ws.replayed)
    return Toy()


def make(name: str, ws: Workspace) -> torch.Tensor:
    return find_method(name).delta(ws)


def head_norm(x: torch.Tensor) -> torch.Tensor:
    return x.norm(dim=(-2, -1))


# -- the registry ---------------------------------------------------------------------------------


def test_every_method_says_what_it_is_where_it_is_from_and_what_it_costs():
    assert len(METHODS) >= 25
    for name, method in METHODS.items():
        described = method.describe()
        assert described["name"] == name
        assert str(described["summary"]).endswith((".", "``.")), name
        assert described["source"] and described["cost"], name
    assert len({m.summary for n, m in METHODS.items() if n != "r1-proj"}) == len(METHODS) - 1


def test_cost_counts_rows_and_tells_of_replays():
    assert "O(T)" in find_method("uniform").cost
    assert find_method("isolate").cost == "2 short rows"
    assert find_method("hyb-u").cost == "4 short rows (2 with a saved calibration)"
    assert find_method("calib").cost.startswith("2 short rows, two replays")


def test_failures_and_baselines_can_be_found_but_are_not_offered():
    assert {n for n, m in METHODS.items() if not m.offered} == HIDDEN
    assert all(find_method(n).name == n for n in HIDDEN)
    assert HIDDEN.isdisjoint(offered()) and offered()[0] == "auto"
    with pytest.raises(UsageError) as error:
        find_method("magic")
    assert "hyb-u" in str(error.value) and "slerp" not in str(error.value)


def test_the_chat_completes_what_is_offered_and_refuses_the_rest(shell):
    ctx, registry = SimpleNamespace(), shell.registry
    line = '/rwkv-edit "a" "b" --method '
    listed = {text.strip() for text, _, _ in candidates(ctx, registry, line)}
    assert {"auto", "hyb-u", "iso-free", "donor-free"} <= listed
    assert HIDDEN.isdisjoint(listed)
    kind = registry.find("rwkv-edit").option("--method").kind
    assert kind("r1-wt") == "r1-wt"
    with pytest.raises(UsageError, match="bench state --methods slerp"):
        kind("slerp")
    with pytest.raises(UsageError, match="did you mean hyb-u"):
        kind("hyb-")


# -- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in METHODS if n not in NEED_A_MODEL])
def test_a_delta_has_the_edited_layers_shape_and_leaves_the_state(toy, name):
    before = toy.state.clone()
    delta = make(name, toy)
    assert delta.shape == (L - LO, H, N, N)
    assert bool(torch.isfinite(delta).all()) and float(delta.norm()) > 0
    assert toy.state.equal(before)


@pytest.mark.parametrize(("name", "rank"), [
    ("full-r1", 1), ("r1-proj", 1), ("full-r2", 2), ("full-r4", 4), ("iso-r1", 1), ("iso-r2", 2),
    ("iso-r4", 4), ("online", 1), ("donor-free-add", 1), ("random", 1), ("hyb-u", 1),
])
def test_a_rank_k_delta_has_rank_k(toy, name, rank):
    ranks = torch.linalg.matrix_rank(make(name, toy), rtol=1e-4)
    assert int(ranks.max()) == rank


def test_truncation_leaves_only_the_smaller_singular_values(toy):
    delta = toy.replayed
    sigma = torch.linalg.svdvals(delta)
    for rank in (1, 2, 4):
        left = head_norm(delta - truncated(delta, rank))
        assert torch.allclose(left, sigma[..., rank:].norm(dim=-1), rtol=1e-3)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_weak_directions_survive_beside_strong_ones(rank):
    """Singular values that halve each time, as those of a several-token value's delta do."""
    g = torch.Generator().manual_seed(3)
    u, v = (torch.linalg.qr(torch.randn(16, N, N, generator=g))[0] for _ in "uv")
    sigma = 5 * 0.5 ** torch.arange(N)
    best = (u[..., :rank] * sigma[:rank]) @ v[..., :rank].transpose(-1, -2)
    found = top_triples((u * sigma) @ v.transpose(-1, -2), rank)
    assert torch.allclose(found.sigma, sigma[:rank].expand(16, rank), rtol=1e-5)
    assert float(head_norm(found.matrix() - best).max()) < 1e-3


def test_dominance_is_one_for_rank_one_and_the_least_for_a_rotation():
    column, row = torch.randn(2, N, 1), torch.randn(2, 1, N)
    assert torch.allclose(dominance(column @ row), torch.ones(2), atol=1e-4)
    rotation, _ = torch.linalg.qr(torch.randn(N, N))
    assert float(dominance(3 * rotation)) == pytest.approx(1 / N, rel=1e-4)
    assert float(dominance(torch.zeros(N, N))) == 0.0


@pytest.mark.parametrize(("name", "whole"), [
    ("r1-wt", "uniform"), ("iso-wt", "iso-uni"), ("calib", "uniform"),
])
def test_weighted_deltas_scale_whole_heads_by_weights_in_zero_to_one(toy, name, whole):
    delta, full = make(name, toy), make(whole, toy)
    weight = head_norm(delta) / head_norm(full)
    assert float(weight.min()) > 0.0 and float(weight.max()) <= 1.0 + 1e-6
    assert torch.allclose(delta, weight[..., None, None] * full, atol=1e-5)
    assert float(weight.max() - weight.min()) > 0.01


def test_calib_gives_each_layers_strongest_head_its_whole_delta(toy):
    weight = head_norm(make("calib", toy)) / head_norm(toy.replayed)
    strongest = toy.triples("probe", 1).sigma[..., 0].argmax(-1)
    assert torch.equal(weight.argmax(-1), strongest)
    assert torch.allclose(weight.amax(-1), torch.ones(L - LO), atol=1e-5)


def test_the_gate_keeps_the_channel_read_most_and_shuts_one_never_read(toy):
    toy.r[..., 3] = 0.0
    toy.r[..., 5] = 9.0
    delta = make("r-gated", toy)
    assert torch.allclose(delta[..., 5], toy.replayed[..., 5])
    assert not delta[..., 3].any()
    assert bool((delta.abs() <= toy.replayed.abs() + 1e-6).all())


@pytest.mark.parametrize("tokens", [1, 3])
def test_removal_zeroes_what_is_read_at_the_addresses_in_strong_heads_only(tokens):
    toy = Toy(tokens=tokens)
    triples = toy.triples("alone", tokens)
    v = triples.v
    strong = strong_heads(triples.sigma[..., 0])
    assert 0 < int(strong.sum()) < strong.numel()
    removed = toy.live + make("donor-free-remove", toy)
    assert float((removed @ v)[strong].abs().max()) < 1e-4
    assert torch.equal(removed[~strong], toy.live[~strong])
    other = torch.linalg.qr(torch.cat([v, torch.randn(*v.shape)], -1))[0][..., tokens:]
    assert torch.allclose(removed @ other, toy.live @ other, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 3])
def test_donor_free_leaves_the_difference_of_values_at_the_addresses(tokens):
    toy = Toy(tokens=tokens)
    triples = toy.triples("alone", tokens)
    strong = strong_heads(triples.sigma[..., 0])
    parts = make("donor-free-remove", toy) + make("donor-free-add", toy)
    both = make("donor-free", toy)
    assert torch.allclose(both, parts, atol=1e-5)
    read = (toy.live + both) @ triples.v
    wanted = triples.u * triples.sigma[..., None, :]
    assert torch.allclose(read[strong], wanted[strong], atol=1e-3)


def test_without_a_threshold_every_head_takes_part():
    sigma = torch.tensor([[0.1, 2.0], [3.0, 0.2]])
    assert bool(strong_heads(sigma, 0.0).all())
    assert strong_heads(sigma, 1.0).tolist() == [[False, False], [True, False]]


def test_projections_find_how_much_of_the_edit_the_state_holds(toy):
    delta = toy.delta("bare")
    c = torch.tensor([[0.5, -2.0, 1.0, -0.25]]).expand(L - LO, H)
    toy.state = toy.state.replace(wkv=torch.cat([toy.state.wkv[:LO], c[..., None, None] * delta]))
    assert torch.allclose(make("head-sign", toy), c[..., None, None] * delta, atol=1e-4)
    assert torch.allclose(make("head-proj", toy), c.abs()[..., None, None] * delta, atol=1e-4)
    whole = float((toy.live * delta).sum() / delta.square().sum())
    assert torch.allclose(make("glob-proj", toy), abs(whole) * delta, atol=1e-4)


def test_proj_norm_shares_a_fifth_of_the_states_norm_by_projection(toy):
    shared = head_norm(make("proj-norm", toy)) / head_norm(toy.delta("bare"))
    even = RATIO * toy.live.norm() / toy.delta("bare").norm()
    assert float(shared.mean()) == pytest.approx(float(even), rel=1e-4)
    signs = head_norm(make("head-proj", toy)) / head_norm(toy.delta("bare"))
    assert torch.allclose(shared / shared.sum(), signs / signs.sum(), atol=1e-5)


def test_slerp_keeps_every_heads_norm_and_turns_it(toy):
    turned = toy.live + make("slerp", toy)
    assert torch.allclose(head_norm(turned), head_norm(toy.live), rtol=1e-5)
    cosine = (turned * toy.live).sum((-2, -1)) / head_norm(toy.live) ** 2
    assert 0.9 < float(cosine.min()) < float(cosine.max()) < 0.999


def test_slerp_of_an_empty_head_is_the_plain_step(toy):
    toy.state = toy.state.replace(wkv=toy.state.wkv * torch.tensor([0.0, 1, 1, 1])[:, None, None])
    delta = make("slerp", toy)
    step = RATIO * toy.live.norm() / toy.delta("bare").norm() * toy.delta("bare")
    assert torch.allclose(delta[:, 0], step[:, 0], atol=1e-5)


def test_random_has_hyb_us_norm_in_every_head_and_comes_from_the_text(toy):
    delta = make("random", toy)
    assert torch.allclose(head_norm(delta), head_norm(make("hyb-u", toy)), rtol=1e-4)
    assert torch.allclose(delta, make("random", Toy()), atol=1e-5)
    other = make("random", Toy(new="Bob lives in Dallas"))
    overlap = (delta * other).sum((-2, -1)) / head_norm(delta) / head_norm(other)
    assert float(overlap.abs().max()) < 0.6


@pytest.mark.parametrize("name", OWN_STRENGTH)
def test_rules_that_set_their_own_strength_are_not_searched(name):
    assert not find_method(name).searched


@pytest.mark.parametrize(("old", "new", "words"), [
    (OLD, NEW, "lives in"),
    ("I live in Oslo", "I live in Rome", "live in"),
    ("Bob's hat is red", "Bob's hat is blue", "hat is"),
    ("My hat is red", "My hat is blue", "hat is"),
    ("The capital of Zork is Blim", "The capital of Zork is Grum", "capital of Zork is"),
    ("Zork is Blim", "Zork is Grum", "is"),
    ("Blimmed red", "Blimmed blue", "Blimmed"),
])
def test_a_free_fragment_says_the_words_but_not_of_whom(old, new, words):
    pair = read_pair(old, new)
    if pair.kind and "hat" in old:  # the plainest telling may put it in other words
        assert "Bob" not in pair.fragment and not pair.fragment.startswith(("My", "I "))
    else:
        assert pair.fragment == words


# -- on the embedded model ------------------------------------------------------------------------

FACTS = ("Bob lives in Austin.", "Alice lives in Paris.", "Carol lives in Dallas.")


@pytest.fixture(scope="module")
def history(embedded):
    tok = embedded.tokenizer
    return [t for f in FACTS for t in embedded.template.encode_turn(tok, f, "Got it.")]


@pytest.fixture(scope="module")
def state(embedded, history):
    return embedded.model.forward(history)[1]


@pytest.fixture
def workspace(embedded, state, history):
    half = state.n_layer // 2
    return Workspace(embedded, state, read_pair(OLD, NEW), (half, state.n_layer), history=history)


@pytest.mark.parametrize("name", [n for n in METHODS if n not in NEED_A_MODEL])
def test_every_method_runs_on_the_model(embedded, state, history, name):
    report = apply_edit(
        embedded, state, OLD, NEW, method=name, history=history, controls=FACTS[1:]).report
    assert report.method == name
    assert report.verdict in ("took", "did not take", "leaked")
    assert report.delta_norm > 0.0


@pytest.mark.parametrize("name", ["r1-proj", "full-r2", "full-r4", "r1-wt", "iso-r1"])
def test_parts_of_an_exact_delta_flip_this_fact(embedded, state, history, name):
    report = apply_edit(embedded, state, OLD, NEW, method=name, history=history).report
    assert report.verdict == "took"
    assert report.p_new.after > 0.5 > report.p_old.after


def test_a_random_direction_of_equal_norm_does_not_flip_this_fact(embedded, state):
    report = apply_edit(embedded, state, OLD, NEW, method="random").report
    assert report.alpha == 1.0
    assert report.verdict == "did not take"


def test_token_is_the_sum_of_the_values_own_steps(embedded, state):
    pair = read_pair("Bob is a software engineer", "Bob is a baker")
    half = state.n_layer // 2
    ws = Workspace(embedded, state, pair, (half, state.n_layer))

    def steps(value):
        """Every value token's S_t - S_{t-1}, after the words told up to there."""
        before = embedded.model.forward(ws.told)[1]
        total = torch.zeros_like(before.wkv[half:])
        for token_id in value:
            after = embedded.model.forward([token_id], before)[1]
            total = total + (after.wkv - before.wkv)[half:]
            before = after
        return total

    assert max(len(ws.old), len(ws.new)) > 1
    assert torch.allclose(make("token", ws), steps(ws.new) - steps(ws.old), atol=1e-4)


def test_bare_free_and_token_rows_start_from_a_fresh_state(workspace, embedded):
    decode = embedded.tokenizer.decode
    texts = {}
    for what in ("bare", "free", "token"):
        tokens, start = workspace.row(f"{what}-new")
        texts[what] = decode(tokens)
        assert start.equal(embedded.model.zero_state())
    assert texts == {
        "bare": "Bob lives in Chicago.", "free": "lives in Chicago",
        "token": "User: Bob lives in Chicago",
    }


def test_receptances_are_those_of_the_position_that_answers(workspace, embedded, state):
    decodes = workspace.decodes
    r = workspace.receptances()
    layers = workspace.hi - workspace.lo
    assert r.shape == (len(workspace.asks), layers, state.n_head, state.head_size)
    assert workspace.decodes - decodes == sum(len(a.tokens) for a in workspace.asks)
    for at, ask in enumerate(workspace.asks):
        name = f"blocks.{workspace.lo}.att.r"
        record = Record([name])
        embedded.model.forward(list(ask.tokens), state, hooks=record.hooks)
        assert torch.allclose(r[at, 0], record[name][0, len(ask.tokens) - 1], atol=1e-4)


def test_replaying_methods_share_the_replayed_delta(workspace, embedded, history):
    tokens = counterfactual_tokens(embedded, history, workspace.pair)
    after = embedded.model.forward(tokens)[1].wkv[workspace.layers]
    delta = after - workspace.state.wkv[workspace.layers]
    assert torch.allclose(make("uniform", workspace), delta, atol=1e-4)
    wanted = dominance(delta)[..., None, None] * delta
    assert torch.allclose(make("r1-wt", workspace), wanted, atol=1e-4)


def test_the_optimisers_steps_are_torchs():
    from rwkvedit.recurrent.methods.optimised import _Adam

    torch.manual_seed(0)
    ours, theirs = torch.randn(3, 4), torch.nn.Parameter(torch.zeros(3, 4))
    theirs.data.copy_(ours)
    step, reference = _Adam([ours], 0.05), torch.optim.Adam([theirs], lr=0.05)
    for _ in range(6):
        gradient = torch.randn(3, 4)
        step([gradient])
        theirs.grad = gradient.clone()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
