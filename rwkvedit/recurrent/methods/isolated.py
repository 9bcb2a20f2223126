"""Methods whose delta is the fact told alone, from a fresh state."""

from __future__ import annotations

from torch import Tensor

from rwkvedit.recurrent.methods.registry import method
from rwkvedit.recurrent.workspace import Workspace


@method("isolate", "alone-old", "alone-new")
def isolate(ws: Workspace) -> Tensor:
    """The fact told alone, new minus old, as an acknowledged chat turn from a fresh state.

    The conversation, which both tellings would share, has cancelled: ``delta = state(new alone) -
    state(old alone)``, all ranks.
    """
    return ws.delta("alone")
