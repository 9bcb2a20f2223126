"""Studies as files: JSON and PNGs a study, one page for all. Finished ones are not run again.

A folder holds ``NAME.json``, ``NAME-PLOT.png`` and ``index.html``. A run that is stopped keeps the
studies that were finished; the next one with the same model, version and options takes them up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rwkvedit import __version__
from rwkvedit.errors import RwkvEditError
from rwkvedit.report import html, plots
from rwkvedit.study.base import (
    STUDIES,
    Options,
    as_loaded,
    canonical_command,
    check_ready,
    find_study,
    run_study,
)  # fmt: skip

PAGE = "index.html"
Document = dict[str, Any]


def open_folder(folder: str | Path) -> Path:
    """The folder, made. Raises RwkvEditError when it cannot be, UnavailableError without
    matplotlib (which every folder's pictures need)."""
    plots.require_matplotlib()
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RwkvEditError(f"cannot make the folder {path}: {error.strerror}") from None
    return path


def write_study(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write one study's PNGs, then its JSON (which marks it finished)."""
    written = []
    for data in document["plots"]:
        path = folder / f"{document['study']}-{data['name']}.png"
        path.write_bytes(plots.png(plots.from_json(data)))
        written.append(path)
    path = folder / f"{document['study']}.json"
    waiting = path.with_suffix(".json.part")
    text = json.dumps(finite(document), ensure_ascii=False, indent=1) + "\n"
    waiting.write_text(text, encoding="utf-8")
    waiting.replace(path)
    return [*written, path]


def finite(value: Any) -> Any:
    """``value`` as JSON can say it: NaN and infinities become null."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return finite(value.item()) if hasattr(value, "item") else value


def write_page(documents: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """``index.html`` with all of them."""
    path = folder / PAGE
    path.write_text(html.page(list(documents)), encoding="utf-8")
    return path


def write_one(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write one study and a page of it and of the same model's others in the folder."""
    written = write_study(document, folder)
    beside = []
    for name in STUDIES:
        other = document if name == document["study"] else _read(folder / f"{name}.json")
        if other and other["meta"].get("model_digest") == document["meta"]["model_digest"]:
            beside.append(other)
    return [*written, write_page(beside, folder)]


def _read(path: Path) -> Document | None:
    """A study's document; None when there is none, or something else stands there."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return document if document["study"] and document["meta"]["command"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finished(name: str, loaded: Any, options: Options, folder: Path) -> Document | None:
    """The document in ``folder`` if it is of this model, version and command."""
    document = _read(folder / f"{name}.json")
    if document is None:
        return None
    meta = document["meta"]
    same = (
        meta.get("model_digest") == loaded.model.digest and meta.get("version") == __version__
        and meta["command"] == canonical_command(find_study(name), loaded, options)
    )
    return document if same else None


def run_all(
    model: Any,
    options: Options,
    folder: str | Path,
    *,
    names: Iterable[str] | None = None,
    fresh: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> list[Document]:
    """Run studies (all of them by default) into ``folder``, with a page of those that are done.

    A study that cannot run on this model is skipped with a notice; one that ``folder`` already
    holds is taken from there unless ``fresh``. The page is written even when interrupted. Raises
    UnavailableError at once when a package is missing.
    """
    chosen = list(STUDIES if names is None else names)
    loaded = as_loaded(model)
    path = open_folder(folder)
    ready = []
    for name in chosen:
        entry = find_study(name)
        try:
            check_ready(entry, loaded, options)
        except RwkvEditError as error:
            if loaded.model.config.n_layer >= entry.min_layers:
                raise
            notice(f"skipped: {error}")
        else:
            ready.append(name)
    done: list[Document] = []
    try:
        for at, name in enumerate(ready, 1):
            kept = None if fresh else finished(name, loaded, options, path)
            notice(f"{at}/{len(ready)} {name}{' (kept from before)' if kept else ''}")
            if kept is None:
                kept = finite(run_study(name, loaded, replace(options)).to_json())
                write_study(kept, path)
            done.append(kept)
    finally:
        if done:
            write_page(done, path)
    return done
