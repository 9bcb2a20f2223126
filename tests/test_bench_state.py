"""``bench state``: measures, the document's shape, runs that are cut short and go on."""

import argparse
import json

import pytest
import torch

from rwkvedit import cli
from rwkvedit.errors import UsageError
from rwkvedit.evaluate import applying, runner
from rwkvedit.evaluate.applying import choose_methods, default_methods, known_methods
from rwkvedit.evaluate.loading import load_once
from rwkvedit.evaluate.measures import Judged, holds, judge, reads_right, repeats, score
from rwkvedit.evaluate.runner import make_cases, measure
from rwkvedit.evaluate.suites import SUITES
from rwkvedit.facts import Fact
from rwkvedit.facts.lexicon import heldout
from rwkvedit.models.catalog import load_model

CONTRACT = {"method", "flip", "keep", "clean", "leak", "reply", "kl_target", "kl_control", "ms",
            "decodes", "worlds_counted"}
TIMES = ("ms",)


def arguments(**more):
    parser = argparse.ArgumentParser()
    runner.add_arguments(parser)
    args = parser.parse_args([])
    for name, value in more.items():
        setattr(args, name, value)
    return args


def without_times(document):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in document["rows"]]


def rows_of(document):
    return {row["method"]: row for row in document["rows"]}


def case_of(suite, index=0):
    return make_cases(SUITES[suite], heldout(), index + 1, 1)[index]


def judged(case, replies):
    n = len(case.world.facts)
    even = torch.full((n, 4), 0.25).log()
    targets = len(case.targets())
    return Judged(list(replies), even, [0.5] * targets, [True] * targets)


def answers(case):
    return [fact.answer() for fact in case.world.facts]


# -- reading replies ------------------------------------------------------------------------


def test_a_flip_is_the_new_value_and_not_the_old_one_too():
    case = case_of("two-entity")
    assert case.new is not None
    told = answers(case)

    def flips(reply):
        return holds(judged(case, [reply, *told[1:]]), case) == [True]

    assert case.target == 0 and flips(case.new.answer())
    assert not flips(told[0])
    assert not flips(f"{case.new.answer()} It was {case.old.value}.")
    assert not flips(case.old.unknown())


def test_an_erased_fact_may_not_be_told_nor_another_in_its_place():
    case = case_of("property-erase")
    told = answers(case)

    def gone(reply):
        replies = [reply if i == case.target else text for i, text in enumerate(told)]
        return holds(judged(case, replies), case) == [True]

    assert gone(case.old.unknown()) and gone("")
    assert not gone(case.old.answer())
    assert not gone(case.old.with_value(case.others[0].value).answer())


def test_all_of_several_edits_must_hold_and_each_is_counted():
    case = case_of("sequential", 1)
    truth = case.truth()
    replies = [fact.answer() for fact in truth if fact is not None]
    good = score(case, judged(case, replies), judged(case, replies))
    assert good["flip"] == good["clean"] == 1.0 and len(good["held"]) == 8
    replies[case.targets()[0]] = case.world.facts[case.targets()[0]].answer()
    bad = score(case, judged(case, replies), judged(case, replies))
    assert bad["flip"] == 0.0 and sum(bad["held"]) == 7


def test_what_an_edit_in_between_said_counts_as_old():
    case = next(c for c in make_cases(SUITES["sequential"], heldout(), 2, 1)
                if len(c.targets()) < len(c.steps))
    twice = next(i for i in case.targets() if sum(s.index == i for s in case.steps) == 2)
    first = next(s.new for s in case.steps if s.index == twice)
    last = case.truth()[twice]
    assert first is not None and last is not None
    replies = answers(case)
    replies[twice] = f"{last.answer()} {first.answer()}"
    assert holds(judged(case, replies), case)[case.targets().index(twice)] is False


def test_a_lost_control_is_of_the_same_entity_or_of_another():
    case = case_of("same-entity")
    assert case.new is not None
    replies = [case.new.answer(), "I don't know.", case.world.facts[2].answer()]
    numbers = score(case, judged(case, replies), judged(case, replies))
    assert numbers["keep"] == [0.0, 1.0]
    assert (numbers["keep_same"], numbers["keep_other"]) == ([0.0], [1.0])
    assert numbers["flip"] == 1.0 and numbers["clean"] == 0.0


def test_a_control_that_also_gives_what_was_edited_in_is_not_kept():
    case = case_of("two-entity")
    assert case.new is not None
    (control,) = case.controls
    replies = answers(case)
    replies[case.target] = case.new.answer()
    assert score(case, judged(case, replies), judged(case, replies))["clean"] == 1.0
    replies[control] += f" And in {case.new.value}."
    numbers = score(case, judged(case, replies), judged(case, replies))
    assert numbers["keep"] == [0.0] and numbers["clean"] == 0.0


def test_a_denied_new_value_is_no_flip_and_a_denied_control_is_not_kept():
    case = case_of("two-entity")
    assert case.new is not None
    replies = [f"It is not {case.new.value}.", f"It is not {case.world.facts[1].value}."]
    numbers = score(case, judged(case, replies), judged(case, replies))
    assert numbers["flip"] == 0.0 and numbers["keep"] == [0.0]


def test_a_whole_reply_is_read_by_rule():
    fact = Fact("city", "Bob", "Oslo")
    assert reads_right("Bob lives in Oslo.", "", fact)
    assert reads_right("Bob has a home in Oslo.", "", fact)
    assert reads_right("It is Oslo!", "it is Oslo!", fact)  # as the oracle says it
    assert not reads_right("Bob lives in Riga.", "Bob lives in Oslo.", fact)
    assert not reads_right("Ann lives in Oslo.", "Bob lives in Oslo.", fact)
    assert reads_right("I don't know where Bob lives.", "", None)
    assert not reads_right("Bob lives in Oslo.", "Bob lives in Oslo.", None)


def test_a_stutter_is_four_tokens_said_twice_in_a_row():
    assert repeats([1, 2, 3, 4, 1, 2, 3, 4, 9]) == {(1, 2, 3, 4)}
    assert not repeats([1, 2, 3, 4, 5, 1, 2, 3, 4])


def test_probabilities_are_of_whole_values():
    loaded = load_model("embedded")
    case = case_of("two-entity")
    job = applying.Job(loaded, case, loaded.model.zero_state(), 0)
    live = loaded.model.forward(job.tokens(0))[1]
    seen = judge(loaded, [case], [live])[0]
    ask = loaded.template.encode_user(loaded.tokenizer, case.asks[case.target])
    value = loaded.tokenizer.encode(case.old.answer_value())
    lead = loaded.tokenizer.encode(case.old.answer_prefix())
    row = [*ask, *lead, *value]
    logits, _ = loaded.model.forward(row[:-1], live, full=True)
    logp = logits.log_softmax(-1)[len(row) - len(value) - 1 :]
    wanted = logp.gather(1, torch.tensor(value)[:, None]).sum().exp()
    assert seen.p_old[0] == pytest.approx(float(wanted), rel=1e-4)


# -- the engine that is measured ------------------------------------------------------------


@pytest.mark.parametrize("bench", ["recall", "state"])
def test_a_benchmark_of_one_model_runs_the_engine_and_type_it_is_asked_for(bench, monkeypatch):
    asked = []
    loaded = load_model("embedded")
    monkeypatch.setattr(
        "rwkvedit.evaluate.loading.load_model",
        lambda *args, **more: (asked.append((args, more)), loaded)[1])
    args = cli.build_parser("bench").parse_args(
        ["bench", bench, "--dtype", "bf16", "--backend", "rwkv", "--vocab", "v", "--threads", "1"])
    assert load_once(args) is loaded and load_once(args) is loaded
    assert asked == [(("embedded", "auto", "bf16", "rwkv"), {"vocab": "v"})]
    assert args.threads == 1


def test_calibrations_are_made_by_the_engine_and_type_asked_for():
    args = cli.build_parser("calib").parse_args(
        ["calib", "list", "--dtype", "bf16", "--backend", "rwkv", "--threads", "1"])
    assert (args.dtype, args.backend, args.threads) == ("bf16", "rwkv", 1)


# -- choosing methods -----------------------------------------------------------------------


def test_baselines_stand_beside_whatever_is_asked_for():
    assert choose_methods("isolate", False) == ("isolate", "none", "tell", "oracle", "random")
    assert choose_methods("oracle, auto", False, beside=False) == ("oracle", "auto")
    assert set(choose_methods("all", False)) == set(known_methods(False))
    assert default_methods(True)[0] == default_methods(False)[0] == "auto"
    assert {"project", "neutral", "tell", "random"} <= set(default_methods(True))


@pytest.mark.parametrize("bad", [
    {"worlds": 0}, {"worlds": -3}, {"suite": "x"}, {"methods": "hyb-u,magic"}, {"methods": ","},
    {"suite": "entity-erase", "methods": "hyb-u"}, {"layers": "2:99"}, {"seed": -1},
    {"lexicon": "/nowhere.json"},
])
def test_bad_arguments_are_one_line(bad):
    with pytest.raises(UsageError) as caught:
        runner.run(arguments(**bad))
    assert "\n" not in str(caught.value)


def test_a_lexicon_the_tokenizer_cannot_carry_is_refused_by_the_command(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"names": ["Ann", "Ben"]}))
    loaded = load_model("embedded")
    monkeypatch.setattr(type(loaded.tokenizer), "encode", lambda self, text: [1])
    with pytest.raises(UsageError, match="cannot carry 'Ann'"):
        runner.run(arguments(lexicon=str(path), loaded=loaded))


def test_the_lists_name_every_suite_and_method(capsys):
    assert cli.main(["bench", "state", "--list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in document["suites"]] == list(SUITES)
    assert {"auto", "hyb-u", "oracle"} <= {m["name"] for m in document["methods"]}
    assert {"auto", "project"} <= {m["name"] for m in document["erase_methods"]}
    assert all(one["summary"] for entries in document.values() for one in entries)
    assert cli.main(["bench", "state", "--methods", "help"]) == 0
    assert "hyb-u" in capsys.readouterr().out


# -- whole runs -----------------------------------------------------------------------------


def test_the_document_has_what_scripts_rely_on():
    document = runner.run(arguments(worlds=4, suite="two-entity", methods="auto", seed=1004))
    json.dumps(document)
    rows = rows_of(document)
    assert list(rows) == ["auto", "none", "tell", "oracle", "random"]
    for row in rows.values():
        assert set(row) >= CONTRACT | {"forwards", "fluency", "same_40", "stutter"}
        assert row["worlds_counted"] == document["worlds_counted"] <= 4
        assert {"mean", "lo", "hi", "n"} <= set(row["clean"])
    if document["worlds_counted"]:
        assert rows["oracle"]["clean"]["mean"] == rows["oracle"]["same_40"]["mean"] == 1.0
        assert rows["oracle"]["kl_target"]["mean"] == rows["oracle"]["fluency"]["mean"] == 0.0
        assert rows["none"]["flip"]["mean"] == rows["random"]["flip"]["mean"] == 0.0
        assert rows["none"]["keep"]["mean"] == 1.0


@pytest.mark.parametrize(("suite", "methods"), [
    ("sequential", ("auto",)), ("entity-erase", ("project", "tell", "random")),
    ("generic", ("hyb-u",)),
])
def test_every_sort_of_suite_runs_whatever_the_model_knows(suite, methods, monkeypatch):
    monkeypatch.setattr(runner, "knows", lambda *_: True)
    monkeypatch.setattr(runner, "holds", lambda *_: [True])
    document = measure(
        load_model("embedded"), suite, heldout(), 2, 5, (*methods, "none", "oracle"))
    rows = rows_of(document)
    assert document["worlds_counted"] == 2
    assert rows["oracle"]["kl_target"]["mean"] == rows["oracle"]["kl_control"]["mean"] == 0.0
    assert rows["oracle"]["same_40"]["mean"] == 1.0 and rows["none"]["kl_target"]["mean"] > 0.0
    if suite == "sequential":
        assert list(document["by"]) == ["1", "3", "5", "10"]
        assert document["by"]["10"]["auto"]["clean"] == rows["auto"]["clean"]
        assert rows["auto"]["held"]["n"] == 9 + 8 and rows["auto"]["keep"]["n"] == 1 + 2
        assert document["by"]["1"]["none"]["keep"]["n"] == 9 + 9
    if suite == "entity-erase":
        assert rows["none"]["still_first"]["n"] == rows["none"]["leak"]["n"] == 4


def test_a_generic_calibration_is_what_the_edit_uses(monkeypatch):
    used = []
    real = applying.apply_edit

    def watched(*args, **options):
        outcome = real(*args, **options)
        used.append(outcome.report.calibration)
        return outcome

    monkeypatch.setattr(applying, "apply_edit", watched)
    loaded = load_model("embedded")
    job = applying.Job(loaded, case_of("generic"), loaded.model.zero_state(), 0)
    job.live = loaded.model.forward(job.tokens(0))[1]
    applying.make(job, "hyb-u")
    applying.make(job, "isolate")
    assert used == ["saved: generic", "none"]


def test_a_random_direction_has_the_norms_of_the_edit():
    loaded = load_model("embedded")
    case = case_of("property-erase")
    job = applying.Job(loaded, case, loaded.model.zero_state(), 3)
    job.live = loaded.model.forward(job.tokens(0))[1]
    job.made["project"] = applying.make(job, "project")
    edited, noisy = (
        made.states[1].wkv - job.live.wkv
        for made in (job.made["project"], applying.make(job, "random")))
    assert torch.allclose(edited.norm(dim=(-2, -1)), noisy.norm(dim=(-2, -1)), rtol=1e-3, atol=1e-4)
    assert abs(float((edited * noisy).sum() / edited.norm() / noisy.norm())) < 0.1


def test_a_refused_edit_leaves_the_world_as_it_was(monkeypatch):
    def refuse(*args, **options):
        raise UsageError("no")

    monkeypatch.setattr(applying, "apply_edit", refuse)
    loaded = load_model("embedded")
    job = applying.Job(loaded, case_of("two-entity"), loaded.model.zero_state(), 0)
    made = applying.make(job, "auto")
    assert made.states[1] is job.live and made.note == "refused: no"


# -- cut short ------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(runner, "BATCH", 2)
    return lambda **more: measure(
        load_model("embedded"), "two-entity", heldout(), 5, 7, ("probe", "none", "oracle"), **more)


def stop_at(world):
    def progress(done, of):
        if done >= world:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_run_goes_on_and_equals_one_that_was_not(small, tmp_path):
    out = tmp_path / "run.jsonl"
    cut = small(out=out, on_progress=stop_at(4))
    assert cut["interrupted"] and cut["worlds_done"] == 4
    seen = []
    done = small(out=out, on_progress=lambda done, of: seen.append(done))
    assert seen == [4]  # only what was missing was measured
    whole = small()
    assert "interrupted" not in done
    assert without_times(done) == without_times(whole)
    assert done["worlds_counted"] == whole["worlds_counted"] >= cut["worlds_counted"]
    assert small(out=out, on_progress=stop_at(0)) == done  # nothing is left to do


def test_a_file_of_another_run_is_refused_and_left_alone(small, tmp_path):
    out = tmp_path / "run.jsonl"
    small(out=out, on_progress=stop_at(0))
    before = out.read_bytes()
    with pytest.raises(UsageError, match=r"another run \(layers upper there, all here\)") as caught:
        small(out=out, layers="all")
    assert "\n" not in str(caught.value) and out.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]\n", '{"format": "else"}\n', "\x00\x01"])
def test_a_foreign_file_is_refused(small, tmp_path, content):
    out = tmp_path / "other.txt"
    out.write_text(content)
    with pytest.raises(UsageError, match="not a benchmark's partial result"):
        small(out=out)
    assert out.read_text() == content


def test_ctrl_c_shows_what_was_done_and_exits_130(monkeypatch, capsys):
    monkeypatch.setattr(runner, "BATCH", 2)
    real, batches = runner._batch, []

    def batch(*args):
        if batches:
            raise KeyboardInterrupt
        batches.append(1)
        return real(*args)

    monkeypatch.setattr(runner, "_batch", batch)
    line = ["bench", "state", "--suite", "two-entity", "--worlds", "5", "--methods", "none",
            "--no-baselines"]
    assert cli.main(line) == 130
    shown = capsys.readouterr().out
    assert "interrupted after 2 of 5 worlds" in shown and "--out FILE" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_table_fits_eighty_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    line = ["bench", "state", "--suite", "second-mentioned", "--worlds", "3", "--methods",
            "donor-free-remove"]
    assert cli.main(line) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == [
        "method", "flip", "keep", "clean", "95%", "leak", "reply", "KL", "t", "KL", "c", "ms",
        "tokens"]
    assert any("worlds counted" in line for line in lines)


def test_worlds_are_seeded_by_their_suite():
    one = make_cases(SUITES["two-entity"], heldout(), 1, 1)[0]
    other = make_cases(SUITES["second-mentioned"], heldout(), 1, 1)[0]
    assert one.world != other.world


def test_methods_that_replay_are_handed_what_was_said_not_what_was_made_of_it(monkeypatch):
    loaded = load_model("embedded")
    case = case_of("sequential")
    job = applying.Job(loaded, case, loaded.model.zero_state(), 0)
    handed = []

    def edit(job, method, at, step, state, calibration, history):
        handed.append(list(history))
        return applying._Done(state, 0, 0)

    monkeypatch.setattr(applying, "_edit", edit)
    applying.make(job, "uniform")
    assert len(handed) == len(case.steps)
    assert all(tokens == job.tokens(0) for tokens in handed)
