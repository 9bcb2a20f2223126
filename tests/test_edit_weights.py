"""One fact changed in the weights: by which rule, at which strength, and what the gate says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_weights import PROMPT, bits, rank_one, toy  # noqa: F401  (fixture)

from rwkvedit.cli import main
from rwkvedit.errors import UsageError
from rwkvedit.transformer import open_session, rank1
from rwkvedit.transformer.asking import ask, likeliest
from rwkvedit.transformer.facts import held_out, siblings
from rwkvedit.transformer.gate import PROBES, Gate
from rwkvedit.transformer.optimise import contexts, solve
from rwkvedit.transformer.patchfile import load_patch
from rwkvedit.transformer.rank1 import edit, smallest
from rwkvedit.transformer.rewordings import differing, others, relation_of, rewordings, subject_of

OTHER = "The capital of Japan is"


def second(session, rank=1, prompt=PROMPT) -> str:
    """The text of the ``rank``-th likeliest answer that is a token of its own."""
    order = np.argsort(-session.forward(prompt).logits)
    own = [int(i) for i in order if session.vocabulary.encode(session.piece(int(i))) == [int(i)]]
    return session.piece(own[rank]) if session.piece(own[rank])[:1] == " " else f"#{own[rank]}"


# -- words ----------------------------------------------------------------------------------


def test_the_subject_is_where_two_prompts_differ():
    assert differing(PROMPT, OTHER) == ("France", "Japan")
    assert differing("South Korea's capital is", "Japan's capital is") == ("South Korea", "Japan")
    assert differing("The man who sold it", "A dog barks") is None
    assert subject_of("In Paris people speak", "They say hello in") == "Paris"
    assert subject_of("nothing here", "and nothing there") is None


def test_rewordings_ask_the_same_and_the_gate_has_its_own():
    assert relation_of(PROMPT, "France") == "capital"
    assert relation_of("France's capital city is", "France") == "capital city"
    assert relation_of("People in France speak", "France") is None
    gate, looked_at = rewordings(PROMPT, "France"), others(PROMPT, "France")
    assert len(gate) == 7 and not set(gate) & set(looked_at)
    assert all("France" in text for text in [*gate, *looked_at])
    assert len(set(rewordings("People in France speak", "France"))) == 7


def test_held_out_facts_never_name_the_subject():
    rng = np.random.default_rng(0)
    found = held_out(PROMPT, "France", 20, rng)
    assert len(found) == len(set(found)) == 20 and not any("France" in text for text in found)
    assert "The capital of Japan is" in siblings(PROMPT, "France")
    assert siblings("Ann lives in", "Ann") == []
    assert len(held_out("Ann lives in", "Ann", 20, rng)) == 20


# -- parts ----------------------------------------------------------------------------------


def test_asking_in_one_batch_is_asking_one_after_another(toy):  # noqa: F811
    rows = [toy.tokens(text) for text in (PROMPT, "Bob lives in", OTHER)]
    target = toy.vocabulary.encode(" Paris .")[:2]
    said = ask(toy, rows, target)
    for row, logp, says, top in zip(rows, said.logp, said.says, said.top, strict=True):
        logits = toy.run([*row, *target[:-1]], logits="all").logits[0][len(row) - 1 :]
        each = logits.log_softmax(-1)
        assert logp == pytest.approx(float(sum(each[i, t] for i, t in enumerate(target))), abs=1e-4)
        assert says == (logits.argmax(-1).tolist() == target) and top == int(logits[0].argmax())
    assert likeliest(toy, rows) == said.top


def test_the_smallest_scale_is_found_by_grid_and_then_by_halves():
    asked = []

    def holds(x):
        asked.append(x)
        return x >= 1.3

    found = smallest(holds, (0.5, 1.0, 1.5, 2.0))
    assert found is not None and 1.3 <= found <= 1.3 + 0.5 / 2**rank1.HALVINGS
    assert asked[:3] == [0.5, 1.0, 1.5] and len(asked) == 3 + rank1.HALVINGS
    assert smallest(lambda x: False, (1.0, 2.0)) is None


def test_what_is_found_by_gradient_raises_the_answer_where_it_is_written(toy):  # noqa: F811
    places = contexts(toy, PROMPT, "France")
    assert places[0][0] == toy.tokens(PROMPT) and len(places) == 5
    assert len({at for _, at in places[1:]}) == 1
    new = int(np.argsort(-toy.forward(PROMPT).logits)[3])
    before = ask(toy, [ids for ids, _ in places], [new]).p
    step = solve(toy, places, new, (toy.tokens("France is a"), 0), 1)
    assert step.p > min(before) and float(step.delta.norm()) > 0
    # the same d, added by a tap to a whole run, gives the same probability
    ids, at = places[0]

    def add(x):
        x = x.clone()
        x[:, at] += step.delta
        return x

    logits = toy.run(ids, taps={"blocks.1.ffn.out": add}).logits[0]
    assert float(logits.softmax(-1)[new]) >= step.p - 1e-4


# -- the gate -------------------------------------------------------------------------------


def test_the_gate_passes_what_changes_nothing_and_names_what_moved(toy):  # noqa: F811
    rows = [toy.tokens(text) for text in rewordings(PROMPT, "France")]
    gate = Gate(toy, rows, [likeliest(toy, rows[:1])[0]])
    assert len(PROBES) == 25 and gate.prints.shape[1] == 5
    verdict = gate.check([1])
    assert verdict.kl == pytest.approx(0, abs=1e-9) and verdict.fingerprint > 0.999999
    assert verdict.moved == {}
    with toy.edits.applied(rank_one(toy, 1, scale=1e-3)):
        assert list(gate.check([1]).moved) == [1]
        strange = gate.check([0])
    assert not strange.passed and "weights of 1 moved too" in strange.why


def test_the_gate_refuses_what_changes_everything(toy):  # noqa: F811
    rows = [toy.tokens(PROMPT)]
    gate = Gate(toy, rows, likeliest(toy, rows))
    with toy.edits.applied(rank_one(toy, 1, scale=300.0)):
        verdict = gate.check([1])
    assert not verdict.passed and any("behaviour" in line for line in verdict.why)


# -- the whole edit -------------------------------------------------------------------------


def test_the_plain_rule_is_d_times_the_key_at_the_smallest_scale(toy):  # noqa: F811
    layer = toy.n_layer - 1
    keys = []
    for text in (PROMPT, OTHER):
        toy.run(text, taps={f"blocks.{layer}.ffn.key": lambda x: keys.append(x[0, -1])})
    base = toy.model.down_proj(layer).clone()
    result = edit(toy, PROMPT, OTHER, second(toy), layer, method="plain", gate=False)
    d = base @ (keys[1] - keys[0])
    want = torch.outer(d, keys[0]) / keys[0].dot(keys[0]) * result.attempt.scale
    got = result.delta.matrix().float()
    assert torch.allclose(got, want, atol=1e-5 * float(want.abs().max()))
    assert result.landed == result.flipped == bool(toy.edits.live)


def landing(session, **changes):
    """An edit of a toy that lands: an untrained model takes some answers and not others."""
    for rank in range(1, 8):
        result = edit(session, PROMPT, OTHER, second(session, rank), gate=False, **changes)
        if result.landed:
            return result
    pytest.fail("no answer could be written into this toy")


def test_an_edit_lands_moves_one_layer_and_goes_back_bit_for_bit(toy):  # noqa: F811
    start, digest = bits(toy), toy.digest
    layer = 0 if toy.kind == "rwkv7" else 1  # of three: too little stands above the second
    result = landing(toy, layer=layer)
    assert toy.piece(toy.forward(PROMPT).argmax) == result.new != result.old
    assert result.patch.base_digest == digest and result.patch.delta is result.delta
    assert result.attempt.relative_change == toy.edits.relative_change(layer)
    assert result.p_new[1] > result.p_new[0] and result.statistics is not None
    toy.edits.restore()
    assert bits(toy) == start


def test_what_the_gate_refuses_leaves_the_weights_as_they_were(toy, monkeypatch):  # noqa: F811
    start, plain = bits(toy), Gate.check
    tried = []

    def refusing(self, layers):
        import dataclasses

        tried.append(layers)
        return dataclasses.replace(plain(self, layers), passed=False, why=["no"])

    monkeypatch.setattr(Gate, "check", refusing)
    for rank in range(1, 8):
        result = edit(toy, PROMPT, OTHER, second(toy, rank))
        assert not result.landed and bits(toy) == start and toy.edits.live == ()
        if tried:
            break
    assert tried and len(result.attempts) <= 3


def test_baselines_are_taken_once_and_every_candidate_is_tried(toy, monkeypatch):  # noqa: F811
    made, plain = [], Gate.__init__

    def counting(self, *args, **kwargs):
        made.append(1)
        plain(self, *args, **kwargs)

    monkeypatch.setattr(Gate, "__init__", counting)
    monkeypatch.setattr(rank1, "DEPTHS", (0.0, 0.25, 0.5))
    result = edit(toy, PROMPT, OTHER, second(toy, 5))
    assert len(made) == 1
    layers = [0, 1, 2] if toy.n_layer > 3 else [0, 1]  # the last layer is never tried
    assert [one.layer for one in result.attempts] == layers or result.attempts[-1].passed


def test_ctrl_c_leaves_the_weights_and_earlier_edits_as_they_were(toy):  # noqa: F811
    toy.edits.apply(rank_one(toy, 0, scale=0.01))
    before = bits(toy)
    calls = []

    def cancel():
        calls.append(1)
        return len(calls) > 4

    with pytest.raises(KeyboardInterrupt):
        edit(toy, PROMPT, OTHER, second(toy, 4), 1, cancel=cancel)
    assert bits(toy) == before and len(toy.edits.live) == 1


def test_mistakes_are_one_line_before_anything_is_changed(toy):  # noqa: F811
    start = bits(toy)
    current = f"#{toy.forward(PROMPT).argmax}"
    for kwargs, said in [
        ({"new_token": current}, "already: nothing to edit"),
        ({"new_token": second(toy), "subject": "Narnia"}, "is not in"),
        ({"new_token": second(toy), "layer": 77}, "no layer 77"),
        ({"new_token": second(toy), "method": "magic"}, "choose whitened or plain"),
        ({"new_token": "several words of text"}, "where one is needed"),
    ]:
        with pytest.raises(UsageError, match=said) as caught:
            edit(toy, PROMPT, OTHER, **kwargs)
        assert "\n" not in str(caught.value)
    assert bits(toy) == start


# -- verbs and the chat ---------------------------------------------------------------------


def test_the_verb_writes_a_patch_that_apply_patch_takes_and_reverses(capsys, tmp_path):
    session = open_session("toy")
    result = landing(session, layer=1)
    session.edits.restore()
    path = tmp_path / "toy.lqpatch"
    token = session.token_id(result.new)
    code = main([
        "edit", "toy", "--src", PROMPT, "--tgt", OTHER, "--new-token", f"#{token}", "--layer", "1",
        "--no-gate", "--validate-specificity", "6", "--output", str(path), "--json",
    ])  # fmt: skip
    out = json.loads(capsys.readouterr().out)
    assert code == 0 and out["flipped"] and out["layers"] == [1] and out["patch"] == str(path)
    assert out["specificity"]["n"] == 6 and out["gate"] is None and out["seconds"] > 0
    assert out["relative_change"] == pytest.approx(result.attempt.relative_change, rel=1e-4)
    assert load_patch(path).provenance["src_prompt"] == PROMPT
    common = ["apply-patch", "toy", "-p", str(path), "--prompt", PROMPT, "--json"]
    assert main([*common, "--save", str(tmp_path / "saved")]) == 0
    applied = json.loads(capsys.readouterr().out)
    assert applied["weights_digest_before"] == session.digest != applied["weights_digest_after"]
    assert applied["top"][0]["token"] == result.new
    common[1] = str(tmp_path / "saved")
    assert main([*common, "--reverse"]) == 0
    back = json.loads(capsys.readouterr().out)
    assert back["weights_digest_before"] == applied["weights_digest_after"]
    assert back["weights_digest_after"] == session.digest and back["top"][0]["token"] == result.old


def test_the_chat_edits_the_open_model_and_undoes_it_bit_for_bit(shell, tmp_path):
    assert shell.execute("/open toy").kind == "result"
    session = shell.sessions.current.session
    start = bits(session)
    token = session.token_id(landing(session, layer=1).new)
    session.edits.restore()
    line = f'/edit "{PROMPT}" "{OTHER}" #{token} --layer 1 --no-gate'
    done = shell.execute(line)
    assert done.kind == "result" and done.data["landed"], done.data
    edited = bits(session)
    assert edited != start
    path = tmp_path / "chat.lqpatch"
    assert shell.execute(f"/save-patch {path}").kind == "result"
    assert "undid in toy" in shell.execute("/undo").data["message"]
    assert bits(session) == start
    shell.execute("/redo")
    assert bits(session) == edited
    assert shell.execute("/restore").data["restored"] == 1 and bits(session) == start
    shell.execute("/undo")
    assert bits(session) == edited
    shell.execute("/undo 1")
    assert bits(session) == start
    applied = shell.execute(f"/apply-patch {path}")
    assert applied.kind == "result" and bits(session) == edited
    shell.execute(f"/apply-patch {path} --reverse")
    assert bits(session) == start


def test_without_a_change_of_weights_undo_is_the_conversations(shell):
    shell.execute("/open toy")
    assert shell.execute("/undo").kind == "error"
    assert shell.execute("/save-patch x.lqpatch").kind == "error"
    assert shell.execute("/restore").data["restored"] == 0


# -- SmolLM2 --------------------------------------------------------------------------------


def test_smollm2_moves_japans_capital_and_keeps_the_others(smollm2):
    before = {c: smollm2.forward(f"The capital of {c} is").argmax for c in KEPT}
    result = edit(smollm2, OTHER, "The capital of Italy is", "Rome")
    try:
        assert result.landed and result.attempt.relative_change < 0.2
        assert result.attempt.verdict is not None and result.attempt.verdict.kl < 0.05
        after = {c: smollm2.forward(f"The capital of {c} is").argmax for c in KEPT}
        assert sum(after[c] == before[c] for c in KEPT) >= len(KEPT) - 1
    finally:
        smollm2.edits.restore()


KEPT = ("France", "Italy", "Germany", "Spain", "China", "Russia", "Greece", "Sweden", "Canada")
