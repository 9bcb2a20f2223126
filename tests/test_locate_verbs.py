"""``rwkvedit crown`` and ``rwkvedit trace``: what scripts may rely on, the average over facts that
a model knows, and the pages and pictures they write."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from rwkvedit.cli import main
from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.evaluate import tracing
from rwkvedit.evaluate.tracing import PLACES, average_trace, places_of
from rwkvedit.repl import located
from rwkvedit.report import heat, locate, plots
from rwkvedit.transformer import open_session
from rwkvedit.transformer.known import Fact, known_facts, load_facts

PROMPT = "Bob lives in Austin and Ann lives in"
L = 4


def run(capsys, *argv):
    """(exit code, what --json printed, stderr)."""
    code = main([*argv, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


@pytest.fixture(scope="module")
def toy():
    return open_session("toy")


def fact(prompt, subject, attribute):
    return {"prompt": prompt, "subject": subject, "attribute": attribute}


@pytest.fixture(scope="module")
def records(toy):
    """Facts that the untrained toy completes by itself, because they are what it says, and one
    that it does not."""
    found = []
    for prompt, subject in (
        (PROMPT, "Ann"),
        ("The capital of Japan is", "Japan"),
        ("Bob lives in Austin and", "Bob lives"),
        ("Ann lives in", "Ann"),
    ):
        for stop in range(len(toy.tokens(prompt))):
            text = prompt if stop == 0 else prompt.rsplit(" ", stop)[0]
            said = toy.forward(text).top(1)[0] if subject in text else None
            if said and toy.vocabulary.encode(" " + said.piece.strip()) == [said.id]:
                found.append(fact(text, subject, said.piece.strip()))
                break
    assert len(found) >= 2, "the toy's own words should be words"
    return [*found, fact(PROMPT, "Ann", "Tokyo")]


# -- the verbs ------------------------------------------------------------------------------


def test_crown_writes_the_keys_that_scripts_rely_on(capsys, toy):
    code, said, _ = run(capsys, "crown", "toy", "--prompt", PROMPT, "--layers", "1:3")
    assert code == 0 and said["baseline"].keys() >= {"token", "p"}
    assert [row["layer"] for row in said["scan"]] == [1, 2] and said["crown"] in (1, 2)
    assert all(row.keys() >= {"layer", "delta_p", "top"} for row in said["scan"])
    own = toy.forward(PROMPT).top(1)[0]
    assert said["baseline"]["token"] == own.piece and said["meta"]["model"] == "toy"
    assert said["baseline"]["p"] == pytest.approx(own.p, abs=1e-5)


def test_trace_writes_the_keys_that_scripts_rely_on(capsys):
    argv = ["trace", "toy", "--prompt", PROMPT, "--subject", "Ann", "--expect", "Boston"]
    code, said, err = run(capsys, *argv, "--runs", "2", "--seed", "3")
    n = len(said["tokens"])
    assert code == 0 and "".join(said["tokens"]) == PROMPT
    for name in ("hidden", "mlp", "attn"):
        assert np.shape(said[name]) == (L, n)
    assert said["hidden"][L - 1][n - 1] == pytest.approx(said["clean"], abs=1e-6)
    assert said["corrupted"] == said["hidden"][0][0] and said["meta"]["seed"] == 3
    assert said["answer"]["token"].strip() == "Boston"
    assert ("with a space in front" in err) == said["answer"]["spaced"]


def test_only_the_kinds_asked_for_are_traced(capsys):
    argv = ["trace", "toy", "--prompt", PROMPT, "--subject", "Ann", "--runs", "1"]
    code, said, _ = run(capsys, *argv, "--kinds", "attn,state")
    assert code == 0 and said["mlp"] == [] and len(said["hidden"]) == len(said["attn"]) == L


@pytest.mark.parametrize(("argv", "line"), [
    (["crown", "toy", "--prompt", ""], "has no tokens"),
    (["crown", "toy", "--prompt", PROMPT, "--expect", ""], "'' has no tokens"),
    (["crown", "toy", "--prompt", PROMPT, "--layers", "2:9"], "layers 0 to 3"),
    (["crown", "toy", "--prompt", PROMPT, "--png", "a.txt"], "--png takes a .png file"),
    (["crown", "toy"], "--prompt"),
    (["trace", "toy", "--prompt", PROMPT], "trace needs --subject, or --facts FILE"),
    (["trace", "toy", "--prompt", PROMPT, "--subject", "Carl"], "is not in the prompt"),
    (["trace", "toy", "--prompt", PROMPT, "--subject", "Ann", "--n", "3"], "--n goes with --facts"),
    (["trace", "toy", "--prompt", PROMPT, "--facts", "x.json"], "--prompt is for one fact"),
    (["trace", "toy", "--prompt", PROMPT, "--subject", "Ann", "--kinds", "x"], "no kind 'x'"),
])  # fmt: skip
def test_a_users_mistake_is_one_line_and_exit_code_two(capsys, argv, line):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert line in err and err.count("\n") == 1 and not out


def test_the_words_for_a_person_name_the_crown_and_the_best_cells(capsys, toy):
    assert main(["crown", "toy", "--prompt", PROMPT]) == 0
    crown = toy.crown(PROMPT)
    out = capsys.readouterr().out
    assert f"Layer {crown.crown} is the crown of {crown.answer.text!r}" in out
    assert main(["trace", "toy", "--prompt", PROMPT, "--subject", "Ann", "--runs", "2"]) == 0
    layer, at, p = toy.trace(PROMPT, "Ann", runs=2).best("mlp")
    out = " ".join(capsys.readouterr().out.split())
    assert (
        f"MLP outputs, to {p:.4f} (layer {layer} at {toy.piece(toy.tokens(PROMPT)[at])!r})" in out
    )


# -- facts and averages ---------------------------------------------------------------------


def test_a_known_fact_is_one_that_greedy_decoding_completes(toy, records):
    facts = [Fact(**r) for r in records]
    known = known_facts(toy, facts)
    for one in facts:
        answer = toy.vocabulary.encode(" " + one.attribute)
        said = toy.generate_with_hooks(one.prompt, (), len(answer), stop_ids=()).tokens
        assert (one in [k.fact for k in known]) == (said == answer)
    assert [k.fact for k in known] == facts[:-1]


def test_facts_are_read_once_each_from_prompt_or_template(tmp_path):
    path = tmp_path / "facts.json"
    rows = [
        fact("The capital of France is", "France", " Paris"),
        {"template": "The capital of {} is", "subject": "France", "attribute": "Paris"},
        {"prompt": "Ann lives in", "subject": "Ann", "ground_truth": "Boston"},
    ]
    path.write_text(json.dumps(rows))
    assert load_facts(path) == [
        Fact("The capital of France is", "France", "Paris"), Fact("Ann lives in", "Ann", "Boston"),
    ]  # fmt: skip
    for text, line in (
        ("[", "found no JSON"), ("{}", "found dict"), ("[]", "found an empty list"), ("[3]", "int"),
        ('[{"prompt": "x", "subject": "x"}]', "the fact at 0 has no attribute"),
        ('[{"subject": "x", "attribute": "y"}]', "the fact at 0 has no prompt"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(FileFormatError, match=line) as error:
            load_facts(path)
        assert "\n" not in str(error.value)
    with pytest.raises(RwkvEditError, match="cannot read"):
        load_facts(tmp_path / "nowhere.json")


def test_the_average_is_the_mean_of_single_traces(toy, records):
    facts = [Fact(**r) for r in records]
    result = average_trace(toy, facts, kinds=["mlp"], runs=2, window=2, seed=1)
    assert (result.facts, result.known) == (len(facts), len(facts) - 1)
    assert len(result.traced) == result.known and not result.stopped
    single = [
        toy.trace(f.prompt, f.subject, toy.vocabulary.encode(" " + f.attribute), kinds=["mlp"],
                  runs=2, window=2, seed=1, std=result.std)
        for f in result.traced
    ]  # fmt: skip
    last = np.mean([t.effect("mlp")[:, -1] for t in single], 0)
    assert result.mean("mlp", "last token") == pytest.approx(last, abs=1e-9)
    assert result.clean == [t.clean for t in single]
    said = result.to_json()
    assert said["ate"]["mean"] == pytest.approx(np.mean([t.total_effect for t in single]))
    assert said["aie"]["mlp"]["last token"][0]["n"] == len(single)
    one = average_trace(toy, facts, 1, kinds=["mlp"], runs=1, seed=1)
    assert one.traced == result.traced[:1]


def test_every_position_from_the_subject_on_has_one_place(toy):
    traced = toy.trace("Ann told Bob lives in Austin and Bob lives in Boston", "Bob lives", runs=1,
                       kinds=["state"])  # fmt: skip
    places = places_of(traced)
    assert list(places) == list(PLACES)
    flat = [at for found in places.values() for at in found]
    assert sorted(flat) == list(range(flat[0], len(traced.tokens)))
    words = {place: "".join(traced.pieces[at] for at in found) for place, found in places.items()}
    assert words["last token"] == traced.pieces[-1] and words["last subject token"] == " lives"
    assert words["first token after"] == " in"
    subject = words["first subject token"] + words["middle subject tokens"]
    assert (subject + words["last subject token"]).strip() == "Bob lives"


def test_an_interrupted_average_keeps_what_was_traced(toy, records, tmp_path, capsys, monkeypatch):
    facts = [Fact(**r) for r in records]
    told = []

    def cancel():
        return ("tracing", 1) in told

    result = average_trace(
        toy, facts, kinds=["state"], runs=1, cancel=cancel,
        progress=lambda what, done, total: told.append((what, done)),
    )  # fmt: skip
    assert result.stopped and len(result.traced) == 1
    with pytest.raises(KeyboardInterrupt):
        average_trace(toy, facts, kinds=["state"], runs=1, cancel=lambda: True)
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(records))
    monkeypatch.setattr(tracing, "average_trace", lambda *args, **kwargs: result)
    code, said, err = run(capsys, "trace", "toy", "--facts", str(path), "--runs", "1")
    assert code == 130 and said["stopped"] and said["traced"] == 1
    assert "over the 1 facts traced so far" in err


def test_an_average_needs_something_known(toy):
    with pytest.raises(RwkvEditError, match="completes none of the 1 facts"):
        average_trace(toy, [Fact(PROMPT, "Ann", "Tokyo")])
    with pytest.raises(UsageError, match="expected 1 fact or more"):
        average_trace(toy, [Fact(PROMPT, "Ann", "Tokyo")], 0)


def test_the_average_is_a_verb_too(capsys, records, tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(records))
    argv = ["trace", "toy", "--facts", str(path), "--n", "2", "--runs", "1", "--kinds", "state"]
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    code, said, _ = run(capsys, *argv, "--html", str(page), "--png", str(picture))
    assert code == 0 and (said["known"], said["traced"]) == (len(records) - 1, 2)
    assert len(said["aie"]["hidden"]["last token"]) == L and list(said["aie"]) == ["hidden"]
    assert f"completes {said['known']} of {said['facts']} facts" in page.read_text("utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")


# -- pictures and pages ---------------------------------------------------------------------

META = {"version": "0", "model": "toy", "model_digest": "0" * 64, "device": "cpu",
        "dtype": "float32", "threads": 1, "seed": 0, "command": "rwkvedit lens toy",
        "seconds": 1.0}  # fmt: skip


def test_pictures_have_a_cell_for_every_layer_and_position(toy):
    lens = toy.logit_lens(PROMPT, positions="all")
    traced = toy.trace(PROMPT, "Ann", runs=1)
    crown = toy.crown(PROMPT)
    for plot, panels in ((locate.lens_plot(lens), 1), (locate.trace_plot(traced), 3)):
        assert len(plot.panels) == panels
        for panel in plot.panels:
            assert np.shape(panel.values) == (L, len(lens.tokens))
        assert plots.from_json(plots.to_json(plot)) == plot
        assert plots.png(plot).startswith(b"\x89PNG")
    bars = locate.crown_plot(crown)
    assert [s.y for s in bars.series] == [tuple(r.delta_p for r in crown.scan)]
    assert [crown.scan[at].layer for at in bars.marked] == [crown.crown]
    drawn, plain = (plots.png(p) for p in (bars, replace(bars, marked=())))
    assert drawn.startswith(b"\x89PNG") and drawn != plain


def test_tokens_that_are_no_latin_letters_can_be_drawn(toy):
    lens = toy.logit_lens("東京 $x_1$ 𝛼 <b>&", positions="all")
    assert plots.png(locate.lens_plot(lens)).startswith(b"\x89PNG")
    page = locate.lens_page(lens, META)
    assert "<b>" not in page and "&lt;" in page


def test_the_foot_of_a_page_tells_a_seed_only_of_what_was_drawn(toy):
    crown = toy.crown(PROMPT)
    assert "float32, seed 0, 1 thread, 1.0 s" in locate.crown_page(crown, META)
    page = locate.crown_page(crown, {**META, "seed": None, "threads": 2})
    assert "float32, 2 threads, 1.0 s" in page


def test_every_cell_of_a_page_tells_what_it_holds(toy):
    lens = toy.logit_lens(PROMPT, positions="all", top=3)
    page = locate.lens_page(lens, META)
    tips = re.findall(r'data-tip="([^"]*)"', page)
    assert len(tips) == L * len(lens.tokens)
    assert tips[-1].startswith(f"layer {L - 1}, after {len(lens.tokens) - 1} ")
    assert all(tip.count("\n") == 4 and "nats" in tip for tip in tips)
    traced = toy.trace(PROMPT, "Ann", runs=1)
    tips = re.findall(r'data-tip="([^"]*)"', locate.trace_page(traced, META))
    assert len(tips) == 3 * L * len(traced.tokens)
    best = traced.grids["state"].p[L - 1, -1]
    assert f"{best:.4f}" in tips[L * len(traced.tokens) - 1]


def test_a_cells_shade_is_its_share_of_the_scale():
    def of(value, **scale):
        made = heat.HeatMap("t", [[value]], ["x"], ["0"], [["tip"]], "P", **scale)
        cell = re.search(r"<td(.*?) style=\"--v:([\d.]+)\"", heat.heat_table(made))
        return float(cell[2]), "cold" in cell[1]

    assert of(0.25, high=0.5) == (0.5, False)
    assert of(0.3, low=0.2, high=0.4) == (pytest.approx(0.5), False)
    assert of(-0.5, high=1.0, diverging=True) == (0.5, True)
    assert of(9.0, high=1.0) == (1.0, False) and of(0.5, high=0.0)[0] == 0.0
    assert [heat.short(x) for x in (0.774, -0.05, 1.0, -0.001)] == [".77", "-.05", "1.00", ".00"]


PROBE = """
<pre id="said"></pre><script>
addEventListener("load", () => {
  const tip = document.getElementById("tip"), said = {hidden: tip.hidden};
  const [cells, ramp] = [...document.querySelectorAll(".heat")].map(
    map => [...map.querySelectorAll("td")]);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4
  ).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  said.contrast = Math.min(...ramp.map(cell => {
    const style = getComputedStyle(cell), [r, g, b, a = 1] = numbers(style.backgroundColor);
    const paper = numbers(getComputedStyle(document.body).backgroundColor);
    const ground = light([r, g, b].map((v, i) => a * v + (1 - a) * paper[i]));
    const ink = light(numbers(style.color));
    return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05);
  }));
  cells.at(-1).dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  said.last = tip.hidden ? null : tip.textContent;
  document.querySelector(".heat").dispatchEvent(new PointerEvent("pointerleave"));
  said.left = tip.hidden;
  cells[0].focus();
  said.first = tip.textContent;
  cells[0].dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
  said.below = tip.textContent;
  said.shades = new Set(cells.map(c => getComputedStyle(c).backgroundColor)).size;
  said.wide = document.documentElement.scrollWidth - innerWidth;
  said.loads = performance.getEntriesByType("resource").length;
  document.getElementById("said").textContent = JSON.stringify(said);
});</script>
"""


def test_a_browser_shows_what_a_cell_holds(toy, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("chromium is not installed")
    lens = toy.logit_lens(PROMPT, positions="all", top=3)
    page = tmp_path / "page.html"
    shares = [[i / 50 for i in range(51)]]
    names = [str(i) for i in range(51)]
    ramp = heat.heat_table(heat.HeatMap("ramp", shares, names, ["0"], [names], "P"))
    made = locate.lens_page(lens, META)
    page.write_text(made.replace("</body>", ramp + PROBE + "</body>"), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
             "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=3000",
             "--enable-logging=stderr", "--window-size=800,900", "--dump-dom"]  # fmt: skip
    try:
        ran = subprocess.run(
            [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("chromium did not come up within two minutes")
    found = re.search(r'<pre id="said">(.*?)</pre>', ran.stdout, re.S)
    assert found and found.group(1), f"the page said nothing: {ran.stderr[-500:]}"
    said = json.loads(found.group(1).replace("&amp;", "&").replace("&lt;", "<"))
    assert "CONSOLE" not in ran.stderr
    assert said["hidden"] and said["left"] and said["loads"] == 0 and said["wide"] <= 0
    assert said["last"].startswith(f"layer {L - 1}, after {len(lens.tokens) - 1} ")
    assert said["first"].startswith("layer 0, after 0 ")
    assert said["contrast"] > 3.4
    assert said["below"].startswith("layer 1, after 0 ") and said["shades"] > 5


def test_views_hold_the_data_that_scripts_get(toy):
    crown = toy.crown(PROMPT)
    assert located.crown(crown)[0] == crown.to_json()
    traced = toy.trace(PROMPT, "Ann", runs=1, kinds=["state"])
    data, blocks = located.trace(traced)
    assert data == traced.to_json() and blocks[1].columns[-1] == "hidden"
