"""``bench write``, its plot and its page, and the chat's /components, /write and /pareto."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess

import pytest
import torch

from rwkvedit.cli import main
from rwkvedit.errors import UsageError
from rwkvedit.evaluate import writing as bench
from rwkvedit.evaluate.partial import Partial
from rwkvedit.evaluate.writing import Sweep, rival, verdict
from rwkvedit.evaluate.writing_once import write
from rwkvedit.evaluate.writing_texts import Texts, counted, cut, texts
from rwkvedit.recurrent.checkpoint import tensors_digest
from rwkvedit.report import plots, writing
from rwkvedit.transformer import lora, open_session
from rwkvedit.transformer.components import component
from rwkvedit.transformer.patchfile import load_patch


@pytest.fixture(scope="module")
def source():
    """Little text, so that a sweep takes a second."""
    session = open_session("toy")
    rows = cut(session, counted(1, 30))
    return Texts(rows[:12], rows[12:60], rows[60:70], "counted", "digest")


@pytest.fixture
def sweep(source, monkeypatch):
    monkeypatch.setattr(bench, "ALPHAS", (0.5, 2.0))
    monkeypatch.setattr(bench, "COUNTS", (1, 8))
    monkeypatch.setattr(lora, "COUNTS", (4, None))
    monkeypatch.setattr(lora, "LAMBDAS", (0.0, 30.0))
    session = open_session("toy")

    def make(**changes):
        wanted = {"seeds": 2, "held": 6, **changes}
        return Sweep.of(session, component(session, "3.7"), 270, source, **wanted)

    return make


@pytest.fixture
def document(sweep):
    one = sweep()
    partial = Partial(None, one.asked)
    one.run(partial)
    return {**one.document(), "shown": one.shown(partial, 3)}


# -- the benchmark --------------------------------------------------------------------------


def test_rows_are_unique_and_no_kind_of_text_shares_one():
    found = texts(open_session("toy"))
    kinds = [set(map(tuple, rows)) for rows in (found.find, found.examples, found.other)]
    assert [len(k) for k in kinds] == [len(r) for r in (found.find, found.examples, found.other)]
    assert not kinds[0] & kinds[1] and not kinds[0] & kinds[2] and not kinds[1] & kinds[2]
    assert counted(4, 2) == counted(4, 2) != counted(5, 2)


def test_held_out_rows_are_not_trained_on_and_fires_are_left_out_of_the_rest(sweep):
    one = sweep()
    a, b = one.split(0), one.split(1)
    assert not set(a.held) & set(a.train) and a.held != b.held and len(a.held) == 6
    assert not set(a.fires) & set(a.around) and not set(a.elsewhere) & {
        p for rows in one.fires.values() for p in rows}  # fmt: skip
    assert all(t > 0 for _, t in a.places)
    assert {n for n, _ in a.around} <= set(a.held)
    assert all(n not in one.examples for n, _ in a.elsewhere)


def test_every_setting_is_a_point_with_intervals(document):
    points = document["points"]
    count = {m: sum(p["method"] == m for p in points) for m in bench.METHODS}
    assert count == {"analytic": 4, "trained": 2, "lora": 4}
    for p in points:
        for key in ("p_target", "kl_surround", "kl_global"):
            assert p[key]["lo"] <= p[key]["mean"] <= p[key]["hi"] and p[key]["n"] == 2
    by = {(p["method"], str(p["params"])): p for p in points}
    assert by["analytic", "{'alpha': 2.0}"]["p_target"]["mean"] > by[
        "analytic", "{'alpha': -2.0}"]["p_target"]["mean"]  # fmt: skip
    everything = [p for p in points if p["params"].get("all")]
    assert len(everything) == 2 and everything[0]["params"]["examples"] > 4
    json.dumps(document)


def test_an_interrupted_sweep_goes_on_where_it_stopped(sweep, tmp_path):
    whole = sweep()
    whole.run(Partial(None, whole.asked))
    left = []

    def stop(done, of):
        left.append((done, of))
        if done == 5:
            raise KeyboardInterrupt

    path, cut_short = tmp_path / "part.jsonl", sweep(progress=stop)
    with pytest.raises(KeyboardInterrupt):
        cut_short.run(Partial(path, cut_short.asked))
    again = sweep()
    partial = Partial(path, again.asked)
    assert 0 < len(partial.records) < len(whole.records) and left[-1] == (5, 16)
    again.run(partial)
    assert again.points() == whole.points()
    other = sweep(seeds=3)
    with pytest.raises(UsageError, match="holds another run"):
        Partial(path, other.asked)


def test_the_rival_is_the_cheapest_lora_that_is_as_accurate():
    def point(method, p, kl, **params):
        return {"method": method, "params": params, "p_target": {"mean": p},
                "kl_surround": {"mean": kl}}  # fmt: skip

    points = [
        point("analytic", 0.9, 0.01, alpha=1.0), point("analytic", 0.99, 0.5, alpha=3.0),
        point("trained", 0.97, 0.002, examples=8),
        point("lora", 0.5, 0.001), point("lora", 0.95, 0.08), point("lora", 0.98, 0.03),
    ]  # fmt: skip
    assert rival(points, 0.9) is points[5] and rival(points, 0.99) is None
    found = verdict(points)
    assert found["analytic"]["reached"] and found["analytic"]["ratio"] == pytest.approx(3.0)
    assert found["trained"]["params"] == {"examples": 8}
    assert found["trained"]["ratio"] == pytest.approx(15.0)
    assert verdict(points[3:])["analytic"] is None


def test_the_verb_writes_one_document_plot_and_page(sweep, source, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "texts", lambda session, text=None: source)
    png, page = tmp_path / "p.png", tmp_path / "p.html"
    argv = ["bench", "write", "toy", "--component", "3.7", "--target", "#270", "--seeds", "1",
            "--held", "4", "--png", str(png), "--html", str(page)]  # fmt: skip
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {p["method"] for p in found["points"]} == set(bench.METHODS)
    assert {"version", "model_digest", "seconds", "command"} <= found["meta"].keys()
    assert png.read_bytes().startswith(b"\x89PNG") and "</html>" in page.read_text()
    assert main(argv[:-4]) == 0
    assert "surrounding KL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--component", "3.7"], "which token is to follow"),
        (["--component", "3.7", "--target", "two words"], "tokens"),
        (["--component", "3.70", "--target", "#9"], "no component 3.70"),
        (["--component", "x", "--target", "#9"], "say LAYER.NEURON"),
        (["--methods", "magic", "--target", "#9"], "no method 'magic'"),
        (["--seeds", "0", "--target", "#9"], "--seeds and --held take a number from 1 on"),
    ],
)
def test_bad_input_is_one_line(more, message, capsys):
    assert main(["bench", "write", "toy", *more]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


# -- pictures -------------------------------------------------------------------------------


def test_the_plot_has_two_panels_and_survives_json(document):
    plot = writing.pareto(document)
    assert [len(some) for _, some in plot.panels] == [4, 4]
    assert all(len(d.texts) == len(d.x) for _, some in plot.panels for d in some)
    again = plots.from_json(json.loads(json.dumps(plots.to_json(plot))))
    assert again == plot
    data = plots.png(again)
    assert struct.unpack(">II", data[16:24]) == plots.size(plot)


META = {"version": "0", "model": "m", "model_digest": "d" * 64, "device": "cpu",
        "dtype": "float32", "threads": 1, "seed": 0, "command": "rwkvedit bench write toy",
        "seconds": 0.25}  # fmt: skip

PROBE = """
<pre id="told"></pre>
<script>addEventListener("load", () => {
  const told = {}, radios = [...document.querySelectorAll("input[name=shade]")];
  const tokens = [...document.querySelectorAll(".tokens b")];
  const shades = () => tokens.map(b => b.style.getPropertyValue("--v")).join();
  const open = () => [...document.querySelectorAll("[data-scale]")].filter(p => !p.hidden)
    .map(p => p.dataset.scale);
  told.values = radios.map(r => r.value); told.shades = []; told.scales = [];
  for (const radio of radios) {
    radio.click(); told.shades.push(shades()); told.scales.push(open().join());
  }
  told.cold = tokens.filter(b => b.classList.contains("cold")).length;
  told.fires = tokens.filter(b => getComputedStyle(b).textDecorationLine === "underline").length;
  const first = tokens[3], tip = document.getElementById("tip");
  first.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  told.tip = tip.hidden ? null : tip.textContent;
  first.focus();
  first.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  told.moved = document.activeElement === tokens[4];
  told.images = [...document.images].map(i => i.complete && i.naturalWidth > 0);
  told.loads = performance.getEntriesByType("resource").map(e => e.name)
    .filter(n => !n.startsWith("data:"));
  document.getElementById("told").textContent = JSON.stringify(told);
});</script>
"""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=4000", "--dump-dom",
)


def test_the_page_works_in_a_browser(document, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("chromium is not installed")
    page = writing.page(document, document["shown"], META)
    assert not re.search(r"https?://|@import|url\(", page)
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"), "utf-8")
    try:
        ran = subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}",
             (tmp_path / "page.html").as_uri()],
            capture_output=True, text=True, timeout=120, check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("chromium did not come up within two minutes")
    found = re.search(r'<pre id="told">(.*?)</pre>', ran.stdout, re.S)
    assert found and found.group(1), f"the page said nothing: {ran.stderr[-500:]}"
    told = json.loads(found.group(1).replace("&amp;", "&").replace("&gt;", ">"))
    assert [line for line in ran.stderr.splitlines() if "CONSOLE" in line] == []
    assert told["values"] == ["kl", "activation", "difference"] == told["scales"]
    assert len(set(told["shades"])) == 3 and told["cold"] > 0
    fires = sum(token["fires"] for row in document["shown"]["rows"] for token in row)
    assert told["fires"] == fires > 0 and told["images"] == [True] and told["loads"] == []
    first = document["shown"]["rows"][0][3]
    assert f"{first['before'][0][1]:.3f}" in told["tip"] and "after" in told["tip"]
    assert told["moved"]


def test_tokens_tell_what_the_model_says_before_and_after(sweep):
    one = sweep()
    split = one.split(0)
    new = one.analytic(2.0)
    from rwkvedit.evaluate.writing_tokens import tokens

    row = split.held[0]
    shown = tokens(one, [row], new - one.part.write)["rows"][0]
    from rwkvedit.transformer.write_vectors import u_replaced

    session, ids = one.session, one.world.rows[row]
    before = session.forward(ids[:9]).top(1)[0]
    with u_replaced(session, one.part, new):
        after = session.forward(ids[:9]).top(1)[0]
    assert shown[8]["before"][0] == (before.piece, pytest.approx(before.p, abs=1e-5))
    assert shown[8]["after"][0] == (after.piece, pytest.approx(after.p, abs=1e-5))
    assert shown[-1]["difference"] is None and len(shown[8]["moved"]) == 5


# -- one edit, and the chat -----------------------------------------------------------------


def bits(session):
    return tensors_digest(session.model.named_weights())


def test_an_edit_is_measured_where_it_was_not_made(source, monkeypatch):
    from rwkvedit.evaluate import writing_once

    monkeypatch.setattr(writing_once, "texts", lambda session, text=None: source)
    session = open_session("toy")
    before = bits(session)
    done = write(session, "3.7", "#270", alpha=2.0, gate=False)
    assert done.landed and done.measured["p_target"] > 1.5 * done.measured["p_before"]
    assert bits(session) != before and len(session.edits.live) == 1
    with pytest.raises(UsageError, match="layer 3's weights are changed already"):
        write(session, "3.7", "#270")
    session.edits.restore()
    refused = write(session, "3.7", "#270", alpha=60.0)
    assert not refused.landed and refused.verdict is not None and refused.verdict.why
    assert bits(session) == before
    for options, message in (
        ({"train": 0}, "no examples: --train takes a number from 1 on"),
        ({"train": 999}, "999 examples are too many"),
        ({"alpha": 1.0, "train": 2}, "say one of them"),
        ({"alpha": float("nan")}, "expected a finite number"),
    ):
        with pytest.raises(UsageError, match=message):
            write(session, "3.7", "#270", **options)
    assert bits(session) == before


@pytest.fixture
def looking(shell, source, monkeypatch):
    from rwkvedit.evaluate import writing_once, writing_texts

    for module in (writing_once, writing_texts):
        monkeypatch.setattr(module, "texts", lambda session, text=None: source)
    assert shell.execute("/open toy").kind == "result"
    return shell


def data(shell, line):
    result = shell.execute(line)
    assert result is not None and result.kind == "result", result and result.data
    return result.data


def test_the_chat_finds_shows_writes_undoes_and_saves(looking, sweep, tmp_path):
    session = looking.sessions.current.session
    before = bits(session)
    listed = data(looking, "/components find --layers 3 --top 4")
    assert len(listed["found"]) <= 4 and len(listed["random"]) == 4
    assert data(looking, "/components find --layers 3 --writes #270")["by"] == "writes"
    shown = data(looking, "/components show 3.7")
    assert shown["fires"] > 0 and shown["examples"] and shown["promotes"]
    done = data(looking, "/write 3.7 #270 --alpha 2 --no-gate")
    assert done["landed"] and bits(session) != before
    path = tmp_path / "w.lqpatch"
    data(looking, f"/save-patch {path}")
    assert load_patch(path).provenance["component"] == "3.7"
    after = bits(session)
    traced = data(looking, f"/pareto --methods analytic --png {tmp_path / 'x.png'}")
    assert len(traced["points"]) == 4 and (tmp_path / "x.png").exists() and bits(session) == after
    data(looking, "/undo")
    assert bits(session) == before
    data(looking, "/redo")
    assert bits(session) == after
    data(looking, f"/apply-patch {path} --reverse")
    assert bits(session) == before


def test_a_layer_is_decomposed_into_a_file_whose_components_can_be_written(looking, tmp_path):
    session = looking.sessions.current.session
    before, path = bits(session), tmp_path / "parts.safetensors"
    for layer in (3, 2):  # the last, and one that has a layer above it
        line = f"/components decompose {layer} --count 6 --steps 240 --to {path}"
        done = data(looking, line)
        assert done["faithfulness"] < 0.9 and len(done["components"]) == 6
        assert bits(session) == before
    first = done["components"][0]["component"]
    assert data(looking, f"/components show {first}")["layer"] == 2
    assert data(looking, f"/write {first} #270 --alpha 1 --no-gate")["landed"]
    data(looking, "/undo")
    assert bits(session) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/components decompose", "takes a layer and a file"),
        ("/components decompose 3 --to /dev/null/x.safetensors", "/dev/null"),
        ("/components decompose 9 --to x.safetensors", "no layer 9"),
        ("/components decompose 3 --to x.safetensors --count 0", "takes a component or more"),
        ("/components show", "/components show needs a component"),
        ("/components show 3.99", "no component 3.99"),
        ("/components find 3.7", "find takes no component: /components show 3.7"),
        ("/components find --top 0", "--top takes a number from 1 on"),
        ("/write 3.7 two words", "tokens"),
        ("/write 3.7", "/write needs target"),
        ("/write 3.99 #270", "no component 3.99"),
        ("/write 3.7 #270 --train 0", "no examples"),
        ("/pareto", "/pareto needs a component and a target"),
        ("/pareto 3.7 #270 --methods x", "no method 'x'"),
    ],
)
def test_the_chats_mistakes_are_one_line_and_change_nothing(looking, line, message):
    session = looking.sessions.current.session
    before = bits(session)
    result = looking.execute(line)
    assert result.kind == "error" and message in result.data["message"], result.data
    assert "\n" not in result.data["message"] and bits(session) == before


# -- SmolLM2 --------------------------------------------------------------------------------


def test_a_neuron_of_smollm2_writes_another_digit(smollm2):
    """A few rows of what the README measures over all of them."""
    rows = cut(smollm2, counted(77, 8))
    source = Texts(rows[:8], rows[8:18], rows[18:20], "counted", "digest")
    one = Sweep.of(smollm2, component(smollm2, "29.805"), smollm2.token_id("7"), source, 1, 4, ())
    split = one.split(0)
    got = one.measure(split, one.analytic(1.0) - one.part.write, one.part.read)
    assert got["p_target"] > 0.85 and got["kl_surround"] < 0.06 and got["p_before"] < 0.2
    assert one.seen.agreement == 1.0 and torch.isfinite(one.part.write).all()
