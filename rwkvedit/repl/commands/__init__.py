"""The slash commands. Importing this package declares them all in ``REGISTRY``, in this order."""

from rwkvedit.repl.commands.base import REGISTRY

from . import memory, steps, talk, files, session, calib, study, help  # isort: skip

__all__ = ["REGISTRY", "calib", "files", "help", "memory", "session", "steps", "study", "talk"]
