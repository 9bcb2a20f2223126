"""Names to loaded models: ``embedded``, or a path to a checkpoint. Prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from rwkvedit.errors import RwkvEditError, UnavailableError, UsageError
from rwkvedit.models import fetch
from rwkvedit.models.chat_template import EMBEDDED, WORLD, ChatTemplate
from rwkvedit.models.tokenizer import WorldTokenizer, world_vocabulary
from rwkvedit.recurrent.checkpoint import Checkpoint, load_checkpoint, load_tuned_state
from rwkvedit.recurrent.model import RWKV7

DEFAULT = "embedded"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORLD_VOCAB_SIZE = 65536


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to talk: weights, tokenizer, chat form, and where they came from."""

    model: RWKV7
    tokenizer: WorldTokenizer
    template: ChatTemplate
    name: str
    path: Path


def embedded_folder() -> Path:
    """Where the shipped weights and vocabulary lie."""
    return Path(__file__).parent / "embedded"


def load_model(
    name_or_path: str | Path = DEFAULT,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    backend: str = "native",
    *,
    vocab: str | Path | None = None,
    state_file: str | Path | None = None,
) -> LoadedModel:
    """Load ``embedded`` or a .pth/.safetensors path.

    ``device`` auto, cpu or cuda; ``dtype`` fp32, bf16, fp16 or None (fp32; bf16 for a big model on
    a GPU); ``backend`` native or rwkv; ``vocab`` a vocabulary file (else ``vocab.txt`` beside the
    checkpoint, else the World vocabulary); ``state_file`` a tuned initial state.
    Raises UnavailableError (no such model or device), UsageError, FileFormatError.
    """
    name = str(name_or_path)
    where = pick_device(device)
    path = find_checkpoint(name)
    checkpoint = load_checkpoint(path)
    tokenizer, template = _voice(checkpoint, vocab)
    kind = pick_dtype(dtype, where, checkpoint.parameters)
    tuned = None if state_file is None else load_tuned_state(state_file, checkpoint.config)
    if backend == "native":
        model: Any = RWKV7(checkpoint, where, kind, tuned)
    elif backend == "rwkv":
        from rwkvedit.recurrent.rwkv_backend import RwkvPackage

        model = RwkvPackage(checkpoint, where, kind, tuned)
    else:
        raise UsageError(f"no backend {backend!r}: choose native or rwkv")
    return LoadedModel(model, tokenizer, template, name, path)


def find_checkpoint(name: str) -> Path:
    """The file that a model name stands for; UnavailableError says what names there are."""
    if name == DEFAULT:
        path = embedded_folder() / "model.safetensors"
        if not path.is_file():
            raise UnavailableError(f"the embedded model is missing: expected {path}")
        return path
    if name in fetch.PULLS:
        raise UnavailableError(
            f"{name} is a transformer, not an RWKV-7 model: rwkvedit models pull {name}, then "
            f"/open {name} in the chat"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        for inside in ("model.safetensors", "model.pth"):
            if (path / inside).is_file():
                return path / inside
    if not path.is_file():
        raise UnavailableError(
            f"no model {name!r}: expected embedded or a path to a .pth or .safetensors file "
            "(see rwkvedit models list)"
        )
    return path


def pick_device(device: str) -> torch.device:
    """``auto`` takes a GPU when there is one; asking for an absent one is UnavailableError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise UsageError(f"no device {device!r}: choose auto, cpu or cuda")
    if wanted.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (wanted.index or 0) >= found:
            raise UnavailableError(
                f"device {device} was asked for and {found} CUDA devices were found; "
                "use --device cpu"
            )
    return wanted


def pick_dtype(
    dtype: str | torch.dtype | None, device: torch.device, parameters: int
) -> torch.dtype:
    """The weights' type: as asked, else fp32, or bf16 for 0.3B and more on a GPU."""
    if dtype is None or dtype == "auto":
        big = device.type == "cuda" and parameters > 300_000_000
        return torch.bfloat16 if big else torch.float32
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise UsageError(f"no dtype {dtype!r}: choose {', '.join(DTYPES)}")
    return found


def _voice(checkpoint: Checkpoint, vocab: str | Path | None) -> tuple[WorldTokenizer, ChatTemplate]:
    """The tokenizer that fits, and the chat form that goes with it."""
    beside = checkpoint.path.parent / "vocab.txt"
    rows = checkpoint.config.vocab_size
    if vocab is not None:
        path = Path(vocab)
    elif beside.is_file():
        path = beside
    else:
        path = world_vocabulary()
    tokenizer = WorldTokenizer.from_file(path)
    if tokenizer.vocab_size > rows:
        hint = "" if vocab is not None else "; give its own with --vocab"
        raise RwkvEditError(
            f"{path} has ids up to {tokenizer.vocab_size - 1} and {checkpoint.path.name} has "
            f"{rows} rows: not its vocabulary{hint}"
        )
    return tokenizer, WORLD if rows >= WORLD_VOCAB_SIZE else EMBEDDED


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, mtime_ns: int) -> tuple[str, int]:
    checkpoint = load_checkpoint(path)
    return checkpoint.digest, checkpoint.parameters


def list_models() -> list[dict[str, Any]]:
    """What ``rwkvedit models list`` shows: name, kind, available, source, digest, path, size."""
    path = embedded_folder() / "model.safetensors"
    row: dict[str, Any] = {
        "name": DEFAULT,
        "kind": "rwkv7",
        "available": path.is_file(),
        "source": "ships with rwkvedit (trained by rwkvedit train; see CARD.md beside it)",
        "digest": None,
        "path": str(path),
        "parameters": None,
    }
    if row["available"]:
        stat = path.stat()
        row["digest"], row["parameters"] = _digest(path, stat.st_size, stat.st_mtime_ns)
    return [row, *(_pulled(name) for name in fetch.PULLS)]


def _pulled(name: str) -> dict[str, Any]:
    """The row of a model that ``rwkvedit models pull`` fetches; its digest is the file's."""
    what, path = fetch.PULLS[name], fetch.installed(name)
    return {
        "name": name,
        "kind": "transformer",
        "available": path is not None,
        "source": what.source,
        "digest": None if path is None else what.sha256,
        "path": None if path is None else str(path),
        "parameters": what.parameters,
    }
