"""What a fact's directions depend on: u1 and v1 as value, entity, property and position vary.

A delta is ``wkv(fact told with the new value) - wkv(told with the old one)``, both from a fresh
state; per head its leading triple is ``sigma1 u1 v1^T`` with u1 the value direction (rows) and v1
the address (columns). The sign of such a pair is arbitrary, so cosines are absolute: two
independent directions of N dimensions have ``E|cos| = sqrt(2 / (pi N))`` about, the chance level.

    value      one person, one property, several pairs of values
    entity     one property and pair of values, told of several people
    property   one person, several properties with values of their own
    position   one fact first to last among five, and alone
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import UsageError
from rwkvedit.evaluate.worlds import PERSON_KINDS, Maker
from rwkvedit.facts import KINDS, Fact
from rwkvedit.recurrent.spectrum import top_triples
from rwkvedit.report.plots import Heatmaps, Lines, Panel, Series
from rwkvedit.report.tables import Table, columns
from rwkvedit.study.base import Finding, Options, mean, signed, study
from rwkvedit.study.cases import find_lexicon, run_tokens, turn_tokens

VARIED = 5  # versions of each axis; also the places of the position axis
AXES = ("value", "entity", "property", "position")
MOST = 20  # heads looked at: a quarter of all, at least 4, those of largest sigma1 told alone
ALONE = "alone"


def pair_of(maker: Maker, entity: str, kind: str, taken: set[str]) -> tuple[Fact, Fact]:
    old = maker.fact(entity, kind, taken)
    return old, old.with_value(maker.value(KINDS[kind].slot, taken))


def rich_kinds(maker: Maker) -> list[str]:
    """Kinds of fact with enough words for VARIED pairs. Raises UsageError when there are none."""
    rich = [k for k in PERSON_KINDS if KINDS[k].slot in ("ages", "phones")
            or len(maker.lexicon[KINDS[k].slot]) >= 2 * VARIED]
    if not rich:
        raise UsageError(
            f"lexicon {maker.lexicon.source}: study directions needs {2 * VARIED} words of a kind"
        )
    return rich


def tellings(maker: Maker) -> dict[str, list[tuple[list[str], list[str]]]]:
    """Per axis, VARIED versions (and ``alone`` last for position): (texts old, texts new)."""
    taken: set[str] = set()
    who = maker.value("names", taken)
    kind = maker.pick(rich_kinds(maker))
    base_old, base_new = pair_of(maker, who, kind, set(taken))

    def said(pairs: Sequence[tuple[Fact, Fact]]) -> list[tuple[list[str], list[str]]]:
        return [([old.statement()], [new.statement()]) for old, new in pairs]

    used: set[str] = set()
    values = [(base_old, base_new)]
    used |= {base_old.value, base_new.value}
    for _ in range(VARIED - 1):
        old = base_old.with_value(maker.value(KINDS[kind].slot, used))
        values.append((old, old.with_value(maker.value(KINDS[kind].slot, used))))
    people = [who, *(maker.value("names", taken) for _ in range(VARIED - 1))]
    entities = [(Fact(kind, p, base_old.value, base_old.thing),
                 Fact(kind, p, base_new.value, base_new.thing)) for p in people]
    others = [k for k in PERSON_KINDS if k != kind]
    kinds = [kind, *(others[int(i)] for i in maker.rng.choice(len(others), VARIED - 1, False))]
    properties = [(base_old, base_new),
                  *(pair_of(maker, who, k, set(taken)) for k in kinds[1:])]
    fillers, others_said = [], {base_old.value, base_new.value}
    for name in people[1:]:
        fact = base_old.with_value(maker.value(KINDS[kind].slot, others_said))
        fillers.append(Fact(kind, name, fact.value, fact.thing).statement())
    placed = []
    for at in range(VARIED):
        placed.append(tuple([*fillers[:at], f.statement(), *fillers[at:]]
                            for f in (base_old, base_new)))
    return {
        "value": said(values), "entity": said(entities), "property": said(properties),
        "position": [*placed, ([base_old.statement()], [base_new.statement()])],
    }


def deltas(loaded: Any, worlds: Sequence[dict], axis: str) -> Tensor:
    """(worlds, versions, L, H, N, N) of an axis."""
    rows = [
        [token for text in texts for token in turn_tokens(loaded, text)]
        for world in worlds for pair in world[axis] for texts in pair
    ]
    wkv = run_tokens(loaded, rows).wkv
    pairs = wkv.view(len(worlds), -1, 2, *wkv.shape[1:])
    return pairs[:, :, 1] - pairs[:, :, 0]


def cosines(directions: Tensor, heads: Sequence[tuple[int, int]]) -> np.ndarray:
    """|cos| between versions: ``directions`` (worlds, versions, L, H, N) -> (worlds, v, v)."""
    chosen = torch.stack([directions[:, :, i, h] for i, h in heads], 1)  # (worlds, heads, v, N)
    return (chosen @ chosen.transpose(-1, -2)).abs().mean(1).cpu().double().numpy()


AXIS_COLUMNS = columns(
    ("axis", "what varies"),
    ("u1", "|cos u1|", "value directions of different versions, mean over pairs and heads"),
    ("v1", "|cos v1|", "addresses of different versions"),
    ("chance", "chance", "E|cos| of independent directions"),
    ("r1", "r1", "share of the squared change in its first direction"),
)
POSITION_COLUMNS = columns(
    ("position", "position", "place of the fact among five"),
    ("u1_alone", "|cos u1| with alone"), ("v1_alone", "|cos v1| with alone"),
    ("u1_next", "|cos u1| with next", "with the next position"),
    ("v1_next", "|cos v1| with next"),
    ("sigma", "sigma1 / alone", "sigma1 as a multiple of the fact told alone"),
)


@study("directions", "Do value and address directions survive another value, entity, property "
       "or position?", worlds=20)
def directions(loaded: Any, options: Options, rng: np.random.Generator) -> Finding:
    maker = Maker(find_lexicon(loaded, options.lexicon), rng)
    worlds = [tellings(maker) for _ in range(options.worlds or 0)]
    config = loaded.model.config
    chance = math.sqrt(2 / (math.pi * config.head_size))
    heads: list[tuple[int, int]] = []
    matrices: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rows, sigma = [], np.zeros(0)
    for axis in ("position", "value", "entity", "property"):
        delta = deltas(loaded, worlds, axis)
        found = top_triples(delta, 1)
        strength = found.sigma[..., 0]  # (worlds, versions, L, H)
        if not heads:
            total = config.n_layer * config.n_head
            few = min(total, MOST, max(4, total // 4))
            best = strength[:, -1].mean(0).flatten().topk(few).indices.tolist()
            heads = [divmod(i, config.n_head) for i in best]
            alone = strength[:, -1:]
            ratio = (strength / alone.clamp_min(1e-30)).cpu()
            sigma = np.stack([ratio[:, :, i, h].numpy() for i, h in heads]).mean(0)
        u, v = (cosines(x[..., 0], heads) for x in (found.u, found.v))
        matrices[axis] = u, v
        off = ~np.eye(VARIED, dtype=bool)
        energy = delta.flatten(4).square().sum(-1).clamp_min(1e-30)
        r1 = torch.stack([(strength.square() / energy)[:, :, i, h] for i, h in heads])
        rows.append({
            "axis": axis, "u1": mean(u[:, :VARIED, :VARIED][:, off].mean(1)),
            "v1": mean(v[:, :VARIED, :VARIED][:, off].mean(1)), "chance": chance,
            "r1": mean(r1.mean((0, 2)).cpu()),
        })
    rows.sort(key=lambda r: AXES.index(r["axis"]))
    places = position_rows(*matrices["position"], sigma)
    bend = curvature(matrices["position"][1])
    settings = {
        "worlds": len(worlds), "lexicon": maker.lexicon.source, "versions": VARIED,
        "heads": [f"layer {i} head {h}" for i, h in heads], "u_shape": bend,
    }
    return Finding(
        sentence(rows, places, bend, chance),
        (Table(AXIS_COLUMNS, tuple(rows), "versions of one axis"),
         Table(POSITION_COLUMNS, tuple(places), "the same fact at five places")),
        pictures(matrices, places), settings,
    )


def curvature(v: np.ndarray) -> dict[str, Any]:
    """First and last place minus the middle one, of |cos v1| with the fact told alone: a U by
    position has both above 0."""
    with_alone = v[:, :VARIED, -1]
    middle = with_alone[:, VARIED // 2]
    return {"first": mean(with_alone[:, 0] - middle), "last": mean(with_alone[:, -1] - middle)}


def position_rows(u: np.ndarray, v: np.ndarray, sigma: np.ndarray) -> list[dict]:
    rows = []
    for at in range(VARIED):
        last = at == VARIED - 1
        rows.append({
            "position": at + 1, "u1_alone": mean(u[:, at, -1]), "v1_alone": mean(v[:, at, -1]),
            "u1_next": None if last else mean(u[:, at, at + 1]),
            "v1_next": None if last else mean(v[:, at, at + 1]), "sigma": mean(sigma[:, at]),
        })
    return rows


def sentence(rows: list[dict], places: list[dict], bend: dict, chance: float) -> str:
    by = {r["axis"]: r for r in rows}
    near, far = (places[at]["v1_alone"]["mean"] for at in (0, -1))
    first, last = bend["first"], bend["last"]
    if first["lo"] > 0 and last["lo"] > 0:
        shape = "it is a U by position"
    elif first["hi"] < 0 and last["hi"] < 0:
        shape = "it is an arch by position, the middle nearest"
    elif last["lo"] > 0:
        shape = "it is no U by position, later places are nearer"
    elif first["lo"] > 0:
        shape = "it is no U by position, earlier places are nearer"
    else:
        shape = "no U by position shows"
    shape += (f" (first and last minus middle: {signed(first['mean'])}, {signed(last['mean'])})")

    def pair(axis: str) -> str:
        return f"{signed(by[axis]['u1']['mean'])} and {signed(by[axis]['v1']['mean'])}"

    return (
        f"|cos| of u1 and of v1 between versions (chance {signed(chance)}): another value "
        f"{pair('value')}, another entity {pair('entity')}, another property {pair('property')}, "
        f"another position {pair('position')}; against the fact told alone v1 is at "
        f"{signed(near)} first and {signed(far)} last of five, and {shape}."
    )


def pictures(matrices: dict, places: list[dict]) -> tuple[Heatmaps | Lines, ...]:
    drawn: list[Heatmaps | Lines] = []
    for axis in AXES:
        u, v = (m.mean(0) for m in matrices[axis])
        count = u.shape[0]
        names = tuple(str(i + 1) for i in range(VARIED)) + ((ALONE,) if count > VARIED else ())
        panels = tuple(
            Panel(f"{what}: {meaning}", tuple(tuple(float(x) for x in r) for r in m), names, names)
            for what, meaning, m in (("u1", "value direction", u), ("v1", "address", v))
        )
        drawn.append(Heatmaps(
            axis, f"|cos| between versions: {axis} varies",
            f"Two {count} by {count} matrices of absolute cosines between versions of a fact that "
            f"differ in {axis}: value directions u1 and addresses v1.",
            panels, "|cos|", "version", low=0.0, high=1.0,
        ))
    drawn.append(Lines(
        "places", "The same fact at five places, against told alone",
        "Two curves of absolute cosine with the fact told alone, over positions one to five: u1 "
        "and v1.",
        tuple(range(1, VARIED + 1)),
        (Series.of("u1 (value)", [p["u1_alone"] for p in places]),
         Series.of("v1 (address)", [p["v1_alone"] for p in places])),
        "position among five facts", "|cos| with the fact told alone", y_range=(0.0, 1.05),
    ))
    return tuple(drawn)
