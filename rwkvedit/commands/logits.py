"""``rwkvedit logits``: the logits of the last position, to compare engines from the shell."""

from __future__ import annotations

import argparse
from itertools import pairwise

from rwkvedit.errors import UsageError
from rwkvedit.models.catalog import DEFAULT, DTYPES, load_model


def add_parser(subparsers: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    parser = subparsers.add_parser("logits", help="logits of the last position of some tokens")
    parser.add_argument("--model", default=DEFAULT, help="embedded, or a path")
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--tokens", help="token ids, comma separated: 1,2,3")
    words.add_argument("--text", help="text instead of ids")
    parser.add_argument("--chunks", type=int, default=1, help="split the tokens into n calls")
    parser.add_argument("--backend", default="native", choices=("native", "rwkv"))
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default=None, choices=tuple(DTYPES))
    parser.add_argument("--vocab", help="a vocabulary file in the World tokenizer's format")
    parser.add_argument("--state-file", help="a tuned initial state")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl.render import Renderer

    renderer = Renderer()
    tokens = None if args.tokens is None else parse_tokens(args.tokens)
    loaded = load_model(
        args.model, args.device, args.dtype, args.backend,
        vocab=args.vocab, state_file=args.state_file,
    )  # fmt: skip
    if tokens is None:
        tokens = loaded.tokenizer.encode(args.text)
    if not tokens:
        raise UsageError("no tokens: give --tokens 1,2,3 or --text WORDS")
    if not 1 <= args.chunks <= len(tokens):
        raise UsageError(f"--chunks {args.chunks}: expected 1 to {len(tokens)}, the tokens given")
    logits, state = None, None
    for chunk in split(tokens, args.chunks):
        logits, state = loaded.model.forward(chunk, state)
    assert logits is not None
    if args.json:
        renderer.document({"logits": logits.tolist(), "tokens": tokens})
        return 0
    values, ids = logits.log_softmax(-1).exp().topk(min(10, len(logits)))
    for p, i in zip(values.tolist(), ids.tolist(), strict=True):
        renderer.write(f"{p:8.4f}  {i:6d}  {loaded.tokenizer.decode([i])!r}\n")
    return 0


def parse_tokens(text: str) -> list[int]:
    """``1,2,3`` to ids."""
    try:
        return [int(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        raise UsageError(f"--tokens {text!r}: expected whole numbers like 1,2,3") from None


def split(tokens: list[int], chunks: int) -> list[list[int]]:
    """``tokens`` in ``chunks`` runs whose lengths differ by one at most."""
    edges = [len(tokens) * c // chunks for c in range(chunks + 1)]
    return [tokens[a:b] for a, b in pairwise(edges)]
