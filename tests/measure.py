"""Runs the benchmarks whose figures the README and the model's card show.

    python tests/measure.py [NAME...]

Each writes its document to ``tests/measured/NAME.json``; ``tests/readme.py`` makes the tables. Run
it on a machine with nothing else to do: it takes about half an hour on two cores.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOLDER = Path(__file__).resolve().parent / "measured"
SUITES = (
    "two-entity", "five-entity", "seven-entity-two-facts", "same-entity", "ambiguous", "wording",
    "cross-context", "second-mentioned", "generic", "distance", "long", "sequential",
    "property-erase", "entity-erase",
)
STATE = "bench state --suite {} --worlds 200 --seed 1"
METHODS = "auto,uniform,isolate,full-r1,hyb-u,hyb-uv,tell,oracle"
RECORDS = "bench edit smollm2 --data counterfact-dev.json --seed 0"
FACTS = f"{RECORDS} --group known"
DATA = Path(os.environ.get("RWKVEDIT_DATA", "../shared/data"))
"""Where records lie that are no part of the project."""
RUNS = {
    "recall": "bench recall --worlds 300 --seed 1",
    "speed": "bench speed --repeats 3",
    "editing": f"{STATE.format('five-entity')} --methods {METHODS}",
    "editing-same": f"{STATE.format('same-entity')} --methods {METHODS}",
    "methods": "bench state --suite five-entity --worlds 40 --seed 1 --methods all",
    "studies": "study all --out DIR",
    "capitals": "bench capitals smollm2",
    "edit-rome": f"{FACTS} --method rome --n 200",
    "edit-preferred": f"{RECORDS} --group preferred --method rome --n 60",
    "edit-memit": f"{FACTS} --method memit --n 100",
    "edit-alphaedit": f"{FACTS} --method alphaedit --n 100",
    "edit-sequence": f"{FACTS} --method alphaedit --sequential 100",
    "write-smollm2": "bench write smollm2",
    "write-embedded": "bench write embedded",
    "profile": "bench profile smollm2 --edit tests/stress.json",
    **{f"suite-{name}": f"{STATE.format(name)} --methods auto" for name in SUITES},
}


def run(name: str) -> None:
    from rwkvedit.cli import main

    out = io.StringIO()
    with TemporaryDirectory() as folder, redirect_stdout(out):
        words = [
            folder if word == "DIR" else str(DATA / word) if word.endswith("-dev.json") else word
            for word in RUNS[name].split()
        ]
        sys.argv = ["rwkvedit", *RUNS[name].split(), "--json"]  # what the document says of itself
        code = main([*words, "--json"])
    if code not in (0, 1):
        raise SystemExit(f"{RUNS[name]} ended with {code}")
    document = json.loads(out.getvalue())
    if name == "studies":  # the README shows what they found; the rest fills pages
        found = [{"study": d["study"], "finding": d["finding"]} for d in document["studies"]]
        document = {"studies": found, "meta": document["studies"][0]["meta"]}
    FOLDER.mkdir(exist_ok=True)
    part = FOLDER / f"{name}.part"
    part.write_text(json.dumps(_rounded(document), indent=1) + "\n")
    part.replace(FOLDER / f"{name}.json")


def _rounded(value: Any) -> Any:
    """Five significant digits are what the tables show and git should keep."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    for name in sys.argv[1:] or RUNS:
        if name not in RUNS:
            raise SystemExit(f"no run called {name}; there are {', '.join(RUNS)}")
        print(name, "...", flush=True)
        run(name)


if __name__ == "__main__":
    main()
