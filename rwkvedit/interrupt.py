"""Ctrl-C as a question instead of an exception, for the stretches that must end properly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

PATIENCE = 3  # presses after which Ctrl-C is an exception again


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C is remembered; the value yielded says whether it was pressed.

    Off the main thread, or where Python does not own the signal, it stays as it is.
    """
    presses = 0

    def remember(number: int, frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses >= PATIENCE:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGINT) if main else None
    if previous is None:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: presses > 0
    finally:
        signal.signal(signal.SIGINT, previous)
