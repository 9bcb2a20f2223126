"""Where files live. Knows nothing of models or screens.

``RWKVEDIT_HOME`` moves all three folders under one place (tests and portable installs).
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

APP = "rwkvedit"


def _folder(kind: str, default: str) -> Path:
    home = os.environ.get("RWKVEDIT_HOME")
    return Path(home) / kind if home else Path(default)


def data_dir() -> Path:
    """Calibrations and fetched models."""
    return _folder("data", platformdirs.user_data_dir(APP))


def state_dir() -> Path:
    """History and saved conversations."""
    return _folder("state", platformdirs.user_state_dir(APP))


def cache_dir() -> Path:
    """Things that can be made again: compiled kernels, statistics."""
    return _folder("cache", platformdirs.user_cache_dir(APP))
