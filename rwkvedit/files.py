"""Files written whole or not at all, and tensors with a signed label. Knows no models.

Every binary file is safetensors with one JSON string under the metadata key ``rwkvedit``; it
carries at least ``format`` and ``version``. Writing goes to a temporary file in the same folder,
is fsynced, then renamed, so that a reader sees the old file or the new one and never half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rwkvedit.errors import FileFormatError, RwkvEditError

META_KEY = "rwkvedit"
CHECKSUM = "tensors_sha256"  # in the label; files from before it have none


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write ``data`` (text as UTF-8) to ``path``, making its folder; returns the path.

    Raises RwkvEditError (disk full, read-only, no permission); whatever stood at ``path`` is then
    untouched.
    """
    path = Path(path).expanduser()
    body = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        why = error.strerror or str(error)
        raise RwkvEditError(f"cannot write {path}: {why}; nothing was changed") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
    return path


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write tensors and their label. ``meta`` needs ``format`` (str) and ``version`` (int)."""
    assert isinstance(meta.get("format"), str) and isinstance(meta.get("version"), int)
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    label = json.dumps(
        dict(meta) | {CHECKSUM: _checksum(plain)}, ensure_ascii=False, sort_keys=True
    )
    return atomic_write(path, safetensors.torch.save(plain, metadata={META_KEY: label}))


def spare_foreign(path: str | Path, format: str) -> Path:
    """``path``, which may be written over: nothing there, an empty file, or one of ``format``.

    Raises RwkvEditError for any other file, which a slip of the keyboard would destroy.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.stat().st_size:
        try:
            found = _label(path, read_bytes(path)).get("format")
        except FileFormatError:
            found = None
        if found != format:
            raise RwkvEditError(f"{path} exists and is no {format} file; name another file")
    return path


def read_bytes(path: str | Path) -> bytes:
    """The whole file; a missing or unreadable one is a one-line RwkvEditError."""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise RwkvEditError(f"cannot read {path}: {error.strerror or error}") from error


def load_tensors(
    path: str | Path, format: str, version: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that ``save_tensors`` wrote: (tensors, meta).

    Raises FileFormatError on a foreign, truncated or mislabelled file, another format or version,
    or a NaN or infinity in any tensor; the line says what was expected and what was found.
    """
    path = Path(path).expanduser()
    data = read_bytes(path)
    meta = _label(path, data)
    if meta.get("format") != format:
        raise FileFormatError(f"{path}: expected a {format} file, found {meta.get('format')!r}")
    if meta.get("version") != version:
        raise FileFormatError(
            f"{path}: expected {format} version {version}, found {meta.get('version')!r}"
        )
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{path}: truncated or damaged safetensors file ({error})") from error
    if meta.pop(CHECKSUM, None) not in (None, _checksum(tensors)):
        raise FileFormatError(
            f"{path}: damaged: its tensors are not those that were written; use a copy of the file"
        )
    refuse_nonfinite(path, tensors)
    return tensors, meta


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_nonfinite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """FileFormatError naming every floating tensor that holds a NaN or an infinity."""
    bad = [
        name
        for name, t in tensors.items()
        if t.is_floating_point() and t.numel() and not torch.isfinite(t).all()
    ]
    if bad:
        raise FileFormatError(
            f"{path}: expected finite numbers, found NaN or infinity in {', '.join(bad)}"
        )


def check_digest(path: str | Path, what: str, expected: str, found: object) -> None:
    """FileFormatError naming both digests when a file was made for another model or tokenizer."""
    if found != expected:
        got = found[:16] if isinstance(found, str) else repr(found)
        raise FileFormatError(
            f"{path}: made for another {what}: expected {what} digest {expected[:16]}, found {got}"
        )


def _label(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON under META_KEY of a safetensors file's header."""
    foreign = f"{path}: expected a safetensors file written by rwkvedit"
    if len(data) < 8:
        raise FileFormatError(f"{foreign}, found {len(data)} bytes")
    (size,) = struct.unpack("<Q", data[:8])
    if size > 100_000_000 or data[8:9] != b"{":
        raise FileFormatError(f"{foreign}, found {data[:8]!r} at its start")
    if size > len(data) - 8:
        raise FileFormatError(
            f"{path}: truncated: expected a header of {size} bytes, found {len(data) - 8}"
        )
    try:
        header = json.loads(data[8 : 8 + size])
        label = header.get("__metadata__", {}).get(META_KEY)
        meta = json.loads(label) if label is not None else None
    except (ValueError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{foreign}, found a damaged header") from error
    if not isinstance(meta, dict):
        raise FileFormatError(f"{foreign}, found no {META_KEY!r} label in it")
    return meta


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the platform lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
