"""Seeded toy transformers of each family: untrained, a few kilobytes, made in memory.

They show every call working without a download; what they predict means nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from rwkvedit.transformer.blocks import HFModel
from rwkvedit.transformer.session import ModelSession
from rwkvedit.transformer.vocabulary import HFCodec, Vocabulary

TEXT = (
    "The capital of France is Paris . The capital of Japan is Tokyo . "
    "The capital of Italy is Rome . The capital of Germany is Berlin . "
    "Bob lives in Austin and Ann lives in Boston ."
)
VOCAB = 330  # what the tokenizer below learns from TEXT, every word of it one token
WIDTH = 32
LAYERS = 4
CONTEXT = 128


def toy_tokenizer() -> Any:
    """Byte-level BPE over a few words, with BOS (id 0) and an end token (id 1)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=["<|bos|>", "<|end|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>"
    )


def toy_model(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A model of transformers in fp32 with seeded weights; ``changes`` go to its config."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    common: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1}
    wide: dict[str, Any] = {
        **common, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "max_position_embeddings": CONTEXT,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "gpt2":
            model: Any = GPT2LMHeadModel(
                GPT2Config(**common, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=CONTEXT,
                           n_inner=48, **changes)
            )  # fmt: skip
        elif family == "gpt_neox":
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**{**wide, **changes}))
        else:
            settings = {**wide, "num_key_value_heads": 2, **changes}
            model = LlamaForCausalLM(LlamaConfig(**settings))
        generator = torch.Generator().manual_seed(seed)
        for name, p in model.named_parameters():
            if p.dim() == 2:  # large enough that every part moves the answer
                p.data = torch.randn(p.shape, generator=generator) * 0.25
            elif name.endswith("weight"):
                p.data = 1 + 0.1 * torch.randn(p.shape, generator=generator)
            else:
                p.data = 0.1 * torch.randn(p.shape, generator=generator)
    return model.eval()


def toy_session(
    family: str = "llama", seed: int = 0, bos: bool = False, **changes: Any
) -> ModelSession:
    """A session on ``toy_model``."""
    names = {"llama": "toy", "gpt2": "toy-gpt2", "gpt_neox": "toy-neox"}
    model = HFModel(toy_model(family, seed, **changes), names[family])
    return ModelSession(model, Vocabulary(HFCodec(toy_tokenizer())), names[family], None, bos)
