"""The Triton WKV-7 kernels against the plain reference: interpreted here, compiled on a GPU.

Triton reads TRITON_INTERPRET when it is imported, so the interpreted run has its own process.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed (pip install 'rwkvedit[triton]')",
)

CHECK = """
import sys, torch
from rwkvedit_kernels.wkv7_ref import wkv7_ref
from rwkvedit_kernels.wkv7_triton import wkv7_triton, wkv7_triton_differentiable

device = sys.argv[1]
g = torch.Generator().manual_seed(0)

def inputs(B, T, H, N):
    n = lambda *s: torch.randn(*s, generator=g)
    w = torch.exp(-0.606531 * torch.sigmoid(n(B, T, H, N)))
    kk = torch.nn.functional.normalize(n(B, T, H, N), dim=-1)
    ins = [n(B, T, H, N), w, n(B, T, H, N), n(B, T, H, N), -kk,
           kk * torch.sigmoid(n(B, T, H, N)), n(B, H, N, N)]
    return [x.to(device) for x in ins]

def close(x, y, what):
    error = float((x - y).norm() / y.norm().clamp_min(1e-20))
    assert error < 1e-4, (what, error)

for B, T, H, N in ((1, 1, 2, 16), (2, 3, 1, 32), (1, 2, 1, 20), (2, 2, 1, 64)):
    ins = inputs(B, T, H, N)
    for ours, ref in zip(wkv7_triton(*ins), wkv7_ref(*ins)):
        close(ours, ref, ("forward", B, T, H, N))
ins = inputs(3, 4, 1, 16)
lengths = torch.tensor([4, 1, 2], device=device)
for ours, ref in zip(wkv7_triton(*ins, lengths), wkv7_ref(*ins, lengths)):
    close(ours, ref, "lengths")
for shape in ((1, 3, 2, 16), (1, 2, 1, 20)):
    ins = inputs(*shape)
    weights = [torch.randn(x.shape, generator=g).to(device) for x in wkv7_ref(*ins)]
    grads = []
    for run in (wkv7_triton_differentiable, wkv7_ref):
        leaves = [x.clone().requires_grad_() for x in ins]
        loss = sum((y * c).sum() for y, c in zip(run(*leaves), weights))
        grads.append(torch.autograd.grad(loss, leaves))
    for i, (ours, ref) in enumerate(zip(*grads)):
        close(ours, ref, ("backward", shape, i))
print("equal")
"""


def run(device: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHECK, device],
        capture_output=True, text=True, timeout=300, env={**os.environ, **env},
    )  # fmt: skip


def test_the_kernels_equal_the_reference_under_the_interpreter() -> None:
    done = run("cpu", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "equal" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_kernels_equal_the_reference_on_a_gpu() -> None:
    done = run("cuda")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "equal" in done.stdout
