"""rwkvedit: chat with an RWKV-7 model and edit what it remembers, live."""

from __future__ import annotations

__version__ = "0.1.0"
