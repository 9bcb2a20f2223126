"""Patch files come back whole, go in and out exactly in any order, and hostile ones are refused."""

from __future__ import annotations

import itertools
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_weights import bits, dense, rank_one, toy  # noqa: F401  (fixture)

from rwkvedit.errors import FileFormatError, RwkvEditError, UsageError
from rwkvedit.transformer import open_session
from rwkvedit.transformer.patches import apply_patches, reverse_patches
from rwkvedit.transformer.patchfile import (
    MAGIC,
    Patch,
    decode,
    encode,
    load_patch,
    load_paths,
    save_batch,
    save_patch,
)
from rwkvedit.transformer.saving import adopt_saved, save_model


def saved(session, folder, *deltas):
    paths = []
    for at, delta in enumerate(deltas):
        path = folder / f"p{at}.lqpatch"
        paths.append(save_patch(path, Patch.of(session, delta, label=f"number {at}")))
    return paths


@pytest.mark.parametrize("make", [rank_one, dense])
def test_a_patch_comes_back_with_everything_it_says(toy, tmp_path, make):  # noqa: F811
    delta = make(toy)
    patch = Patch.of(toy, delta, scale=1.5, src_prompt="The capital of France is", new_token=" R")
    save_patch(tmp_path / "p.lqpatch", patch)
    back = load_patch(tmp_path / "p.lqpatch")
    assert back.header() == patch.header()
    assert back.base_digest == toy.digest and back.tokenizer_digest == toy.vocabulary.digest
    for a, b in zip(back.delta.parts, delta.parts, strict=True):
        assert torch.equal(a, b)


def test_a_rank_one_patch_holds_its_two_vectors_and_little_else(toy, tmp_path):  # noqa: F811
    (path,) = saved(toy, tmp_path, rank_one(toy))
    d, f = toy.model.down_proj(1).shape
    assert 0 < path.stat().st_size - 4 * (d + f) < 1500


def test_the_first_version_is_read_as_larql_writes_it(toy, tmp_path):  # noqa: F811
    delta = rank_one(toy)
    d, f = delta.shape
    header = json.dumps({
        "version": 1, "layer": 1, "module": "down_proj", "hidden_size": d, "intermediate_size": f,
        "scale": 2.0, "provenance": {"src_prompt": "a", "tgt_prompt": "b", "old_token": "c",
        "new_token": "d", "crown_delta": -0.5, "created_at": "2026"},
    }).encode()  # fmt: skip
    body = b"".join(
        struct.pack("<I", len(x)) + x.numpy().astype("<f4").tobytes() for x in delta.parts
    )
    path = tmp_path / "old.lqpatch"
    path.write_bytes(MAGIC + struct.pack("<I", len(header)) + header + body)
    patch = load_patch(path)
    assert patch.version == 1 and patch.delta.digest == delta.digest
    done = apply_patches(toy, [path])
    assert "does not say which weights" in done.notices[0] and done.after != done.before


def test_patches_go_in_and_out_in_any_order_and_leave_the_base(toy, tmp_path):  # noqa: F811
    start, digest = bits(toy), toy.digest
    paths = saved(toy, tmp_path, rank_one(toy, 0), dense(toy, 1), rank_one(toy, 2, seed=4))
    ends = set()
    for order in itertools.permutations(paths):
        done = apply_patches(toy, order)
        assert (done.before, done.after) == (digest, toy.digest) and done.after != digest
        ends.add(bits(toy))
        for path in (order[1], order[0], order[2]):
            reverse_patches(toy, [path])
        assert bits(toy) == start and toy.digest == digest
    assert len(ends) == 1


def test_a_patch_made_on_top_of_another_needs_it_and_finds_its_place(toy, tmp_path):  # noqa: F811
    start = bits(toy)
    (first,) = saved(toy, tmp_path, rank_one(toy))
    apply_patches(toy, [first])
    second = save_patch(
        tmp_path / "second.lqpatch", Patch.of(toy, dense(toy, 1), base_digest=toy.digest)
    )
    toy.edits.restore()
    with pytest.raises(FileFormatError, match="other weights"):
        apply_patches(toy, [second])
    assert bits(toy) == start
    apply_patches(toy, [second, first])
    assert len(toy.edits.live) == 2
    reverse_patches(toy, [first, second])
    assert bits(toy) == start


def test_two_patches_of_one_layer_made_apart_are_refused_unless_stacked(toy, tmp_path):  # noqa: F811
    start = bits(toy)
    paths = saved(toy, tmp_path, rank_one(toy), dense(toy, 1))
    with pytest.raises(UsageError, match=r"both change layer 1.*--stack"):
        apply_patches(toy, paths)
    assert bits(toy) == start
    apply_patches(toy, paths[:1])
    with pytest.raises(UsageError, match=r"changed already.*--stack"):
        apply_patches(toy, paths[1:])
    apply_patches(toy, paths[1:], stack=True)
    with pytest.raises(UsageError, match="applied already"):
        apply_patches(toy, paths[:1], stack=True)
    reverse_patches(toy, paths)
    assert bits(toy) == start


def test_a_patch_for_other_weights_or_another_model_is_refused(toy, tmp_path):  # noqa: F811
    other = open_session("toy-gpt2" if toy.name == "toy" else "toy")
    start = bits(toy)
    for at, path in enumerate(saved(other, tmp_path, rank_one(other))):
        with pytest.raises(FileFormatError, match=r"made for (another|other)"):
            apply_patches(toy, [path])
        assert at == 0
    (mine,) = saved(toy, tmp_path, rank_one(toy))
    toy.model.down_proj(0)[0, 0] += 1.0
    toy.weights_changed()
    with pytest.raises(FileFormatError, match="other weights: expected base digest"):
        apply_patches(toy, [mine])
    with pytest.raises(RwkvEditError, match="cannot be reversed here"):
        reverse_patches(toy, [mine])
    assert bits(toy) != start and toy.edits.live == ()


def test_reversing_what_was_never_applied_leaves_nothing_of_it(toy, tmp_path):  # noqa: F811
    start = bits(toy)
    done = reverse_patches(toy, saved(toy, tmp_path, rank_one(toy), dense(toy, 2)))
    assert done.before == done.after == toy.digest and bits(toy) == start
    assert "nothing is left" in done.notices[-1]


def test_a_folder_of_patches_stands_for_all_that_its_manifest_names(toy, tmp_path):  # noqa: F811
    rows = [("one", Patch.of(toy, rank_one(toy, 0))), ("two", Patch.of(toy, dense(toy, 1)))]
    *paths, manifest = save_batch(tmp_path / "batch", rows)
    assert [p for p, _ in load_paths([tmp_path / "batch"])] == paths
    assert len(apply_patches(toy, [manifest]).patches) == 2
    toy.edits.restore()
    save_patch(paths[0], Patch.of(toy, rank_one(toy, 0, seed=77)))
    with pytest.raises(FileFormatError, match="not the patch"):
        load_paths([manifest])
    manifest.write_text('{"format": "lqpatch-manifest", "patches": [{"file": "../../etc/x"}]}')
    with pytest.raises(FileFormatError, match="names of files beside it"):
        load_paths([manifest])


# -- hostile files --------------------------------------------------------------------------


def small() -> bytes:
    session = open_session("toy")
    return encode(Patch.of(session, rank_one(session)))


SMALL = small()


def with_header(**changes) -> bytes:
    (size,) = struct.unpack_from("<I", SMALL, 8)
    header = {**json.loads(SMALL[12 : 12 + size]), **changes}
    text = json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + SMALL[12 + size :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "expected an .lqpatch"),
        (b"GGUF" + bytes(20), "expected an .lqpatch"),
        (MAGIC, "truncated"),
        (SMALL[:40], "truncated"),
        (SMALL[:-1], "truncated"),
        (SMALL + b"\0", "truncated or damaged"),
        (MAGIC + struct.pack("<I", 0xFFFFFFFF) + SMALL[12:], "header says"),
        (MAGIC + struct.pack("<I", 4) + b"[[[[", "JSON header"),
        (MAGIC + struct.pack("<I", 2) + b"[]", "JSON object"),
        (with_header(version=3), "1 or 2"),
        (with_header(kind="sparse"), "rank_one or dense"),
        (with_header(layer=-1), "layer"),
        (with_header(layer=True), "layer"),
        (with_header(hidden_size=1 << 40), "hidden_size"),
        (with_header(hidden_size=33), "bytes of numbers"),
        (with_header(module="up_proj"), "down_proj"),
        (with_header(scale="big"), "finite number"),
        (with_header(provenance=3), "provenance"),
        (with_header(base_digest=5), "base_digest"),
        (with_header(layer=2), "damaged"),
        (SMALL[:-4] + np.float32("nan").tobytes(), "NaN"),
        (SMALL[:-4] + np.float32("inf").tobytes(), "NaN or infinity"),
        (SMALL[:-4] + np.float32(1.0).tobytes(), "damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(data, said):
    with pytest.raises(FileFormatError, match=said) as caught:
        decode(data, "bad.lqpatch")
    assert "bad.lqpatch" in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_no_changed_byte_gives_anything_but_a_patch_or_one_line(at, change):
    data = bytearray(SMALL)
    data[at] ^= change
    try:
        patch = decode(bytes(data))
    except FileFormatError:
        return
    assert patch.delta.digest == decode(SMALL).delta.digest  # only words of the header differ


def test_another_file_is_not_written_over(toy, tmp_path):  # noqa: F811
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(RwkvEditError, match=r"no \.lqpatch file"):
        save_patch(path, Patch.of(toy, rank_one(toy)))
    assert path.read_text() == "mine"


# -- saving ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy", "toy-gpt2", "toy-neox"])
def test_a_saved_model_is_what_transformers_loads_and_can_be_reversed(name, tmp_path):
    from transformers import AutoModelForCausalLM

    session, prompt = open_session(name), "The capital of France is"
    start, ids = session.digest, session.tokens(prompt)
    paths = saved(session, tmp_path, rank_one(session, scale=30.0), dense(session, 2))
    apply_patches(session, paths)
    edited = session.forward(prompt).logits
    wrote = save_model(session, tmp_path / "out", [load_patch(p) for p in paths])
    assert any("no GGUF" in line for line in wrote.notices)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    theirs = model(torch.tensor([ids])).logits[0, -1].detach().numpy()
    assert np.abs(theirs - edited).max() < 1e-4
    again = open_session(tmp_path / "out")
    assert adopt_saved(again)
    done = reverse_patches(again, [paths[1]])
    assert done.after not in (done.before, start)
    assert reverse_patches(again, [paths[0]]).after == start == again.digest


def test_a_saved_rwkv7_loads_again_and_can_be_reversed(tmp_path, embedded):
    from rwkvedit.models.catalog import load_model
    from rwkvedit.transformer.loading import open_session as opened

    session = opened("embedded")
    paths = saved(session, tmp_path, rank_one(session, scale=5.0))
    apply_patches(session, paths)
    save_model(session, tmp_path / "out", [load_patch(p) for p in paths])
    path = tmp_path / "out" / "model.safetensors"
    name = session.model.down_proj_name(1)
    assert torch.equal(load_model(path, "cpu").model.weights[name], session.model.down_proj(1))
    again = opened(path)
    assert again.vocabulary.digest == session.vocabulary.digest
    assert adopt_saved(again)
    reverse_patches(again, paths)
    base = embedded.model.weights[name]
    assert torch.equal(again.model.down_proj(1), base)


def test_a_folder_that_holds_something_is_not_saved_into(tmp_path):
    session = open_session("toy")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="name a new folder"):
        save_model(session, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_smollm2_is_saved_as_gguf_in_its_own_type_and_answers_as_edited(smollm2, tmp_path):
    import gguf

    delta = rank_one(smollm2, 7, scale=20.0)
    (path,) = saved(smollm2, tmp_path, delta)
    prompt = "The capital of France is"
    apply_patches(smollm2, [path])
    try:
        edited = smollm2.forward(prompt)
        wrote = save_model(smollm2, tmp_path / "out", [load_patch(path)])
    finally:
        smollm2.edits.restore()
    (file,) = (tmp_path / "out").glob("*.gguf")
    assert any("is Q4_1, as it was read" in line for line in wrote.notices)
    old, new = gguf.GGUFReader(smollm2.path), gguf.GGUFReader(file)
    names = [(t.name, t.tensor_type, tuple(t.shape)) for t in old.tensors]
    assert [(t.name, t.tensor_type, tuple(t.shape)) for t in new.tensors] == names
    differ = [a.name for a, b in zip(old.tensors, new.tensors, strict=True)
              if not np.array_equal(a.data, b.data)]  # fmt: skip
    assert differ == ["blk.7.ffn_down.weight"]
    again = open_session(file)
    now = again.forward(prompt)
    assert np.corrcoef(now.logits, edited.logits)[0, 1] > 0.99
