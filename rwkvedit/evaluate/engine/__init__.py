"""The same tasks here, in processes of this machine, or on a Ray cluster; nothing done is lost.

A task is plain data (JSON); a worker is a function of it, made once in each process by a factory
that is named ``package.module:function`` and given a setup (JSON too). Every engine has one call,
``map``, which yields results as they come. A worker that dies costs its task a new start, nothing
else; with ``run`` every result is on disk before the next is looked at, so that a run that is
killed goes on where it was.

    here        in this process, one task after another
    processes   some processes of this machine
    rays        actors of a Ray cluster, or of one started for the occasion (the ``ray`` extra)
"""

from rwkvedit.evaluate.engine.base import (
    ENGINES,
    Engine,
    Factory,
    Task,
    add_arguments,
    engine_for,
    run,
)

__all__ = ["ENGINES", "Engine", "Factory", "Task", "add_arguments", "engine_for", "run"]
