"""A toy transformer that knows a few countries: trained in seconds on the profile's wordings."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch

from rwkvedit.evaluate.profile.chained import ABOUT, HOPS
from rwkvedit.evaluate.profile.knowledge import CAPITALS, CONTINENTS, LANGUAGES, RELATIONS
from rwkvedit.evaluate.profile.probes import (
    BEFORE,
    aliases,
    behind_sentences,
    paraphrases,
    questions,
)
from rwkvedit.transformer.blocks import HFModel
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.toy import toy_model
from rwkvedit.transformer.vocabulary import HFCodec, Vocabulary

COUNTRIES = ("France", "Japan", "Italy", "Germany", "Spain", "Egypt")
STEPS, ROWS, WORDS = 160, 48, 520


def sentences() -> list[tuple[str, str]]:
    """(prompt, answer)."""
    out = []
    for place in COUNTRIES:
        city = CAPITALS[place]
        prompt = f"The capital of {place} is"
        asked = [*behind_sentences(prompt), *paraphrases(prompt, place, RELATIONS[0]),
                 *questions(prompt, place), *aliases(prompt, place)]  # fmt: skip
        out += [(text, city) for text in asked]
        for relation in RELATIONS:
            if place in relation.values:
                out += [(w.format(place), relation.values[place]) for w in relation.prompts]
            if city in relation.values:
                out += [(w.format(city), relation.values[city]) for w in relation.prompts]
        out += [(w.format(city), place) for w in RELATIONS[0].inverse]
        for name, values in (("language", LANGUAGES), ("continent", CONTINENTS)):
            out += [(w.format(relation="capital", subject=place), values[place])
                    for w in HOPS[name] if place in values]  # fmt: skip
            out += [(w.format(city), values[place]) for w in ABOUT["city"]
                    if (name == "language") == ("speak" in w) and "country" not in w
                    and place in values]  # fmt: skip
        for other in COUNTRIES:
            out.append((f"The capital of {other} is {CAPITALS[other]}. {prompt}", city))
    return out


def tokenizer(texts: list[str]) -> Any:
    """Every word that is there is one token, with the space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=WORDS + 1500, special_tokens=["<|bos|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    ))  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|bos|>", eos_token="<|end|>")


@cache
def knowing() -> tuple[Any, Any]:
    """(model, tokenizer), trained."""
    facts = sentences()
    texts = [re.sub(" +", " ", f"{prompt} {answer}. ") for prompt, answer in facts]
    words = tokenizer([*texts, *BEFORE])
    rows = [words.encode(text.strip(), add_special_tokens=False)[:48] for text in texts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = toy_model(vocab_size=len(words), hidden_size=48, intermediate_size=96,
                          max_position_embeddings=256)  # fmt: skip
        for p in model.parameters():
            if p.dim() == 2:
                p.data *= 0.3
        model.train()
        for layer in model.model.layers[:2]:  # facts have to pass through the lower MLPs
            layer.self_attn.o_proj.weight.requires_grad_(False).zero_()
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=4e-3)
        for step in range(STEPS):
            chosen = torch.randperm(len(rows))[:ROWS].tolist()
            long = max(len(rows[i]) for i in chosen)
            ids = torch.ones(len(chosen), long, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            for b, i in enumerate(chosen):
                ids[b, : len(rows[i])] = torch.tensor(rows[i])
                labels[b, : len(rows[i])] = torch.tensor(rows[i])
            loss = model(input_ids=ids, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            for group in optimiser.param_groups:
                group["lr"] = 4e-3 * (1 - step / STEPS)
    return model.eval(), words


def knowing_session() -> ModelSession:
    """A session on a copy of it."""
    import copy

    model, words = knowing()
    return ModelSession(
        HFModel(copy.deepcopy(model), "toy-facts"), Vocabulary(HFCodec(words)), "toy-facts", None,
        False,
    )  # fmt: skip
