"""``--png FILE`` and ``--html FILE`` of the commands that look into a model. Prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.repl.registry import Option

PNG = Option("--png", "draw it there", metavar="FILE", completer="file")
HTML = Option("--html", "write it there as one self-contained page", metavar="FILE",
              completer="file")  # fmt: skip
ENDINGS = {"png": (".png",), "html": (".html", ".htm")}


class Pictures:
    """Where pictures go. Made before the work, so that a wrong name costs no waiting.

    Raises UsageError on another kind of file, UnavailableError without matplotlib.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.began = time.perf_counter()
        self.paths: dict[str, Path] = {}
        for kind, endings in ENDINGS.items():
            if options.get(kind) is None:
                continue
            path = Path(options[kind]).expanduser()
            if path.suffix.lower() not in endings:
                raise UsageError(f"--{kind} takes a {endings[0]} file, not '{options[kind]}'")
            self.paths[kind] = path
        if self.paths:
            from rwkvedit.report.plots import require_matplotlib

            require_matplotlib()

    def __bool__(self) -> bool:
        return bool(self.paths)

    def write(
        self,
        session: Any,
        command: str,
        plot: Callable[[], Any],
        page: Callable[[Mapping[str, Any]], str],
        seed: int | None = None,
    ) -> list[str]:
        """Draw what was asked for; a notice for each file. ``command`` is what makes it again."""
        from rwkvedit.files import atomic_write
        from rwkvedit.report.meta import meta_of
        from rwkvedit.report.plots import png

        notices = []
        if "png" in self.paths:
            notices.append(f"wrote {atomic_write(self.paths['png'], png(plot()))}")
        if "html" in self.paths:
            loaded = SimpleNamespace(model=session, name=session.name)
            meta = meta_of(loaded, seed, command, time.perf_counter() - self.began)
            notices.append(f"wrote {atomic_write(self.paths['html'], page(meta))}")
        return notices
