"""Saved calibrations: found by what they tell, bound to a model and a tokenizer by digest.

The user's own lie under the data folder, those shipped under ``calibrations/`` (in a wheel:
``rwkvedit/shipped_calibrations``); both in one folder per model, named by 12 hex digits of its
digest. The user's are looked through first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from rwkvedit import config
from rwkvedit.errors import FileFormatError, RwkvEditError
from rwkvedit.files import (
    atomic_write,
    check_digest,
    load_tensors,
    read_bytes,
    save_tensors,
    spare_foreign,
)
from rwkvedit.recurrent.calibrate import Calibration
from rwkvedit.recurrent.pairs import Pair

FORMAT = "rwkvedit-calibration"
VERSION = 1


def user_folder() -> Path:
    return config.data_dir() / "calibrations"


def shipped_folder() -> Path:
    """``calibrations/`` in a checkout, its copy inside an installed package."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "shipped_calibrations"
    return inside if inside.is_dir() else package.parent / "calibrations"


def file_name(name: str) -> str:
    """A calibration's name as a file name: words and digits, at most 60 characters."""
    words = re.sub(r"[^\w]+", "-", name, flags=re.UNICODE).strip("-").lower()
    return (words[:60] or "calibration") + ".safetensors"


def save_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Write one calibration (fp16 tensors), whole or not at all."""
    tensors = {
        "writes": calibration.writes.to(torch.float16).contiguous(),
        "address": calibration.address.to(torch.float16).contiguous(),
    }
    save_tensors(path, tensors, calibration.meta())
    return Path(path)


def load_calibration(path: str | Path, loaded: Any | None = None) -> Calibration:
    """Read one calibration; with ``loaded``, refuse one made for another model or tokenizer.

    Raises FileFormatError naming what was expected and found (both digests).
    """
    tensors, meta = load_tensors(path, FORMAT, VERSION)
    missing = {"writes", "address"} - set(tensors)
    if missing:
        raise FileFormatError(f"{path}: expected tensors writes and address, found {set(tensors)}")
    writes, address = tensors["writes"].float(), tensors["address"].float()
    values = tuple(meta.get("values", ()))
    if writes.dim() != 5 or writes.shape[0] != len(values) or writes.shape[1:] != address.shape:
        raise FileFormatError(
            f"{path}: expected writes ({len(values)}, L, H, N, K) beside address (L, H, N, K), "
            f"found {tuple(writes.shape)} and {tuple(address.shape)}"
        )
    known = {
        "format", "version", "name", "kind", "told", "closing", "values", "model_digest",
        "tokenizer_digest", "start", "created", "axes", "write_norms",
    }
    calibration = Calibration(
        meta.get("name", ""), meta.get("kind", ""), meta.get("told", ""),
        meta.get("closing", "."), values, writes, address, meta.get("model_digest", ""),
        meta.get("tokenizer_digest", ""), meta.get("start", ""), meta.get("created", ""),
        {k: v for k, v in meta.items() if k not in known},
    )
    if loaded is not None:
        check_digest(path, "model", loaded.model.digest, calibration.model_digest)
        check_digest(path, "tokenizer", loaded.tokenizer.digest, calibration.tokenizer_digest)
        wanted = heads_of(loaded.model.config)
        if calibration.heads != wanted:
            raise FileFormatError(
                f"{path}: expected (layers, heads, head size) {wanted}, found {calibration.heads}"
            )
    return calibration


def heads_of(config: Any) -> tuple[int, int, int]:
    """(L, H, N) of a model."""
    return config.n_layer, config.n_head, config.head_size


class Library:
    """The calibrations saved for one model. ``heads`` is its (L, H, N), None to trust the files.

    A file that cannot be read stops nothing: it is passed over, and named by ``damaged``.
    """

    def __init__(
        self, digest: str, tokenizer_digest: str, folders: list[Path] | None = None,
        heads: tuple[int, int, int] | None = None,
    ) -> None:
        self.digest, self.tokenizer_digest, self.heads = digest, tokenizer_digest, heads
        roots = folders if folders is not None else [user_folder(), shipped_folder()]
        self.folders = [root / digest[:12] for root in roots]

    @staticmethod
    def of(loaded: Any) -> Library:
        model = loaded.model
        return Library(model.digest, loaded.tokenizer.digest, heads=heads_of(model.config))

    def paths(self) -> list[Path]:
        """Files of this model, the user's first."""
        return [
            path for folder in self.folders if folder.is_dir()
            for path in sorted(folder.glob("*.safetensors"))
        ]

    def _each(self) -> Iterator[tuple[Path, Calibration | RwkvEditError]]:
        for path in self.paths():
            try:
                yield path, _read(str(path), path.stat().st_mtime_ns)
            except RwkvEditError as error:
                yield path, error
            except OSError as error:
                yield path, RwkvEditError(f"cannot read {path}: {error.strerror or error}")

    def all(self) -> list[tuple[Path, Calibration]]:
        """Every readable calibration of this model with its file."""
        return [(path, found) for path, found in self._each() if isinstance(found, Calibration)]

    def damaged(self) -> list[str]:
        """One line for every file that cannot be read, with how to be rid of it."""
        return [
            f"{found}; calib rm {path.stem} removes it"
            for path, found in self._each() if isinstance(found, RwkvEditError)
        ]

    def find(self, pair: Pair) -> Calibration | None:
        """The first calibration that tells both of the pair's values, made for this model."""
        for _, found in self._each():
            if isinstance(found, Calibration) and self._ours(found) and found.holds(pair):
                return found
        return None

    def _ours(self, found: Calibration) -> bool:
        digests = (found.model_digest, found.tokenizer_digest)
        return digests == (self.digest, self.tokenizer_digest) and (
            self.heads in (None, found.heads))

    def get(self, name: str) -> tuple[Path, Calibration]:
        """A calibration by its name or file name. Raises RwkvEditError with those there are."""
        entries = self.all()
        for path, calibration in entries:
            if name in (calibration.name, path.name, path.stem):
                return path, calibration
        known = ", ".join(c.name for _, c in entries) or "none"
        raise RwkvEditError(f"no calibration called {name} for this model; there are: {known}")

    def save(self, calibration: Calibration) -> Path:
        """Into the user's folder, under the calibration's name (an older one is replaced)."""
        return save_calibration(calibration, self.folders[0] / file_name(calibration.name))

    def remove(self, name: str) -> Path:
        """Delete one of the user's calibrations, or a damaged file of that name.

        Raises RwkvEditError for a shipped one.
        """
        broken = [path for path, found in self._each() if isinstance(found, RwkvEditError)]
        path = next((p for p in broken if name in (p.name, p.stem)), None) or self.get(name)[0]
        if path.parent != self.folders[0]:
            raise RwkvEditError(f"{name} ships with the program and cannot be removed")
        try:
            path.unlink()
        except OSError as error:
            raise RwkvEditError(f"cannot remove {path}: {error.strerror}") from error
        return path

    def export(self, name: str, path: str | Path) -> Path:
        """Copy a calibration's file to ``path``; a file there that is none is spared."""
        source, _ = self.get(name)
        return atomic_write(spare_foreign(path, FORMAT), read_bytes(source))

    def add_file(self, path: str | Path, loaded: Any) -> Calibration:
        """Import a calibration file made for this very model; refused otherwise, by digest."""
        calibration = load_calibration(path, loaded)
        self.save(calibration)
        return calibration


@lru_cache(maxsize=64)
def _read(path: str, changed: int) -> Calibration:
    del changed  # part of the key: a rewritten file is read again
    return load_calibration(path)
