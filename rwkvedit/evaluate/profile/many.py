"""Benchmarks of several edits: one after another, and in one batch."""

from __future__ import annotations

from math import exp

from rwkvedit.evaluate.profile.case import Case
from rwkvedit.evaluate.profile.probes import answers
from rwkvedit.evaluate.profile.registry import Found, Shown, benchmark
from rwkvedit.evaluate.saying import Asked, say
from rwkvedit.transformer.rewordings import others
from rwkvedit.transformer.statistics import TOKENS, chunks, corpus_text
from rwkvedit.transformer.value import Request

TEXTS = 6


@benchmark("SeqCollapse", 0.7, "sequence",
           "perplexity after sequential edits, as Gupta et al. (2024) look for collapse; the "
           "ratio as a score is ours")
def collapse(case: Case) -> Found:
    """Perplexity of held-out text before any edit, divided by that after k edits one after another
    (the profiled edit first, then others of the same relation that the model knows): 1 is no
    harm, .7 is 1.43 times the perplexity. At most 1. The text is the corpus that ships, behind the
    tokens that an edit's statistics are taken of."""
    case.chain  # noqa: B018  (made with the weights as they were)
    before = _perplexity(case)
    with case.edited(case.chain.deltas):
        after = _perplexity(case)
    more = {"k": len(case.requests), "perplexity": {"before": before, "after": after}}
    return Found([min(1.0, before / after)], 1, [], more)


@benchmark("SeqRetention", 0.7, "sequence", "ours; what earlier edits lose to later ones")
def retention(case: Case) -> Found:
    """Share of k edits made one after another (the profiled one first, then others of the same
    relation that the model knows) whose prompt is still answered (greedily, the whole answer) with
    the new answer after the last. Counted are the edits that were answered so right after they
    were made."""
    chain = case.chain
    with case.edited(chain.deltas):
        held = case.holds(chain.requests)
    pairs = [(r, h) for r, h, took in zip(chain.requests, held, chain.took, strict=True) if took]
    return Found([float(h) for _, h in pairs], len(chain.requests),
                 [Shown(r.prompt, r.target, float(h)) for r, h in pairs])  # fmt: skip


@benchmark("BatchConsistency", 0.6, "batch", "ours")
def consistency(case: Case) -> Found:
    """Share of what k edits do singly that they also do as one batch: over each edit's prompt and
    its other wordings, counted where the model with that edit alone gives (greedily, the whole
    answer) the new answer. One batch is what the method makes of many edits at once; methods of
    single edits have theirs added up."""
    probes = [_wordings(r) for r in case.requests]
    alone = []
    for request, texts, deltas in zip(case.requests, probes, case.singly, strict=True):
        with case.edited(deltas):
            said = answers(case.session, [(text, request.target) for text in texts])
        alone.append([bool(deltas) and one.greedy for one in said])
    flat = [(text, r.target) for r, texts in zip(case.requests, probes, strict=True)
            for text in texts]  # fmt: skip
    with case.edited(case.batch):
        said = answers(case.session, flat)
    single = [so for row in alone for so in row]
    counting = [(probe, float(one.greedy))
                for probe, one, so in zip(flat, said, single, strict=True) if so]  # fmt: skip
    return Found([v for _, v in counting], len(flat),
                 [Shown(text, new, v) for (text, new), v in counting],
                 {"k": len(case.requests), "made": sum(map(bool, case.singly))})  # fmt: skip


def _wordings(request: Request) -> list[str]:
    return [request.prompt, *others(request.prompt, request.subject)]


def _perplexity(case: Case) -> float:
    """Of the last rows of the corpus that ships."""
    text, _ = corpus_text(None)
    rows = [row for row in chunks(case.session, text, 10 * TOKENS) if len(row) > 1][-TEXTS:]
    nats = [-one.logp for one in say(case.session, [Asked(r[:1], r[1:]) for r in rows])]
    return exp(sum(nats) / len(nats))
