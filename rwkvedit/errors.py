"""One family of errors a user can cause; each is one line that says what to type next.

Anything outside this family that reaches the top is a bug and keeps its traceback.
"""

from __future__ import annotations


class RwkvEditError(Exception):
    """A command failed. ``str(error)`` is the single line shown to the user."""

    exit_code = 1


class UsageError(RwkvEditError):
    """The user's words could not be understood (exit code 2)."""

    exit_code = 2


class UnavailableError(RwkvEditError):
    """A model or a device that was asked for is not there (exit code 3)."""

    exit_code = 3


class FileFormatError(RwkvEditError):
    """A file was refused: what was expected and what was found."""
