"""Workers for the engines' tests: plain arithmetic, and ways to go wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from rwkvedit.errors import UsageError


def make(setup: dict[str, Any]):
    """A worker that leaves its process id where it begins, and waits there the first time."""
    folder = Path(setup["folder"])

    def work(job: dict[str, Any]) -> dict[str, Any]:
        n = job["n"]
        if job.get("refuse"):
            raise UsageError(f"{n} is refused")
        started = folder / f"{n}.started"
        first = not started.exists()
        started.write_text(str(os.getpid()))
        if first and job.get("wait"):
            time.sleep(60)
        return {"square": n * n, "pid": os.getpid()}

    return work


def dying(setup: dict[str, Any]):
    """Kills the process that wants a worker."""
    os._exit(1)
