"""The settings of a conversation: their names, defaults, and what each takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.edit import STARTS
from rwkvedit.recurrent.methods import offered
from rwkvedit.recurrent.strength import parse_ratio

DEFAULTS: dict[str, Any] = {
    "max_tokens": 256,
    "method": "auto",
    "ratio": "auto",
    "layers": "upper",
    "start": "auto",
}
SAMPLING = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "presence": float,
    "frequency": float,
    "seed": int,
}


def names() -> str:
    """Every setting's name, for an error line."""
    return ", ".join([*SAMPLING, *DEFAULTS])


def setting(name: str, value: Any) -> Any:
    """``value`` as the setting ``name`` takes it, or a UsageError."""
    return _sampling_value(name, value) if name in SAMPLING else _setting_value(name, value)


def ratio(value: Any, said: str = "ratio") -> float | str:
    """An edit's strength: ``auto`` or a number above 0. Raises UsageError, naming it ``said``."""
    return parse_ratio(value, said) or "auto"


def _sampling_value(name: str, value: Any) -> Any:
    kind = SAMPLING[name]
    try:
        number = kind(value)
        if number < 0 and name == "seed":
            raise ValueError(value)
    except (TypeError, ValueError, OverflowError):
        wanted = "a whole number" if kind is int else "a number"
        wanted += " from 0 on" if name == "seed" else ""
        raise UsageError(f"{name} takes {wanted}, not '{value}'") from None
    return number


def _setting_value(name: str, value: Any) -> Any:
    if name == "ratio":
        return ratio(value)
    if name == "method":
        return _one_of(name, value, offered())
    if name == "start":
        return _one_of(name, value, STARTS)
    if name == "layers":
        return str(value)  # a range is of a model: ``Session.set`` checks it
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= 1_000_000:
        raise UsageError(f"max_tokens takes a whole number from 1 to 1000000, not '{value}'")
    return number


def _one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise UsageError(f"{name} is one of {', '.join(choices)}, not '{value}'")
    return str(value)
