"""Moving an activation from one prompt's run into another's. One layer, one position at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.transformer.builtin import Record
from rwkvedit.transformer.hooks import position, site_name
from rwkvedit.transformer.results import PatchResult

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession, Prompt

PATCHABLE = ("resid_in", "resid_mid", "resid_out", "att.out", "ffn.key", "ffn.out")


def patch_activations(
    session: ModelSession,
    donor: Prompt,
    recipient: Prompt,
    layer: int,
    position_: int = -1,
    donor_position: int | None = None,
    site: str = "resid_out",
    bos: bool | None = None,
) -> PatchResult:
    """Run ``recipient`` with the donor's activation at (layer, position).

    ``donor_position`` None takes the same position in the donor (a negative one counts from each
    prompt's own end). ``site`` is one of PATCHABLE or its TransformerLens name.
    """
    session.shape.layer(layer)
    site = site_name(site)
    if site not in PATCHABLE:
        raise UsageError(f"{site} cannot be patched: choose {', '.join(PATCHABLE)}")
    theirs, mine = session.tokens(donor, bos), session.tokens(recipient, bos)
    to = position(position_, len(mine))
    source = position(position_ if donor_position is None else donor_position, len(theirs))
    record = Record(layer, site)
    given = session.forward(theirs, [record])
    value = record.tensors_of(f"blocks.{layer}.{site}")[0][0, source]

    def put(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, to] = value
        return x

    before = session.forward(mine)
    after = session.forward(mine, taps={f"blocks.{layer}.{site}": put})
    return PatchResult(before, given, after, layer, to, source)
