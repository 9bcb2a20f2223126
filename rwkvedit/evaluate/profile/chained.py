"""Benchmarks that need the edited fact as a step on the way to another."""

from __future__ import annotations

from rwkvedit.evaluate.profile.case import Case
from rwkvedit.evaluate.profile.direct import _held
from rwkvedit.evaluate.profile.knowledge import RELATIONS, Relation
from rwkvedit.evaluate.profile.probes import Probe, aliases, answers, counted
from rwkvedit.evaluate.profile.registry import Found, Shown, benchmark
from rwkvedit.evaluate.saying import write_on
from rwkvedit.transformer.rewordings import relation_of
from rwkvedit.transformer.value import target_ids

ABOUT = {
    "city": ("{} is located in the country of", "In the city of {}, people speak",
             "{} is on the continent of", "{} is a city in the country called"),
    "person": ("{} was born in the country of", "The native language of {} was"),
    "country": ("The capital of {} is", "People in {} speak", "{} is on the continent of"),
}  # fmt: skip
"""By kind of value: what can be asked on about it. Others: OF_ANY."""
OF_ANY = ("{} is a kind of", "{} is used by people who", "{} comes from the country of")
HOPS = {
    "language": ("In the {relation} of {subject}, people speak",
                 "The language spoken in the {relation} of {subject} is",
                 "People who live in the {relation} of {subject} speak"),
    "continent": ("The {relation} of {subject} is on the continent of",
                  "The {relation} of {subject} is located on the continent of"),
}  # fmt: skip
"""By relation of the answer's own subject: questions that pass over the answer in one sentence."""


@benchmark("IndirectRecovery", 0.35, "edit",
           "chained questions after MQuAKE (Zhong et al. 2023), the steps written out; ours")
def indirect(case: Case) -> Found:
    """Share of chains that end where the new answer leads. The model first completes the edit's
    prompt by itself, then its own answer is asked about in the same text ("The capital of S is X.
    X is located in the country of"). The end wanted is what the unedited model says when the
    new answer is written in for X without the first sentence; counted where the unedited model's
    own chain leads where the old answer does, and elsewhere than the new one."""
    session = case.session
    kind = _kind_of_value(case.relation)
    asks = ABOUT.get(kind, OF_ANY)
    ends = _first_words(case, [ask.format(x.strip()) for ask in asks for x in (case.old, case.new)])
    triples = list(zip(asks, ends[::2], ends[1::2], strict=True))
    before = _chains(case, asks)
    counting = [
        (ask, new) for (ask, old, new), end in zip(triples, before, strict=True)
        if end == old != new
    ]  # fmt: skip
    if not counting:
        return Found([], len(asks))
    with case.edited():
        after = _chains(case, [ask for ask, _ in counting])
    values = [float(end == wanted) for end, (_, wanted) in zip(after, counting, strict=True)]
    shown = [
        Shown(f"{case.prompt} X. {ask.format('X')}", session.piece(wanted), v)
        for (ask, wanted), v in zip(counting, values, strict=True)
    ]
    return Found(values, len(asks), shown)


def _chains(case: Case, asks: tuple[str, ...] | list[str]) -> list[int]:
    """Where each chain ends, with the weights as they are: its first token."""
    session = case.session
    longest = max(len(target_ids(session, session.tokens(case.prompt), x.strip()))
                  for x in (case.old, case.new))  # fmt: skip
    written = write_on(session, [session.tokens(case.prompt)], longest)[0]
    own = session.text(written)
    for known in (case.new, case.old.strip()):
        if own.strip().startswith(known):
            own = f" {known}"
            break
    else:
        own = session.text(written[:1])
    said = own.strip()
    return _first_words(case, [f"{case.prompt} {said}. {ask.format(said)}" for ask in asks])


def _first_words(case: Case, texts: list[str]) -> list[int]:
    logits = case.session.run([case.session.tokens(text) for text in texts]).logits
    return logits.argmax(-1).tolist()


@benchmark("Portability", 0.4, "edit",
           "Yao et al. (2023): alias of the subject, one hop, inverse; wordings ours")
def portability(case: Case) -> Found:
    """Mean over three kinds, each the share of its counted probes answered with what follows from
    the edit. Alias: the prompt with the subject called otherwise ("the country of S"), counted
    where the unedited model gives the old answer. One hop: a question that passes over the answer
    in one sentence ("In the capital of S, people speak"), counted where the unedited model
    answers it truly for S and for the subject whose answer the new one is, and the two differ.
    Inverse: "NEW is the capital of" with S wanted, counted where the unedited model inverts the
    old fact ("OLD is the capital of" with S). A kind without a counted probe is left out."""
    session = case.session
    made = {
        "alias": [Probe(text, case.old, case.new, "alias")
                  for text in aliases(case.prompt, case.subject)],
        "one hop": _hops(case), "inverse": _inverses(case),
    }  # fmt: skip
    found, shown, values = {}, list[Shown](), list[float]()
    of = 0
    for kind, probes in made.items():
        if kind == "inverse":
            backs = [p.text.replace(case.new, case.old.strip(), 1) for p in probes]
            said = answers(session, [(text, case.subject) for text in backs])
            kept = [p for p, so in zip(probes, said, strict=True) if so.greedy]
        else:
            kept = counted(session, probes)
        result = _held(case, kept, len(probes))
        of += len(probes)
        values += result.values
        shown += result.shown
        held = sum(result.values) / len(result.values) if result.values else None
        found[kind] = {"score": held, "counted": len(result.values), "of": len(probes)}
    scores = [each["score"] for each in found.values() if each["score"] is not None]
    score = sum(scores) / len(scores) if scores else None
    return Found(values, of, shown, {"kinds": found}, score)


def _hops(case: Case) -> list[Probe]:
    """Questions over the answer; ``after`` is what holds of the new answer's own subject."""
    name = relation_of(case.prompt, case.subject)
    owner = next((n.subject for n in case.neighbours if n.value == case.new), None)
    if name is None or owner is None:
        return []
    out = []
    for relation in RELATIONS:
        mine, theirs = relation.values.get(case.subject), relation.values.get(owner)
        if mine is None or theirs is None or mine == theirs:
            continue
        for wording in HOPS.get(relation.name, ()):
            text, other = (wording.format(relation=name, subject=s) for s in (case.subject, owner))
            if answers(case.session, [(other, theirs)])[0].greedy:
                out.append(Probe(text, mine, theirs, "one hop"))
    return out


def _inverses(case: Case) -> list[Probe]:
    wordings = list(case.relation.inverse) if case.relation is not None else []
    name = relation_of(case.prompt, case.subject)
    if name is not None and case.relation is None:
        wordings = [f"{{}} is the {name} of"]
    return [Probe(w.format(case.new), case.subject, case.subject, "inverse") for w in wordings]


def _kind_of_value(relation: Relation | None) -> str:
    return relation.value_kind if relation is not None else ""
