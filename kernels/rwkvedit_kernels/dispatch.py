"""One place that picks a kernel; nothing else asks what machine this is.

``numba`` serves the CPU, ``triton`` CUDA devices (where Triton can be imported), ``ref`` is plain
torch and runs anywhere. ``with use_backend("ref"):`` overrides the choice for tests.

    r, w, k, v, a, b   (B, T, H, N)   receptance, decay in (0, 1), key, value, removal, replacement
    state              (B, H, N, N)   axes (head, value, key), float32
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import Tensor

from .reads_numba import addresses as _addresses
from .reads_numba import addresses_ref
from .wkv7_autograd import wkv7 as _differentiable
from .wkv7_numba import wkv7_forward
from .wkv7_ref import wkv7_ref, wkv7_step

BACKENDS = ("numba", "ref", "triton")
_override: ContextVar[str | None] = ContextVar("rwkvedit_kernel_backend", default=None)
_kernel_threads: ContextVar[int | None] = ContextVar("rwkvedit_kernel_threads", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Every kernel chosen inside the block is ``name``'s: "numba", "ref" or "triton"."""
    if name not in BACKENDS:
        raise ValueError(f"no kernel backend {name!r}: choose one of {', '.join(BACKENDS)}")
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


@cache
def has_triton() -> bool:
    """Is Triton importable here?"""
    return importlib.util.find_spec("triton") is not None


def backend_for(device: torch.device | str) -> str:
    """The kernels that serve this device now."""
    if (name := _override.get()) is not None:
        return name
    kind = torch.device(device).type
    if kind == "cpu":
        return "numba"
    return "triton" if kind == "cuda" and has_triton() else "ref"


def threads() -> int:
    """Threads a CPU kernel may use: torch's setting (the outer one inside :func:`torch_threads`),
    within the cores this process may run on."""
    cores = getattr(os, "sched_getaffinity", None)  # Linux only
    allowed = len(cores(0)) if cores else os.cpu_count() or 1
    return max(1, min(_kernel_threads.get() or torch.get_num_threads(), allowed))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside the block torch's own operations use ``count`` threads; these kernels keep theirs.

    After every operation torch's pool spins for milliseconds, waiting for the next one, and takes
    the cores from the kernels' helpers: many short kernels with small operations between them are
    faster with one torch thread.
    """
    before = torch.get_num_threads()
    token = _kernel_threads.set(_kernel_threads.get() or before)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _kernel_threads.reset(token)


def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The recurrence with the fastest kernel at hand: float32 y (B, T, H, N) and state.

    A row of ``lengths`` (B,) stands still after its own end. Differentiable when grad mode is on
    and an input requires it.
    """
    ins = (r, w, k, v, a, b)
    backend = backend_for(r.device)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*ins, state)):
        if backend == "ref":
            return wkv7_ref(r, w, k, v, a, b, state, lengths)
        if lengths is not None:
            # a token past a row's end that keeps everything and writes nothing
            t = r.shape[1]
            live = (torch.arange(t, device=r.device) < lengths.unsqueeze(1)).view(-1, t, 1, 1)
            w = torch.where(live, w, torch.ones_like(w))
            k, a = k * live, a * live
        if backend == "triton":
            from .wkv7_triton import wkv7_triton_differentiable

            return wkv7_triton_differentiable(r, w, k, v, a, b, state)
        return _differentiable(r, w, k, v, a, b, state)
    if r.shape[1] == 1 and lengths is None:
        y, after = wkv7_step(state, r[:, 0], w[:, 0], k[:, 0], v[:, 0], a[:, 0], b[:, 0])
        return y.unsqueeze(1), after
    if backend == "numba":
        nr, nw, nk, nv, na, nb, ns = (x.detach().numpy() for x in (*ins, state))
        ends = None if lengths is None else lengths.numpy()
        y, after, _ = wkv7_forward(nr, nw, nk, nv, na, nb, ns, ends)
        return torch.from_numpy(y), torch.from_numpy(after)
    if backend == "triton":
        from .wkv7_triton import wkv7_triton

        return wkv7_triton(r, w, k, v, a, b, state, lengths)
    return wkv7_ref(r, w, k, v, a, b, state, lengths)


def addresses(r: Tensor, w: Tensor, kk: Tensor, b: Tensor, wanted: list[int]) -> Tensor:
    """Where a row's positions read the state it started from: x = A_1 ... A_t r_t.

    ``r, w, kk, b`` (l, T, H, N), ``wanted`` p positions; returns (l, H, N, p) float32.
    """
    pull_back = _addresses if backend_for(r.device) == "numba" else addresses_ref
    return pull_back(r, w, kk, b, wanted)
