"""``bench edit``: what it reports, that it can go on, and that it leaves the weights alone."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
from test_rome import EASY

from rwkvedit.cli import main
from rwkvedit.errors import FileFormatError, UsageError
from rwkvedit.evaluate.counterfact import load_records, select
from rwkvedit.evaluate.editing import PROTOCOLS, RATES, harmonic, ngram_entropy, run
from rwkvedit.transformer import open_session
from rwkvedit.transformer.tuning import save

PLACES = ("Japan", "Italy", "Austin", "Tokyo", "Paris", "Berlin")
"""The toy goes on with a whole word after "Ann lives in" each of them."""


@pytest.fixture
def data(tmp_path):
    toy = open_session("toy")
    save(toy, replace(EASY, steps=15))
    rows = []
    for i, place in enumerate(PLACES):
        prompt = f"Ann lives in {place}"
        own = toy.forward(prompt).top(1)[0].piece
        rows.append({
            "prompt": prompt, "subject": place, "target_new": "Rome",
            "ground_truth": own if i < 3 else "Boston",
            "rephrase_prompt": f"Bob said Ann lives in {place}",
            "locality_prompt": "Bob lives in", "locality_ground_truth": "Austin",
        })  # fmt: skip
    file = tmp_path / "records.json"
    file.write_text(json.dumps(rows))
    return file


def arguments(data, **changes):
    values = {"model": "toy", "method": "rome", "data": str(data), "n": 3, "seed": 0,
              "group": "all", "sequential": None, "layer": None, "stats": None, "out": None,
              "engine": "local", "workers": None, "address": None,
              "on_progress": lambda done, of: None}  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


@pytest.mark.parametrize("method", ["rome", "memit", "alphaedit"])
def test_every_row_has_the_promised_keys(data, capsys, method):
    line = ["bench", "edit", "toy", "--method", method, "--data", str(data), "--n", "3"]
    assert main([*line, "--group", "all", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in got["rows"]] == ["unedited", "random", method]
    for row in got["rows"]:
        assert row["group"] == "all" and {"score", "seconds_per_edit", "peak_mb"} <= set(row)
        for name in RATES:
            assert 0 <= row[name]["mean"] <= 1 and row[name]["n"] == 3
    assert set(PROTOCOLS) == {*RATES, "entropy"} and got["meta"]["model"] == "toy"
    assert got["rows"][2]["efficacy"]["mean"] >= got["rows"][0]["efficacy"]["mean"]
    assert got["rows"][2]["seconds_per_edit"] > 0


def test_a_run_goes_on_where_it_stopped(data, tmp_path):
    out = tmp_path / "part.jsonl"
    whole = run(arguments(data, out=str(out)))["rows"]
    lines = out.read_text().splitlines()
    assert len(lines) == 2
    again = run(arguments(data, out=str(out)))["rows"]
    strip = [{k: v for k, v in row.items() if k != "peak_mb"} for row in whole]
    assert strip == [{k: v for k, v in row.items() if k != "peak_mb"} for row in again]
    with pytest.raises(UsageError, match="another run"):
        run(arguments(data, out=str(out), seed=1))


def test_two_processes_find_what_one_finds(data, tmp_path):
    def found(**changes):
        rows = run(arguments(data, n=6, **changes))["rows"]
        return [{k: v for k, v in row.items() if k not in ("peak_mb", "seconds_per_edit")}
                for row in rows]  # fmt: skip

    assert found(workers=2) == found()


def test_a_sequence_stays_and_tells_what_it_costs(data):
    args = arguments(data, method="alphaedit", sequential=3)
    rows = run(args)["rows"]
    assert [row["k"] for row in rows] == [0, 1, 3]
    assert rows[-1]["perplexity_ratio"] > 0 and rows[-1]["retention"]["n"] <= 3
    assert not args.loaded.edits.live


def test_groups_are_what_the_model_knows(data):
    toy = open_session("toy")
    records, digest = load_records(data)
    known = select(toy, records, digest, "known", 10, 0)
    assert {records[i].subject for i in known} == set(PLACES[:3])
    assert set(known) <= set(select(toy, records, digest, "preferred", 10, 0))
    everything = select(toy, records, digest, "all", 10, 0)
    assert len(everything) == 6
    assert select(toy, records, digest, "all", 6, 0, last=True) == everything[::-1]


def test_files_that_hold_no_records_are_refused(tmp_path):
    file = tmp_path / "x.json"
    for bad in ("[]", "{}", "x", '[{"prompt": "a"}]', "[3]"):
        file.write_text(bad)
        with pytest.raises(FileFormatError):
            load_records(file)


def test_the_measures_are_what_they_say():
    assert harmonic([1.0, 0.5, 0.5]) == pytest.approx(0.6)
    assert harmonic([1.0, 0.0, 1.0]) == 0.0
    assert ngram_entropy([1] * 10) == 0.0
    assert ngram_entropy(list(range(9))) == pytest.approx((2 * 3 + 4 * 2.807) / 6, abs=1e-3)
