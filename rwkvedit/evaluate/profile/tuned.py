"""The edit beside ordinary fine-tuning of the same size that does as much.

Glossary: D residual width, F MLP width, V vocabulary, a (D,), b (F,) the tuned update a b^T.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkvedit.evaluate.profile.case import Case
from rwkvedit.evaluate.profile.registry import Found, Shown, benchmark
from rwkvedit.transformer.asking import ROWS, ask
from rwkvedit.transformer.facts import held_out
from rwkvedit.transformer.running import one_line_when_out_of_memory
from rwkvedit.transformer.value import target_ids
from rwkvedit.transformer.weights import RankOne

STEPS, RATE, HALVINGS = 200, 1e-2, 10
PROBES = 30


@benchmark("FineTuneDiff", 0.6, "tuned",
           "fine-tuning of one layer as the baseline, after Meng et al. (2022), section 3.4; "
           "matching and score are ours")
def fine_tune(case: Case) -> Found:
    """Mean over 30 held-out prompts of KL_ft / (KL_ft + KL_edit), the two divergences (nats) of the
    next token from the unedited model's: .5 where the edit moves other facts as much as
    fine-tuning does, 1 where it moves them not at all. Fine-tuning: the same layer's matrix gets an
    update of rank one, trained by Adam on the edit's prompt alone until the new answer is as
    likely as after the edit (then scaled to match it); both start from the unedited weights."""
    session = case.session
    ids = session.tokens(case.prompt)
    answer = target_ids(session, ids, case.new)
    rng = np.random.default_rng(case.seed + 1)
    texts = held_out(case.prompt, case.subject, PROBES, rng)
    rows = [session.tokens(text) for text in texts]
    with case.edited():
        goal = ask(session, [ids], answer).p[0]
        edited = _next(case, rows)
    tuned, reached = tune(case, ids, answer, goal)
    before = _next(case, rows)
    with case.edited((tuned,)):
        after = _next(case, rows)
    ours, theirs = (((before.exp() * (before - x)).sum(-1).clamp_min(0)) for x in (edited, after))
    values = (theirs / (ours + theirs).clamp_min(1e-12)).tolist()
    more = {
        "kl": {"edit": float(ours.mean()), "fine_tuned": float(theirs.mean())},
        "p_new": {"edit": goal, "fine_tuned": reached}, "layer": tuned.layer,
    }  # fmt: skip
    shown = [Shown(t, "as before", v) for t, v in zip(texts, values, strict=True)]
    return Found(values, len(texts), shown, more)


def tune(case: Case, ids: list[int], answer: list[int], goal: float) -> tuple[RankOne, float]:
    """a b^T at the edit's layer after fine-tuning on one prompt, and P(answer) with it.

    ``b`` starts at random with the length of an average row, ``a`` at zero, as for LoRA.
    """
    session, layer = case.session, case.layer
    generator = torch.Generator().manual_seed(case.seed)
    width = session.shape.d_ffn
    b = (torch.randn(width, generator=generator) / width**0.5).to(session.device)
    a = torch.zeros(session.d_model, device=session.device)
    a.requires_grad_()
    b.requires_grad_()
    optimiser = torch.optim.Adam([a, b], lr=RATE)
    kept: list[Tensor] = []
    fed = torch.tensor(answer, device=session.device)

    def key(x: Tensor) -> None:
        kept[:] = [x.float() @ b]

    def out(x: Tensor) -> Tensor:
        return (x.float() + kept[0][..., None] * a).to(x.dtype)

    taps = {f"blocks.{layer}.ffn.key": key, f"blocks.{layer}.ffn.out": out}
    for _ in range(STEPS):
        if case.maker.cancel is not None and case.maker.cancel():
            raise KeyboardInterrupt
        logits = session.run([[*ids, *answer[:-1]]], taps=taps, logits="all", grad=True).logits[0]
        logp = logits[len(ids) - 1 :].log_softmax(-1).gather(-1, fed[:, None]).sum()
        if float(logp.detach().exp()) >= goal:
            break
        optimiser.zero_grad()
        with one_line_when_out_of_memory():
            (-logp).backward()
        optimiser.step()
    left, right = a.detach(), b.detach()
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):  # the strength at which it does no more than the edit
        middle = (low + high) / 2
        with case.edited((RankOne(layer, left * middle, right),)):
            enough = ask(session, [ids], answer).p[0] >= goal
        low, high = (low, middle) if enough else (middle, high)
    found = RankOne(layer, left * high, right)
    with case.edited((found,)):
        return found, ask(session, [ids], answer).p[0]


def _next(case: Case, rows: list[list[int]]) -> Tensor:
    """(B, V) float64 log-probabilities of the token after each row."""
    return torch.cat([
        case.session.run(rows[at : at + ROWS]).logits.double().log_softmax(-1)
        for at in range(0, len(rows), ROWS)
    ])  # fmt: skip
