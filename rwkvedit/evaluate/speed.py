"""``bench speed``: our engine beside the ``rwkv`` package, on the same weights in one run.

Both take turns, so that whatever else the machine does falls on both; numbers are medians. Beside
them stand the machine's own limits: how fast it reads memory and multiplies.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rwkvedit_kernels.dispatch import threads
from rwkvedit_kernels.machine import matmul_rate, read_bandwidth, readers
from rwkvedit_kernels.svd import top1
from torch import Tensor

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.evaluate.shapes import SHAPES, seeded_checkpoint
from rwkvedit.models.catalog import DEFAULT, LoadedModel, find_checkpoint, load_model, pick_device
from rwkvedit.recurrent.checkpoint import Checkpoint, load_checkpoint
from rwkvedit.recurrent.model import RWKV7
from rwkvedit.recurrent.rwkv_backend import RwkvPackage, _quiet

PREFILL = 512  # tokens
BATCH = 8  # states decoded together
HEADS = 1280  # of a 1.5B-3B model: what one edit decomposes
CPU_SIZES = (DEFAULT, "0.1B")
CUDA_SIZES = ("0.1B", "0.4B", "1.5B", "2.9B", "7.2B")
FACTS = (
    "Bob lives in Austin.",
    "Alice has a cat.",
    "Carol works as a baker.",
    "David likes tea.",
    "Emma plays chess.",
)
EDIT = ("Bob lives in Austin", "Bob lives in Chicago")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", help=f"comma-separated, of {DEFAULT}, {', '.join(SHAPES)}")
    parser.add_argument("--repeats", type=int, help="turns each engine gets (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the seeded weights (default 0)")
    parser.add_argument("--quick", action="store_true", help="one short turn of each, one size")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The document of ``bench speed`` without its meta.

    Rates are tokens/s (larger is better) and times milliseconds; ``ratio`` is how many times
    faster ours is. ``fraction_of_bandwidth`` is the weights' bytes that one token reads, times
    tokens/s, over the read bandwidth of the same rounds: above 1 the weights sit in a cache.
    """
    device = pick_device(getattr(args, "device", None) or "cpu")
    repeats = (1 if args.quick else 5) if args.repeats is None else args.repeats
    if repeats < 1:
        raise UsageError("--repeats must be at least 1; try --repeats 5")
    default = CUDA_SIZES if device.type == "cuda" else CPU_SIZES[: 1 if args.quick else 2]
    sizes = tuple(args.sizes.split(",")) if args.sizes else default
    for size in sizes:
        if size != DEFAULT and size not in SHAPES:
            raise UsageError(f"no size {size!r}: choose from {', '.join((DEFAULT, *SHAPES))}")
    name = getattr(args, "model", None) or DEFAULT
    megabytes = 64 if args.quick else 512
    if device.type == "cuda":
        bandwidth = _cuda_bandwidth(device)
    else:
        bandwidth = read_bandwidth(megabytes, 2 if args.quick else 7)
    machine = {
        "read_gb_per_s": round(bandwidth / 1e9, 2),
        "matmul_gflop_per_s": round(matmul_rate(device=str(device)) / 1e9, 1),
        "threads": threads(),
    }
    rows: list[dict[str, Any]] = []
    for size in sizes:
        if size == DEFAULT:
            checkpoint = load_checkpoint(find_checkpoint(name))
        else:
            kind = torch.float32 if device.type == "cpu" else torch.float16
            checkpoint = seeded_checkpoint(SHAPES[size], args.seed, device, kind)
        if device.type == "cuda":
            rows += cuda_rows(size, checkpoint, device, repeats, bandwidth)
            continue
        rows += engine_rows(size, checkpoint, repeats, args.quick)
        if size == DEFAULT:
            rows.append(svd_row(RWKV7(checkpoint), repeats, args.quick))
            rows.append(edit_row(load_model(name, device="cpu"), repeats))
    return {"machine": machine, "repeats": repeats, "rows": rows}


# -- timing ------------------------------------------------------------------------------------


def in_turns(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each call; every round runs all of them once, after one warm-up round."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if turn:
                kept.append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


def _row(
    task: str, size: str, ours: float, peer: float | None, peer_name: str | None, unit: str,
    **extra: Any,
) -> dict[str, Any]:  # fmt: skip
    ratio = None
    if peer is not None:
        ratio = ours / peer if unit == "tokens/s" else peer / ours
    return {
        "task": task, "size": size, "ours": ours, "peer": peer, "peer_name": peer_name,
        "unit": unit, "ratio": ratio, **extra,
    }  # fmt: skip


class _Peer:
    """The package, driven without the copies that our wrapper makes to protect a State."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.model = RwkvPackage(checkpoint, device, dtype)._model
        self.name = f"rwkv 0.8.32 {device.type} {str(dtype).removeprefix('torch.')}"

    def prefill(self, tokens: list[int]) -> None:
        with _quiet():
            self.model.forward(list(tokens), None)

    def decode(self, tokens: list[int]) -> None:
        state = None
        with _quiet():
            for token in tokens:
                _, state = self.model.forward([token], state)


def _decode(model: RWKV7, tokens: list[int], batch: int | None = None) -> None:
    state = model.zero_state(batch)
    for token in tokens:
        _, state = model.forward([token] if batch is None else [[token]] * batch, state)


def _tokens(count: int, vocab: int) -> list[int]:
    g = torch.Generator().manual_seed(1)
    return torch.randint(1, vocab, (count,), generator=g).tolist()


# -- rows on the CPU ---------------------------------------------------------------------------


def engine_rows(
    size: str, checkpoint: Checkpoint, repeats: int, quick: bool = False
) -> list[dict[str, Any]]:
    """prefill-512, decode, decode-bf16 and decode-batch-8 at one size.

    Memory is read in the same rounds as tokens are decoded: on a shared machine its speed of a
    minute ago is no ceiling for now.

    ``decode`` keeps the weights as the engine does by default, in the narrowest type that holds
    them exactly (``weights`` names it); ``decode-bf16`` rounds them where it must.
    """
    cpu = torch.device("cpu")
    single = RWKV7(checkpoint)
    half = RWKV7(checkpoint, dtype=torch.bfloat16)
    peer = _Peer(checkpoint, cpu, torch.float32)
    vocab = single.config.vocab_size
    prompt = _tokens(PREFILL, vocab)
    long = single.packed.nbytes > 100 << 20
    count = 4 if quick else 12 if long else 100
    some = _tokens(count, vocab)

    ours, theirs = in_turns((lambda: single.forward(prompt), lambda: peer.prefill(prompt)), repeats)
    operations = 2 * PREFILL * (checkpoint.parameters - 2 * vocab * single.config.n_embd)
    rows = [
        _row(
            "prefill-512", size, PREFILL / ours, PREFILL / theirs, peer.name, "tokens/s",
            gflop_per_s=operations / ours / 1e9,
        )
    ]  # fmt: skip
    reads, read_bytes = readers(64 if quick else 512)
    one, two, many, theirs, *read_times = in_turns(
        (
            lambda: _decode(single, some),
            lambda: _decode(half, some),
            lambda: _decode(single, some[: max(2, count // 4)], BATCH),
            lambda: peer.decode(some),
            *reads,
        ),
        repeats,
    )
    bandwidth = read_bytes / min(read_times)
    package = count / theirs
    for task, seconds, model in (("decode", one, single), ("decode-bf16", two, half)):
        read = model.packed.nbytes * count / seconds
        rows.append(
            _row(
                task, size, count / seconds, package, peer.name, "tokens/s",
                fraction_of_bandwidth=read / bandwidth, read_gb_per_s=round(bandwidth / 1e9, 2),
                bytes_per_token=model.packed.nbytes,
                weights=str(model.packed.dtype).removeprefix("torch."),
            )
        )  # fmt: skip
    total = BATCH * max(2, count // 4) / many
    rows.append(_row("decode-batch-8", size, total, package, peer.name + ", one state", "tokens/s"))
    return rows


def heads_of_deltas(model: RWKV7, count: int) -> Tensor:
    """``count`` heads' state differences between prompts that part at their last three tokens."""
    c = model.config
    pairs = -(-count // (c.n_layer * c.n_head))
    g = torch.Generator().manual_seed(2)
    shared = torch.randint(1, c.vocab_size, (pairs, 9), generator=g)
    ends = torch.randint(1, c.vocab_size, (2, pairs, 3), generator=g)
    sides = [model.forward(torch.cat([shared, e], 1).tolist())[1].wkv for e in ends]
    return (sides[0] - sides[1]).flatten(0, 2)[:count].contiguous()


def svd_row(model: RWKV7, repeats: int, quick: bool = False) -> dict[str, Any]:
    """Top-1 SVD of 1,280 heads of real state differences, beside the full SVD."""
    deltas = heads_of_deltas(model, HEADS // 16 if quick else HEADS)
    ours, peer = in_turns((lambda: top1(deltas), lambda: torch.linalg.svd(deltas)), repeats)
    return _row(
        "svd-1280", DEFAULT, ours * 1e3, peer * 1e3, "torch.linalg.svd", "ms", heads=len(deltas)
    )


def edit_row(loaded: LoadedModel, repeats: int) -> dict[str, Any]:
    """One whole edit of a five-fact conversation, with the package's replay of it as the peer.

    ``checked_ms`` is the same edit with the other four facts as controls, as a chat makes it.
    """
    from rwkvedit.recurrent.edit import apply_edit

    tokenizer, template, model = loaded.tokenizer, loaded.template, loaded.model

    def told(facts: Sequence[str]) -> list[int]:
        return [t for fact in facts for t in template.encode_turn(tokenizer, fact, "Got it.")]

    _, state = model.forward(told(FACTS))
    corrected = told([fact.replace("Austin", "Chicago") for fact in FACTS])
    path = find_checkpoint(loaded.name)
    peer = _Peer(load_checkpoint(path), torch.device("cpu"), torch.float32)
    verdicts: list[str] = []

    def edit(controls: Sequence[str] = ()) -> None:
        outcome = apply_edit(loaded, state, *EDIT, start="live", controls=controls)
        verdicts.append(outcome.report.verdict)

    ours, checked, theirs = in_turns(
        (edit, lambda: edit(FACTS[1:]), lambda: peer.prefill(corrected)), repeats)
    return _row(
        "edit", DEFAULT, ours * 1e3, theirs * 1e3,
        f"{peer.name} replaying the {len(corrected)} corrected tokens", "ms",
        verdict=verdicts[-1], checked_ms=checked * 1e3,
    )  # fmt: skip


# -- rows on a GPU -----------------------------------------------------------------------------


def _cuda_bandwidth(device: torch.device) -> float:
    data = torch.ones(1 << 28, device=device)

    def read() -> None:
        data.sum()
        torch.cuda.synchronize()

    return data.numel() * 4 / min(in_turns((read,), 1) for _ in range(5))[0]


def cuda_rows(
    size: str, checkpoint: Checkpoint, device: torch.device, repeats: int, bandwidth: float
) -> list[dict[str, Any]]:
    """prefill-512 and decode in fp16, beside the package's CUDA kernel where it builds."""
    import os

    os.environ["RWKV_CUDA_ON"] = "1"
    model = RWKV7(checkpoint, device, torch.float16)
    try:
        peer = _Peer(checkpoint, device, torch.float16)
    except (RwkvEditError, RuntimeError, OSError):
        peer = None
    prompt = _tokens(PREFILL, model.config.vocab_size)
    some = prompt[:32]

    def waiting(call: Callable[[], object]) -> Callable[[], None]:
        def timed() -> None:
            call()
            torch.cuda.synchronize()

        return timed

    calls = [waiting(lambda: model.forward(prompt)), waiting(lambda: _decode(model, some))]
    if peer is not None:
        calls += [waiting(lambda: peer.prefill(prompt)), waiting(lambda: peer.decode(some))]
    prefill, decode, *theirs = in_turns(calls, repeats)
    name = None if peer is None else peer.name
    old = (PREFILL / theirs[0], len(some) / theirs[1]) if theirs else (None, None)
    matrices = checkpoint.parameters - checkpoint.config.vocab_size * checkpoint.config.n_embd
    read = 2 * matrices * len(some) / decode
    return [
        _row("prefill-512", size, PREFILL / prefill, old[0], name, "tokens/s"),
        _row(
            "decode", size, len(some) / decode, old[1], name, "tokens/s",
            fraction_of_bandwidth=read / bandwidth,
        ),
    ]  # fmt: skip
