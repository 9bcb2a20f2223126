"""The thirteen benchmarks: what they find of an edit, of no edit and of damage; nothing stays."""

from __future__ import annotations

import json

import pytest
import torch
from test_weights import bits
from toy_facts import knowing_session

from rwkvedit.cli import main
from rwkvedit.errors import FileFormatError, UsageError
from rwkvedit.evaluate.engine.base import Here
from rwkvedit.evaluate.partial import Partial
from rwkvedit.evaluate.profile import running
from rwkvedit.evaluate.profile.case import Case, Known
from rwkvedit.evaluate.profile.making import Maker
from rwkvedit.evaluate.profile.probes import Probe, answers, counted
from rwkvedit.evaluate.profile.registry import ORDER, Found, benchmarks, row
from rwkvedit.evaluate.profile.running import Profiler, load_given, measure
from rwkvedit.transformer.tuning import Settings, save
from rwkvedit.transformer.value import Request
from rwkvedit.transformer.weights import Dense

THRESHOLDS = (0.5, 0.4, 0.7, 0.6, 0.7, 0.6, 0.7, 0.6, 0.5, 0.35, 0.4, 0.5, 0.4)
PROMPT = "The capital of France is"
TOKYO = Request(PROMPT, "France", "Tokyo", "stress")
EASY = Settings((1,), (0, 1), steps=40, rate=0.2, clamp=4.0, contexts=0, ridge=0.3, weight=0.1,
                cut=0.5, found={"n": 1})  # fmt: skip


@pytest.fixture
def knowing():
    session = knowing_session()
    save(session, EASY)
    return session


def scores(work, needs, at=0):
    return {name: found["score"] for name, found in work({"edit": at, "needs": needs}).items()
            if name != "_edit"}  # fmt: skip


# -- what is measured -------------------------------------------------------------------------


def test_there_are_thirteen_each_defined_in_one_place():
    listed = benchmarks()
    assert tuple(b.name for b in listed) == ORDER
    assert tuple(b.threshold for b in listed) == THRESHOLDS
    for one in listed:
        assert len(one.definition) > 80 and "  " not in one.definition and one.source


def test_a_clean_edit_passes_what_asks_the_fact_and_what_asks_others(knowing):
    before = bits(knowing)
    work = Profiler(knowing, [TOKYO], k=4)
    got = work({"edit": 0, "needs": "edit"})
    assert got["_edit"] == {"old": "Paris", "flipped": True, "relative": {"1": pytest.approx(
        got["_edit"]["relative"]["1"])}}  # fmt: skip
    assert set(got) - {"_edit"} == {b.name for b in benchmarks() if b.needs == "edit"}
    found = {name: result["score"] for name, result in got.items() if name != "_edit"}
    assert found["EditBench"] >= 0.8 and found["EditGeneralization"] >= 0.6
    assert found["PM"] > 0.4 and found["zsRE"] >= 0.6 and found["LocalitySens"] >= 0.6
    assert got["Portability"]["kinds"]["alias"]["score"] >= 0.5
    assert got["Portability"]["kinds"]["one hop"]["counted"] >= 2
    for name, result in got.items():
        if name != "_edit":
            assert 0 < len(result["values"]) <= result["of"]
    assert bits(knowing) == before


def test_no_edit_at_all_is_told_from_an_edit(knowing):
    found = scores(Profiler(knowing, [TOKYO], made=()), "edit")
    for name in ("EditBench", "EditGeneralization", "LEME", "IndirectRecovery", "zsRE"):
        assert found[name] == 0.0
    assert found["PM"] < -0.5
    assert found["RippleBench"] == found["LocalitySens"] == 1.0


def test_damage_shows_where_nothing_should_have_moved(knowing):
    generator = torch.Generator().manual_seed(0)
    shape = knowing.model.down_proj(1).shape
    noise = Dense(1, torch.randn(shape, generator=generator) * 2)
    work = Profiler(knowing, [TOKYO], made=(noise,))
    found = scores(work, "edit")
    assert found["RippleBench"] < 0.5 and found["LocalitySens"] < 0.6


def test_several_edits_hold_or_not_and_perplexity_is_a_ratio(knowing):
    before = bits(knowing)
    work = Profiler(knowing, [TOKYO], k=4)
    got = work({"edit": 0, "needs": "sequence"})
    text = got["SeqCollapse"]["perplexity"]
    assert got["SeqCollapse"]["score"] == pytest.approx(min(1, text["before"] / text["after"]))
    assert got["SeqCollapse"]["k"] == 4 and got["SeqRetention"]["of"] == 4
    chain = work.case(0).chain
    assert sum(chain.took) == len(got["SeqRetention"]["values"]) >= 3
    assert chain.requests[0].prompt == PROMPT
    assert len({r.prompt for r in chain.requests}) == 4
    assert all("capital" in r.prompt for r in chain.requests)
    batch = work({"edit": 0, "needs": "batch"})["BatchConsistency"]
    assert batch["made"] == 4 and batch["score"] > 0.3
    assert bits(knowing) == before


@pytest.mark.parametrize("method", ["memit", "alphaedit", "edit"])
def test_every_method_makes_single_edits_batches_and_sequences(knowing, method):
    before = bits(knowing)
    work = Profiler(knowing, [TOKYO], method, k=3)
    assert scores(work, "batch")["BatchConsistency"] is not None
    assert scores(work, "sequence")["SeqCollapse"] > 0
    assert bits(knowing) == before


def test_fine_tuning_is_matched_to_the_edit(knowing):
    before = bits(knowing)
    found = Profiler(knowing, [TOKYO])({"edit": 0, "needs": "tuned"})["FineTuneDiff"]
    assert found["p_new"]["fine_tuned"] == pytest.approx(found["p_new"]["edit"], abs=0.05)
    assert found["p_new"]["fine_tuned"] >= found["p_new"]["edit"]
    assert all(0 <= v <= 1 for v in found["values"]) and found["kl"]["fine_tuned"] > 0
    assert bits(knowing) == before


def test_only_what_the_unedited_model_says_counts(knowing):
    probes = [Probe(PROMPT, "Paris", "Tokyo"), Probe(PROMPT, "Rome", "Tokyo")]
    assert counted(knowing, probes) == probes[:1]
    case = Case(Maker(knowing), TOKYO)
    assert case.old == "Paris" and {n.subject for n in case.neighbours} >= {"Japan", "Italy"}
    assert "France" not in {n.subject for n in case.neighbours}
    assert case.like("Tokyo") == "The capital of Japan is"
    long = "word " * 300
    assert not answers(knowing, [(long, "Paris")])[0].greedy  # longer than the model reads


def test_a_score_is_the_mean_over_edits_and_nothing_counted_is_a_fail():
    one = benchmarks()[0]
    got = row(one, [Found([1.0, 0.0], 3).to_json(), Found([1.0], 3).to_json()])
    assert got["score"] == 0.75 and got["passed"] and (got["counted"], got["of"]) == (3, 6)
    none = row(one, [Found([], 4).to_json()])
    assert none["score"] is None and not none["passed"] and none["interval"] is None


def test_facts_of_a_file_take_the_place_of_the_lists(knowing, tmp_path):
    file = tmp_path / "facts.json"
    file.write_text(json.dumps([
        {"prompt": f"The capital of {s} is", "subject": s, "attribute": v}
        for s, v in (("Italy", "Rome"), ("Spain", "Madrid"), ("Germany", "Bonn"))
    ]))  # fmt: skip
    given, _ = load_given(file)
    case = Case(Maker(knowing), TOKYO, k=3, given=given)
    assert {r.subject for r in case.requests[1:]} == {"Italy", "Spain"}
    file.write_text(json.dumps([
        {"src": "Who?", "subject": "x", "alt": "b", "answers": ["a"]},
    ]))  # fmt: skip
    assert load_given(file)[0] == [Known("Question: Who? Answer:", "x", "a", "b")]
    for bad in ("[]", "x", '[{"src": "a", "subject": "", "alt": "b", "answers": ["c"]}]'):
        file.write_text(bad)
        with pytest.raises(FileFormatError):
            load_given(file)


# -- the run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("presses", [2, 6, 12, 25])
def test_ctrl_c_leaves_the_weights_as_they_were(knowing, presses):
    before, calls = bits(knowing), []

    def cancel():
        calls.append(1)
        return len(calls) > presses

    work = Profiler(knowing, [TOKYO], k=3, cancel=cancel)
    document = measure(work, Here(work, cancel), Partial(None, {}))
    assert document["interrupted"] and len(document["benchmarks"]) < 13
    assert bits(knowing) == before and knowing.edits.live == ()


def test_a_run_goes_on_where_it_stopped(knowing, tmp_path):
    file = tmp_path / "part.jsonl"
    stopped = Profiler(knowing, [TOKYO], k=3)

    def dying(job):
        if job["needs"] == "sequence":
            raise MemoryError
        return stopped(job)

    with pytest.raises(MemoryError):
        measure(stopped, Here(dying), Partial(file, {}))
    assert knowing.edits.live == ()
    done = [r["task"] for r in Partial(file, {}).records]
    assert done == ["0:edit"]
    jobs = []
    again = Profiler(knowing, [TOKYO], k=3)

    def work(job):
        jobs.append(job["needs"])
        return again(job)

    document = measure(again, Here(work), Partial(file, {}))
    assert jobs == ["sequence", "batch", "tuned"]
    assert [b["name"] for b in document["benchmarks"]] == list(ORDER)


@pytest.fixture
def opened(knowing, monkeypatch):
    """``open_session`` opens the toy that knows, whatever is asked for."""
    import rwkvedit.transformer

    monkeypatch.setattr(rwkvedit.transformer, "open_session", lambda *args, **more: knowing)
    return knowing


def edits(tmp_path, *rows):
    file = tmp_path / "edits.json"
    file.write_text(json.dumps(list(rows)))
    return str(file)


def test_the_command_prints_one_document_and_draws(opened, tmp_path, capsys):
    file = edits(tmp_path, {"label": "stress", "src": PROMPT, "new_token": "Tokyo"})
    picture, page = tmp_path / "radar.png", tmp_path / "profile.html"
    line = ["bench", "profile", "toy", "--edit", file, "--k", "3", "--json"]
    assert main([*line, "--png", str(picture), "--html", str(page)]) == 0
    got = json.loads(capsys.readouterr().out)
    assert [b["name"] for b in got["benchmarks"]] == list(ORDER)
    assert [b["threshold"] for b in got["benchmarks"]] == list(THRESHOLDS)
    assert got["passed"] == sum(b["passed"] for b in got["benchmarks"])
    for one in got["benchmarks"]:
        assert one["passed"] == (one["score"] is not None and one["score"] >= one["threshold"])
        assert one["definition"] and one["counted"] <= one["of"]
    assert got["meta"]["model"] == "toy-facts" and got["edits"][0]["old"] == "Paris"
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "13" in text and all(name in text for name in ORDER)
    assert opened.edits.live == ()


def test_the_list_needs_no_model(capsys):
    assert main(["bench", "profile", "--list", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert [b["name"] for b in got["benchmarks"]] == list(ORDER)
    assert main(["bench", "profile", "--list"]) == 0
    assert "LocalitySens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row_", "said"),
    [
        (None, "found none"),
        ({"prompt": PROMPT, "subject": "Spain", "target": "Tokyo"}, "'Spain' is not in"),
        ({"prompt": PROMPT, "subject": "France", "target": "Paris"}, "already: nothing to edit"),
        ({"prompt": PROMPT, "subject": "France"}, "has no target"),
    ],
)
def test_mistakes_are_one_line(opened, tmp_path, capsys, row_, said):
    before = bits(opened)
    file = edits(tmp_path, *([] if row_ is None else [row_]))
    assert main(["bench", "profile", "toy", "--edit", file]) in (1, 2)
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert bits(opened) == before


def test_options_that_do_not_fit_are_one_line(tmp_path, capsys):
    assert main(["bench", "profile", "toy"]) == 2
    assert "needs MODEL and --edit FILE" in capsys.readouterr().err
    assert main(["bench", "profile", "toy", "--edit", "x", "--k", "1"]) == 2
    assert "--k must be at least 2" in capsys.readouterr().err


def test_a_model_that_cannot_be_edited_so_is_one_line(knowing, tmp_path):
    save(knowing, Settings((3,), (3,), steps=1, contexts=0, clamp=0.001))
    before = bits(knowing)
    work = Profiler(knowing, [TOKYO])
    from rwkvedit.transformer.value import NotFoundError

    with pytest.raises(NotFoundError, match="could not be made to go on with 'Tokyo'"):
        measure(work, Here(work), Partial(None, {}))
    assert bits(knowing) == before
    with pytest.raises(UsageError, match="no method 'x'"):
        Maker(knowing, "x")


def test_another_process_makes_its_worker_from_plain_data():
    setup = {"model": "toy", "device": "cpu", "method": "rome", "k": 3, "seed": 0, "stats": None,
             "threads": None, "requests": [vars(TOKYO)],
             "given": [vars(Known("a b", "b", "c"))]}  # fmt: skip
    work = running.worker(json.loads(json.dumps(setup)))
    assert work.requests == [TOKYO] and work.given == [Known("a b", "b", "c")]


# -- in the chat ------------------------------------------------------------------------------


def test_the_chat_profiles_what_is_typed_or_was_changed_last(opened, shell):
    from rwkvedit.repl.sessions import Opened
    from rwkvedit.transformer.patchfile import Patch

    shell.sessions.opened["toy"] = Opened("toy", opened)
    shell.sessions.using = "toy"
    none = shell.execute("/profile")
    assert none.kind == "error" and "nothing was changed" in none.data["message"]
    before = bits(opened)
    got = shell.execute(f'/profile "{PROMPT}" Tokyo --k 3')
    assert got.kind == "result", got.data
    assert [b["name"] for b in got.data["benchmarks"]] == list(ORDER)
    assert bits(opened) == before
    delta = Maker(opened).one(TOKYO)[0]
    here = shell.sessions.opened["toy"]
    with here.step("x"):
        opened.edits.apply(delta)
    here.patches[delta.digest] = Patch.of(
        opened, delta, src_prompt=PROMPT, subject="France", new_token=" Tokyo", method="rome"
    )
    changed = bits(opened)
    last = shell.execute("/profile --k 3")
    assert last.kind == "result", last.data
    same = {b["name"]: b["score"] for b in last.data["benchmarks"]}
    assert same["EditBench"] == {b["name"]: b["score"] for b in got.data["benchmarks"]}["EditBench"]
    assert bits(opened) == changed and opened.edits.live == (delta,)
    shell.execute("/undo")
    assert bits(opened) == before
