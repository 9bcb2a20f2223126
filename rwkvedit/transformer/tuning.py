"""Settings of ``rome``, ``memit`` and ``alphaedit`` for one model: found by a run, saved, loaded.

They belong to the weights that they were found on (their digest): what suits one model is wrong
for another. Those of models that ``rwkvedit models pull`` knows ship with the package; a user's own
calibration is kept in the data folder and comes first. Edits nothing by itself.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvedit.config import data_dir
from rwkvedit.errors import FileFormatError
from rwkvedit.files import atomic_write, read_bytes

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

SHIPPED = "settings.json"
DEPTHS = (0.15, 0.10, 0.20)
"""Where to look first in a model that was never calibrated, as shares of its depth."""
SPREAD = (0.10, 0.17)


@dataclass(frozen=True)
class Settings:
    """How edits are made. Lengths are in units of ||h||, the residual at the subject."""

    layers: tuple[int, ...]
    """``rome``: candidates, the best first."""
    spread: tuple[int, ...]
    """``memit`` and ``alphaedit``: the layers that share the work, lowest first."""
    steps: int = 12
    """Of Adam, at most."""
    rate: float = 0.25
    """A step moves each entry of d by this times the rms of h."""
    clamp: float = 1.5
    """The longest d."""
    kl: float = 0.0625
    decay: float = 0.02
    """Of (||d|| / ||h||)^2."""
    enough: float = 0.8
    """Stop when P(answer) is this in every context."""
    contexts: int = 2
    ridge: float = 0.05
    """Added to C's diagonal, times its mean."""
    weight: float = 1.0
    """``memit``: of C beside the new keys' own second moments (lambda), in units of tokens."""
    cut: float = 0.3
    """``alphaedit``: directions of C below this share of its mean eigenvalue are free."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """How they were found; empty when they were not."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def settings_for(session: ModelSession) -> Settings:
    """The settings of these weights (of the base, whatever is live): own, shipped, or a guess.

    ``found`` is empty where nobody calibrated this model. FileFormatError on a damaged file.
    """
    own = own_file(session)
    if own.exists():
        return _read(own, read_bytes(own))
    shipped = importlib.resources.files("rwkvedit.transformer") / SHIPPED
    known = json.loads(shipped.read_text(encoding="utf-8"))
    row = known.get(session.edits.base_digest)
    return guess(session) if row is None else from_json(row)


def guess(session: ModelSession) -> Settings:
    """Settings of a model that was never calibrated."""
    n = session.n_layer
    layers = [min(n - 1, round(depth * n)) for depth in DEPTHS]
    low, high = (min(n - 1, round(depth * n)) for depth in SPREAD)
    return Settings(tuple(dict.fromkeys(layers)), tuple(range(low, high + 1)))


def own_file(session: ModelSession) -> Path:
    """Where a calibration of this model is kept."""
    return data_dir() / "settings" / f"{session.edits.base_digest[:16]}.json"


def save(session: ModelSession, settings: Settings) -> Path:
    """Keep a calibration for this model."""
    text = json.dumps(settings.to_json(), indent=2, ensure_ascii=False) + "\n"
    return atomic_write(own_file(session), text)


def _read(path: Path, data: bytes) -> Settings:
    try:
        return from_json(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileFormatError(
            f"{path}: expected the settings of a calibration ({error}); delete it, or calibrate "
            "again"
        ) from None


def from_json(row: Mapping[str, Any]) -> Settings:
    """What ``Settings.to_json`` gave. Raises KeyError, TypeError or ValueError on anything else."""
    known = {f.name for f in fields(Settings)}
    values = {name: value for name, value in row.items() if name in known}
    return Settings(
        **{**values, "layers": tuple(map(int, values["layers"])),
           "spread": tuple(map(int, values["spread"]))}
    )  # fmt: skip
