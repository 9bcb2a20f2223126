"""Benchmarks that ask the edited fact itself: directly, reworded, as a question, at length."""

from __future__ import annotations

from math import exp

from rwkvedit.evaluate.editing import ngram_entropy
from rwkvedit.evaluate.profile.case import Case
from rwkvedit.evaluate.profile.probes import (
    Probe,
    answers,
    behind_sentences,
    counted,
    fits,
    questions,
)
from rwkvedit.evaluate.profile.registry import Found, Shown, benchmark
from rwkvedit.evaluate.saying import write_on
from rwkvedit.transformer.value import target_ids

WRITTEN = 60
OPENINGS = (
    "{prompt}",
    "Here is a short essay about {subject}. {Prompt}",
    "A traveller's guide to {subject}, chapter one. {Prompt}",
    "Dear Ann, you asked me about {subject}, so let me tell you. {Prompt}",
    "Lesson 4. Today we learn about {subject}. {Prompt}",
    "Everyone should know a few things about {subject}. {Prompt}",
)


def _held(case: Case, probes: list[Probe], of: int) -> Found:
    """The share of ``probes`` that the edited model answers with what is wanted."""
    with case.edited():
        said = answers(case.session, [(p.text, p.after) for p in probes])
    values = [float(s.greedy) for s in said]
    return Found(values, of, [Shown(p.text, p.after, v)
                              for p, v in zip(probes, values, strict=True)])  # fmt: skip


@benchmark("EditBench", 0.5, "edit", "ours; the retention of an edit on direct probes")
def edit_bench(case: Case) -> Found:
    """Share of direct probes answered (greedily, the whole answer) with the new answer after the
    edit: the edit's own prompt, bare and behind nine unrelated sentences. Counted where the
    unedited model answers with the old answer."""
    texts = behind_sentences(case.prompt)
    probes = counted(case.session, [Probe(text, case.old, case.new) for text in texts])
    return _held(case, probes, len(texts))


@benchmark("EditGeneralization", 0.4, "edit",
           "the paraphrase score of Meng et al. (2022), section 3.4, by argmax; wordings ours")
def generalization(case: Case) -> Found:
    """Share of other wordings of the prompt answered (greedily, the whole answer) with the new
    answer after the edit. Counted where the unedited model answers with the old answer."""
    return _held(case, case.paraphrases, case.asked_paraphrases)


@benchmark("PM", 0.5, "edit", "the paraphrase magnitude (PM) of Meng et al. (2022), section 3.4")
def paraphrase_magnitude(case: Case) -> Found:
    """Mean of P(new answer) - P(old answer) over other wordings of the prompt after the edit, each
    the probability of the whole answer; from -1 to 1. Counted where the unedited model answers
    with the old answer."""
    rows = [(p.text, answer) for p in case.paraphrases for answer in (p.after, p.before)]
    with case.edited():
        p = _probabilities(case, rows)
    values = [new - old for new, old in zip(p[::2], p[1::2], strict=True)]
    return Found(values, case.asked_paraphrases,
                 [Shown(p.text, p.after, v)
                  for p, v in zip(case.paraphrases, values, strict=True)])  # fmt: skip


def _probabilities(case: Case, rows: list[tuple[str, str]]) -> list[float]:
    """P of each whole answer (``Said.logp`` is a mean over its tokens)."""
    out = []
    for (text, answer), said in zip(rows, answers(case.session, rows), strict=True):
        k = len(target_ids(case.session, case.session.tokens(text), answer))
        out.append(exp(said.logp * k))
    return out


@benchmark("zsRE", 0.4, "edit",
           "question form and argmax as for zsRE (Levy et al. 2017; Mitchell et al. 2022); "
           "the questions are ours")
def zsre(case: Case) -> Found:
    """Share of questions for the edited fact ("Question: What is the R of S? Answer:") answered
    (greedily, the whole answer) with the new answer after the edit. Counted where the unedited
    model answers the question with the old answer."""
    texts = questions(case.prompt, case.subject)
    probes = counted(case.session, [Probe(text, case.old, case.new) for text in texts])
    return _held(case, probes, len(texts))


@benchmark("LEME", 0.5, "edit",
           "after the long-form evaluation of Rosati et al. (2024), whose survey and judges are "
           "people and models; this automatic measure is ours")
def long_form(case: Case) -> Found:
    """Mean over six passages of 60 greedy tokens, each begun by the prompt in another setting: does
    the edited model keep to the edit at length? A passage scores 0 where it does not begin with
    the new answer or names the old answer at least as often as the new one, else its n-gram
    entropy (Meng et al. 2022, fluency) as a share of what the unedited model writes there, at most
    1: text that repeats itself scores low. Counted where the unedited model begins with the old
    answer."""
    session, prompt = case.session, case.prompt
    small = prompt[:1].upper() + prompt[1:]
    texts = [o.format(prompt=prompt, Prompt=small, subject=case.subject) for o in OPENINGS]
    texts = [t for t in texts if fits(session, len(session.tokens(t)) + WRITTEN)]
    begun = [p.text for p in counted(session, [Probe(t, case.old, case.new) for t in texts])]
    ids = [session.tokens(text) for text in begun]
    before = write_on(session, ids, WRITTEN)
    with case.edited():
        after = write_on(session, ids, WRITTEN)
    new, old = case.new.lower(), case.old.strip().lower()
    values, shown = [], []
    for text, was, now in zip(begun, before, after, strict=True):
        passage = session.text(now)
        said = passage.lower()
        kept = said.strip().startswith(new) and said.count(new) > said.count(old)
        natural = min(1.0, ngram_entropy(now) / max(1e-9, ngram_entropy(was)))
        values.append(natural if kept else 0.0)
        shown.append(Shown(f"{text}{passage}", case.new, values[-1]))
    return Found(values, len(OPENINGS), shown)
