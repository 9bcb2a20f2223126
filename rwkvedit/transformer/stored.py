"""Decompositions on disk: read vectors and write vectors of whole matrices, ours and SPD's.

Two forms are read. Our own, as ``save_components`` writes it: safetensors with ``{layer}.v`` (F, C)
and ``{layer}.u`` (C, D), bound to the digest of the weights. And a stored run of SPD
(``goodfire-ai/spd``): a torch state dict (read with ``weights_only``) with the decomposed model
under ``target_model.*`` and, for the matrix at ``path``,

    _components.<path with "." as "-">.V  (d_in, C)      and .U  (C, d_out)
    older: <path>.components.V and .U, or components.<path with "." as "-">.V and .U

beside a config in YAML (``final_config.yaml`` or any other ``.yaml``), whose ``C`` has to agree.
Only ``down_proj`` of a layer can be edited here; other matrices are passed over. Changes no
weights.

Glossary: F MLP width, D residual width, C components; W = (V U)^T + the rest.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.errors import FileFormatError, UnavailableError
from rwkvedit.files import (
    check_digest,
    load_tensors,
    read_bytes,
    refuse_nonfinite,
    save_tensors,
    spare_foreign,
)  # fmt: skip
from rwkvedit.transformer.components import Component

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

FORMAT, VERSION = "components", 1
CLOSE = 1e-3
"""Relative difference of the stored model's matrix up to which it is this model's."""
_NEW = re.compile(r"^(?:.*\.)?_?components\.(?P<path>[^.]+)\.(?P<part>[UV])$")
_OLD = re.compile(r"^(?P<path>.+)\.components\.(?P<part>[UV])$")


@dataclass(frozen=True, eq=False)
class Parts:
    """All components of one layer's ``down_proj``."""

    layer: int
    v: Tensor
    """(F, C) fp32."""
    u: Tensor
    """(C, D) fp32."""
    remainder: float
    """||W - (V U)^T|| / ||W||: what the components do not add up to."""

    @property
    def count(self) -> int:
        return self.v.shape[1]

    def component(self, at: int, name: str) -> Component:
        """Component ``at``: V's column, U's row."""
        return Component(name, self.layer, self.v[:, at].clone(), self.u[at].clone())


def save_components(
    path: str | Path, session: ModelSession, parts: Mapping[int, tuple[Tensor, Tensor]]
) -> Path:
    """Write {layer: (V, U)}, bound to the session's base weights."""
    tensors = {}
    for layer, (v, u) in parts.items():
        tensors |= {f"{layer}.v": v, f"{layer}.u": u}
    label = {
        "format": FORMAT, "version": VERSION, "model_digest": session.edits.base_digest,
        "layers": sorted(parts), "axes": "v (F, C), u (C, D)",
    }  # fmt: skip
    return save_tensors(spare_foreign(path, FORMAT), tensors, label)


def load_components(session: ModelSession, path: str | Path) -> dict[int, Parts]:
    """{layer: Parts} of a file. FileFormatError, in one line, on anything damaged or not for
    this model."""
    path = Path(path).expanduser()
    if read_bytes(path)[:2] == b"PK" or path.suffix in (".pth", ".pt", ".bin"):
        return _spd(session, path)
    tensors, meta = load_tensors(path, FORMAT, VERSION)
    check_digest(path, "model", session.edits.base_digest, meta.get("model_digest"))
    found = {}
    for layer in meta.get("layers") or ():
        v, u = tensors.get(f"{layer}.v"), tensors.get(f"{layer}.u")
        if v is None or u is None:
            raise FileFormatError(f"{path}: truncated: layer {layer} has no v or no u")
        found[int(layer)] = _checked(session, path, int(layer), v, u)
    return found


def _checked(session: ModelSession, path: Path, layer: int, v: Tensor, u: Tensor) -> Parts:
    d, f = session.d_model, session.shape.d_ffn
    good = v.dim() == u.dim() == 2 and v.shape[1] == u.shape[0]
    if not good or layer >= session.n_layer or (v.shape[0], u.shape[1]) != (f, d):
        raise FileFormatError(
            f"{path}: made for another model: layer {layer} has V {tuple(v.shape)} and U "
            f"{tuple(u.shape)}, expected a layer below {session.n_layer} with V ({f}, C) and "
            f"U (C, {d})"
        )
    refuse_nonfinite(path, {f"{layer}.v": v, f"{layer}.u": u})
    weight = session.edits.base(layer).detach().float().cpu()
    v, u = v.float(), u.float()
    return Parts(layer, v, u, float((weight - (v @ u).T).norm() / weight.norm()))


def _spd(session: ModelSession, path: Path) -> dict[int, Parts]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(f"{path}: expected a torch state dict, found none ({why})") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise FileFormatError(f"{path}: expected a state dict of tensors, found another value")
    named: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = _NEW.match(key) or _OLD.match(key)
        if match is not None:
            where = match["path"].replace("-", ".").removeprefix("target_model.")
            named.setdefault(where, {})[match["part"]] = tensor
    if not named:
        raise FileFormatError(
            f"{path}: expected an SPD run with _components.<path>.V and .U, found "
            f"{', '.join(list(state)[:3]) or 'nothing'}"
        )
    _config(path, named)
    found = {}
    for layer in range(session.n_layer):
        name = session.model.down_proj_name(layer).removesuffix(".weight")
        parts = named.get(name)
        if parts is None:
            continue
        if set(parts) != {"U", "V"}:
            raise FileFormatError(f"{path}: truncated: {name} has {', '.join(parts)} alone")
        found[layer] = _checked(session, path, layer, parts["V"], parts["U"])
        _same_model(session, path, layer, state.get(f"target_model.{name}.weight"))
    if not found:
        raise FileFormatError(
            f"{path}: made for another model: it decomposes {', '.join(list(named)[:3])}, expected "
            f"{session.model.down_proj_name(0).removesuffix('.weight')} or another layer's"
        )
    return found


def _same_model(session: ModelSession, path: Path, layer: int, stored: Tensor | None) -> None:
    """Refuse a run whose model has other weights; it is held against the base weights."""
    if stored is None:
        return
    weight = session.edits.base(layer).detach().float().cpu()
    stored = stored.float()
    if stored.shape != weight.shape and stored.T.shape == weight.shape:
        stored = stored.T  # GPT-2 keeps its matrices the other way round
    if stored.shape != weight.shape or float((stored - weight).norm()) > CLOSE * float(
        weight.norm()
    ):
        raise FileFormatError(
            f"{path}: made for another model: its target_model has other weights in layer {layer}"
        )


def _config(path: Path, named: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Hold the config beside the run against its tensors, where there is one."""
    beside = [path.parent / "final_config.yaml", *sorted(path.parent.glob("*.y*ml"))]
    file = next((p for p in beside if p.is_file()), None)
    if file is None:
        return
    try:
        import yaml
    except ImportError:
        raise UnavailableError(
            f"{file.name} needs PyYAML: pip install 'rwkvedit[transformers]'"
        ) from None
    try:
        config = yaml.safe_load(read_bytes(file))
    except yaml.YAMLError:
        raise FileFormatError(f"{file}: expected YAML, found a damaged one") from None
    wanted = config.get("C") if isinstance(config, dict) else None
    counts = {parts["V"].shape[1] for parts in named.values() if "V" in parts}
    if isinstance(wanted, int) and counts and counts != {wanted}:
        raise FileFormatError(
            f"{path}: not the run of {file.name}: expected {wanted} components, found "
            f"{', '.join(map(str, sorted(counts)))}"
        )
