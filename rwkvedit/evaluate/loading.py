"""One model a benchmark: loaded by whoever needs it first, then found on the arguments."""

from __future__ import annotations

import argparse

from rwkvedit.models.catalog import LoadedModel, load_model


def load_once(args: argparse.Namespace) -> LoadedModel:
    """The model that ``--model`` and ``--device`` name; kept as ``args.loaded``."""
    if getattr(args, "loaded", None) is None:
        name, device = getattr(args, "model", None), getattr(args, "device", None)
        args.loaded = load_model(name or "embedded", device=device or "auto")
    return args.loaded
