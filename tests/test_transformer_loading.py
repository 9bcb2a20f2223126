"""Models open by name or path, from folders and GGUF files; what cannot is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_models import save_toy, toy_tensors, toy_vocabulary

from rwkvedit.errors import FileFormatError, RwkvEditError, UnavailableError, UsageError
from rwkvedit.models.catalog import load_model
from rwkvedit.transformer import open_session
from rwkvedit.transformer.toy import toy_model, toy_session, toy_tokenizer

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "The capital of France is"


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder of the toy Llama."""
    where = tmp_path_factory.mktemp("hf") / "toy"
    toy_model("llama").save_pretrained(where)
    toy_tokenizer().save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """The toy Llama as a GGUF file, its tokenizer in it."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "toy.gguf")


def write_gguf(path: Path, architecture: str = "llama") -> Path:
    import gguf

    model = toy_model("llama")
    c, tokenizer = model.config, toy_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("toy")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    writer.add_vocab_size(c.vocab_size)
    words = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pieces = sorted(words["vocab"], key=words["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if p.startswith("<|") else 1 for p in pieces])
    writer.add_token_merges([" ".join(pair) for pair in words["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        data = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp's order of rotary pairs
            heads = c.num_attention_heads if "q_proj" in name else c.num_key_value_heads
            half = data.reshape(heads, 2, -1, data.shape[1])
            data = np.ascontiguousarray(half.swapaxes(1, 2).reshape(data.shape))
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_transformers_can_be_imported_from_the_root_of_the_repository():
    assert python("import transformers, rwkvedit; print(transformers.__version__[0])") == "5"
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_the_chat_and_this_package_start_without_transformers():
    code = (
        "import sys, rwkvedit.repl.app, rwkvedit.cli, rwkvedit.transformer;"
        "rwkvedit.cli.build_parser();"
        "print([m for m in ('transformers', 'accelerate', 'gguf') if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_a_folder_opens_and_answers_as_the_model_it_was_saved_from(folder):
    session, toy = open_session(folder, "cpu"), open_session("toy")
    assert session.architecture == "llama" and session.path == folder
    assert session.tokens(PROMPT) == toy.tokens(PROMPT)
    np.testing.assert_allclose(
        session.forward(PROMPT).logits, toy.forward(PROMPT).logits, atol=1e-6
    )


def test_a_gguf_file_opens_and_can_be_saved_as_a_folder(gguf_file, tmp_path):
    session, toy = open_session(gguf_file, "cpu"), open_session("toy")
    assert session.tokens(PROMPT) == toy.tokens(PROMPT)
    want = toy.forward(PROMPT).logits
    np.testing.assert_allclose(session.forward(PROMPT).logits, want, atol=1e-4)
    assert open_session(gguf_file.parent, "cpu").digest == session.digest
    session.model.model.save_pretrained(tmp_path / "out")
    session.vocabulary.codec.tokenizer.save_pretrained(tmp_path / "out")
    again = open_session(tmp_path / "out", "cpu")
    np.testing.assert_allclose(again.forward(PROMPT).logits, want, atol=1e-4)
    assert again.tokens(PROMPT) == toy.tokens(PROMPT)


def test_half_precision_is_a_choice(folder):
    import torch

    session = open_session(folder, "cpu", "bf16")
    assert session.dtype == torch.bfloat16
    assert session.forward(PROMPT).logits.dtype == np.float32
    assert session.capture_residuals(PROMPT, 1)[1].dtype == np.float32
    with pytest.raises(UsageError, match="choose fp32"):
        open_session(folder, "cpu", "int4")
    with pytest.raises(UsageError, match="auto, cpu or cuda"):
        open_session(folder, "tpu")


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3"])
def test_llama_style_architectures_run_with_hooks_as_they_run_without(kind):
    import torch
    import transformers

    from rwkvedit.transformer import Noop
    from rwkvedit.transformer.blocks import HFModel
    from rwkvedit.transformer.session import ModelSession
    from rwkvedit.transformer.vocabulary import HFCodec, Vocabulary

    name = {"mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=330, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, head_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    session = ModelSession(HFModel(model), Vocabulary(HFCodec(toy_tokenizer())), kind)
    plain = session.forward(PROMPT).logits
    assert np.array_equal(session.forward(PROMPT, [Noop()]).logits, plain)
    assert np.abs(session.forward_ablate(PROMPT, 0, "mlp").logits - plain).max() > 1e-3


def test_an_rwkv_checkpoint_opens_through_the_same_door(tmp_path):
    path = save_toy(tmp_path / "model.safetensors", toy_tensors())
    toy_vocabulary(tmp_path / "vocab.txt")
    for where in (path, tmp_path):
        session = open_session(where, "cpu")
        assert session.kind == "rwkv7" and session.n_layer == 2


def refused(what, kind, line):
    with pytest.raises(kind, match=line) as error:
        open_session(what, "cpu")
    assert "\n" not in str(error.value), str(error.value)


def test_a_folder_without_weights_or_tokenizer_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    refused(tmp_path, UnavailableError, "no weights: expected model.safetensors")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    refused(tmp_path, UnavailableError, "no tokenizer: expected tokenizer.json")


def test_damaged_folders_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(tmp_path, FileFormatError, "expected a whole model folder, found a truncated")
    (tmp_path / "config.json").write_text("{not json")
    refused(tmp_path, FileFormatError, "not a model's settings")


def without(tensors):
    del tensors["model.layers.2.mlp.down_proj.weight"]


def with_nan(tensors):
    tensors["model.norm.weight"][3] = float("nan")


@pytest.mark.parametrize(("change", "settings", "line"), [
    (without, {}, r"expected all of its weights, model.layers.2.mlp.down_proj.weight missing"),
    (with_nan, {}, r"model.norm.weight holds NaN or infinity"),
    (None, {"num_hidden_layers": 5}, r"layers.4.input_layernorm.weight and 8 more missing"),
    (None, {"num_hidden_layers": 3}, r"more layers than its settings count \(model.layers.3."),
    (None, {"intermediate_size": 64}, r"weight has shape \(32, 48\), expected \(32, 64\)"),
])  # fmt: skip
def test_weights_that_are_not_those_of_the_settings_are_refused(
    folder, tmp_path, change, settings, line
):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **settings}))
    if change is not None:
        tensors = load_file(tmp_path / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    refused(tmp_path, FileFormatError, line)


def test_an_unknown_architecture_is_named_with_what_is_supported(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    refused(tmp_path, UnavailableError, "architecture 'mamba' is not supported; supported are")
    foreign = write_gguf(tmp_path / "foreign.gguf", "rhubarb")
    refused(foreign, UnavailableError, "architecture 'rhubarb' is not supported; supported are")


def test_truncated_and_foreign_gguf_files_are_refused(gguf_file, tmp_path):
    whole = gguf_file.read_bytes()
    path = tmp_path / "cut.gguf"
    for keep in (0, 3, 20, 200, 3000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:keep])
        refused(path, FileFormatError, "GGUF")
    path.write_bytes(b"PK\x03\x04" + whole[4:])
    refused(path, FileFormatError, "expected a GGUF file, found b'PK")


def test_names_that_are_nowhere_say_what_to_type(tmp_path):
    refused("smollm2", UnavailableError, "rwkvedit models pull smollm2")
    refused("nosuch", UnavailableError, "no model 'nosuch'")
    refused(tmp_path / "none.gguf", UnavailableError, "nothing is there")
    refused(tmp_path, UnavailableError, "holds no model: expected config.json and model.safetens")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    refused(tmp_path, UnavailableError, "has 2 GGUF files: name one")
    with pytest.raises(UnavailableError, match="/open smollm2"):
        load_model("smollm2")


def test_missing_packages_are_named(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else real(name, *a)
    )
    with pytest.raises(UnavailableError, match=r"needs gguf: pip install 'rwkvedit\[tra"):
        open_session("toy")


def test_too_little_memory_to_load_is_one_line(folder, monkeypatch):
    import transformers

    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", exhausted)
    refused(folder, RwkvEditError, "out of memory")


def test_the_toys_are_seeded():
    one, two = toy_session("gpt2", seed=1), toy_session("gpt2", seed=2)
    assert one.digest == toy_session("gpt2", seed=1).digest != two.digest
