"""Studies of two prompt sets: probes and steering, on planted and on given prompts."""

import numpy as np
import pytest
import torch

from rwkvedit.errors import UsageError
from rwkvedit.study import probes as p
from rwkvedit.study import run_study
from rwkvedit.study.prompts import Prompt, prompt_sets
from rwkvedit.study.steering import gap, likelihood, thirds


def planted(n=40, wide=6, far=3.0, seed=0):
    """Two clouds that part along one axis, in pairs."""
    rng = np.random.default_rng(seed)
    y = np.array([0, 1] * (n // 2))
    x = rng.standard_normal((n, wide))
    x[:, 2] += far * y
    return x, y, np.repeat(np.arange(n // 4), 4)


@pytest.fixture
def files(tmp_path):
    """Six short prompts a side, in three groups."""
    sides = {
        "home": ("lives in Paris", "lives in Rome", "lives in Oslo"),
        "work": ("works as a baker", "works as a nurse", "works as a pilot"),
    }
    paths = []
    for name, endings in sides.items():
        lines = [f"{who} {end}.\tg{i}" for i, end in enumerate(endings) for who in ("Bob", "Ann")]
        path = tmp_path / f"{name}.txt"
        path.write_text("\n".join(lines), "utf-8")
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("name", p.PROBES)
def test_every_probe_finds_a_planted_difference_and_nothing_in_noise(name):
    probe = p.PROBES[name][0]
    x, y, groups = planted()
    splits = p.folds(groups, y)
    assert p.accuracy(p.held_out(probe, x, y, splits), y).mean() > 0.85
    noise = np.random.default_rng(1).standard_normal(x.shape)
    assert 0.2 < p.accuracy(p.held_out(probe, noise, y, splits), y).mean() < 0.8


def test_groups_never_stand_on_both_sides_of_a_split():
    _, y, groups = planted()
    for train, test in p.folds(groups, y):
        assert not set(groups[train]) & set(groups[test])
        assert len(set(y[train])) == 2


def test_permutations_stay_within_groups_that_hold_both_sets():
    _, y, groups = planted()
    rng = np.random.default_rng(0)
    shuffled = p.permuted(y, groups, rng)
    assert (shuffled != y).any()
    for group in np.unique(groups):
        assert shuffled[groups == group].sum() == y[groups == group].sum()


def test_permutations_trade_whole_groups_of_one_set():
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    shuffled = p.permuted(y, groups, np.random.default_rng(1))
    assert all(len(set(shuffled[groups == g])) == 1 for g in range(4))
    assert shuffled.sum() == y.sum()


def test_a_p_value_counts_the_true_labels():
    assert p.p_value(np.array([0.5, 0.6, 0.7]), 0.9) == 0.25
    assert p.p_value(np.array([0.5, 0.9, 0.9]), 0.9) == 0.75


def test_fisher_separation_grows_with_the_distance():
    y = np.array([0, 0, 1, 1])
    near, far = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 5.0, 6.0])
    assert p.fisher(far, y) > p.fisher(near, y) > 0


def test_probes_tell_the_users_two_sets_apart(embedded, files):
    a, b = files
    study = run_study("probes", embedded, a=a, b=b, permutations=5)
    assert {row["layer"] for row in study.rows} == {"words", *map(str, range(6))}
    assert max(r["accuracy"]["mean"] for r in study.rows) == 1.0
    assert study.finding.startswith("home and work ")
    assert study.meta["command"].endswith(f"--a {a} --b {b} --permutations 5")
    assert all(0 < r["p"] <= r["corrected"] <= 1 for r in study.rows)


def test_probes_of_one_group_a_side_are_refused(embedded, tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("one\tg\ntwo\tg\n", "utf-8")
    with pytest.raises(UsageError, match="two groups of prompts or more"):
        run_study("probes", embedded, a=str(tmp_path / "a"), b=str(tmp_path / "b"))


def test_a_prompt_file_that_is_not_there_is_one_line(embedded, files):
    with pytest.raises(UsageError, match=r"cannot read nowhere\.txt"):
        run_study("steering", embedded, a="nowhere.txt", b=files[1])


def test_matched_prompts_must_be_as_many(embedded, files, tmp_path):
    (tmp_path / "one.txt").write_text("Bob lives in Rome.\n", "utf-8")
    with pytest.raises(UsageError, match=r"has 6 and .* 1"):
        run_study("similarity", embedded, a=files[0], b=str(tmp_path / "one.txt"))
    study = run_study("similarity", embedded, a=files[0], b=files[0])
    matched = [r for r in study.rows if r["pairs"] == "matched"]
    assert all(r["residual"]["mean"] == pytest.approx(1.0, abs=1e-4) for r in matched)


def test_nothing_added_leaves_every_likelihood_as_it_was(embedded, files):
    a, _ = prompt_sets(embedded, *files)
    with torch.no_grad():
        plain = likelihood(embedded, a, 2, None)
        still = likelihood(embedded, a, 2, torch.zeros(256))
        moved = likelihood(embedded, a, 2, torch.linspace(-300.0, 300.0, 256))
    np.testing.assert_allclose(plain, still, atol=1e-4)
    assert np.abs(moved - plain).max() > 0.01


def test_steering_runs_on_given_sets_and_names_its_control(embedded, files):
    study = run_study("steering", embedded, a=files[0], b=files[1])
    assert [row["layer"] for row in study.rows] == list(range(6))
    assert "random directions of equal norm" in study.finding
    assert all(row["pull"]["lo"] <= row["pull"]["hi"] for row in study.rows)


def test_thirds_keep_groups_whole():
    sides = [[Prompt(f"{s}{i}", f"g{i % 4}") for i in range(8)] for s in "ab"]
    parts = thirds(sides[0], sides[1], np.random.default_rng(0))
    seen = [{q.group for side in part for q in side} for part in parts]
    assert not seen[0] & seen[1] and not seen[1] & seen[2] and not seen[0] & seen[2]
    assert sum(len(side) for part in parts for side in part) == 16
    with pytest.raises(UsageError, match="3 groups"):
        thirds(sides[0][:2], sides[1], np.random.default_rng(0))


def test_a_gap_is_b_minus_a():
    found = gap([np.array([0.0, 0.0]), np.array([1.0, 1.0])], [["x", "y"], ["x", "z"]])
    assert found["mean"] == found["lo"] == found["hi"] == 1.0
