"""A low-rank delta found by gradient through the frozen model.

The slowest method and the last resort: it spends forwards and backwards until the fact's own
questions are answered and the controls stand, or until its budget of milliseconds is gone.

Glossary (l edited layers, H heads, N head size, k rank):
    left     (l, H, N, k)   value directions, trained
    right    (l, H, N, k)   addresses, trained;  delta = left @ right^T
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rwkvedit_kernels.dispatch import threads, torch_threads, wkv7
from torch import Tensor
from torch.nn import functional as F

from rwkvedit.errors import UsageError
from rwkvedit.recurrent.asking import make_asks
from rwkvedit.recurrent.methods.hybrid import PROBE
from rwkvedit.recurrent.methods.registry import method
from rwkvedit.recurrent.spectrum import top_triples
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.workspace import Workspace

Turn = tuple[Sequence[int], Sequence[int]]  # a prompt and its answer, token ids

STEPS = 16
#: Adam's rate, as a share of the largest singular value's square root (the factors' own scale).
RATE = 0.03
#: Weight of the controls' and the neutral turn's KL (nats) against the target's cross-entropy.
GUARD = 4.0
#: Mean cross-entropy (nats a token) at which the target counts as learnt: P(new) = .95.
LEARNT = 0.05
#: Mean KL (nats) of the rest that is let pass.
STILL = 0.02
#: What a backward and the next forward take beside one forward, before any has been timed.
WAY_BACK = 3.0
#: What a shunned answer's probability counts as, as a share of it: of 1 the loss is infinite.
SURE = 0.999
NEUTRAL = ("How are you?", "What can you do?")


@method(
    "optimised", *PROBE, searched=False, guarded=True,
    more=f"up to {STEPS} forwards and backwards of the questions and controls",
    source="here; the optimiser is Adam, arXiv:1412.6980",
)
def optimised(ws: Workspace) -> Tensor:
    """A low-rank delta trained on the fact's own questions, the controls and neutral turns held.

    Minimises ``CE(new answer) + g KL(before || after)`` over the factors of
    ``delta = left right^T``, from the best attempt so far (else the live probe's delta), by Adam
    (Kingma and Ba 2015), for at most ``STEPS`` steps; none is begun that would end after
    ``ws.budget_ms`` milliseconds if it took as long as the longest so far. The best step is kept.
    Cross-entropy is over the whole answer, in every asked wording. Raises UsageError on a backend
    without gradients.
    """
    start = ws.warm if ws.warm is not None else ws.delta("probe")
    answers = [(ask.prompt, [*ask.lead, *ws.said_new]) for ask in ws.asks]
    return train(ws, Lesson(answers), start)


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt, as (prompt, answer) pairs of token ids: ``say`` what must be answered
    and ``shun`` what must not. Controls and neutral turns are held beside."""

    say: Sequence[Turn]
    shun: Sequence[Turn] = ()


def train(ws: Workspace, lesson: Lesson, start: Tensor) -> Tensor:
    """Adam's best step on a delta (l, H, N, N) from ``start``, of the workspace's rank.

    ``shun`` adds the unlikelihood -log(1 - P(answer)) (Welleck et al. 2020, arXiv:1908.04319),
    with P a thousandth less, so that it is finite. Raises UsageError on a backend without
    gradients.
    """
    if ws.model.backend != "native":
        raise UsageError(
            f"optimised needs gradients, which backend {ws.model.backend} has not; "
            "use --backend native"
        )
    with torch_threads(threads()):  # these operations are torch's own
        _compile(ws.state)
        return _train(ws, lesson, start)


def _compile(state: State) -> None:
    """Have the kernels of a way back at hand: to compile them takes seconds, once on a machine,
    and counts for no budget."""
    one = torch.zeros(1, 1, 1, state.head_size, device=state.device, requires_grad=True)
    with torch.enable_grad():
        y, _ = wkv7(one, one, one, one, one, one, state.wkv[None, 0, :1])
    torch.autograd.grad(y.sum(), one)


def _train(ws: Workspace, lesson: Lesson, start: Tensor) -> Tensor:
    deadline = time.perf_counter() + ws.budget_ms / 1e3
    triples = top_triples(start, ws.rank)
    half = triples.sigma.sqrt()[..., None, :]
    left = (triples.u * half).detach().requires_grad_()
    right = (triples.v * half).detach().requires_grad_()
    rows, targets = _rows(ws, lesson)
    marks = len(lesson.say), len(lesson.say) + len(lesson.shun)
    with torch.no_grad():
        before, _ = ws.model.forward(rows, ws.state, tails=[len(t) for t in targets])
        quiet = [F.log_softmax(x.float(), -1) for x in before[marks[1]:]]
    step = _Adam([left, right], RATE * float(half.amax()))
    best, best_loss, longest = start, float("inf"), 0.0
    for _ in range(STEPS):
        ws.check()
        begun = time.perf_counter()
        delta = left @ right.transpose(-1, -2)
        own, rest = _losses(ws, delta, rows, targets, marks, quiet)
        loss = own + GUARD * rest
        if float(loss.detach()) < best_loss:
            best, best_loss = delta.detach().clone(), float(loss.detach())
        if float(own.detach()) < LEARNT and float(rest.detach()) < STILL:
            break
        # what comes next is this step's way back and another way forth
        now = time.perf_counter()
        if now + (longest or WAY_BACK * (now - begun)) > deadline:
            break
        step(torch.autograd.grad(loss, (left, right)))
        longest = max(longest, time.perf_counter() - begun)
    return best


class _Adam:
    """Adam (arXiv:1412.6980, algorithm 1) on ``parameters``, in place; call it with gradients.

    torch's own brings in the whole compiler when first made: seconds, and a module that Ctrl-C
    meanwhile leaves half loaded for good.
    """

    def __init__(self, parameters: list[Tensor], rate: float) -> None:
        self.parameters, self.rate, self.count = parameters, rate, 0
        self.mean = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor], first=0.9, second=0.999, eps=1e-8) -> None:
        self.count += 1
        rate = self.rate / (1 - first**self.count)
        for p, g, m, v in zip(self.parameters, gradients, self.mean, self.square, strict=True):
            m.lerp_(g, 1 - first)
            v.mul_(second).addcmul_(g, g, value=1 - second)
            root = v.div(1 - second**self.count).sqrt_()
            p.addcdiv_(m, root.add_(eps), value=-rate)


def _rows(ws: Workspace, lesson: Lesson) -> tuple[list[list[int]], list[Tensor]]:
    """Token rows and the tokens each must, must not, or (the rest) did answer."""
    rows: list[list[int]] = []
    targets: list[Tensor] = []

    def add(prompt: Sequence[int], answer: Sequence[int]) -> None:
        rows.append([*prompt, *answer[:-1]])
        targets.append(torch.tensor(list(answer), device=ws.state.device))

    for prompt, answer in (*lesson.say, *lesson.shun):
        add(prompt, answer)
    for control in ws.controls:
        add(control.ask.prompt, [*control.ask.lead, *control.value])
    tokenizer = ws.loaded.tokenizer
    for ask in make_asks(ws.loaded, NEUTRAL, ""):
        add(ask.prompt, tokenizer.encode(" I"))
    return rows, targets


def _losses(
    ws: Workspace, delta: Tensor, rows: list[list[int]], targets: list[Tensor],
    marks: tuple[int, int], quiet: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """(mean cross-entropy of the answers, with the shunned ones' unlikelihood; mean KL of the
    rest), both nats a token. ``marks``: where the rows to shun, and the rest, begin."""
    ws.forwards += 1
    ws.spent += sum(map(len, rows))
    first, second = marks
    with torch.enable_grad():
        wkv = torch.cat(
            [ws.state.wkv[: ws.lo], ws.state.wkv[ws.layers] + delta, ws.state.wkv[ws.hi :]]
        )
        edited = State(ws.state.att_x, wkv, ws.state.ffn_x)
        logits, _ = ws.model.forward(rows, edited, tails=[len(t) for t in targets])
        told = [F.log_softmax(x.float(), -1).gather(1, t[:, None])[:, 0]
                for x, t in zip(logits[:second], targets[:second], strict=True)]
        own = -torch.cat(told[:first]).mean() if first else delta.new_zeros(())
        if second > first:
            odds = torch.stack([logp.sum() for logp in told[first:]]).exp()
            own = own - torch.log1p(-SURE * odds).mean()
        moved = torch.cat([
            (q.exp() * (q - F.log_softmax(x.float(), -1))).sum(-1)
            for x, q in zip(logits[second:], quiet, strict=True)
        ])
    return own, moved.mean()
