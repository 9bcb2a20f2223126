"""The same tasks here, in processes and on Ray; whoever is killed loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from engine_worker import make

from rwkvedit.errors import RwkvEditError, UnavailableError, UsageError
from rwkvedit.evaluate.engine import Factory, Task, engine_for, run
from rwkvedit.evaluate.engine.base import ATTEMPTS, Here
from rwkvedit.evaluate.engine.processes import Processes
from rwkvedit.evaluate.partial import Partial

HERE = Path(__file__).resolve().parent


def factory(folder):
    return Factory("engine_worker:make", {"folder": str(folder)})


def squares(count, **special):
    return [Task(f"t{n}", {"n": n, **special.get(f"t{n}", {})}) for n in range(count)]


def kill_when_begun(folder, n, times=1):
    """A thread that kills whatever process works on task ``n``, the moment it begins."""

    def kill():
        seen = set()
        file = folder / f"{n}.started"
        deadline = time.monotonic() + 60
        while len(seen) < times and time.monotonic() < deadline:
            text = file.read_text() if file.exists() else ""
            if text and text not in seen:
                seen.add(text)
                os.kill(int(text), signal.SIGKILL)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def options(**changes):
    import argparse

    return argparse.Namespace(**{"engine": "local", "workers": None, "address": None, **changes})


def test_processes_do_what_one_process_does(tmp_path):
    tasks = squares(5)
    here = run(Here(make({"folder": str(tmp_path)})), tasks, Partial(None, {}))
    there = run(Processes(factory(tmp_path), 2), tasks, Partial(None, {}))
    assert [r["square"] for r in here.values()] == [0, 1, 4, 9, 16]
    assert [r["square"] for r in there.values()] == [0, 1, 4, 9, 16]
    assert {r["pid"] for r in here.values()} == {os.getpid()}
    assert os.getpid() not in {r["pid"] for r in there.values()}


def test_a_killed_process_costs_its_task_a_new_start_and_nothing_else(tmp_path):
    killer = kill_when_begun(tmp_path, 1)
    partial = Partial(tmp_path / "part.jsonl", {"bench": "x"})
    got = run(Processes(factory(tmp_path), 2), squares(4, t1={"wait": True}), partial)
    killer.join()
    assert [r["square"] for r in got.values()] == [0, 1, 4, 9]
    assert sorted(r["task"] for r in partial.records) == ["t0", "t1", "t2", "t3"]


def test_a_task_that_kills_every_worker_is_named(tmp_path):
    with pytest.raises(RwkvEditError, match=f"t0: its worker died {ATTEMPTS} times"):
        list(Processes(Factory("engine_worker:dying"), 1).map(squares(1)))


def test_a_run_goes_on_with_what_is_left(tmp_path):
    file = tmp_path / "part.jsonl"
    tasks = squares(4, t2={"refuse": True})
    with pytest.raises(UsageError, match="2 is refused"):
        run(Processes(factory(tmp_path), 1), tasks, Partial(file, {"bench": "x"}))
    again = Partial(file, {"bench": "x"})
    kept = {r["task"]: r["result"]["pid"] for r in again.records}
    assert set(kept) == {"t0", "t1"}
    got = run(Here(make({"folder": str(tmp_path)})), squares(4), again)
    assert got["t0"]["pid"] == kept["t0"] and got["t3"]["pid"] == os.getpid()


def test_ctrl_c_ends_the_workers(tmp_path):
    seen = []
    engine = Processes(factory(tmp_path), 2, cancel=lambda: bool(seen))
    with pytest.raises(KeyboardInterrupt):
        for _, result in engine.map(squares(4, t3={"wait": True})):
            seen.append(result["pid"])
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_options_that_do_not_fit_are_one_line(monkeypatch):
    factory_ = Factory("engine_worker:make", {})
    with pytest.raises(UsageError, match="--workers takes a number from 1 on, not 0"):
        engine_for(options(workers=0), factory_, dict)
    with pytest.raises(UsageError, match="--address goes with --engine ray"):
        engine_for(options(address="auto"), factory_, dict)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError, match=r"pip install 'rwkvedit\[ray\]'"):
        engine_for(options(engine="ray"), factory_, dict)


RAY = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_engine import factory, kill_when_begun, squares
from rwkvedit.evaluate.engine import run
from rwkvedit.evaluate.engine.rays import Rays
from rwkvedit.evaluate.partial import Partial

folder = Path({folder!r})
killer = kill_when_begun(folder, 1)
partial = Partial(folder / "part.jsonl", {{"bench": "x"}})
got = run(Rays(factory(folder), 2), squares(5, t1={{"wait": True}}), partial)
killer.join()
print(json.dumps({{"own": os.getpid(), "got": got}}))
"""


def test_two_ray_workers_one_of_them_killed(tmp_path):
    pytest.importorskip("ray", reason="Ray is not here: pip install 'rwkvedit[ray]'")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path[1:]])}
    script = RAY.format(here=str(HERE), folder=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True,
                         timeout=240, check=False)  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert [r["square"] for r in told["got"].values()] == [0, 1, 4, 9, 16]
    assert told["own"] not in {r["pid"] for r in told["got"].values()}
    first = int((tmp_path / "1.started").read_text())
    assert told["got"]["t1"]["pid"] == first  # the one that took over
    records = (tmp_path / "part.jsonl").read_text().splitlines()
    assert len(records) == 6
