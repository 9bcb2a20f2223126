"""How many threads decode: learned from what tokens took."""

from __future__ import annotations

import torch
from rwkvedit_kernels.crew import Crew
from rwkvedit_kernels.packed import PackedModel
from toy_models import toy_tensors


def run(crew: Crew, seconds: dict[int, float], jobs: int) -> list[int]:
    picked = []
    for _ in range(jobs):
        picked.append(crew.pick())
        crew.took(picked[-1], seconds[picked[-1]])
    return picked


def test_every_choice_is_tried_before_one_is_preferred():
    assert sorted(run(Crew(4), {1: 2.0, 4: 1.0}, 6)) == [1, 1, 1, 4, 4, 4]


def test_the_faster_choice_is_kept_and_the_other_looked_at_now_and_then():
    later = run(Crew(2), {1: 2.0, 2: 1.0}, 200)[6:]
    assert later.count(2) > 0.9 * len(later)
    assert later.count(1) >= 3


def test_it_changes_its_mind_when_the_machine_does():
    crew = Crew(2)
    run(crew, {1: 2.0, 2: 1.0}, 50)
    assert crew.best == 2
    run(crew, {1: 2.0, 2: 9.0}, 50)
    assert crew.best == 1


def test_one_core_has_no_choice():
    assert set(run(Crew(1), {1: 1.0}, 10)) == {1}


def test_the_number_of_threads_changes_no_bit_of_a_token(monkeypatch):
    model = PackedModel(toy_tensors())
    start = [t.unsqueeze(0) for t in toy_start(model)]
    monkeypatch.setattr("rwkvedit_kernels.packed._BYTES_PER_WORKER", 1)  # a toy is small
    alone = model.step([3], *start, threads=1)
    monkeypatch.setattr(Crew, "pick", lambda self: 2)
    for both, one in zip(model.step([3], *start, threads=2), alone, strict=True):
        assert torch.equal(both, one)


def toy_start(model: PackedModel) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    layers, d, n = model.n_layer, model.n_embd, model.head_size
    shapes = ((layers, d), (layers, model.n_head, n, n), (layers, d))
    return [torch.randn(shape, generator=g) for shape in shapes]
