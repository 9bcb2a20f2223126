"""Decoding: passes of one token a sequence, one after another, on a standing job.

Streaming a model's weights sweeps everything else out of the caches, so each line of Python between
two tokens is dear: all that does not change from token to token is set up once, and helpers stay
inside between tokens (see ``fused_numba.work_on``). Knows a packed model's shapes and plans.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import fused_numba as fused
from .crew import Crew
from .passes import KEEP_SCRATCH, NONE, fresh, one_each, work_areas
from .pool import bell, call_helpers

if TYPE_CHECKING:
    from .packed import PackedModel

Results = tuple[Tensor, Tensor, Tensor, Tensor]  # logits and the state
_work_on: Callable[..., None] = fused.work_on

_KEPT = 8  # jobs that a thread holds on to: each keeps the work areas it was made with


class Decoders:
    """A model's decoding jobs: one for each thread of Python's, number of sequences and crew."""

    def __init__(self, model: PackedModel) -> None:
        self._model = weakref.ref(model)  # which holds this one
        self._crews: dict[tuple[int, int], Crew] = {}
        self._local = threading.local()

    def run(
        self, tokens: Sequence[int], att_x: Tensor, wkv: Tensor, ffn_x: Tensor, most: int,
        single: bool = False,
    ) -> Results:  # fmt: skip
        """One token of each sequence, on up to ``most`` threads.

        The state holds one row a sequence, or a single row that all of them start from; with
        ``single``, for the one token, neither it nor what comes back has a batch axis. Tokens are
        not checked. Raises ValueError for a state of other rows, or not on the CPU.
        """
        began, count = time.perf_counter(), len(tokens)
        _check(count, (att_x, wkv, ffn_x), single)
        crew = self._crews.get((count, most))
        if crew is None:
            crew = self._crews[count, most] = Crew(most)
        workers = crew.pick()
        shared = count > 1 and (len(wkv) == 1 or wkv.stride(0) == 0)
        try:
            found = self._job(count, workers, shared).run(tokens, att_x, wkv, ffn_x, single)
        except BaseException:
            self._local.__dict__.clear()  # a job that was cut off is not to be trusted
            raise
        crew.took(workers, time.perf_counter() - began)
        return found

    def _job(self, count: int, workers: int, shared: bool) -> _Standing:
        key = count, workers, shared, os.getpid()  # helpers do not survive a fork
        jobs = self._local.__dict__.setdefault("jobs", {})
        job = jobs.pop(key, None)
        if job is None:
            model = self._model()
            assert model is not None, "a model outlives its decoding"
            job = _Standing(model, count, workers, shared)
            if job.nbytes > KEEP_SCRATCH:
                return job
            if len(jobs) >= _KEPT:
                del jobs[next(iter(jobs))]  # the one that was not used for longest
        jobs[key] = job
        return job


class _Standing:
    """The arguments of one ``work_on``, kept from token to token."""

    def __init__(self, model: PackedModel, count: int, workers: int, shared: bool) -> None:
        self.count, self.workers, self.shared = count, workers, shared
        scalars, phases = model.plan(count, count, count, workers)
        layout = one_each(count)
        self.shapes = [*model.state_shapes, (model.vocab_size,)]
        elements = [*model.state_sizes, model.vocab_size]
        rows = [1 if shared else count] * 3 + [count] * 4
        self.ctrl = np.zeros(fused.CONTROLS, np.int64)
        self.tokens = np.zeros(count, np.int64)
        self.at = np.zeros(len(rows), np.int64)
        sizes = np.array(rows) * np.array([*elements[:3], *elements])
        source = np.zeros(count, np.int64) if shared else np.arange(count)
        areas = work_areas(model, count)
        self.nbytes = sum(area.nbytes for area in areas.values())
        self.padded = areas["y"] if areas["y"].size > areas["x"].size else None
        self.args = (
            model.matrices, model.emb, model.small, scalars, model.table, model.meta, phases,
            self.ctrl, self.tokens, layout.row_seq, layout.starts, NONE, source,
            np.full(count, -1), self.at, sizes,
            *areas.values(), bell(),
        )  # fmt: skip
        self.finishing = (*self.args, True)

    def run(
        self, tokens: Sequence[int], att_x: Tensor, wkv: Tensor, ffn_x: Tensor, single: bool
    ) -> Results:
        if self.shared:
            att_x, wkv, ffn_x = att_x[:1], wkv[:1], ffn_x[:1]
        ins = _plain(att_x), _plain(wkv), _plain(ffn_x)
        lead = () if single else (self.count,)
        outs = [fresh(lead + shape) for shape in self.shapes]
        self.tokens[:] = tokens
        self.at[:] = [t.data_ptr() for t in (*ins, *outs)]
        if self.padded is not None:
            self.padded[:] = 0  # a padded column must hold a number, whatever ran since
        helpers = self.workers - 1
        coming = self.ctrl[fused.C_PRESENT] + self.ctrl[fused.C_COMING]
        self.ctrl[fused.C_CALLED] = helpers if coming < helpers else 0
        if coming < helpers:
            call_helpers(helpers, _work_on, self.args)
        _work_on(*self.finishing)  # the interpreter may go on meanwhile
        return outs[3], outs[0], outs[1], outs[2]


def _check(count: int, state: tuple[Tensor, Tensor, Tensor], single: bool) -> None:
    """The kernel reads a state by its address: it must be there, and have the rows."""
    if any(t.device.type != "cpu" for t in state):
        raise ValueError("this kernel reads states on the CPU only")
    if not single:
        rows = {len(t) for t in state}
        if rows not in ({count}, {1}):
            raise ValueError(f"a state of {sorted(rows)} rows for {count} tokens")


def _plain(tensor: Tensor) -> Tensor:
    """The tensor as contiguous float32: itself if it is that."""
    if tensor.dtype == torch.float32 and tensor.is_contiguous():
        return tensor
    return tensor.detach().to(torch.float32).contiguous()
