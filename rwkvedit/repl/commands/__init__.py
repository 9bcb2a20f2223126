"""The slash commands. Importing this package declares them all in ``REGISTRY``, in this order."""

from rwkvedit.repl.commands.base import REGISTRY

from . import memory, steps, talk, files, session, calib, study  # isort: skip
from . import sessions, locate, look, inside, weights, writing, profile, help  # isort: skip

__all__ = [
    "REGISTRY", "calib", "files", "help", "inside", "locate", "look", "memory", "profile",
    "session", "sessions", "steps", "study", "talk", "weights", "writing",
]  # fmt: skip
