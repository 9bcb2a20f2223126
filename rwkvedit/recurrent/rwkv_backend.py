"""The ``rwkv`` pip package behind the native engine's interface: a backend, and the tests' oracle.

What the package needs is kept in here: RWKV_V7_ON before its import, silence, a path without
``.pth``, and copies of every state, since it writes into the list (on CUDA the tensors) it is
given. Its state list is [att_x, wkv, ffn_x] per layer with wkv in our axes (head, value, key).
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwkvedit.errors import UnavailableError, UsageError
from rwkvedit.recurrent.checkpoint import Checkpoint, ModelConfig
from rwkvedit.recurrent.hooks import Hooks
from rwkvedit.recurrent.model import RWKV7, as_prompts
from rwkvedit.recurrent.state import State

_STRATEGY = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class RwkvPackage(RWKV7):
    """``forward`` and ``zero_state`` as in ``RWKV7``; hooks and gradients are refused."""

    backend = "rwkv"

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        time_state: Tensor | None = None,
    ) -> None:
        self.config: ModelConfig = checkpoint.config
        self.digest = checkpoint.digest
        self.device = torch.device(device)
        self.dtype = dtype
        self.parameters = checkpoint.parameters
        tuned = checkpoint.time_state if time_state is None else time_state
        self.time_state = None if tuned is None else tuned.to(self.device, torch.float32)
        package = _package()
        with _quiet(), _as_pth(checkpoint) as stem:
            self._model = package.RWKV(model=stem, strategy=f"{self.device} {_STRATEGY[dtype]}")
        self.weights = self._model.z

    @contextlib.contextmanager
    def hooked(self, hooks: Hooks) -> Iterator[RWKV7]:
        raise UsageError("the rwkv backend has no hooks; use --backend native")
        yield self

    @property
    def fused(self) -> bool:
        """Never: the weights are laid out for the package's own kernels."""
        return False

    def forward(  # type: ignore[override]
        self,
        tokens: Any,
        state: State | None = None,
        *,
        full: bool = False,
        tails: Sequence[int] | None = None,
        hooks: Hooks | None = None,
    ) -> tuple[Any, State]:
        """As ``RWKV7.forward``, prompt by prompt."""
        if hooks:
            raise UsageError("the rwkv backend has no hooks; use --backend native")
        prompts, single = as_prompts(tokens, self.config.vocab_size)
        starts = self._start(state, len(prompts), single).unstack()
        full = full or tails is not None
        done = [self._one(p, s, full) for p, s in zip(prompts, starts, strict=True)]
        if tails is not None:
            done = [(x[len(x) - n :], s) for (x, s), n in zip(done, tails, strict=True)]
        if single:
            return done[0]
        logits = [d[0] for d in done]
        return (logits if full else torch.stack(logits)), State.stack([d[1] for d in done])

    __call__ = forward

    def step(self, ids: list[int], state: State) -> tuple[Tensor, State]:
        logits, after = self.forward([[i] for i in ids], state)
        return logits, after

    def _one(self, prompt: list[int], state: State, full: bool) -> tuple[Tensor, State]:
        held: list[Tensor] = []
        for i in range(self.config.n_layer):
            held += [
                state.att_x[i].detach().to(self.dtype, copy=True),
                state.wkv[i].detach().to(torch.float32, copy=True).contiguous(),
                state.ffn_x[i].detach().to(self.dtype, copy=True),
            ]
        with _quiet():
            logits, held = self._model.forward(list(prompt), held, full)
        if full and logits.dim() == 1:
            logits = logits.unsqueeze(0)
        after = State(
            torch.stack([x.float() for x in held[0::3]]),
            torch.stack([x.float() for x in held[1::3]]),
            torch.stack([x.float() for x in held[2::3]]),
        )
        return logits.float().clone(), after


@cache
def _package() -> Any:
    """The package's ``model`` module, imported with RWKV-7 on and torch's switches put back."""
    os.environ["RWKV_V7_ON"] = "1"
    os.environ.setdefault("RWKV_CUDA_ON", "0")
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    kept = (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    try:
        with _quiet():
            from rwkv import model
    except ImportError as error:
        raise UnavailableError("backend rwkv is missing: pip install rwkv==0.8.32") from error
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = kept
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The package prints and warns (TorchScript is deprecated); neither is the user's concern."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _as_pth(checkpoint: Checkpoint) -> Iterator[str]:
    """A path that the package can load (it appends ``.pth``), temporary if need be."""
    if checkpoint.path.suffix == ".pth":
        yield str(checkpoint.path.with_suffix(""))
        return
    with tempfile.TemporaryDirectory(prefix="rwkvedit-") as folder:
        stem = Path(folder) / "model"
        torch.save(dict(checkpoint.tensors), stem.with_suffix(".pth"))
        yield str(stem)
