"""Opening a session: ``smollm2``, a Hugging Face folder, a GGUF file, a toy, or an RWKV-7 model.

Nothing here reaches for the network. transformers is imported when the first transformer is
opened, never before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import struct
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from rwkvedit.errors import FileFormatError, RwkvEditError, UnavailableError
from rwkvedit.models import fetch
from rwkvedit.models.catalog import DEFAULT, load_model, pick_device, pick_dtype
from rwkvedit.transformer.blocks import HFModel, family_of
from rwkvedit.transformer.running import OUT_OF_MEMORY
from rwkvedit.transformer.rwkv import RwkvModel
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.vocabulary import HFCodec, Vocabulary, WorldCodec

NEEDS = ("transformers", "gguf", "accelerate")
TOYS = {"toy": "llama", "toy-gpt2": "gpt2", "toy-neox": "gpt_neox"}
GGUF_MAGIC = b"GGUF"


def open_session(
    name_or_path: str | Path = "smollm2",
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    *,
    bos: bool = False,
    vocab: str | Path | None = None,
) -> ModelSession:
    """A session on a model by name or path.

    Names: ``smollm2`` (after ``rwkvedit models pull smollm2``), ``embedded`` (our RWKV-7), ``toy``,
    ``toy-gpt2`` and ``toy-neox`` (seeded, untrained, no files). Paths: a folder as transformers
    saves it, a ``.gguf`` file (or a folder with one), an RWKV-7 ``.pth`` or ``.safetensors``.
    ``dtype`` fp32 (the default), bf16 or fp16; ``bos`` puts a BOS before every text;
    ``vocab`` is for RWKV-7. Raises UnavailableError, UsageError or FileFormatError, in one line.
    """
    name = str(name_or_path)
    if name in TOYS:
        from rwkvedit.transformer.toy import toy_session

        _need_transformers(name)
        return toy_session(TOYS[name], bos=bos)
    if name in fetch.PULLS:
        return _transformer(name, fetch.require(name), device, dtype, bos)
    path = Path(name).expanduser()
    if name != DEFAULT and is_transformer(path):
        return _transformer(name, path, device, dtype, bos)
    if path.is_dir() and not any(path.glob("*.pth")) and not any(path.glob("*.safetensors")):
        raise UnavailableError(
            f"{path} holds no model: expected config.json and model.safetensors, a .gguf, or an "
            "RWKV-7 model.pth"
        )
    loaded = load_model(name, device, dtype, vocab=vocab)
    return ModelSession(
        RwkvModel(loaded.model), Vocabulary(WorldCodec(loaded.tokenizer)), name, loaded.path, bos
    )


def is_transformer(path: Path) -> bool:
    """Is this a GGUF file or a folder that transformers would understand?"""
    if path.is_dir():
        return (path / "config.json").is_file() or any(path.glob("*.gguf"))
    return path.suffix == ".gguf"


def _transformer(
    name: str, path: Path, device: str, dtype: str | torch.dtype | None, bos: bool
) -> ModelSession:
    where = pick_device(device)
    kind = pick_dtype(dtype, where, 0)
    folder, gguf = _layout(path)
    _check_architecture(folder, gguf)
    _need_transformers(name)
    with quiet(), _read_once():
        model, tokenizer = _load(folder, gguf, kind)
    _forget_quantisation(model)
    try:
        model = model.to(where)
    except torch.OutOfMemoryError as error:
        raise RwkvEditError(OUT_OF_MEMORY) from error
    hf = HFModel(model, name)
    return ModelSession(hf, Vocabulary(HFCodec(tokenizer)), name, path, bos)


def _layout(path: Path) -> tuple[Path, str | None]:
    """(folder, name of the GGUF in it or None)."""
    if path.is_file():
        return path.parent, path.name
    if not path.exists():
        raise UnavailableError(f"no model {str(path)!r}: nothing is there")
    if not (path / "config.json").is_file():
        found = sorted(path.glob("*.gguf"))
        if len(found) > 1:
            raise UnavailableError(f"{path} has {len(found)} GGUF files: name one, like {found[0]}")
        return path, found[0].name
    return path, None


def _check_architecture(folder: Path, gguf: str | None) -> None:
    """Refuse what is not whole or not supported, before anything is loaded."""
    if gguf is not None:
        with (folder / gguf).open("rb") as file:
            start = file.read(24)
        if start[:4] != GGUF_MAGIC:
            raise FileFormatError(f"{folder / gguf}: expected a GGUF file, found {start[:4]!r}")
        if len(start) < 24 or struct.unpack("<QQ", start[8:])[0] == 0:
            raise FileFormatError(f"{folder / gguf}: truncated GGUF: no tensors in it")
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model_type = config.get("model_type")
    except (ValueError, AttributeError, OSError) as error:
        raise FileFormatError(
            f"{folder / 'config.json'}: not a model's settings ({error})"
        ) from error
    family_of(str(model_type), folder)
    if not any(any(folder.glob(p)) for p in ("*.safetensors", "pytorch_model*.bin")):
        raise UnavailableError(
            f"{folder} has a config.json and no weights: expected model.safetensors beside it"
        )
    if not any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UnavailableError(
            f"{folder} has no tokenizer: expected tokenizer.json beside config.json"
        )


def _load(folder: Path, gguf: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = folder if gguf is None else folder / gguf
    source: dict[str, Any] = {"local_files_only": True}
    if gguf is not None:
        source["gguf_file"] = gguf
    try:
        config = AutoConfig.from_pretrained(folder, **source)
        family_of(config.model_type, where)
        source["config"] = config
        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        asked = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **source, **asked)
    except RwkvEditError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RwkvEditError(OUT_OF_MEMORY) from error
    except Exception as error:  # whatever a damaged or foreign file sets off inside the loaders
        said = " ".join(str(error).split())[:160] or type(error).__name__
        architecture = _unsupported(said)
        if architecture:
            family_of(architecture, where)
        kind = "GGUF file" if gguf is not None else "model folder"
        raise FileFormatError(
            f"{where}: expected a whole {kind}, found a truncated or foreign one ({said})"
        ) from error
    model, info = loaded
    _check_weights(where, model, info)
    return model, tokenizer


def _check_weights(where: Path, model: Any, info: Mapping[str, Any]) -> None:
    """FileFormatError where the weights are not those that the settings speak of.

    transformers itself fills what is missing or of another shape with random numbers, and passes
    by the layers that the settings do not count.
    """
    if info["mismatched_keys"]:
        name, found, wanted = min(info["mismatched_keys"])
        raise FileFormatError(
            f"{where}: {name} has shape {tuple(found)}, expected {tuple(wanted)} by its settings"
        )
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise FileFormatError(f"{where}: expected all of its weights, {names[0]}{more} missing")
    known = model.state_dict().keys()
    extra = sorted(name for name in info["unexpected_keys"] if _layerless(name, known))
    if extra:
        raise FileFormatError(
            f"{where}: more layers than its settings count ({extra[0]}): not its config.json"
        )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight.sum()) and not torch.isfinite(weight).all():
            raise FileFormatError(f"{where}: {name} holds NaN or infinity")


def _layerless(name: str, known: Collection[str]) -> bool:
    """Is it a weight that layer 0 has too, of a layer that the model lacks?"""
    return any(part.isdigit() for part in name.split(".")) and (
        re.sub(r"\.\d+\.", ".0.", name, count=1) in known
    )


def _unsupported(said: str) -> str | None:
    """The architecture in transformers' own refusal of a GGUF, if it is one."""
    start, end = "GGUF model with architecture ", " is not supported"
    return said[len(start) : said.index(end)] if said.startswith(start) and end in said else None


def _forget_quantisation(model: Any) -> None:
    """A GGUF's weights are plain once loaded; its settings would keep them from being saved."""
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def _need_transformers(name: str) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    missing = [n for n in NEEDS if importlib.util.find_spec(n) is None]
    if missing:
        raise UnavailableError(
            f"{name} needs {', '.join(missing)}: pip install 'rwkvedit[transformers]'"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from the loaders."""
    from transformers import modeling_gguf_pytorch_utils as reading
    from transformers.utils import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings(), patch.object(reading, "tqdm", lambda steps, **_: steps):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(before)
            if bars:
                logging.enable_progress_bar()


@contextmanager
def _read_once() -> Iterator[None]:
    """transformers parses a GGUF's header four times and builds its table of names once a module;
    inside, each is done once (SmolLM2 opens in less than half the time)."""
    import gguf

    with (
        patch.object(gguf, "GGUFReader", lru_cache(maxsize=1)(gguf.GGUFReader)),
        patch.object(gguf, "get_tensor_name_map", lru_cache(maxsize=8)(gguf.get_tensor_name_map)),
    ):
        yield
