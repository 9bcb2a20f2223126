"""What a study is, and the table of them. Knows no model's insides.

A study is a function ``(loaded, options, rng) -> Finding`` declared with :func:`study`; running it
with :func:`run_study` gives a :class:`Study`: the question, one sentence computed from the numbers,
tables, plots, settings, and where the numbers come from.
"""

from __future__ import annotations

import difflib
import importlib
import math
import shlex
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from rwkvedit.errors import RwkvEditError, UnavailableError, UsageError
from rwkvedit.evaluate.intervals import rate
from rwkvedit.report import plots as plotting
from rwkvedit.report.meta import meta_of
from rwkvedit.report.plots import Plot
from rwkvedit.report.tables import Table


@dataclass(frozen=True)
class Options:
    """What a run may choose. ``worlds`` None: the study's own number. ``lexicon`` is ``common``,
    ``held-out`` or a file; ``a`` and ``b`` are files of prompts (one a line, optional group id
    after a tab) for the studies that contrast two sets; ``permutations`` of probes' labels."""

    worlds: int | None = None
    seed: int = 0
    lexicon: str = "common"
    a: str | None = None
    b: str | None = None
    permutations: int = 99

    def check(self) -> None:
        """Raises UsageError for numbers out of range and a prompt set without its other half."""
        if self.worlds is not None and self.worlds < 2:
            raise UsageError(f"--worlds takes a number from 2 on, not {self.worlds}")
        if self.seed < 0:
            raise UsageError(f"--seed takes a number from 0 on, not {self.seed}")
        if self.permutations < 1:
            raise UsageError(f"--permutations takes a number from 1 on, not {self.permutations}")
        if (self.a is None) != (self.b is None):
            given, missing = ("--a", "--b") if self.b is None else ("--b", "--a")
            raise UsageError(f"{given} needs {missing}: two files of prompts to contrast")


@dataclass(frozen=True)
class Finding:
    """What a study's function gives: ``sentence`` and ``tables`` (the first is the main one)."""

    sentence: str
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One study's result. ``columns`` and ``rows`` are the main table's."""

    name: str
    question: str
    finding: str
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    settings: Mapping[str, Any]
    meta: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column.key for column in self.tables[0].columns)

    @property
    def rows(self) -> tuple[Mapping[str, Any], ...]:
        return self.tables[0].rows

    def to_json(self) -> dict[str, Any]:
        """The document: the main table as ``columns`` and ``rows``, the others under ``tables``."""
        main, *others = (table.to_json() for table in self.tables)
        return {
            "study": self.name, "question": self.question, "finding": self.finding,
            "title": main["title"], "columns": main["columns"], "rows": main["rows"],
            "tables": others, "plots": [plotting.to_json(plot) for plot in self.plots],
            "settings": dict(self.settings), "meta": dict(self.meta),
        }

    def _repr_html_(self) -> str:
        from rwkvedit.report.html import notebook

        return notebook(self.to_json())


Run = Callable[[Any, Options, np.random.Generator], Finding]


@dataclass(frozen=True)
class Entry:
    """A registered study; ``worlds`` is its default number (0: it uses prompt sets instead)."""

    name: str
    question: str
    run: Run
    worlds: int
    min_layers: int
    needs: tuple[str, ...]


STUDIES: dict[str, Entry] = {}
PACKAGES = {"sklearn": "scikit-learn"}


def study(
    name: str, question: str, *, worlds: int = 30, min_layers: int = 1, needs: tuple[str, ...] = ()
) -> Callable[[Run], Run]:
    """Register a study under ``name``. ``needs`` are importable modules beyond the base ones."""

    def add(function: Run) -> Run:
        STUDIES[name] = Entry(name, question, function, worlds, min_layers, needs)
        return function

    return add


def find_study(name: str) -> Entry:
    """Raises UsageError with the nearest name and the list."""
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"no study called {name}; {hint}there are {', '.join(STUDIES)}, all, list")
    return STUDIES[name]


def check_ready(entry: Entry, loaded: Any, options: Options) -> None:
    """One line when a study cannot be run: options, missing packages, too few layers, no hooks."""
    options.check()
    for module in entry.needs:
        try:
            importlib.import_module(module)
        except ImportError:
            raise UnavailableError(
                f"study {entry.name} needs {PACKAGES.get(module, module)}: "
                'pip install "rwkvedit[study]"'
            ) from None
    layers = loaded.model.config.n_layer
    if layers < entry.min_layers:
        raise RwkvEditError(
            f"study {entry.name} needs a model of {entry.min_layers} layers or more and "
            f"{loaded.name} has {layers}; rwkvedit study list shows the others"
        )
    if loaded.model.backend != "native":
        raise UsageError("studies look inside the model: use --backend native")


def canonical_command(entry: Entry, loaded: Any, options: Options) -> str:
    """The shell command that prints this study again."""
    words = ["rwkvedit", "study", entry.name]
    if entry.worlds:
        words += ["--worlds", str(options.worlds or entry.worlds)]
    words += ["--seed", str(options.seed)]
    if loaded.name != "embedded":
        words += ["--model", loaded.name]
    model = loaded.model
    if model.device.type != "cpu":
        words += ["--device", str(model.device)]
    if str(model.dtype) != "torch.float32":
        words += ["--dtype", {"bfloat16": "bf16", "float16": "fp16"}[str(model.dtype)[6:]]]
    if entry.worlds and options.lexicon != "common":
        words += ["--lexicon", options.lexicon]
    if options.a and options.b and entry.name in CONTRASTS:
        words += ["--a", options.a, "--b", options.b]
    if entry.name == "probes" and options.permutations != Options.permutations:
        words += ["--permutations", str(options.permutations)]
    return shlex.join(words)


#: The studies that ``--a`` and ``--b`` speak to.
CONTRASTS = ("similarity", "probes", "steering")


def run_study(name: str, model: Any = "embedded", options: Options | None = None, **more: Any
              ) -> Study:
    """Run one study. ``model`` is a name, a path, a LoadedModel or a Session.

    ``more`` are fields of :class:`Options` (``worlds=20, seed=1``). The model and any session are
    left as they were. Raises UsageError, UnavailableError or RwkvEditError, one line each.
    """
    entry = find_study(name)
    options = replace(options or Options(), **more)
    loaded = as_loaded(model)
    check_ready(entry, loaded, options)
    options = replace(options, worlds=options.worlds or entry.worlds)
    rng = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
    begun = time.perf_counter()
    with torch.no_grad():
        found = entry.run(loaded, options, rng)
    command = canonical_command(entry, loaded, options)
    meta = meta_of(loaded, options.seed, command, time.perf_counter() - begun)
    return Study(
        name, entry.question, found.sentence, found.tables, found.plots, found.settings, meta
    )


def as_loaded(model: Any) -> Any:
    """A LoadedModel from a name, a path, a Session or itself."""
    if hasattr(model, "loaded"):
        return model.loaded
    if hasattr(model, "tokenizer"):
        return model
    from rwkvedit.models.catalog import load_model

    return load_model(model)


def mean(values: Any) -> dict[str, Any]:
    """A measured quantity over worlds: mean with its 95% bootstrap interval; NaN is left out."""
    data = np.asarray(values, dtype=float).ravel()
    data = data[np.isfinite(data)]
    return rate(data.tolist(), share=False)


def share(values: Any) -> dict[str, Any]:
    """A share of worlds in which something held, with its 95% interval."""
    return rate(np.asarray(values, dtype=float).ravel().tolist())


def pick_layers(n_layer: int, most: int = 7) -> list[int]:
    """At most ``most`` layers, evenly spread, first and last among them."""
    return sorted({round(i) for i in np.linspace(0, n_layer - 1, min(most, n_layer))})


def middle(found: Mapping[str, Any] | None) -> float:
    """A rate's mean; NaN where nothing could be measured."""
    value = None if found is None else found["mean"]
    return math.nan if value is None else float(value)


def rank_of(found: Mapping[str, Any] | None) -> float:
    """A rate's mean for comparing; what could not be measured comes last."""
    value = middle(found)
    return -math.inf if math.isnan(value) else value


def signed(value: float | Mapping[str, Any] | None) -> str:
    """``.93`` / ``-.02`` / ``1.00``: two decimals as findings write them; ``-`` for nothing."""
    if value is None or isinstance(value, Mapping):
        value = middle(value)
    if math.isnan(value):
        return "-"
    text = f"{value:.2f}"
    text = "0.00" if text == "-0.00" else text
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) and value else text
