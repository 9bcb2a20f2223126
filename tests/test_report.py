"""Tables, plots and the page: what they show, and that the page needs nothing from outside."""

import io
import json
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser

import pytest

from rwkvedit.errors import UnavailableError
from rwkvedit.report import html, plots
from rwkvedit.report.tables import (
    Table,
    cell,
    columns,
    grid,
    markdown,
    number,
    numeric,
    rich_table,
    roomy,
    sort_key,
)  # fmt: skip

RATE = {"mean": 0.5, "lo": 0.25, "hi": 0.75, "n": 4}
EMPTY = {"mean": None, "lo": None, "hi": None, "n": 0}

TABLE = Table(
    columns(("name", "name"), ("rate", "rate", "a share"), ("n", "n")),
    ({"name": "b|c", "rate": RATE, "n": 3}, {"name": "<a>", "rate": EMPTY, "n": None}), "a title",
)

LINES = plots.Lines(
    "curve", "A curve", "One curve that rises & falls.", (1.0, 2.0, 4.0),
    (plots.Series("up", (1.0, None, 3.0), (0.5, None, 2.5), (1.5, None, 3.5)),
     plots.Series("flat", (1.0, 1.0, 1.0))),
    "x", "y", x_log=True, level=(2.0, "two"),
)
BARS = plots.Bars("bars", "Bars", "Two bars.", ("one", "a rather long name"),
                  (plots.Series.of("s", [RATE, RATE]),), "share")
HEAT = plots.Heatmaps(
    "heat", "Matrices", "Two matrices.",
    (plots.Panel("left", ((0.0, 1.0), (None, 0.5)), ("a", "b"), ("c", "d")),
     plots.Panel("right", ((-1.0, 1.0),), ("a", "b"), ("c",))),
    "value", diverging=True,
)


def document(name="demo", drawn=(LINES, BARS, HEAT)):
    rows = [{"key": key, "value": value} for key, value in (("b", 10.0), ("a", 9.0), ("c", 0.5))]
    main = Table(columns(("key", "key"), ("value", "value", "what & how")), tuple(rows)).to_json()
    return {
        "study": name, "question": "What is <this>?", "finding": "It is a < b & c.",
        "title": "", "columns": main["columns"], "rows": main["rows"],
        "tables": [TABLE.to_json()], "plots": [plots.to_json(plot) for plot in drawn],
        "settings": {"worlds": 3, "heads": ["x", "y"], "r": RATE, "nested": {"a": 1.5}},
        "meta": {"version": "0", "model": "m", "model_digest": "d" * 64, "device": "cpu",
                 "dtype": "float32", "threads": 1, "seed": 0, "command": "rwkvedit study demo",
                 "seconds": 0.25},
    }


# -- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.5, "0.500"), (0.0, "0.000"), (2e-7, "2.0e-07"), (12.34, "12.3"), (12345.6, "12,346"),
     (-0.25, "-0.250"), (True, "yes"), (7, "7"), (None, "-"), ("x", "x"), (EMPTY, "-"),
     (RATE, "0.500")],
)
def test_cells_read_as_people_write_them(value, said):
    assert cell(value) == said


def test_a_rate_shows_its_interval_where_asked():
    assert cell(RATE, intervals=True) == "0.500 [0.250, 0.750]"
    assert number(999.94) == "999.9"


def test_tables_survive_json():
    again = Table.from_json(json.loads(json.dumps(TABLE.to_json())))
    assert again.columns == TABLE.columns and list(again.rows) == list(TABLE.rows)


def test_columns_of_numbers_are_known_by_their_cells():
    assert [numeric(TABLE, c) for c in TABLE.columns] == [False, True, True]
    assert sort_key(RATE) == 0.5 and sort_key(None) == "" and sort_key(EMPTY) == float("-inf")


def test_intervals_give_way_in_a_narrow_terminal():
    assert roomy(TABLE, 120) and not roomy(TABLE, 30)
    from rich.console import Console

    def shown(width):
        out = io.StringIO()
        Console(file=out, width=width).print(rich_table(TABLE, width))
        return out.getvalue()

    assert "[0.250, 0.750]" in shown(120) and "[0.250" not in shown(30)


def test_markdown_escapes_bars():
    assert "| b\\|c | 0.500 [0.250, 0.750] | 3 |" in markdown(TABLE)
    assert grid(TABLE)[1][1] == ("<a>", "-", "-")


# -- plots ------------------------------------------------------------------------------------


@pytest.mark.parametrize("plot", [LINES, BARS, HEAT], ids=lambda plot: plot.kind)
def test_a_plot_is_a_picture_of_its_size_and_survives_json(plot):
    again = plots.from_json(json.loads(json.dumps(plots.to_json(plot))))
    assert again == plot
    for theme in ("light", "dark"):
        data = plots.png(again, theme)
        assert data.startswith(b"\x89PNG")
        assert struct.unpack(">II", data[16:24]) == plots.size(plot)


def test_light_and_dark_pictures_differ_and_each_is_repeatable():
    light = plots.png(LINES)
    assert light == plots.png(LINES) != plots.png(LINES, "dark")


def test_an_unknown_plot_is_refused():
    with pytest.raises(ValueError, match="no plot of kind 'pie'"):
        plots.from_json({"kind": "pie"})


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UnavailableError, match=r'pip install "rwkvedit\[study\]"'):
        plots.png(LINES)


# -- the page ---------------------------------------------------------------------------------


class Loads(HTMLParser):
    """Everything a page would fetch or go to, and its images' alternative texts."""

    def __init__(self):
        super().__init__()
        self.found, self.alts = [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.found += [values[k] for k in ("src", "srcset", "href", "action") if k in values]
        if tag == "img":
            self.alts.append(values.get("alt"))


def test_nothing_in_the_page_points_outside():
    page = html.page([document()])
    loads = Loads()
    loads.feed(page)
    assert loads.found and all(x.startswith(("data:", "#")) for x in loads.found)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "default-src &#x27;none&#x27;" in page


def test_every_picture_has_its_alternative_text():
    loads = Loads()
    loads.feed(html.page([document()]))
    assert loads.alts == [LINES.alt, BARS.alt, HEAT.alt]


def test_text_is_escaped_and_the_command_is_there():
    page = html.page([document()])
    assert "It is a &lt; b &amp; c." in page and "What is &lt;this&gt;?" in page
    assert "<code>rwkvedit study demo</code>" in page
    assert 'title="what &amp; how"' in page and "&lt;a&gt;" in page


def test_a_page_of_no_studies_says_so():
    assert "No studies yet." in html.page([])


# -- in a real browser ------------------------------------------------------------------------

PROBE = """
<script>addEventListener("load", () => {
  const table = document.querySelector("table"), told = {};
  const column = at => [...table.tBodies[0].rows].map(row => row.cells[at].textContent);
  told.before = column(0);
  const buttons = table.querySelectorAll("th button");
  buttons[1].click(); told.numbers = column(1);
  buttons[1].click(); told.down = column(1);
  buttons[0].click(); told.names = column(0);
  told.sorted = [...table.querySelectorAll("th")].map(th => th.getAttribute("aria-sort"));
  const images = [...document.images];
  told.images = images.map(i => i.complete && i.naturalWidth > 100 && i.alt.length > 5);
  told.loads = performance.getEntriesByType("resource").map(e => e.name)
    .filter(name => !name.startsWith("data:"));
  told.overflow = document.documentElement.scrollWidth - innerWidth;
  told.width = innerWidth;
  told.paper = getComputedStyle(document.body).backgroundColor;
  parent.postMessage(JSON.stringify(told), "*");
})</script>
"""

PHONE = """<!doctype html><title>phone</title>
<pre id="told"></pre>
<script>addEventListener("message", e => document.getElementById("told").textContent = e.data)
</script><iframe src="page.html" width="360" height="740" style="border:0"></iframe>"""

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=4000", "--dump-dom",
)
OWN_HOSTS = ("google.com", "googleapis.com", "gvt1.com", "~notfound")  # the browser asks these


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a phone-wide page says of itself: (told, console lines, hosts asked for)."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("page")
    page = html.page([document("first"), document("second", [BARS])])
    (folder / "page.html").write_text(page.replace("</body>", PROBE + "</body>"), "utf-8")
    (folder / "phone.html").write_text(PHONE, "utf-8")
    net = folder / "net.json"
    try:
        ran = subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net}",
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


def test_the_browser_has_nothing_to_complain_of(told):
    assert told[1] == []


def test_no_request_leaves_the_file(told):
    assert told[0]["loads"] == []
    asked = {host for host in told[2] if "." in host and not host.endswith(OWN_HOSTS)}
    assert not asked, f"the page asked for {asked}"


def test_the_browser_draws_every_picture(told):
    assert told[0]["images"] == [True] * 4


def test_a_click_sorts_numbers_as_numbers_and_a_second_turns_them_round(told):
    assert told[0]["numbers"] == ["0.500", "9.000", "10.0"]
    assert told[0]["down"] == ["10.0", "9.000", "0.500"]
    assert told[0]["before"] == ["b", "a", "c"] and told[0]["names"] == ["a", "b", "c"]
    assert told[0]["sorted"] == ["ascending", None]


def test_the_page_fits_a_phone(told):
    assert told[0]["width"] <= 360 and told[0]["overflow"] <= 0
