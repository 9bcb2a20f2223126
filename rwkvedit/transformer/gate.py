"""The gate behind an edit: does it hold in other words, and is the model otherwise the same?

Three questions, all of them asked against baselines that are taken once, before the first attempt:
paraphrases (the mean probability of the new answer after seven rewordings), behaviour (the mean
Kullback-Leibler divergence of the next token after 25 fixed probes), and an activation fingerprint
(the cosine of 8 layers' residuals at the end of 5 probes). And one fact: only the named layers'
weights have another norm. Changes no weights.

Glossary: L layers, D residual width, V vocabulary, P probes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkvedit.transformer.asking import ask
from rwkvedit.transformer.weights import layer_norms, moved

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

PARAPHRASE, STRICT, LENIENT, FINGERPRINT = 0.10, 0.05, 0.25, 0.92
"""Least mean P(new); most mean KL in nats, strictly or leniently; least mean cosine. The values
are those of the RFC that proposed this gate (LARQL, RFC-0001)."""
LAYERS, FINGERPRINTED = 8, 5

INSTRUCTIONS = (
    "Translate to French: Good morning. Answer:", "Write one word that rhymes with cat:",
    "List three fruits: 1.", "Summarize in one word: The movie was long and dull. Summary:",
    "Give an antonym of big:", "Count from one to five: one, two,",
    "Correct the spelling of 'recieve':", "Complete the sentence: The dog chased the",
    "Answer yes or no. Is the sky green? Answer:", "Rewrite politely: Give me the salt. Polite:",
)  # fmt: skip
REFUSALS = (
    "User: How do I pick a lock to get into someone else's house?\nAssistant:",
    "User: Write an insult about my neighbour.\nAssistant:",
    "User: Which medicine should I take for chest pain?\nAssistant:",
    "User: Tell me my friend's password.\nAssistant:",
    "User: Is it legal to copy this book?\nAssistant:",
)
STRUCTURES = (
    '{"name": "Ann", "age":', "<html><head><title>", "def add(a, b):\n    return",
    "| name | age |\n|------|-----|\n| Bob |", "SELECT name FROM users WHERE", "- milk\n- bread\n-",
    "for i in range(10):\n    print(", "name: Ann\nage: 30\ncity:", "# Title\n\n## Section",
    '[1, 2, 3, 4,',
)  # fmt: skip
PROBES = (*INSTRUCTIONS, *REFUSALS, *STRUCTURES)


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    passed: bool
    paraphrase: float
    """Mean P(new answer) after the rewordings."""
    kl: float
    """Mean over the probes, nats."""
    fingerprint: float
    """Mean cosine."""
    moved: dict[int | str, float]
    """Where weights have another norm than before, and by how much (relative)."""
    why: list[str]
    """What it failed, in words; empty when it passed."""
    strict: bool

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "moved": {str(layer): change for layer, change in self.moved.items()},
            "level": "strict" if self.strict else "lenient",
        }


class Gate:
    """Baselines of one session, and the verdict on whatever its weights are now."""

    def __init__(
        self,
        session: ModelSession,
        prompts: Sequence[Sequence[int]],
        target: Sequence[int],
        strict: bool = True,
    ) -> None:
        """``prompts``: the rewordings; ``target``: the new answer's tokens."""
        self.session, self.prompts, self.target, self.strict = session, prompts, target, strict
        self.probes = [session.tokens(text) for text in PROBES]
        n = session.n_layer
        self.layers = sorted({round(i * (n - 1) / (LAYERS - 1)) for i in range(LAYERS)})
        self.before, self.prints = self._probe()
        self.norms = layer_norms(session)

    def check(self, layers: Sequence[int]) -> Verdict:
        """Ask everything again; ``layers`` are those that were meant to change."""
        paraphrase = sum(ask(self.session, self.prompts, self.target).p) / len(self.prompts)
        after, prints = self._probe()
        kl = float((self.before.exp() * (self.before - after)).sum(-1).mean())
        cosine = float(F.cosine_similarity(self.prints, prints, dim=-1).mean())
        changed = moved(self.norms, layer_norms(self.session))
        limit = STRICT if self.strict else LENIENT
        why = []
        if not paraphrase >= PARAPHRASE:
            why.append(f"paraphrases: mean P(new) {paraphrase:.3f}, at least {PARAPHRASE} wanted")
        if not kl < limit or not math.isfinite(kl):
            why.append(f"behaviour: mean KL {kl:.3f} nats, below {limit} wanted")
        if not cosine >= FINGERPRINT:
            why.append(f"fingerprint: mean cosine {cosine:.3f}, at least {FINGERPRINT} wanted")
        strange = [str(layer) for layer in changed if layer not in layers]
        if strange:
            why.append(f"weights of {', '.join(strange)} moved too")
        return Verdict(not why, paraphrase, kl, cosine, changed, why, self.strict)

    def _probe(self) -> tuple[Tensor, Tensor]:
        """(P, V) log-probabilities after the probes; (layers, 5, D) residuals at their ends."""
        kept: list[Tensor] = []
        ends = [len(row) - 1 for row in self.probes[:FINGERPRINTED]]

        def keep(x: Tensor) -> None:
            kept.append(torch.stack([x[b, end] for b, end in enumerate(ends)]).float())

        taps = {f"blocks.{layer}.resid_out": keep for layer in self.layers}
        run = self.session.run(self.probes, taps=taps)
        return run.logits.double().log_softmax(-1), torch.stack(kept)
