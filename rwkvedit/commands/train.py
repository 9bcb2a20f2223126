"""``rwkvedit train``: make the embedded model again, or another one like it.

The only training module that prints: one line per record to stdout, also in DIR/log.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).resolve().parent.parent / "models" / "embedded"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    p = subparsers.add_parser("train", help="train a model like the embedded one")
    add_arguments(p)
    p.set_defaults(main=main)
    return p


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    p.add_argument("--tokens", type=int, metavar="N", help="stop after N tokens")
    p.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes of training")
    p.add_argument("--seed", type=int, default=0, metavar="S")
    p.add_argument("--device", default="auto", metavar="auto|cpu|cuda")
    p.add_argument("--vocab", type=Path, default=EMBEDDED / "vocab.txt", metavar="FILE")
    p.add_argument("--n-embd", type=int, default=256, metavar="D")
    p.add_argument("--n-layer", type=int, default=6, metavar="L")
    p.add_argument("--head-size", type=int, default=64, metavar="N")
    p.add_argument(
        "--tie",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train emb and head as one matrix (exported as two)",
    )
    p.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="fuse element-wise arithmetic with torch.compile (needs a C++ compiler)",
    )
    p.add_argument("--resume", action="store_true", help="go on from DIR/checkpoint.pt")
    p.add_argument("--init-from", type=Path, metavar="FILE", help="start from these weights")
    p.add_argument("--lr-scale", type=float, default=1.0, metavar="X", help="multiply every rate")
    p.add_argument(
        "--stage-start",
        type=float,
        default=0.0,
        metavar="K",
        help="begin the curriculum at this share of it, 0 to 1",
    )


def line(record: dict[str, Any]) -> str:
    """One record as one line."""
    stages = " ".join(f"{k}:{v:.3f}" for k, v in record["stages"].items())
    return (
        f"step {record['step']:>6}  {record['tokens'] / 1e6:8.3f}M tokens"
        f"  {record['tokens_per_s']:>6} tok/s  loss {record['loss']:.4f}"
        f"  value {record['value_acc']:.4f}  lr {record['lr']:.3f}"
        f"  {100 * record['progress']:5.1f}%  {record['elapsed'] / 60:6.1f} min  {stages}"
    )


def main(args: argparse.Namespace) -> int:
    from rwkvedit.models.tokenizer import WorldTokenizer
    from rwkvedit.repl.render import Renderer
    from rwkvedit.train.corpus import Corpus
    from rwkvedit.train.loop import Settings, Trainer

    names = Settings.__dataclass_fields__
    settings = Settings(**{k: v for k, v in vars(args).items() if k in names})
    tokenizer = WorldTokenizer.from_file(settings.vocab)
    trainer = Trainer(settings, tokenizer.vocab_size, lambda seed: Corpus(tokenizer, seed))
    renderer = Renderer()
    done = trainer.run(lambda record: renderer.write(line(record) + "\n"))
    renderer.write(f"{'done' if done else 'stopped'}: {settings.out / 'model.safetensors'}\n")
    return 0 if done else 130
