"""The editing methods. Importing a module here registers its methods, in the order listed.

All deltas are (l, H, N, N) over the edited layers, axes (layer, head, value, key); the edit is
``wkv + alpha * delta``. A new method is a function under ``@method`` in one of these modules.
"""

from rwkvedit.recurrent.methods import (  # isort: skip
    hybrid,
    isolated,
    replayed,
    donorless,
    projected,
    nullspace,
    optimised,
    baselines,
)
from rwkvedit.recurrent.methods.registry import (
    AUTO,
    AUTO_SEVERAL,
    METHODS,
    Method,
    find_method,
    method,
    offered,
)

__all__ = [
    "AUTO",
    "AUTO_SEVERAL",
    "METHODS",
    "Method",
    "baselines",
    "donorless",
    "find_method",
    "hybrid",
    "isolated",
    "method",
    "nullspace",
    "offered",
    "optimised",
    "projected",
    "replayed",
]
