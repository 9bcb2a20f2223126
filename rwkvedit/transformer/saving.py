"""Writing an edited model where other programs read it, and what makes its edits reversible.

A transformer becomes a folder as transformers saves it; one that was read from a GGUF file also
becomes a GGUF file, in which every tensor but the edited ones is the source's own bytes. An RWKV-7
becomes a ``.safetensors`` checkpoint. Beside them ``rwkvedit-edits.safetensors`` keeps the base
weights of the edited layers and the deltas, so that reversing is exact in another process too.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.files import atomic_write, load_tensors, save_tensors
from rwkvedit.transformer.blocks import HFModel
from rwkvedit.transformer.patchfile import Patch
from rwkvedit.transformer.vocabulary import HFCodec, WorldCodec
from rwkvedit.transformer.weights import Delta, Dense, RankOne

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

RECORD, FORMAT, VERSION = "rwkvedit-edits.safetensors", "weight-edits", 1


@dataclass(frozen=True)
class Saved:
    """What was written, and what to say about it."""

    paths: list[Path]
    notices: list[str] = field(default_factory=list)


def save_model(session: ModelSession, folder: str | Path, patches: Sequence[Patch] = ()) -> Saved:
    """Write the session's weights as they are now into ``folder``, which must be empty or new.

    ``patches`` are named in the record. The folder appears whole or not at all. UsageError when it
    holds something, RwkvEditError when the disk is full.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something already: name a new folder to save into")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            there = Path(temporary) / "model"
            there.mkdir()
            notices = (_rwkv if session.kind == "rwkv7" else _transformer)(session, there)
            _record(session, there / RECORD, patches)
            if folder.exists():
                folder.rmdir()
            shutil.move(str(there), folder)
    except OSError as error:
        raise RwkvEditError(
            f"cannot write {folder}: {error.strerror or error}; nothing was saved"
        ) from error
    return Saved(sorted(folder.iterdir()), [f"wrote {folder}", *notices])


def adopt_saved(session: ModelSession) -> bool:
    """Take over the record beside a model that ``save_model`` wrote: its edits are then live.

    False where there is none, or where the weights in memory are not those that it describes
    (another dtype, a GGUF's rounded weights, a file changed since).
    """
    if session.path is None or session.edits.live:
        return False
    home = session.path if session.path.is_dir() else session.path.parent
    if not (home / RECORD).is_file():
        return False
    tensors, meta = load_tensors(home / RECORD, FORMAT, VERSION)
    base = {int(layer): tensors[f"base.{layer}"] for layer in meta["layers"]}
    deltas: list[Delta] = []
    for at, row in enumerate(meta["deltas"]):
        parts = [tensors[f"delta.{at}.{i}"] for i in range(row["parts"])]
        kind = RankOne if row["kind"] == RankOne.kind else Dense
        deltas.append(kind(int(row["layer"]), *parts))
    return session.edits.adopt(base, deltas, str(meta["base_digest"]))


def _record(session: ModelSession, path: Path, patches: Sequence[Patch]) -> None:
    live = session.edits.live
    if not live:
        return
    layers = sorted({delta.layer for delta in live})
    tensors = {f"base.{layer}": session.edits.base(layer) for layer in layers}
    rows: list[dict[str, Any]] = []
    for at, delta in enumerate(live):
        tensors |= {f"delta.{at}.{i}": part for i, part in enumerate(delta.parts)}
        rows.append({"kind": delta.kind, "layer": delta.layer, "parts": len(delta.parts)})
    meta = {
        "format": FORMAT, "version": VERSION, "base_digest": session.edits.base_digest,
        "model_digest": session.digest, "tokenizer_digest": session.vocabulary.digest,
        "layers": layers, "deltas": rows, "axes": "base.N and dense deltas: (hidden, intermediate)",
        "patches": [dict(patch.header()) for patch in patches],
    }  # fmt: skip
    save_tensors(path, tensors, meta)


def _rwkv(session: ModelSession, folder: Path) -> list[str]:
    weights = {k: t.detach().cpu().contiguous() for k, t in session.model.named_weights().items()}
    atomic_write(folder / "model.safetensors", safetensors.torch.save(weights))
    codec = session.vocabulary.codec
    assert isinstance(codec, WorldCodec)
    atomic_write(folder / "vocab.txt", codec.tokenizer.file_text())
    return []


def _transformer(session: ModelSession, folder: Path) -> list[str]:
    from rwkvedit.transformer.loading import quiet

    model, codec = session.model, session.vocabulary.codec
    assert isinstance(model, HFModel) and isinstance(codec, HFCodec)
    with quiet():
        model.model.save_pretrained(folder)
        codec.tokenizer.save_pretrained(folder)
    source = _gguf_source(session)
    if source is None:
        return ["no GGUF file beside it: the model was not read from one"]
    return _gguf(session, source, folder / f"{source.stem}-edited.gguf")


def _gguf_source(session: ModelSession) -> Path | None:
    """The GGUF file that the session was read from."""
    path = session.path
    if path is None:
        return None
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    if (path / "config.json").is_file():
        return None
    return next(iter(sorted(path.glob("*.gguf"))), None)


def _gguf(session: ModelSession, source: Path, target: Path) -> list[str]:
    """The source file with the edited layers' tensors written anew, in their own type or F16."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture")
    assert architecture is not None
    writer = gguf.GGUFWriter(target, architecture.contents(), endianess=reader.endianess)
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        inner = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=inner)
    edited = {f"blk.{d.layer}.ffn_down.weight": d.layer for d in session.edits.live}
    bodies, notices = [], []
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name in edited:
            weight = session.model.down_proj(edited[tensor.name])
            data, kind, note = _quantised(weight, kind)
            notices.append(f"{target.name}: {tensor.name} {note}")
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, kind)
        bodies.append(data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for data in bodies:
        writer.write_tensor_data(data)
    writer.close()
    return notices


def _quantised(weight: Tensor, kind: Any) -> tuple[np.ndarray, Any, str]:
    """(bytes, type, what to say): ``kind`` again where gguf can write it, else F16."""
    import gguf
    from gguf import quants

    values = weight.detach().float().cpu().contiguous().numpy()
    try:
        return quants.quantize(values, kind), kind, f"is {kind.name}, as it was read"
    except NotImplementedError:
        half = gguf.GGMLQuantizationType.F16
        return (
            values.astype(np.float16), half,
            f"is F16, because gguf cannot write {kind.name}",
        )  # fmt: skip
