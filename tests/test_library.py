"""Saved calibrations: round trips, matching, refusals, edits that use them. Embedded model."""

import json

import pytest
import torch

from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.models.catalog import load_model
from rwkvedit.recurrent import calibactions as calib
from rwkvedit.recurrent.calibrate import fit_kind, fit_pair
from rwkvedit.recurrent.edit import apply_edit
from rwkvedit.recurrent.library import Library, load_calibration, save_calibration
from rwkvedit.recurrent.pairs import read_pair
from rwkvedit.recurrent.spectrum import top_triples

PAIR = read_pair("Bob lives in Austin", "Bob lives in Chicago")


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded")


@pytest.fixture
def library(loaded, tmp_path):
    return Library(loaded.model.digest, loaded.tokenizer.digest, [tmp_path])


@pytest.fixture(scope="module")
def cities(loaded):
    return fit_kind(loaded, "city", ["Austin", "Chicago", "Paris"])


def test_a_pair_fits_the_top_triple_of_its_delta(loaded):
    fitted = fit_pair(loaded, PAIR)
    every = slice(0, loaded.model.config.n_layer)
    turns = [
        loaded.template.encode_turn(loaded.tokenizer, PAIR.statement(v), "Got it.")
        for v in (PAIR.old, PAIR.new)
    ]
    wkv = loaded.model.forward(turns)[1].wkv
    exact = top_triples(wkv[1] - wkv[0], 1)
    found = fitted.pair(*PAIR.names, every, 1)
    assert torch.allclose(found.sigma, exact.sigma, rtol=0.02)
    overlap = (found.u * exact.u).sum(-2).abs()
    strong = exact.sigma > 0.05 * exact.sigma.max()
    assert bool((overlap[strong] > 0.97).all())


def test_a_kind_composes_any_pair_and_the_way_back_is_its_negative(cities):
    every = slice(0, cities.writes.shape[1])
    there = cities.pair("Austin", "Paris", every, 3).matrix()
    back = cities.pair("Paris", "Austin", every, 3).matrix()
    assert torch.allclose(there, -back, atol=1e-4 * float(there.norm()))
    via = cities.pair("Austin", "Chicago", every, 3).matrix() + cities.pair(
        "Chicago", "Paris", every, 3).matrix()
    assert torch.allclose(there, via, atol=1e-4 * float(there.norm()))


def test_saved_and_read_back_it_is_the_same_to_half_precision(cities, loaded, tmp_path):
    path = save_calibration(cities, tmp_path / "c.safetensors")
    again = load_calibration(path, loaded)
    assert again.values == cities.values and again.kind == "city"
    scale = float(cities.writes.abs().max())
    assert torch.allclose(again.writes, cities.writes, atol=2e-3 * scale)


def test_a_matching_calibration_is_found_and_the_edit_says_so(loaded, library, cities):
    assert library.find(PAIR) is None
    library.save(cities)
    found = library.find(PAIR)
    assert found is not None and found.name == "city"
    assert library.find(read_pair("Bob lives in Austin", "Bob lives in Oslo")) is None
    told = loaded.template.encode_turn(loaded.tokenizer, "Bob lives in Austin.", "Got it.")
    _, state = loaded.model.forward(told)
    report = apply_edit(loaded, state, "Bob lives in Austin", "Bob lives in Chicago",
                        method="hyb-u", library=library).report
    assert report.calibration == "saved: city"
    assert report.verdict == "took"
    live = apply_edit(loaded, state, "Bob lives in Austin", "Bob lives in Chicago",
                      method="hyb-u", start="live", library=library).report
    assert live.calibration == "live"
    assert live.decodes > report.decodes


def test_from_library_without_a_match_says_how_to_fit_one(loaded, library):
    state = loaded.model.zero_state()
    with pytest.raises(RwkvEditError, match="calib fit"):
        apply_edit(loaded, state, "Bob lives in Austin", "Bob lives in Chicago",
                   start="library", library=library)


def test_another_models_calibration_is_refused_by_both_digests(loaded, cities, library, tmp_path):
    from dataclasses import replace

    other = replace(cities, model_digest="f" * 64)
    path = save_calibration(other, tmp_path / "other.safetensors")
    with pytest.raises(FileFormatError) as error:
        library.add_file(path, loaded)
    assert "f" * 12 in str(error.value) and loaded.model.digest[:12] in str(error.value)
    assert library.paths() == []


def test_a_damaged_file_is_refused_and_does_not_stop_an_edit(loaded, library, cities):
    path = library.save(cities)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FileFormatError):
        load_calibration(path)
    assert library.find(PAIR) is None


def test_a_damaged_file_is_named_by_the_list_and_can_be_removed(loaded, library, cities):
    from dataclasses import replace

    whole = library.save(replace(cities, name="whole"))
    path = library.save(cities)
    path.write_bytes(path.read_bytes()[:200])
    assert [p for p, _ in library.all()] == [whole]
    (line,) = library.damaged()
    assert str(path) in line and f"calib rm {path.stem}" in line
    library.remove(path.stem)
    assert library.paths() == [whole] and library.damaged() == []


def test_a_calibration_of_other_sizes_is_refused_and_never_used(loaded, cities, tmp_path):
    from dataclasses import replace

    small = replace(cities, writes=cities.writes[:, :1], address=cities.address[:1])
    path = save_calibration(small, tmp_path / "small.safetensors")
    with pytest.raises(FileFormatError, match=r"expected \(layers, heads, head size\)"):
        load_calibration(path, loaded)
    c = loaded.model.config
    sizes = (c.n_layer, c.n_head, c.head_size)
    mine = Library(loaded.model.digest, loaded.tokenizer.digest, [tmp_path / "lib"], heads=sizes)
    mine.save(small)
    assert mine.find(PAIR) is None
    mine.save(cities)
    assert mine.find(PAIR) is not None


def test_exporting_spares_a_file_that_is_no_calibration(library, cities, tmp_path):
    library.save(cities)
    notes = tmp_path / "notes.txt"
    notes.write_text("my own words")
    with pytest.raises(RwkvEditError, match=r"is no rwkvedit-calibration file; name another"):
        library.export(cities.name, notes)
    assert notes.read_text() == "my own words"
    out = tmp_path / "out.safetensors"
    source, _ = library.get(cities.name)
    for _ in range(2):  # its own kind may be written over
        assert library.export(cities.name, out).read_bytes() == source.read_bytes()


def test_removing_takes_only_the_users_own(loaded, tmp_path, cities):
    both = Library(loaded.model.digest, loaded.tokenizer.digest, [tmp_path / "a", tmp_path / "b"])
    save_calibration(cities, both.folders[1] / "city.safetensors")
    with pytest.raises(RwkvEditError, match="ships"):
        both.remove("city")
    both.save(cities)
    both.remove("city")
    assert len(both.paths()) == 1
    with pytest.raises(RwkvEditError, match="there are: city"):
        both.get("nothing")


def test_one_value_is_no_calibration(loaded):
    with pytest.raises(UsageError, match="two"):
        fit_kind(loaded, "city", ["Austin"])
    with pytest.raises(UsageError, match="city"):
        fit_kind(loaded, "planet", ["Mars", "Venus"])


def test_the_verbs_do_what_they_say(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("RWKVEDIT_HOME", str(tmp_path))
    fitted = calib.perform(loaded, "fit", ["Zork is big", "Zork is small"], name="zork")
    assert fitted["values"] == [" big", " small"]
    assert "zork" in [row["name"] for row in calib.perform(loaded, "list", [])]
    shown = calib.perform(loaded, "show", ["zork"])
    assert shown["layers"] == loaded.model.config.n_layer
    target = tmp_path / "out" / "z.safetensors"
    calib.perform(loaded, "export", ["zork", str(target)])
    calib.perform(loaded, "rm", ["zork"])
    assert "zork" not in [row["name"] for row in calib.perform(loaded, "list", [])]
    assert calib.perform(loaded, "import", [str(target)])["name"] == "zork"
    json.dumps(calib.perform(loaded, "list", []))
    for action, words in (("show", []), ("fit", ["one"]), ("export", ["zork"])):
        with pytest.raises(UsageError, match="say"):
            calib.perform(loaded, action, words)


def test_common_values_of_every_kind_fit_into_a_named_folder(loaded, tmp_path, monkeypatch):
    from rwkvedit.facts import KINDS

    few = {kind: values[:2] for kind, values in calib.common_values().items()}
    assert set(few) == set(KINDS)
    monkeypatch.setattr(calib, "common_values", lambda: {k: few[k] for k in ("city", "age")})
    rows = calib.perform(loaded, "fit", [], kind="all", to=str(tmp_path))
    assert [row["name"] for row in rows] == ["city", "age"]
    assert all(str(tmp_path) in row["path"] for row in rows)


def test_the_chat_fits_from_a_fresh_state_or_from_this_conversation(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("RWKVEDIT_HOME", str(tmp_path))
    shell.execute("Bob lives in Austin.")
    fit = '/calib fit "Bob lives in Austin" "Bob lives in Chicago"'
    fitted = {}
    for start in ("fresh", "live"):
        result = shell.execute(f"{fit} --from {start} --name {start}-one")
        assert result.kind != "error" and result.data["name"] == f"{start}-one"
        fitted[start] = Library.of(shell.session.loaded).get(f"{start}-one")[1]
        assert fitted[start].start == start
    pair = read_pair("Bob lives in Austin", "Bob lives in Chicago")
    told = fit_pair(shell.session.loaded, pair, shell.session.state)
    assert torch.allclose(fitted["live"].writes.float(), told.writes.half().float(), atol=0.1)
    assert not torch.allclose(fitted["live"].writes, fitted["fresh"].writes, atol=0.1)


@pytest.mark.parametrize(("line", "why"), [
    ("/calib fit one", "say: /calib fit"), ("/calib show", "say: /calib show NAME"),
    ("/calib list --from live", "--from is of /calib fit"),
    ("/calib fit --kind city --values Rome", "say: /calib fit --kind city"),
])
def test_a_mistyped_calib_says_what_to_type(shell, line, why):
    result = shell.execute(line)
    assert result.kind == "error" and why in result.data["message"]
