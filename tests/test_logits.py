"""``rwkvedit logits`` and ``rwkvedit models`` from the shell's side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from toy_models import save_toy, toy_tensors, toy_vocabulary

from rwkvedit.commands import logits, models
from rwkvedit.errors import UsageError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_vocabulary(folder / "vocab.txt")
    return save_toy(folder / "model.pth", toy_tensors(1))


def run(verb, *words: str) -> int:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(words)
    return args.main(args)


def printed(capsys: pytest.CaptureFixture[str], checkpoint: Path, *words: str) -> dict:
    assert run(logits, "logits", "--model", str(checkpoint), "--json", *words) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    return json.loads(out)


def test_backends_and_chunks_print_the_same_logits(capsys, checkpoint: Path) -> None:
    words = ("--tokens", "1,2,3,4,5")
    one = printed(capsys, checkpoint, *words)
    assert one["tokens"] == [1, 2, 3, 4, 5] and len(one["logits"]) == 300
    for more in (("--chunks", "2"), ("--chunks", "5"), ("--backend", "rwkv")):
        other = printed(capsys, checkpoint, *words, *more)
        assert other["logits"] == pytest.approx(one["logits"], rel=1e-4, abs=1e-4)


def test_text_is_encoded_with_the_vocabulary_beside(capsys, checkpoint: Path) -> None:
    assert printed(capsys, checkpoint, "--text", "Bob lives")["tokens"] == [257, 258]
    assert run(logits, "logits", "--model", str(checkpoint), "--text", "Bob") == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


@pytest.mark.parametrize(
    "words",
    [("--tokens", "1,x"), ("--tokens", ""), ("--tokens", "1,2", "--chunks", "3"),
     ("--tokens", "1,300"), ("--text", "")],
)  # fmt: skip
def test_bad_input_is_a_usage_error(checkpoint: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        run(logits, "logits", "--model", str(checkpoint), *words)


def test_models_list_has_the_promised_keys(capsys) -> None:
    assert run(models, "models", "list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    keys = {"name", "kind", "available", "source", "digest", "path", "parameters"}
    assert [set(row) for row in rows] == [keys, keys]
    assert run(models, "models") == 0
    assert "embedded" in capsys.readouterr().out
