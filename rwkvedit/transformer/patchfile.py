"""``.lqpatch`` files: one change of one layer's weights, small and bound to the weights it is for.

LARQL's format: magic ``LQPATCH\\0``, u32 length of a JSON header, the header, then f32 arrays, each
after its u32 length; all little-endian. Kinds: ``rank_one`` (left (D,), then right (F,)) and
``dense`` (row-major (D, F)). Version 1 knows rank_one alone and has no ``kind``; version 2 is
what is written, with digests of the base weights, the tokenizer and the numbers added to its
header. Reads and writes files; changes no weights.

Glossary: D residual width (``hidden_size``), F MLP width (``intermediate_size``).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit import __version__
from rwkvedit.errors import FileFormatError, RwkvEditError
from rwkvedit.files import atomic_write, read_bytes
from rwkvedit.transformer.weights import Delta, Dense, RankOne

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

MAGIC = b"LQPATCH\0"
VERSIONS = (1, 2)
HEADER_LIMIT = 1 << 20
MODULE = "down_proj"
MANIFEST, MANIFEST_FORMAT = "manifest.json", "lqpatch-manifest"
LARGEST = 1 << 31
"""No patch has more bytes: a larger one is another file."""


@dataclass(frozen=True, eq=False)
class Patch:
    """A delta and what it is for. None: the file does not say (LARQL's own files)."""

    delta: Delta
    base_digest: str | None = None
    """``session.digest`` of the weights that the delta was made for."""
    tokenizer_digest: str | None = None
    dtype: str | None = None
    architecture: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """src_prompt, tgt_prompt, old_token, new_token, crown_delta, created_at, and more."""
    scale: float = 1.0
    version: int = 2

    @classmethod
    def of(
        cls,
        session: ModelSession,
        delta: Delta,
        base_digest: str | None = None,
        scale: float = 1.0,
        **provenance: Any,
    ) -> Patch:
        """A patch for this session's weights (``base_digest`` None: as they are with nothing live).

        ``provenance``: anything JSON takes; what LARQL wants and is not given is left empty.
        """
        wanted: dict[str, Any] = {
            "src_prompt": "", "tgt_prompt": "", "old_token": "", "new_token": "",
            "crown_delta": 0.0, "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "writer": f"rwkvedit {__version__}", "model": session.name,
        }  # fmt: skip
        return cls(
            delta,
            session.edits.base_digest if base_digest is None else base_digest,
            session.vocabulary.digest,
            str(session.dtype).removeprefix("torch."),
            session.architecture,
            {**wanted, **provenance},
            scale,
        )

    @property
    def label(self) -> str:
        """What the patch is, in a few words."""
        p = self.provenance
        said = p.get("label") or f"{p.get('src_prompt', '')}{p.get('new_token', '')}".strip()
        return str(said) or f"layer {self.delta.layer}"

    def header(self) -> dict[str, Any]:
        """The JSON header as version 2 has it."""
        d, f = self.delta.shape
        return {
            "version": 2, "layer": self.delta.layer, "module": MODULE, "hidden_size": d,
            "intermediate_size": f, "kind": self.delta.kind, "scale": self.scale,
            "provenance": dict(self.provenance), "base_digest": self.base_digest,
            "tokenizer_digest": self.tokenizer_digest, "dtype": self.dtype,
            "architecture": self.architecture, "delta_digest": self.delta.digest,
        }  # fmt: skip


def save_patch(path: str | Path, patch: Patch) -> Path:
    """Write a patch whole or not at all. RwkvEditError over a file that is no patch."""
    path = Path(path).expanduser()
    if path.is_file() and path.stat().st_size and read_bytes(path)[: len(MAGIC)] != MAGIC:
        raise RwkvEditError(f"{path} exists and is no .lqpatch file; name another file")
    return atomic_write(path, encode(patch))


def encode(patch: Patch) -> bytes:
    """The bytes of a patch's file."""
    header = json.dumps(patch.header(), ensure_ascii=False, allow_nan=False).encode()
    out = [MAGIC, struct.pack("<I", len(header)), header]
    for part in patch.delta.parts:
        values = part.detach().cpu().float().contiguous().numpy().astype("<f4")
        out += [struct.pack("<I", values.size), values.tobytes()]
    return b"".join(out)


def load_patch(path: str | Path) -> Patch:
    """Read a patch. FileFormatError, in one line, on anything that is not a whole sound one."""
    path = Path(path).expanduser()
    if path.is_file() and path.stat().st_size > LARGEST:
        raise FileFormatError(
            f"{path}: expected an .lqpatch file, found {path.stat().st_size} bytes"
        )
    return decode(read_bytes(path), path)


def decode(data: bytes, path: object = "patch") -> Patch:
    """A patch from the bytes of its file; see ``load_patch``."""
    if data[: len(MAGIC)] != MAGIC:
        raise FileFormatError(f"{path}: expected an .lqpatch file, found {data[:8]!r} at its start")
    at = len(MAGIC) + 4
    if len(data) < at:
        raise FileFormatError(f"{path}: truncated: found {len(data)} bytes and no header")
    (size,) = struct.unpack_from("<I", data, len(MAGIC))
    if size > HEADER_LIMIT or size > len(data) - at:
        raise FileFormatError(
            f"{path}: truncated or damaged: its header says {size} bytes, found {len(data) - at}"
        )
    header = _header(path, data[at : at + size])
    d, f, layer = header["hidden_size"], header["intermediate_size"], header["layer"]
    lengths = (d, f) if header["kind"] == RankOne.kind else (d * f,)
    parts = _arrays(path, memoryview(data)[at + size :], lengths)
    delta: Delta
    if header["kind"] == RankOne.kind:
        delta = RankOne(layer, *parts)
    else:
        delta = Dense(layer, parts[0].view(d, f))
    said = header.get("delta_digest")
    if said is not None and said != delta.digest:
        raise FileFormatError(f"{path}: damaged: its numbers are not those its header was made for")
    return Patch(
        delta, header.get("base_digest"), header.get("tokenizer_digest"), header.get("dtype"),
        header.get("architecture"), header["provenance"], header["scale"], header["version"],
    )  # fmt: skip


def _header(path: object, body: bytes) -> dict[str, Any]:
    """The header, every field that is used checked."""
    try:
        header = json.loads(body)
    except (ValueError, RecursionError):
        raise FileFormatError(f"{path}: expected a JSON header, found a damaged one") from None
    if not isinstance(header, dict):
        raise FileFormatError(f"{path}: expected a JSON object as header, found another value")

    def bad(name: str, expected: str) -> FileFormatError:
        return FileFormatError(
            f"{path}: expected {expected} as {name}, found {header.get(name)!r:.60}"
        )

    if header.get("version") not in VERSIONS or isinstance(header["version"], bool):
        raise bad("version", "1 or 2")
    header.setdefault("kind", RankOne.kind)
    if header["kind"] not in (RankOne.kind, Dense.kind):
        raise bad("kind", "rank_one or dense")
    for name, least in (("layer", 0), ("hidden_size", 1), ("intermediate_size", 1)):
        value = header.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < LARGEST:
            raise bad(name, f"a whole number from {least} on")
    module = header.setdefault("module", MODULE)
    if not isinstance(module, str) or module.removesuffix(".weight").split(".")[-1] != MODULE:
        raise bad("module", MODULE)
    scale = header.setdefault("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise bad("scale", "a finite number")
    if not isinstance(header.setdefault("provenance", {}), dict):
        raise bad("provenance", "an object")
    for name in ("base_digest", "tokenizer_digest", "dtype", "architecture", "delta_digest"):
        if not isinstance(header.get(name), str | None):
            raise bad(name, "text")
    return header


def _arrays(path: object, body: memoryview, lengths: Sequence[int]) -> list[Tensor]:
    """The arrays of ``body``, which must hold exactly these many finite numbers each."""
    whole = sum(4 + 4 * n for n in lengths)
    if len(body) != whole:
        raise FileFormatError(
            f"{path}: truncated or damaged: expected {whole} bytes of numbers, found {len(body)}"
        )
    at, out = 0, []
    for n in lengths:
        (said,) = struct.unpack_from("<I", body, at)
        if said != n:
            raise FileFormatError(f"{path}: expected an array of {n} numbers, found one of {said}")
        values = np.frombuffer(body, "<f4", n, at + 4).astype(np.float32)
        if not np.isfinite(values).all():
            raise FileFormatError(f"{path}: expected finite numbers, found NaN or infinity")
        out.append(torch.from_numpy(values))
        at += 4 + 4 * n
    return out


def save_batch(folder: str | Path, patches: Iterable[tuple[str, Patch]]) -> list[Path]:
    """Write (name, patch) pairs into a folder, and last the manifest that names them all.

    Returns the patches' paths, then the manifest's. ``load_paths`` reads the folder or the
    manifest in place of its patches.
    """
    folder, rows, paths = Path(folder).expanduser(), [], []
    for name, patch in patches:
        paths.append(save_patch(folder / f"{name}.lqpatch", patch))
        rows.append({
            "file": paths[-1].name, "layer": patch.delta.layer, "kind": patch.delta.kind,
            "delta_digest": patch.delta.digest, "base_digest": patch.base_digest,
            "label": patch.label,
        })  # fmt: skip
    manifest = {"format": MANIFEST_FORMAT, "version": 1, "writer": f"rwkvedit {__version__}",
                "patches": rows}  # fmt: skip
    text = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"
    return [*paths, atomic_write(folder / MANIFEST, text)]


def load_paths(paths: Iterable[str | Path]) -> list[tuple[Path, Patch]]:
    """Every patch of these files; a folder or a manifest stands for all that it names."""
    found: list[tuple[Path, Patch]] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            path = path / MANIFEST
        if path.suffix != ".json":
            found.append((path, load_patch(path)))
            continue
        for row in _manifest(path):
            patch = load_patch(path.parent / row["file"])
            if patch.delta.digest != row["delta_digest"]:
                raise FileFormatError(
                    f"{path.parent / row['file']}: not the patch that {path.name} was written for"
                )
            found.append((path.parent / row["file"], patch))
    return found


def _manifest(path: Path) -> list[dict[str, Any]]:
    try:
        manifest = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise FileFormatError(f"{path}: expected a manifest of .lqpatch files")
    rows = manifest.get("patches")
    if not isinstance(rows, list) or not rows:
        raise FileFormatError(f"{path}: expected a manifest that names patches, found none")
    for row in rows:
        name = row.get("file") if isinstance(row, dict) else None
        if not isinstance(name, str) or Path(name).name != name or "delta_digest" not in row:
            raise FileFormatError(f"{path}: expected names of files beside it, found {row!r:.60}")
    return rows
