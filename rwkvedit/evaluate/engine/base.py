"""Tasks, what an engine does with them, and the run that keeps every result. Measures nothing."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.evaluate.partial import Partial

ENGINES = ("local", "ray")
ATTEMPTS = 3
"""How often a task may lose its worker before it is taken for what kills them."""
Work = Callable[[dict[str, Any]], dict[str, Any]]
Cancel = Callable[[], bool]


@dataclass(frozen=True)
class Task:
    """``key`` is what its result is found by again; ``job`` is what a worker is given."""

    key: str
    job: dict[str, Any]


@dataclass(frozen=True)
class Factory:
    """What makes a worker, wherever it is: ``name`` is ``package.module:function``."""

    name: str
    setup: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Work:
        module, _, function = self.name.partition(":")
        return getattr(importlib.import_module(module), function)(self.setup)


class Engine(Protocol):
    """One way to get tasks done."""

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Each task with its result, as they come. What a worker raises is raised here; Ctrl-C
        ends the workers and is raised as KeyboardInterrupt."""
        ...


class Here:
    """In this process. ``work`` may stand on what is open already."""

    def __init__(self, work: Work, cancel: Cancel | None = None) -> None:
        self.work, self.cancel = work, cancel

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        for task in tasks:
            if self.cancel is not None and self.cancel():
                raise KeyboardInterrupt
            yield task, self.work(task.job)


def lost(task: Task, times: int) -> None:
    """A worker died over ``task``. RwkvEditError when that was once too often."""
    if times >= ATTEMPTS:
        raise RwkvEditError(
            f"{task.key}: its worker died {times} times (out of memory?): try fewer --workers; "
            "what is done stays in the --out file"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark that takes an engine."""
    group = parser.add_argument_group("engine")
    group.add_argument("--engine", choices=ENGINES, default="local",
                       help="processes of this machine, or Ray (pip install 'rwkvedit[ray]')")
    group.add_argument("--workers", type=int, metavar="N",
                       help="processes; each opens the model (local 1, this one; ray 2)")
    group.add_argument("--address", metavar="A",
                       help="with ray: a running cluster, like auto or HOST:6379")  # fmt: skip
    group.add_argument("--out", metavar="FILE", help="keep partial results there, and go on")


def engine_for(
    args: argparse.Namespace, factory: Factory, work: Work, cancel: Cancel | None = None
) -> Engine:
    """The engine that the options name; ``work`` is for this process, ``factory`` for others.

    UsageError on options that do not fit, UnavailableError where Ray is not installed.
    """
    workers = 1 if args.workers is None else args.workers
    if workers < 1:
        raise UsageError(f"--workers takes a number from 1 on, not {workers}")
    if args.engine == "ray":
        from rwkvedit.evaluate.engine.rays import Rays

        return Rays(factory, args.workers or 2, args.address, cancel)
    if args.address is not None:
        raise UsageError("--address goes with --engine ray")
    if workers == 1:
        return Here(work, cancel)
    from rwkvedit.evaluate.engine.processes import Processes

    return Processes(factory, workers, cancel)


def run(
    engine: Engine,
    tasks: Sequence[Task],
    partial: Partial,
    progress: Callable[[Task], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Results by key: those that ``partial`` holds are not made again, each new one is kept."""
    done = {r["task"]: r["result"] for r in partial.records}
    left = [task for task in tasks if task.key not in done]
    if left:
        for task, result in engine.map(left):
            partial.add({"task": task.key, "result": result})
            done[task.key] = result
            if progress is not None:
                progress(task)
    return {task.key: done[task.key] for task in tasks}
