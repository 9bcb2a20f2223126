"""Actors of a Ray cluster. One that dies is replaced, and its task begun again.

Without an address a cluster of this machine is started for the occasion and shut down after. With
one, every node needs rwkvedit and the model under the same name or path.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from rwkvedit.errors import RwkvEditError, UnavailableError
from rwkvedit.evaluate.engine.base import Cancel, Factory, Task, lost

PATIENCE = 0.2
"""Seconds between two looks at whether Ctrl-C was pressed."""
PASSED_ON = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RWKVEDIT_HOME", "PYTHONPATH")
"""Of the environment, what actors get: Ray sets OMP_NUM_THREADS to 1 otherwise."""


def require_ray() -> Any:
    """The module. UnavailableError says what to install."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody anything
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own parts, which are no business of ours
            import ray
            import ray.exceptions
    except ImportError:
        raise UnavailableError(
            "--engine ray needs Ray: pip install 'rwkvedit[ray]' (or --engine local --workers 2)"
        ) from None
    return ray


class Rays:
    """``count`` actors, each with a worker of its own."""

    def __init__(
        self, factory: Factory, count: int, address: str | None = None, cancel: Cancel | None = None
    ) -> None:
        self.ray = require_ray()
        self.factory, self.count, self.address, self.cancel = factory, count, address, cancel

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        ray, waiting, deaths = self.ray, deque(tasks), dict[str, int]()
        own = self._connect()
        try:
            idle = [self._start() for _ in range(min(self.count, len(tasks)))]
            running: dict[Any, tuple[Any, Task]] = {}
            while waiting or running:
                if self.cancel is not None and self.cancel():
                    raise KeyboardInterrupt
                while idle and waiting:
                    actor, task = idle.pop(), waiting.popleft()
                    running[actor.work.remote(task.job)] = actor, task
                ready, _ = ray.wait(list(running), num_returns=1, timeout=PATIENCE)
                for reference in ready:
                    actor, task = running.pop(reference)
                    try:
                        kind, value = ray.get(reference)
                    except ray.exceptions.RayActorError:
                        deaths[task.key] = deaths.get(task.key, 0) + 1
                        lost(task, deaths[task.key])
                        waiting.appendleft(task)
                        idle.append(self._start())
                        continue
                    if kind == "error":
                        raise RwkvEditError(value)
                    idle.append(actor)
                    yield task, value
        finally:
            if own:
                with contextlib.suppress(Exception):
                    ray.shutdown()

    def _connect(self) -> bool:
        """True when the cluster was started here."""
        if self.ray.is_initialized():
            return False
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            quiet |= {"num_cpus": self.count, "include_dashboard": False}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.ray.init(address=self.address, **quiet)
        except Exception as error:  # whatever Ray's many layers raise
            said = str(error).strip().splitlines() or [type(error).__name__]
            where = self.address or "on this machine"
            raise UnavailableError(f"Ray did not start ({where}): {said[0]}") from None
        return True

    def _start(self) -> Any:
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        remote = self.ray.remote(num_cpus=1, runtime_env={"env_vars": passed})(_Actor)
        return remote.remote(self.factory)


class _Actor:
    """One worker, made with its first task, so that what goes wrong is said of a task."""

    def __init__(self, factory: Factory) -> None:
        self.factory, self.made = factory, None

    def work(self, job: dict[str, Any]) -> tuple[str, Any]:
        try:
            self.made = self.made or self.factory()
            return "result", self.made(job)
        except RwkvEditError as error:
            return "error", str(error)
