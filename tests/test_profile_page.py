"""A profile's chart and page: what they show, and that a browser needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess

import pytest
from test_report import FLAGS, OWN_HOSTS, PHONE, PROBE, Loads

from rwkvedit.evaluate.profile.registry import ORDER, benchmarks
from rwkvedit.report import plots
from rwkvedit.report.profile import finding, page, render, table
from rwkvedit.report.radar import of_profile

META = {"version": "0", "model": "m", "model_digest": "d" * 64, "device": "cpu",
        "dtype": "float32", "threads": 1, "seed": 0, "command": "rwkvedit bench profile m",
        "seconds": 0.25}  # fmt: skip


def document(**changes):
    rows = []
    for at, one in enumerate(benchmarks()):
        score = None if at == 9 else at / 12
        rows.append({
            **one.to_json(), "score": score, "counted": 3 * (score is not None), "of": 5,
            "passed": score is not None and score >= one.threshold, "interval": None,
            "examples": [{"probe": "The capital of <S> is", "wanted": "X & Y", "value": 1.0}],
        })  # fmt: skip
    return {
        "benchmarks": rows, "passed": sum(r["passed"] for r in rows), "of": 13, "k": 10,
        "method": "rome", "edits": [{"prompt": "The capital of <S> is", "target": " X & Y"}],
        **changes,
    }  # fmt: skip


def test_the_chart_says_in_words_what_it_draws_and_survives_json():
    plot = of_profile(document())
    assert plot.names == ORDER and plot.scores[9] == 0.0
    assert plot.alt.startswith("Radar chart of 13 benchmarks, ")
    assert "IndirectRecovery not measured (threshold 0.35, missed)" in plot.alt
    assert plots.from_json(json.loads(json.dumps(plots.to_json(plot)))) == plot
    for theme in ("light", "dark"):
        data = plots.png(plot, theme)
        assert data.startswith(b"\x89PNG") and data == plots.png(plot, theme)
        assert struct.unpack(">II", data[16:24]) == plots.size(plot)


def test_the_finding_names_what_was_missed_and_what_was_not_measured():
    whole = document()
    said = finding(whole)
    assert f"{whole['passed']} of 13 benchmarks passed" in said and "IndirectRecovery" in said
    cut = document(benchmarks=whole["benchmarks"][:4], interrupted=True)
    assert "Interrupted: 9 were not measured." in finding(cut)
    assert [row["name"] for row in table(whole).rows] == list(ORDER)


def test_a_terminal_shows_definitions_with_their_sources():
    import io

    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=100)
    for part in render(document(), 100):
        console.print(part)
    text = " ".join(out.getvalue().split())
    assert "RippleBench" in text and "Cohen et al. (2024)" in text and "threshold 0.7" in text


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a phone-wide page says of itself: (told, console lines, hosts asked for)."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("profile")
    text = page(document(), META)
    (folder / "page.html").write_text(text.replace("</body>", PROBE + "</body>"), "utf-8")
    (folder / "phone.html").write_text(PHONE, "utf-8")
    net = folder / "net.json"
    try:
        ran = subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={folder / 'browser'}", f"--log-net-log={net}",
             (folder / "phone.html").as_uri()],
            capture_output=True, text=True, timeout=120, check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("chromium did not come up within two minutes")
    found = re.search(r'<pre id="told">(.*?)</pre>', ran.stdout, re.S)
    assert found and found.group(1), f"the page said nothing: {ran.stderr[-500:]}"
    hosts = set(re.findall(r'"(?:url|host)":"(?:https?://)?([^/"?:]+)', net.read_text("utf-8")))
    console = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(found.group(1).replace("&amp;", "&")), console, hosts


def test_the_browser_draws_the_chart_and_asks_for_nothing(told):
    assert told[1] == [] and told[0]["images"] == [True] and told[0]["loads"] == []
    asked = {host for host in told[2] if "." in host and not host.endswith(OWN_HOSTS)}
    assert not asked, f"the page asked for {asked}"


def test_the_table_sorts_by_score_and_the_page_fits_a_phone(told):
    assert told[0]["before"] == list(ORDER)
    assert told[0]["numbers"][:2] == ["-", "0.000"] or told[0]["numbers"][0] == "0.000"
    assert told[0]["width"] <= 360 and told[0]["overflow"] <= 0


def test_the_page_is_closed_and_escaped():
    loads = Loads()
    loads.feed(page(document(), META))
    assert loads.found and all(x.startswith(("data:", "#")) for x in loads.found)
    assert loads.alts == [of_profile(document()).alt]
    text = page(document(), META)
    assert "&lt;S&gt;" in text and "<S>" not in text and "X &amp; Y" in text
    assert not re.search(r"https?://|@import|url\(", text)
