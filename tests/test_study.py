"""Studies: what they find on the embedded model, and that they leave it as it was."""

import json

import numpy as np
import pytest
import torch
from toy_models import toy_loaded

from rwkvedit.errors import RwkvEditError, UnavailableError, UsageError
from rwkvedit.evaluate.worlds import Maker
from rwkvedit.study import STUDIES, Options, find_study, run_study
from rwkvedit.study.cases import Material, find_lexicon, make_case, read
from rwkvedit.study.files import finished, run_all
from rwkvedit.study.heads import counts, top_mask
from rwkvedit.study.layers import blocks, patches
from rwkvedit.study.prompts import parse_prompts, shipped
from rwkvedit.study.tokens import carried_keys

WORLDS = 4
FACT_STUDIES = [name for name, entry in STUDIES.items() if entry.worlds]


@pytest.fixture(scope="module")
def material(embedded):
    maker = Maker(find_lexicon(embedded, "common"), np.random.default_rng(3))
    with torch.no_grad():
        return Material(embedded, [make_case(embedded, maker) for _ in range(WORLDS)])


@pytest.fixture(scope="module")
def sweep(embedded):
    return run_study("layer-sweep", embedded, worlds=8)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_loaded(tmp_path_factory.mktemp("toy"), n_layer=3)


def effects(study, column="patch"):
    return {(row[column], row["layers"]): row["effect"]["mean"] for row in study.rows}


# -- material ---------------------------------------------------------------------------------


def test_the_two_conversations_of_a_case_differ_in_the_value_alone(embedded, material):
    for case in material.cases:
        changed = case.value_at
        assert len(case.old_tokens) == len(case.new_tokens)
        assert case.turn_start <= changed[0] <= changed[-1] < case.turn_end
        old, new = (embedded.tokenizer.decode(list(t)) for t in (case.old_tokens, case.new_tokens))
        assert case.old.value in old and case.new.value in new
        assert case.new.value not in old


def test_reading_a_state_does_not_touch_it(embedded, material):
    before = material.old.clone()
    with torch.no_grad():
        read(embedded, material.cases, material.old)
    assert material.old.equal(before)


def test_readings_do_not_depend_on_the_batch(embedded, material):
    with torch.no_grad():
        one = read(embedded, material.cases[:1], material.old[0].expand(1))
    np.testing.assert_allclose(one.odds, material.before.odds[:1], atol=1e-3)


def test_effect_is_nothing_for_the_old_state_and_all_for_the_new(material):
    assert np.allclose(material.effect(material.before), 0.0)
    assert np.allclose(material.effect(material.after), 1.0)


def test_values_of_several_tokens_are_read_whole(embedded):
    maker = Maker(find_lexicon(embedded, "held-out"), np.random.default_rng(0))
    with torch.no_grad():
        several = Material(embedded, [make_case(embedded, maker) for _ in range(3)])
    assert max(len(case.old_value) for case in several.cases) > 1
    assert (several.before.logp_old < 0).all() and several.known.any()


# -- the layer sweep --------------------------------------------------------------------------


def test_patches_name_every_family_and_stay_inside_the_model():
    for n in (2, 3, 6, 24, 32):
        made = patches(n)
        assert {family for family, _, _ in made} == {
            "single", "from below", "from above", "block", "half", "parity", "all"}
        assert all(layers and set(layers) <= set(range(n)) for _, _, layers in made)
        assert [x for a, b in blocks(n) for x in range(a, b)] == list(range(n))


def test_all_layers_together_are_the_whole_effect_and_none_is_nothing(sweep):
    found = effects(sweep)
    assert found["none", "none"] == 0.0
    assert found["all", "all wkv"] == pytest.approx(1.0, abs=0.02)
    assert found["other", "whole state"] == pytest.approx(1.0, abs=1e-6)
    assert found["from below", "0:6"] == pytest.approx(found["from above", "0:6"], abs=1e-6)


def test_the_fact_lies_in_the_upper_half_of_the_embedded_model(sweep):
    found = effects(sweep)
    assert found["half", "upper 3:6"] > 0.7 > 0.3 > found["half", "lower 0:3"]
    assert "upper half (3:6)" in sweep.finding


def test_every_patch_leaves_the_state_bit_equal(sweep):
    assert all(row["restored"] is True for row in sweep.rows)
    assert sweep.settings["restored"] is True
    assert sweep.settings["baseline_drift_nats"] < 1e-4


def test_a_study_prints_the_command_that_makes_it_again(embedded, sweep):
    assert sweep.meta["command"] == "rwkvedit study layer-sweep --worlds 8 --seed 0"
    again = run_study("layer-sweep", embedded, worlds=8)
    assert again.rows == sweep.rows and again.finding == sweep.finding
    other = run_study("layer-sweep", embedded, worlds=8, seed=1)
    assert other.rows != sweep.rows


def test_meta_says_where_the_numbers_come_from(embedded, sweep):
    meta = sweep.meta
    assert meta["model_digest"] == embedded.model.digest
    assert {"version", "model", "device", "dtype", "threads", "seed", "seconds"} <= set(meta)


# -- heads and ranks --------------------------------------------------------------------------


def test_top_mask_takes_each_worlds_own_heads():
    score = torch.tensor([[[1.0, 4.0], [3.0, 2.0]], [[9.0, 0.0], [1.0, 2.0]]])
    mask = top_mask(score, 2)
    assert mask.tolist() == [[[False, True], [True, False]], [[True, False], [False, True]]]
    assert counts(24)[-1] == 24 and counts(1) == [1]


def test_all_heads_together_have_the_whole_effect_in_either_order(embedded):
    study = run_study("heads", embedded, worlds=5)
    together = {(r["order"], r["heads"]): r["effect"]["mean"] for r in study.tables[1].rows}
    assert together["sigma1", 24] == pytest.approx(together["random", 24], abs=1e-4)
    assert together["sigma1", 4] > together["random", 4]
    assert sum(r["share"]["mean"] for r in study.rows) == pytest.approx(1.0, abs=1e-4)


def test_full_rank_is_the_patch_and_a_random_change_does_nothing(embedded):
    study = run_study("rank", embedded, worlds=5)
    by = {(r["rank"], r["layers"]): r for r in study.rows}
    assert by["full", "all"]["effect"]["mean"] == pytest.approx(1.0, abs=0.02)
    assert by["1", "upper"]["norm"]["mean"] <= by["2", "upper"]["norm"]["mean"] <= 1.0
    assert abs(by["random", "all"]["effect"]["mean"]) < 0.3
    for row in study.tables[1].rows:
        assert 1 / 64 <= row["r1"]["mean"] <= row["r2"]["mean"] <= row["r4"]["mean"] <= 1.0001


# -- tokens -----------------------------------------------------------------------------------


def test_carried_keys_make_the_recurrence_again():
    g = torch.Generator().manual_seed(0)
    B, T, H, N = 2, 7, 2, 4

    def draw():
        return torch.randn(B, T, H, N, generator=g, dtype=torch.float64)

    w, k, v = draw().sigmoid(), draw(), draw()
    kk = torch.nn.functional.normalize(draw(), dim=-1)
    b = kk * draw().sigmoid()
    lengths = torch.tensor([T, T - 3])
    state = torch.zeros(B, H, N, N, dtype=torch.float64)
    states = []
    for t in range(T):
        removed = (state @ -kk[:, t, :, :, None]) @ b[:, t, :, None]
        new = state * w[:, t, :, None] + removed + v[:, t, :, :, None] * k[:, t, :, None]
        state = torch.where((t < lengths)[:, None, None, None], new, state)
        states.append(state)
    keys, after = carried_keys(w, k, kk, b, lengths)
    torch.testing.assert_close(torch.einsum("bthv,bthk->bhvk", v, keys), state)
    alone = after[1][0, 0]  # squared norms of the first key one token later
    moved = k[0, 0] * w[0, 1] - (k[0, 0] * kk[0, 1]).sum(-1, keepdim=True) * b[0, 1]
    torch.testing.assert_close(alone, moved.square().sum(-1))
    assert after[4][1].isnan().all(), "the shorter row ends before four tokens later"


def test_the_shares_of_all_tokens_add_up_to_the_change(embedded):
    study = run_study("tokens", embedded, worlds=WORLDS)
    assert study.settings["largest_split_error"] < 1e-4
    roles = [c for c in study.columns if c not in ("layer", "norm")]
    for row in study.rows:
        assert sum(row[role]["mean"] for role in roles) == pytest.approx(1.0, abs=1e-3)
    for row in study.tables[1].rows:
        assert 0 < row["lag1"]["mean"] < 1.5


# -- the others -------------------------------------------------------------------------------


def test_directions_tell_values_from_entities(embedded):
    study = run_study("directions", embedded, worlds=3)
    by = {row["axis"]: row for row in study.rows}
    assert by["entity"]["u1"]["mean"] > by["value"]["u1"]["mean"], "u1 is the value's direction"
    assert by["value"]["v1"]["mean"] > by["entity"]["v1"]["mean"], "v1 is the entity's address"
    assert [r["position"] for r in study.tables[1].rows] == [1, 2, 3, 4, 5]
    assert study.settings["u_shape"]["first"]["n"] == 3


def test_removing_and_adding_the_whole_change_flips_most(embedded):
    study = run_study("remove-add", embedded, worlds=6)
    by = {(r["form"], r["does"]): r for r in study.rows}
    assert by["whole", "both"]["effect"]["mean"] > by["whole", "add"]["effect"]["mean"]
    assert by["whole", "remove"]["old_falls"]["mean"] > by["random", "remove"]["old_falls"]["mean"]


def test_matched_prompts_are_nearer_than_unlike_ones(embedded):
    study = run_study("similarity", embedded, worlds=WORLDS)
    at = {(r["place"], r["pairs"], r["layer"]): r["residual"]["mean"] for r in study.rows}
    assert at["answer", "matched", 0] > 0.99
    assert at["answer", "matched", 5] > at["answer", "unlike", 5]


@pytest.mark.parametrize("name", ["norms", "distance"])
def test_the_remaining_fact_studies_run_and_say_something(embedded, name, monkeypatch):
    import rwkvedit.study.distance as distance

    monkeypatch.setattr(distance, "DISTANCES", (0, 8, 16))
    study = run_study(name, embedded, worlds=WORLDS)
    assert study.finding.endswith(".") and study.rows and study.plots
    if name == "distance":
        assert study.rows[0]["state"]["mean"] == pytest.approx(1.0, abs=0.05)
        assert study.rows[0]["cosine"]["mean"] == pytest.approx(1.0, abs=1e-4)


# -- any model --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACT_STUDIES)
def test_studies_run_on_a_model_that_knows_nothing_and_say_so(toy, name, monkeypatch):
    import rwkvedit.study.distance as distance

    monkeypatch.setattr(distance, "DISTANCES", (0, 4))
    study = run_study(name, toy, worlds=2)
    json.dumps(study.to_json(), allow_nan=True)
    if name not in ("directions",):
        known = study.settings["worlds_counted"]
        assert known >= 2 or study.finding.startswith("Caution: the model tells old from new")


def test_too_few_layers_is_one_line(tmp_path):
    flat = toy_loaded(tmp_path, n_layer=1)
    with pytest.raises(RwkvEditError, match=r"needs a model of 2 layers or more and toy has 1"):
        run_study("layer-sweep", flat)


def test_a_study_that_does_not_exist_lists_those_that_do():
    with pytest.raises(UsageError, match=r"no study called layersweep; did you mean layer-sweep\?"):
        find_study("layersweep")
    with pytest.raises(UsageError, match="there are layer-sweep, heads"):
        find_study("x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"worlds": 0}, "--worlds takes a number from 2 on, not 0"),
        ({"seed": -1}, "--seed takes a number from 0 on"),
        ({"a": "x.txt"}, "--a needs --b"),
        ({"permutations": 0}, "--permutations takes a number from 1 on"),
        ({"lexicon": "nowhere.json"}, "cannot read lexicon nowhere.json"),
    ],
)
def test_bad_options_are_one_line(embedded, options, said):
    with pytest.raises(UsageError, match=said):
        run_study("norms", embedded, **options)


def test_a_missing_package_says_what_to_install(embedded, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(UnavailableError, match=r'pip install "rwkvedit\[study\]"'):
        run_study("probes", embedded)


# -- prompts ----------------------------------------------------------------------------------


def test_prompt_files_may_name_groups():
    found = parse_prompts("one\tg\n\ntwo\n", "f")
    assert [(p.text, p.group) for p in found] == [("one", "g"), ("two", "line 3 of f")]
    with pytest.raises(UsageError, match="holds no prompts"):
        parse_prompts("\n\t\n", "f")


def test_the_shipped_topics_are_balanced():
    one, other = shipped("weather"), shipped("food")
    assert len(one) == len(other) >= 30
    assert len({p.group for p in one}) == len({p.group for p in other}) >= 5


# -- files ------------------------------------------------------------------------------------


def test_an_interrupted_run_keeps_what_was_finished_and_resumes(embedded, tmp_path, monkeypatch):
    import rwkvedit.study.files as files

    ran = []

    def stop_at_heads(name, *args):
        ran.append(name)
        if name == "heads":
            raise KeyboardInterrupt
        return run_study(name, *args)

    names, options = ("norms", "heads"), Options(worlds=2)
    monkeypatch.setattr(files, "run_study", stop_at_heads)
    with pytest.raises(KeyboardInterrupt):
        run_all(embedded, options, tmp_path, names=names)
    assert (tmp_path / "norms.json").exists() and not (tmp_path / "heads.json").exists()
    assert 'id="norms"' in (tmp_path / "index.html").read_text("utf-8")
    monkeypatch.setattr(files, "run_study", lambda name, *args: ran.append(name) or run_study(
        name, *args))
    said: list[str] = []
    done = run_all(embedded, options, tmp_path, names=names, notice=said.append)
    assert ran == ["norms", "heads", "heads"], "norms is not run again"
    assert [d["study"] for d in done] == list(names)
    assert said == ["1/2 norms (kept from before)", "2/2 heads"]
    assert finished("norms", embedded, Options(worlds=3), tmp_path) is None, "other options"


def test_a_studys_document_is_json_with_its_rows(embedded, tmp_path):
    run_all(embedded, Options(worlds=2), tmp_path, names=["rank"])
    document = json.loads((tmp_path / "rank.json").read_text("utf-8"))
    keys = {column["key"] for column in document["columns"]}
    assert all(set(row) <= keys for row in document["rows"])
    pictures = {f"rank-{plot['name']}.png" for plot in document["plots"]}
    assert pictures == {path.name for path in tmp_path.glob("*.png")}
