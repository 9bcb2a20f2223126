"""How many threads a short job is best given, learned while it runs again and again.

Knows no models, only times. Streaming weights from memory is a job that one core may do nearly as
fast as two, and where a scheduler packs woken threads onto their waker's core, faster.
"""

from __future__ import annotations

import statistics
from collections import deque

_FIRST = 3  # timings of each choice before one is preferred
_KEPT = 9  # timings of each choice that are remembered
_LOOK_AGAIN = 40  # jobs between two looks at the choice that is not preferred


class Crew:
    """Chooses between one thread and ``most``; tell it what each job took with :meth:`took`."""

    def __init__(self, most: int) -> None:
        self.choices = (most, 1) if most > 1 else (1,)
        self._times = {n: deque[float](maxlen=_KEPT) for n in self.choices}
        self._jobs = 0

    def pick(self) -> int:
        """Threads for the next job."""
        if len(self.choices) == 1:
            return 1
        self._jobs += 1
        untried = [n for n in self.choices if len(self._times[n]) < _FIRST]
        if untried:
            return min(untried, key=lambda n: len(self._times[n]))
        best = self.best
        if self._jobs % _LOOK_AGAIN == 0:
            return next(n for n in self.choices if n != best)
        return best

    @property
    def best(self) -> int:
        """The choice whose jobs took the least, at the median; ``most`` before any ran."""
        known = [n for n in self.choices if self._times[n]]
        return min(known, key=lambda n: statistics.median(self._times[n]), default=self.choices[0])

    def took(self, threads: int, seconds: float) -> None:
        """What a job on this many threads took."""
        if threads in self._times:
            self._times[threads].append(seconds)
