"""The training loop: batches in, weights out, restartable at any instant.

Knows nothing of what the corpus says, and prints nothing: it hands log records to ``report``.

A run's folder holds
    checkpoint.pt       everything needed to go on: weights, optimisers, corpus and RNG positions
    model.safetensors   the weights alone, fp16, official names, made with every checkpoint
    vocab.txt           the vocabulary used
    log.jsonl           one record every LOG_EVERY steps
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rwkvedit.errors import FileFormatError, UnavailableError, UsageError
from rwkvedit.train.network import Network, NetworkConfig, product_dtype
from rwkvedit.train.optim import Optimizers, multiplier

LOG_EVERY = 50  # steps
SAVE_EVERY = 300.0  # seconds
FORMAT = "rwkvedit-training"
VERSION = 1
VALUE_WEIGHT = 0.99  # positions weighted at least this much are counted as value tokens


class BatchLike(Protocol):
    tokens: np.ndarray  # (B, T) int64
    targets: np.ndarray  # (B, T) int64
    weights: np.ndarray  # (B, T) float32
    stage: str


class CorpusLike(Protocol):
    def batch(self, progress: float) -> BatchLike: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class Settings:
    """What one run is asked to do. At least one of ``tokens`` and ``minutes`` bounds it."""

    out: Path
    vocab: Path
    tokens: int | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "auto"
    n_embd: int = 256
    n_layer: int = 6
    head_size: int = 64
    tie: bool = True
    compile: bool = False
    resume: bool = False
    init_from: Path | None = None
    lr_scale: float = 1.0
    stage_start: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU when there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UnavailableError("no CUDA device is visible to torch; use --device cpu")
    return torch.device(name)


def _plain(x: Any) -> Any:
    """Numpy scalars and arrays become Python's own, so that weights_only loading accepts them."""
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(_plain(v) for v in x)
    if isinstance(x, np.ndarray):
        return x.tolist()
    return x.item() if isinstance(x, np.generic) else x


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside the target, flush to the disk, then rename over it."""
    part = path.with_name(path.name + ".part")
    write(part)
    with part.open("rb") as f:
        os.fsync(f.fileno())
    part.replace(path)


class Trainer:
    """One run. ``tokenizer`` only travels to the corpus; ``make_corpus(seed)`` builds that."""

    def __init__(
        self, settings: Settings, vocab_size: int, make_corpus: Callable[[int], CorpusLike]
    ) -> None:
        s = settings
        if s.tokens is None and s.minutes is None:
            raise UsageError("say how long to train: --tokens N or --minutes M")
        if s.n_embd % s.head_size:
            raise UsageError(f"--n-embd {s.n_embd} is not a multiple of --head-size {s.head_size}")
        self.settings = s
        self.device = pick_device(s.device)
        self.corpus = make_corpus(s.seed)
        padded = -(-vocab_size // 64) * 64  # round matrix products
        cfg = NetworkConfig(padded, s.n_embd, s.n_layer, s.head_size, s.tie)
        dtype = product_dtype(self.device)
        self.network = Network(cfg, s.seed, dtype=dtype, compile=s.compile).to(self.device)
        self.step = 0
        self.tokens = 0
        self.elapsed = 0.0  # seconds of training, over all resumed parts
        self.last: dict[str, Any] = {}
        if s.init_from is not None and not s.resume:
            self._init_from(s.init_from)
        self.optim = Optimizers(self.network, s.lr_scale, dtype)
        if s.resume:
            self._load()
        elif (s.out / "checkpoint.pt").exists():
            raise UsageError(f"{s.out} already holds a run; add --resume or name another --out")
        s.out.mkdir(parents=True, exist_ok=True)
        if s.vocab.resolve() != (s.out / "vocab.txt").resolve():
            shutil.copyfile(s.vocab, s.out / "vocab.txt")

    def _init_from(self, path: Path) -> None:
        try:
            tensors = load_file(path)
            self.network.import_({k: v.float() for k, v in tensors.items()})
        except KeyError as e:
            raise FileFormatError(f"{path}: tensor {e} is missing") from None
        except (OSError, ValueError) as e:
            raise FileFormatError(f"{path}: {e}") from None

    @property
    def progress(self) -> float:
        """Share of the budget spent, 0 to 1: the larger of tokens and minutes."""
        s = self.settings
        shares = [0.0]
        if s.tokens is not None:
            shares.append(self.tokens / max(1, s.tokens))
        if s.minutes is not None:
            shares.append(self.elapsed / max(1e-9, 60 * s.minutes))
        return min(1.0, max(shares))

    def train_step(self) -> dict[str, Any]:
        """One batch, one update. Returns loss (nats), hits, value count, stage, norm, seconds."""
        began = time.perf_counter()
        p = self.progress
        start = self.settings.stage_start
        batch = self.corpus.batch(start + (1.0 - start) * p)
        drawn = time.perf_counter()
        tokens, targets, weights = (
            torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
            for x in (batch.tokens, batch.targets, batch.weights)
        )
        m = multiplier(p, self.step)
        self.optim.set_multiplier(m)
        loss, hits = self.network.loss(tokens, targets, weights)
        loss.backward()
        norm = self.optim.step()
        self.optim.zero_grad()
        value = weights[weights > 0] >= VALUE_WEIGHT
        self.step += 1
        self.tokens += tokens.numel()
        seconds = time.perf_counter() - began
        self.elapsed += seconds
        return {
            "tokens": tokens.numel(),
            "loss": float(loss.detach()),
            "hits": int((hits & value).sum()),
            "values": int(value.sum()),
            "stage": batch.stage,
            "norm": norm,
            "lr": m,
            "seconds": seconds,
            "drawing": drawn - began,
        }

    def run(self, report: Callable[[dict[str, Any]], None]) -> bool:
        """Train to the end of the budget. Returns False when interrupted (state is saved)."""
        window: list[dict[str, Any]] = []
        saved = time.monotonic()
        with _stop_signals() as stopped, (self.settings.out / "log.jsonl").open("a") as log:
            while self.progress < 1.0 and not stopped:
                window.append(self.train_step())
                if not math.isfinite(window[-1]["loss"]):
                    raise FileFormatError(
                        f"the loss is {window[-1]['loss']} at step {self.step}; "
                        "resume from the last checkpoint with a smaller --lr-scale"
                    )
                if self.step % LOG_EVERY == 0 or self.step == 1:
                    self.last = self._record(window)
                    log.write(json.dumps(self.last) + "\n")
                    log.flush()
                    report(self.last)
                    window = []
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
            self.save()
            return not stopped

    def _record(self, window: list[dict[str, Any]]) -> dict[str, Any]:
        seconds = sum(w["seconds"] for w in window)
        values = sum(w["values"] for w in window)
        stages: dict[str, list[int]] = {}
        for w in window:
            tally = stages.setdefault(w["stage"], [0, 0])
            tally[0] += w["hits"]
            tally[1] += w["values"]
        return {
            "step": self.step,
            "tokens": self.tokens,
            "tokens_per_s": round(sum(w["tokens"] for w in window) / seconds),
            "loss": round(sum(w["loss"] for w in window) / len(window), 4),
            "value_acc": round(sum(w["hits"] for w in window) / max(1, values), 4),
            "stages": {k: round(h / max(1, n), 4) for k, (h, n) in stages.items()},
            "lr": round(window[-1]["lr"], 4),
            "norm": round(sum(w["norm"] for w in window) / len(window), 3),
            "drawing": round(sum(w["drawing"] for w in window) / seconds, 3),
            "progress": round(self.progress, 4),
            "elapsed": round(self.elapsed, 1),
        }

    def save(self) -> None:
        """Write checkpoint.pt and model.safetensors, each whole or not at all."""
        state = {
            "format": FORMAT,
            "version": VERSION,
            "config": self.network.cfg.to_json(),
            "network": self.network.state_dict(),
            "optim": self.optim.state_dict(),
            "corpus": _plain(self.corpus.state_dict()),
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "tokens": self.tokens,
            "elapsed": self.elapsed,
        }
        _replace(self.settings.out / "checkpoint.pt", lambda p: torch.save(state, p))
        self.export(self.settings.out / "model.safetensors")

    def export(self, path: Path, dtype: torch.dtype = torch.float16) -> None:
        """Official names in ``dtype``; falls back to bf16 when a weight does not fit fp16."""
        tensors = {n: t.cpu() for n, t in self.network.export().items()}
        if dtype == torch.float16 and any(t.abs().max() > 6e4 for t in tensors.values()):
            dtype = torch.bfloat16
        vocab = (self.settings.out / "vocab.txt").read_bytes()
        about = {
            "format": "rwkvedit-model",
            "version": 1,
            "architecture": "rwkv7-x070",
            "config": self.network.cfg.to_json(),
            "tokenizer_digest": hashlib.sha256(vocab).hexdigest(),
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.elapsed, 1),
            "seed": self.settings.seed,
            "torch": torch.__version__,
            "last": self.last,
        }
        out = {n: t.to(dtype).contiguous() for n, t in tensors.items()}
        meta = {"rwkvedit": json.dumps(about, sort_keys=True)}
        _replace(path, lambda p: save_file(out, p, metadata=meta))

    def _load(self) -> None:
        path = self.settings.out / "checkpoint.pt"
        if not path.exists():
            raise UsageError(f"nothing to resume: {path} does not exist; leave out --resume")
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as e:  # torch raises many kinds for a damaged file
            raise FileFormatError(f"{path}: not a readable checkpoint ({type(e).__name__})") from e
        if state.get("format") != FORMAT or state.get("version") != VERSION:
            raise FileFormatError(f"{path}: expected {FORMAT} version {VERSION}")
        if state["config"] != self.network.cfg.to_json():
            raise FileFormatError(
                f"{path}: made for {state['config']}, asked for {self.network.cfg.to_json()}"
            )
        self.network.load_state_dict(state["network"])
        self.optim.load_state_dict(state["optim"])
        self.corpus.load_state_dict(state["corpus"])
        torch.set_rng_state(state["torch_rng"].cpu())
        self.step, self.tokens = state["step"], state["tokens"]
        self.elapsed = state["elapsed"]


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM fill the list instead of killing the process; a second one is obeyed."""
    got: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        got.append(number)
        for s, handler in before.items():
            signal.signal(s, handler)

    try:
        for s in (signal.SIGINT, signal.SIGTERM):
            before[s] = signal.signal(s, note)
    except ValueError:  # not the main thread: leave signals to whoever owns them
        pass
    try:
        yield got
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
