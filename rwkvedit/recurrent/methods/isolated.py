"""Methods whose delta is the fact told alone, from a fresh state.

Three tellings: ``alone`` (a user's turn with its acknowledgement, the form in which a chat tells
facts), ``bare`` (the sentence and nothing else) and ``free`` (the words around the value without
the one they are about). The published ISOLATE is ``iso-wt`` here: ``isolate`` keeps the chat's
form and every head's weight.
"""

from __future__ import annotations

from torch import Tensor

from rwkvedit.recurrent.methods.registry import method, published
from rwkvedit.recurrent.spectrum import dominance, truncated
from rwkvedit.recurrent.workspace import Workspace

ALONE = ("alone-old", "alone-new")
BARE = ("bare-old", "bare-new")
FREE = ("free-old", "free-new")

_OURS = "ours: ISO-UNI told as an acknowledged chat turn"


@method("isolate", *ALONE, source=_OURS)
def isolate(ws: Workspace) -> Tensor:
    """The fact told alone, new minus old, as an acknowledged chat turn from a fresh state.

    The conversation, which both tellings would share, has cancelled: ``delta = state(new alone) -
    state(old alone)``, all ranks.
    """
    return ws.delta("alone")


@method("iso-r1", *ALONE, source=_OURS + ", its rank 1")
def iso_r1(ws: Workspace) -> Tensor:
    """The rank-1 part of isolate's delta in every head: ``sigma1 u1 v1^T``."""
    return truncated(ws.delta("alone"), 1)


@method("iso-r2", *ALONE, source=_OURS + ", its rank 2")
def iso_r2(ws: Workspace) -> Tensor:
    """The rank-2 part of isolate's delta in every head."""
    return truncated(ws.delta("alone"), 2)


@method("iso-r4", *ALONE, source=_OURS + ", its rank 4")
def iso_r4(ws: Workspace) -> Tensor:
    """The rank-4 part of isolate's delta in every head."""
    return truncated(ws.delta("alone"), 4)


@method("iso-uni", *BARE, source=published("calibrated-edit.cpp", "ISO-UNI"))
def iso_uni(ws: Workspace) -> Tensor:
    """The bare sentence from a fresh state, new minus old, every head alike.

    ``delta = state("Bob lives in Chicago.") - state("Bob lives in Austin.")``, outside any turn.
    """
    return ws.delta("bare")


@method("iso-wt", *BARE, source=published("calibrated-edit.cpp", "ISOLATE"))
def iso_wt(ws: Workspace) -> Tensor:
    """The bare sentence from a fresh state, each head weighted by how rank-1 its delta is.

    ``delta_h = (sigma1 / sum_i sigma_i)_h D_h`` with D iso-uni's delta: coherent writes keep their
    strength, diffuse ones lose it.
    """
    delta = ws.delta("bare")
    return dominance(delta)[..., None, None] * delta


@method("iso-free", *FREE, source=published("calibrated-multi.cpp", "ISO-FREE"))
def iso_free(ws: Workspace) -> Tensor:
    """The words around the value without a name ("lives in Chicago"), weighted as iso-wt.

    ``delta_h = (sigma1 / sum_i sigma_i)_h D_h``, ``D = state(words + new) - state(words + old)``
    from a fresh state. Knows what is written, not about whom: it cannot tell entities apart.
    """
    delta = ws.delta("free")
    return dominance(delta)[..., None, None] * delta
