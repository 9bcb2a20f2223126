"""Official RWKV-7 (x070) checkpoints from disk, checked tensor by tensor. Runs nothing.

Shapes are read from the file: D and V from ``emb.weight``, H and N from ``r_k``, the LoRA ranks
from ``w1 a1 v1 g1``. Layer 0 has no v0/v1/v2 (tolerated if present). Names of RWKV-LM's
``RWKV-v7/train_temp/src/model.py``:

    emb.weight (V, D)   head.weight (V, D)   ln_out.{weight,bias} (D)
    blocks.0.ln0.{weight,bias} (D)
    blocks.i.ln1, ln2 .{weight,bias} (D)
    blocks.i.att.x_{r,w,k,v,a,g}, w0, a0, v0, k_k, k_a (D)          r_k (H, N)
    blocks.i.att.{w,a,v,g}1 (D, rank)   .{w,a,v,g}2 (rank, D)
    blocks.i.att.{receptance,key,value,output}.weight (D, D)   .ln_x.{weight,bias} (D)
    blocks.i.att.time_state (H, N, N)   optional: a tuned initial state, axes (head, value, key)
    blocks.i.ffn.x_k (D)   .key.weight (F, D)   .value.weight (D, F)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rwkvedit.config import cache_dir
from rwkvedit.errors import FileFormatError, RwkvEditError, UnavailableError
from rwkvedit.files import atomic_write, refuse_nonfinite

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_MIX = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "k_k", "k_a")
_IGNORED = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")
_BIG = 1 << 28  # bytes; digests of files from here on are remembered in the cache folder


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model, all read from its tensors."""

    n_layer: int
    n_embd: int
    n_head: int
    head_size: int
    n_ffn: int
    vocab_size: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Checkpoint:
    """A checked file: its tensors as stored (vectors flattened to (D,)), sizes and digest."""

    tensors: dict[str, Tensor]
    config: ModelConfig
    digest: str
    path: Path
    time_state: Tensor | None = None
    """(L, H, N, N) fp32 tuned initial state, when the file carries one."""

    @property
    def parameters(self) -> int:
        return sum(t.numel() for t in self.tensors.values())


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a ``.pth`` (weights only) or ``.safetensors`` file.

    Raises UnavailableError when there is no such file and FileFormatError, in one line with all
    names, when tensors are missing, extra, misshapen or not finite, or the file is not one.
    """
    path = Path(path).expanduser()
    raw = read_tensors(path)
    digest = _digest_of_file(path, raw)
    tensors, config, tuned = check_tensors(path, raw)
    return Checkpoint(tensors, config, digest, path, tuned)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU, as stored."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "nothing"
        raise UnavailableError(f"{path}: expected a .pth or .safetensors checkpoint, found {what}")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if path.suffix == ".safetensors" or start[8:] == b"{":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RwkvEditError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile,
        RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
    ) as error:  # fmt: skip
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to trust the file
            why = "no pickle of tensors alone"
        raise FileFormatError(
            f"{path}: expected a whole .pth (tensors only) or .safetensors file, "
            f"found a foreign or truncated one ({why[:120]})"
        ) from error
    if isinstance(found, Mapping) and set(found) == {"model"} and isinstance(found["model"], dict):
        found = found["model"]
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise FileFormatError(
            f"{path}: expected a table of named tensors, found {type(found).__name__}"
        )
    return {str(name): t for name, t in found.items()}


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over name, dtype, shape and bytes of every tensor, in order of name.

    The same tensors give the same digest whether they lie in a .pth or a .safetensors file.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        sha.update(t.reshape(-1).view(torch.uint8).numpy().data if t.numel() else b"")
    return sha.hexdigest()


def check_tensors(
    path: Path, raw: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], ModelConfig, Tensor | None]:
    """(tensors with vectors flattened, config, tuned initial state), or FileFormatError."""
    config = _config(path, raw)
    wanted = expected_shapes(config, raw)
    missing = [name for name in wanted if name not in raw]
    states = {f"blocks.{i}.att.time_state" for i in range(config.n_layer)}
    extra = [n for n in raw if n not in wanted and n not in _IGNORED and n not in states]
    tensors, misshapen = {}, []
    for name, shape in wanted.items():
        if name not in raw:
            continue
        t = raw[name]
        if len(shape) == 1 and t.numel() == shape[0] and max(t.shape, default=0) == shape[0]:
            t = t.reshape(shape)
        if tuple(t.shape) != shape:
            misshapen.append(f"{name} expected {_show(shape)} found {_show(t.shape)}")
        elif not t.is_floating_point():
            misshapen.append(f"{name} expected floating point found {t.dtype}")
        tensors[name] = t
    tuned = tuned_state(path, raw, config) if states & set(raw) else None
    problems = [
        f"{label} {sep.join(names)}"
        for label, names, sep in (
            ("missing", missing, ", "),
            ("extra", extra, ", "),
            ("misshapen", misshapen, "; "),
        )
        if names
    ]
    if problems:
        raise FileFormatError(f"{path}: not a whole RWKV-7 checkpoint: {'; '.join(problems)}")
    refuse_nonfinite(path, tensors)
    return tensors, config, tuned


def expected_shapes(config: ModelConfig, raw: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Every tensor that x070 needs and its shape; ranks come from ``raw``."""
    L, D, H, N = config.n_layer, config.n_embd, config.n_head, config.head_size
    F, V = config.n_ffn, config.vocab_size
    out: dict[str, tuple[int, ...]] = {"emb.weight": (V, D)}
    for i in range(L):
        block, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for ln in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            out[f"{block}{ln}.weight"] = out[f"{block}{ln}.bias"] = (D,)
        for name in _MIX if i == 0 else (*_MIX, "v0"):
            out[att + name] = (D,)
        for low in ("w", "a", "g") if i == 0 else ("w", "a", "v", "g"):
            rank = _rank(raw, f"{att}{low}", D)
            out[f"{att}{low}1"], out[f"{att}{low}2"] = (D, rank), (rank, D)
        out[att + "r_k"] = (H, N)
        for name in ("receptance", "key", "value", "output"):
            out[f"{att}{name}.weight"] = (D, D)
        out[att + "ln_x.weight"] = out[att + "ln_x.bias"] = (D,)
        out[ffn + "x_k"] = (D,)
        out[ffn + "key.weight"], out[ffn + "value.weight"] = (F, D), (D, F)
    out["ln_out.weight"] = out["ln_out.bias"] = (D,)
    out["head.weight"] = (V, D)
    return out


def tuned_state(path: Path, raw: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
    """The (L, H, N, N) fp32 initial state of ``blocks.{i}.att.time_state`` tensors."""
    names = [f"blocks.{i}.att.time_state" for i in range(config.n_layer)]
    shape = (config.n_head, config.head_size, config.head_size)
    missing = [n for n in names if n not in raw]
    wrong = [
        f"{n} expected {_show(shape)} found {_show(raw[n].shape)}"
        for n in names
        if n in raw and tuple(raw[n].shape) != shape
    ]
    if missing or wrong:
        parts = ([f"missing {', '.join(missing)}"] if missing else []) + wrong
        raise FileFormatError(f"{path}: not a tuned state for this model: {'; '.join(parts)}")
    refuse_nonfinite(path, {n: raw[n] for n in names})
    return torch.stack([raw[n].float() for n in names])


def load_tuned_state(path: str | Path, config: ModelConfig) -> Tensor:
    """A separate tuned-state file (only ``time_state`` tensors are looked at)."""
    path = Path(path).expanduser()
    return tuned_state(path, read_tensors(path), config)


def _config(path: Path, raw: Mapping[str, Tensor]) -> ModelConfig:
    layers = {int(m[1]) for name in raw if (m := _BLOCK.match(name))}
    keys = ("emb.weight", "blocks.0.att.r_k", "blocks.0.ffn.key.weight")
    absent = [k for k in keys if k not in raw]
    if absent:
        older = any("time_maa" in n or "time_mix" in n or "time_decay" in n for n in raw)
        other = "an RWKV-4/5/6 checkpoint" if older else f"{len(raw)} tensors of another kind"
        if layers and not older:
            other = f"missing {', '.join(absent)}"
        raise FileFormatError(f"{path}: expected an RWKV-7 (x070) checkpoint, found {other}")
    flat = [f"{k} {_show(raw[k].shape)}" for k in keys if raw[k].dim() != 2]
    if flat:
        raise FileFormatError(
            f"{path}: not a whole RWKV-7 checkpoint: misshapen {'; '.join(flat)}, expected two axes"
        )
    V, D = raw["emb.weight"].shape
    H, N = raw["blocks.0.att.r_k"].shape
    F = raw["blocks.0.ffn.key.weight"].shape[0]
    if H * N != D:
        raise FileFormatError(
            f"{path}: not a whole RWKV-7 checkpoint: misshapen blocks.0.att.r_k expected "
            f"heads x head size = {D} found ({H}, {N})"
        )
    return ModelConfig(max(layers) + 1, D, H, N, F, V)


def _rank(raw: Mapping[str, Tensor], stem: str, D: int) -> int:
    """The LoRA rank, from ``stem1`` (D, rank) or else ``stem2`` (rank, D)."""
    one, two = raw.get(f"{stem}1"), raw.get(f"{stem}2")
    if one is not None and one.dim() == 2 and one.shape[0] == D:
        return one.shape[1]
    return two.shape[0] if two is not None and two.dim() == 2 else 0


def _show(shape: object) -> str:
    return "(" + ", ".join(str(n) for n in tuple(shape)) + ")"  # type: ignore[arg-type]


def _digest_of_file(path: Path, raw: Mapping[str, Tensor]) -> str:
    """``tensors_digest``, remembered for big files by absolute path, size and time of change."""
    stat = path.stat()
    if stat.st_size < _BIG:
        return tensors_digest(raw)
    memory = cache_dir() / "digests.json"
    key = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    if isinstance(known, dict) and isinstance(known.get(key), str):
        return known[key]
    digest = tensors_digest(raw)
    known = {**(known if isinstance(known, dict) else {}), key: digest}
    with contextlib.suppress(RwkvEditError):  # a read-only cache only costs time
        atomic_write(memory, json.dumps(known))
    return digest
