"""Anatomy: how a model holds a told fact, measured. One function a study, in one registry.

    from rwkvedit.study import run_study

    found = run_study("layer-sweep", worlds=20)      # or a path, a LoadedModel, a Session
    print(found.finding)

Importing this package declares every study in ``STUDIES``, in this order.
"""

from rwkvedit.study.base import STUDIES, Entry, Options, Study, find_study, run_study

from . import (  # isort: skip
    layers, heads, ranks, directions, tokens, norms, parts, distance, similarity, probes, steering,
)

__all__ = [
    "STUDIES", "Entry", "Options", "Study", "directions", "distance", "find_study", "heads",
    "layers", "norms", "parts", "probes", "ranks", "run_study", "similarity", "steering", "tokens",
]
