"""Sessions on ordinary transformers (and on our RWKV-7): hooks, lenses, patching, generation.

    from rwkvedit.transformer import open_session, Steer
    session = open_session("smollm2")
    session.forward("The capital of France is").top(3)

transformers itself is imported when the first transformer is opened.
"""

from rwkvedit.transformer.builtin import Composite, Noop, Record, Steer, ZeroAblate
from rwkvedit.transformer.hooks import Hook
from rwkvedit.transformer.loading import open_session
from rwkvedit.transformer.session import ModelSession

__all__ = [
    "Composite", "Hook", "ModelSession", "Noop", "Record", "Steer", "ZeroAblate", "open_session",
]  # fmt: skip
