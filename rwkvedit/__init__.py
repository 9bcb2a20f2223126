"""rwkvedit: chat with an RWKV-7 model and edit what it remembers, live.

    import rwkvedit

    session = rwkvedit.open()
    session.say("Bob lives in Austin.")
    session.edit("Bob lives in Austin", "Bob lives in Chicago")
    print(session.ask("Where does Bob live?"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwkvedit.session import Session

__version__ = "0.1.0"


def open(
    model: str = "embedded", *, system: str | None = None, sampler: Any = None, **options: Any
) -> Session:
    """A Session with ``model`` (a name or a path); options are those of ``load_model``."""
    from rwkvedit.models.catalog import load_model
    from rwkvedit.session import Session

    return Session(load_model(model, **options), sampler, system)
