"""One model a benchmark: loaded by whoever needs it first, then found on the arguments."""

from __future__ import annotations

import argparse

from rwkvedit.models.catalog import LoadedModel, load_model


def load_once(args: argparse.Namespace) -> LoadedModel:
    """The model that the model options name, those that there are; kept as ``args.loaded``."""
    if getattr(args, "loaded", None) is None:

        def asked(name: str) -> str | None:
            return getattr(args, name, None)

        args.loaded = load_model(
            asked("model") or "embedded", asked("device") or "auto", asked("dtype"),
            asked("backend") or "native", vocab=asked("vocab"),
        )
    return args.loaded
