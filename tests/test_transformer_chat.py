"""Open models beside the conversation: commands, the same as shell verbs, and the walk."""

from __future__ import annotations

import io
import json
import os
import signal
import sys

import numpy as np
import pytest
from toy_models import save_toy, toy_tensors, toy_vocabulary

from rwkvedit.cli import LOOKING, main
from rwkvedit.repl.commands import REGISTRY
from rwkvedit.repl.complete import candidates
from rwkvedit.repl.render import Renderer
from rwkvedit.repl.result import Grid, Result, Written
from rwkvedit.repl.shell import Shell
from rwkvedit.transformer import Steer, ZeroAblate, open_session

PROMPT = "The capital of France is"
OTHER = "The capital of Japan is"
ASK = f'"{PROMPT}"'


@pytest.fixture(scope="module")
def toy():
    return open_session("toy")


@pytest.fixture(scope="module")
def rwkv_file(tmp_path_factory):
    """A seeded RWKV-7 of three layers, its vocabulary beside it."""
    folder = tmp_path_factory.mktemp("rwkv")
    toy_vocabulary(folder / "vocab.txt")
    return save_toy(folder / "small.safetensors", toy_tensors(seed=4, n_layer=3))


@pytest.fixture
def looking(shell):
    """A chat with the toy open."""
    assert shell.execute("/open toy").kind == "result"
    return shell


@pytest.fixture
def recurrent(shell, rwkv_file):
    assert shell.execute(f"/open {rwkv_file}").data["kind"] == "rwkv7"
    return shell


def data(shell: Shell, line: str) -> dict:
    result = shell.execute(line)
    assert result is not None and result.kind == "result", result and result.data
    return result.data


def refused(shell: Shell, line: str) -> str:
    result = shell.execute(line)
    assert result is not None and result.kind == "error", line
    assert "\n" not in result.data["message"]
    return result.data["message"]


def verb(capsys, *argv: str) -> dict:
    assert main([*argv, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


# -- opening and turning to -----------------------------------------------------------------


def test_models_are_opened_beside_the_conversation(looking):
    assert looking.sessions.using == "toy"
    data(looking, "/open toy-gpt2 --name second")
    listed = data(looking, "/sessions")
    assert [s["name"] for s in listed["sessions"]] == ["toy", "second"]
    assert listed["using"] == "second"
    assert listed["sessions"][1]["architecture"] == "gpt2"
    assert data(looking, "/use toy")["using"] == "toy"
    assert data(looking, "/close second")["using"] == "toy"
    assert data(looking, "/close")["using"] == "chat"
    assert data(looking, "/sessions")["sessions"] == []


def test_the_conversation_stays_as_it_is(looking):
    before = looking.session.place
    for line in (f"/lens {ASK}", "/steer --layer 1 --vector 'random: 1'", "Bob lives in", "/close"):
        data(looking, line)
    assert looking.session.place is before


def test_text_is_continued_by_the_model_in_use_and_said_to_the_chat_after_use_chat(looking, toy):
    written = data(looking, "Bob lives in")
    assert written["text"] == toy.generate_with_hooks("Bob lives in", max_new_tokens=40).text
    data(looking, "/use chat")
    assert looking.execute("Bob lives in Austin.").kind == "reply"
    assert [turn.user for turn in looking.session.turns] == ["Bob lives in Austin."]


def test_a_path_is_called_by_its_last_part(recurrent, rwkv_file):
    assert recurrent.sessions.using == "small"
    assert "small is open already" in refused(recurrent, f"/open {rwkv_file}")


# -- the primitives -------------------------------------------------------------------------


def test_lens_and_race_say_what_the_session_says(looking, toy):
    seen = data(looking, f"/lens {ASK} --top 2 --layers 1:3 --positions 0,-1")
    want = toy.logit_lens(PROMPT, "1:3", [0, -1], top=2)
    assert seen["layers"] == [1, 2] and seen["positions"] == [0, 4]
    ids = [[[t["id"] for t in cell["top"]] for cell in row] for row in seen["rows"]]
    assert ids == [[[t.id for t in cell.top] for cell in row] for row in want.rows]
    race = data(looking, f"/race {ASK} Paris #7")
    tracks = toy.track_race(PROMPT, [" Paris", 7]).tracks
    assert [t["p"] for t in race["tracks"]] == [t.p.tolist() for t in tracks]
    own = data(looking, f"/race {ASK}")["tracks"]
    assert [t["id"] for t in own] == [t.id for t in toy.forward(PROMPT).top(3)]


def test_direct_logits_neighbours_and_vectors_say_what_the_session_says(looking, toy, tmp_path):
    parts = data(looking, f"/dla {ASK} Paris")
    assert parts["attention"] == toy.direct_logits(PROMPT, " Paris").attention.tolist()
    near = data(looking, "/neighbors Paris --top 3")["neighbors"]
    assert [n["id"] for n in near] == [n.id for n in toy.embedding_neighbors(" Paris", 3)]
    out = tmp_path / "v.npy"
    made = data(looking, f'/vector "unembedding: Paris" --out {out}')
    row = toy.unembedding_for(" Paris")
    assert made["promotes"][0]["id"] == toy.project_through_unembed(row).top[0][0]
    assert np.array_equal(np.load(out), row)
    again = data(looking, f"/vector {out}")
    assert again["norm"] == pytest.approx(made["norm"])
    apart = data(looking, f'/vector "difference: {PROMPT} | {OTHER}" --layer 1')
    h = [toy.capture_residuals(p, 1)[1][-1] for p in (PROMPT, OTHER)]
    assert apart["norm"] == pytest.approx(float(np.linalg.norm(h[0] - h[1])), abs=1e-3)


def test_captured_activations_and_attention_are_the_sessions_own(looking, toy, tmp_path):
    out = tmp_path / "got.npz"
    seen = data(looking, f"/capture {ASK} --site hook_mlp_out --layers 1 --out {out}")
    _, want = toy.forward_with_capture(PROMPT, 1, "ffn.out")
    with np.load(out) as saved:
        assert np.array_equal(saved["blocks.1.ffn.out"], want["blocks.1.ffn.out"])
    assert seen["norms"] == [np.linalg.norm(want["blocks.1.ffn.out"], axis=-1).tolist()]
    pattern = data(looking, f"/attention {ASK} --layer 2 --head 3")["weights"]
    assert pattern == toy.attention_pattern(PROMPT, 2, 3).tolist()


def test_patches_and_cache_surgery_say_what_changed(looking, toy):
    done = data(looking, f'/patch-act "{OTHER}" {ASK} --layer 3')
    assert [t["id"] for t in done["after"]] == [t.id for t in toy.forward(OTHER).top(5)]
    assert done["flipped"] == (toy.forward(OTHER).argmax != toy.forward(PROMPT).argmax)
    mine, theirs = toy.tokens(PROMPT), toy.tokens(OTHER)
    cache = toy.clone_layer_position_range(
        toy.prefill(mine[:-1]), toy.prefill(theirs[:-1]), 2, 3, 4
    )
    want = toy.forward(mine[-1:], cache=cache).top(5)
    cloned = data(looking, f'/kv-clone "{OTHER}" {ASK} --layer 2 --positions 3:4')
    assert [t["p"] for t in cloned["after"]] == pytest.approx([t.p for t in want], abs=1e-6)


def test_crown_and_trace_say_what_the_session_says(looking, toy):
    assert data(looking, f"/crown {ASK}")["crown"] == toy.crown(PROMPT).crown
    told = []
    looking.on_progress = lambda *args: told.append(args)
    seen = data(looking, f"/trace {ASK} France --runs 2 --seed 5")
    assert seen["hidden"] == toy.trace(PROMPT, "France", runs=2, seed=5).to_json()["hidden"]
    assert told[-1][0] == told[-1][1] > 0


# -- what stays on --------------------------------------------------------------------------


def test_steering_stays_on_until_it_is_switched_off(looking, toy):
    plain = data(looking, f"/gen {ASK} --tokens 6")["text"]
    on = data(looking, '/steer --layer 2 --vector "embedding: Paris" --alpha 40')
    assert on["active"] == ["40 x (embedding: Paris) added after layer 2"]
    hook = Steer(2, toy.embedding_for(" Paris"), 40.0)
    want = toy.generate_with_hooks(PROMPT, [hook], 6)
    steered = looking.execute(f"/gen {ASK} --tokens 6")
    assert steered.data["text"] == want.text != plain
    assert steered.notices == ("with 40 x (embedding: Paris) added after layer 2",)
    top = data(looking, f"/lens {ASK} --layers 3")["rows"][0][0]["top"][0]["id"]
    assert top == toy.forward(PROMPT, [hook]).argmax
    assert "added after layer 2" in str(looking.execute("/sessions").blocks)
    assert data(looking, "/steer off")["active"] == []
    assert data(looking, f"/gen {ASK} --tokens 6")["text"] == plain


def test_ablations_stay_on_beside_steering_and_go_by_themselves(looking, toy):
    data(looking, "/ablate mlp:1:3")
    data(looking, "/steer --layer 0 --vector 'random: 2' --alpha 9")
    assert len(data(looking, "/sessions")["sessions"][0]["active"]) == 2
    data(looking, "/steer off")
    want = toy.forward(PROMPT, [ZeroAblate("1:3", "mlp")]).argmax
    assert data(looking, f"/lens {ASK} --layers 3")["rows"][0][0]["top"][0]["id"] == want
    assert data(looking, "/ablate off")["active"] == []


def test_with_a_text_a_change_is_made_once_and_nothing_stays_on(looking, toy):
    once = data(looking, f"/ablate mlp:2 {ASK}")
    assert once["after"][0]["id"] == toy.forward_ablate(PROMPT, 2, "mlp").argmax
    pushed = data(looking, f"/steer {ASK} --layer 3 --vector 'unembedding: Rome' --alpha 50")
    assert pushed["after"][0]["token"] == " Rome" and pushed["flipped"]
    assert data(looking, "/sessions")["sessions"][0]["active"] == []
    assert once["before"] == pushed["before"]


def test_the_prompt_and_the_toolbar_name_the_model_in_use(looking, screen):
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    from rwkvedit.repl.app import App

    with create_pipe_input() as pipe:
        app = App(looking, screen, input=pipe, output=DummyOutput(), history=InMemoryHistory())
        assert app._message() == "toy> " and app._toolbar() == "toy · 4 layers · /use chat"
        data(looking, "/steer --layer 1 --vector 'random: 1'")
        data(looking, "/ablate mlp:0")
        assert app._toolbar() == "toy · 4 layers · steered · ablated · /use chat"
        data(looking, "/use chat")
        assert app._message() == "> " and app._toolbar().startswith("embedded · 0 tokens")


# -- RWKV-7 ---------------------------------------------------------------------------------


def test_the_same_commands_work_on_rwkv7(recurrent, rwkv_file):
    session = open_session(rwkv_file)
    text = "Bob lives in"
    lens = data(recurrent, f"/lens {text}")
    assert lens["rows"][-1][0]["top"][0]["id"] == session.forward(text).argmax
    crown = data(recurrent, f"/crown {text}")
    assert len(crown["scan"]) == 3 and crown["crown"] == session.crown(text).crown
    patch = data(recurrent, f'/patch-act "a dog in" "{text}" --layer 2')
    assert patch["after"][0]["id"] == session.forward("a dog in").argmax
    zeroed = data(recurrent, f'/ablate mlp:1 "{text}"')
    assert zeroed["after"][0]["p"] == pytest.approx(
        session.forward_ablate(text, 1, "mlp").top(1)[0].p, abs=1e-6
    )
    data(recurrent, "/steer --layer 1 --vector 'unembedding: #70' --alpha 30")
    hook = Steer(1, session.unembedding_for(70), 30.0)
    want = session.generate_with_hooks(text, [hook], 5).tokens
    assert data(recurrent, f"/gen {text} --tokens 5")["tokens"] == want
    assert data(recurrent, f'/dla "{text}"')["total"] and data(recurrent, f'/race "{text}"')
    assert "RWKV-7 has no attention weights" in refused(recurrent, f"/attention {text} --layer 1")
    assert "no key-value cache" in refused(recurrent, f'/kv-clone "{text}" {text} --layer 1')


# -- mistakes -------------------------------------------------------------------------------

MISTAKES = [
    ("/lens x --layers 4", "no layers 4: the model has layers 0 to 3"),
    ("/lens x --layers 3:9", "no layers 3:9"),
    ("/lens x --positions 9", "no position 9: the prompt has 1 tokens"),
    ("/lens x --positions some", "no positions 'some': say last, all, or numbers"),
    ('/lens ""', "has no tokens"),
    ("/lens x --top 0", "--top takes a number from 1 on"),
    ("/lens", "/lens needs prompt: /lens PROMPT"),
    ("/gen x --tokens 0", "--tokens takes a number from 1 on"),
    ("/gen x --seed -1", "--seed takes a number from 0 on"),
    ("/gen x --temperature -1", "temperature"),
    ("/lens x --positions 0:99999999999", "no prompt is so long"),
    ("/steer --layer 1 --vector 'embedding: two words.npy'", "where one is needed"),
    ("/gen x --tokens 500", "do not fit: toy reads 128 at most"),
    ("/gen x --bosh", "did you mean --bos?"),
    ('/attention "a b" --layer 1 --head 4', "no head 4: the model has heads 0 to 3"),
    ('/attention "a b"', "/attention needs --layer: a number from 0 to 3"),
    ('/race "a b" Ouagadougou', "' Ouagadougou' is 12 tokens (' ' 'O' 'u'"),
    ('/race "a b" #999', "token 999 is outside the model's vocabulary"),
    ('/dla "a b" two words', "' two words' is 10 tokens"),
    ('/patch-act "a b" c --layer 7', "no layer 7: the model has layers 0 to 3"),
    ('/patch-act "a b" c --layer 1 --site nowhere', "no site 'nowhere'"),
    ('/patch-act "a b" c --layer 1 --position 8', "no position 8"),
    ("/ablate mlp:9", "no layers 9: the model has layers 0 to 3"),
    ("/ablate nose:1", "no part 'nose:1': say residual, attention, mlp and its layers"),
    ("/ablate mlp:1 x --positions 77", "no position 77"),
    ("/steer --layer 1", '/steer needs --vector: like "embedding: Paris"'),
    ("/steer --layer 9 --vector 'random: 1'", "no layer 9"),
    ("/steer --layer 1 --vector 'hope: 1'", "no vector 'hope: 1': say embedding: TOKEN"),
    ("/steer --layer 1 --vector FOLDER/short.json", "expected (32,)"),
    ("/steer --layer 1 --vector FOLDER/none.npy", "no such file"),
    ("/steer --layer 1 --vector FOLDER/text.json", "expected 32 numbers in a .json file"),
    ("/steer --layer 1 --vector 'random: 1' --alpha inf", "expected a finite number"),
    ("/steer --layer 1 --vector 'random: 1' --positions 500", "the model reads 128 tokens"),
    ('/kv-clone "Bob" Bob --layer 1 --positions 3:1', "no positions 3:1"),
    ('/kv-clone "Bob lives in" Bob --layer 1', "the donor holds"),
    ('/trace "a b" zebra', "the subject 'zebra' is not in the prompt"),
    ("/crown x --expect ''", "has no tokens"),
    ("/lens x --png FOLDER/x.txt", "--png takes a .png file"),
    ("/capture x --out FOLDER/x.txt", "--out takes a .npy or .npz file"),
    ("/capture x --out FOLDER/text.json/x.npy", "cannot write"),
    ("/use nothing", "no open session 'nothing': /open nothing opens it"),
    ("/use tou", "no open session 'tou': did you mean toy?"),
    ("/close chat", "chat is the conversation itself"),
    ("/open toy", "toy is open already: /use toy, or open another with --name NAME"),
    ("/open toy --name chat", "chat is the conversation itself"),
    ("/open smollm", "no model 'smollm': did you mean smollm2?"),
    ("/open smollm2", "rwkvedit models pull smollm2"),
    ("/open FOLDER/empty", "no weights: expected model.safetensors"),
    ("/open FOLDER/strange", "architecture 'mamba' is not supported; supported are"),
    ("/open FOLDER/cut.gguf", "truncated GGUF"),
    ("/open toy --dtype int4", "--dtype is one of fp32, bf16, fp16"),
]


@pytest.fixture
def folder(tmp_path):
    """Files that no model and no vector can be made of."""
    (tmp_path / "short.json").write_text("[1.0, 2.0]")
    (tmp_path / "text.json").write_text("words")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03")
    for name, kind in (("empty", "llama"), ("strange", "mamba")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind}))
    return tmp_path


def test_every_mistake_is_one_line_and_the_session_is_as_it_was(looking, folder):
    data(looking, "/steer --layer 0 --vector 'random: 3'")
    before = data(looking, "/sessions"), data(looking, f"/lens {ASK}")
    for line, said in MISTAKES:
        assert said in refused(looking, line.replace("FOLDER", str(folder))), line
    assert (data(looking, "/sessions"), data(looking, f"/lens {ASK}")) == before
    assert looking.sessions.current.session._hooks == []


def test_without_an_open_model_every_command_says_what_to_type(shell):
    for name in (*LOOKING, "crown", "trace"):
        words = " ".join(['"x"'] * sum(arg.required for arg in REGISTRY.find(name).args))
        assert "no session is open: /open smollm2, /open toy" in refused(shell, f"/{name} {words}")
    assert data(shell, "/use chat")["using"] == "chat"
    data(shell, "/open toy")
    data(shell, "/use chat")
    assert refused(shell, "/lens x") == "no session is in use: /use toy"


def test_too_little_memory_to_open_leaves_what_is_open(looking, monkeypatch):
    import rwkvedit.transformer

    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(rwkvedit.transformer, "open_session", exhausted)
    assert "out of memory" in refused(looking, "/open toy-neox")
    assert list(looking.sessions.opened) == ["toy"] and looking.sessions.using == "toy"


def test_an_interrupt_while_opening_or_tracing_leaves_the_session_as_it_was(looking, monkeypatch):
    import rwkvedit.transformer

    data(looking, "/steer --layer 0 --vector 'random: 3'")
    before = data(looking, "/sessions")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    looking.on_progress = lambda done, of, what: stop() if of else None
    with pytest.raises(KeyboardInterrupt):
        looking.execute(f"/trace {ASK} France --runs 2")
    monkeypatch.setattr(rwkvedit.transformer, "open_session", stop)
    with pytest.raises(KeyboardInterrupt):
        looking.execute("/open toy-neox")
    assert data(looking, "/sessions") == before
    assert looking.sessions.current.session._hooks == []


def test_ctrl_c_ends_a_text_and_keeps_what_was_written(looking):
    heard = []

    def press(text):
        heard.append(text)
        if len(heard) == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    result = looking.execute(f"/gen {ASK} --tokens 60", press)
    assert result.exit_code == 130 and result.data["stopped"] == "cancelled"
    assert 3 <= len(result.data["tokens"]) < 60 and heard
    assert signal.getsignal(signal.SIGINT) is before


# -- words, screen and completion -----------------------------------------------------------


def test_arguments_may_be_given_by_their_flags(looking):
    plain = data(looking, f'/patch-act "{OTHER}" {ASK} --layer 1')
    for line in (f'/patch-act --donor "{OTHER}" --prompt {ASK} --layer 1',
                 f'/patch-act --layer 1 --donor="{OTHER}" {PROMPT}',
                 f'/patch-act "{OTHER}" --prompt {ASK} --layer 1'):  # fmt: skip
        assert data(looking, line) == plain
    assert data(looking, f"/race --prompt {ASK} --tokens Paris --tokens Rome") == data(
        looking, f"/race {ASK} Paris Rome"
    )
    assert "needs prompt" in refused(looking, f'/patch-act --donor "{OTHER}" --layer 1')


def test_models_sessions_and_vectors_are_completed(looking):
    def found(line):
        return [text for text, _, _ in candidates(looking, REGISTRY, line)]

    assert found("/open toy-") == ["toy-gpt2", "toy-neox"]
    assert found("/use ") == ["chat", "toy"]
    assert found('/steer --layer 1 --vector "emb') == ['"embedding: ']
    assert found("/ablate m") == ["mlp:"]
    assert "--positions " in found("/lens x --po")


def test_help_says_what_a_vector_is_made_of(looking):
    shown = str(looking.execute("/help vector").blocks)
    assert "difference: TEXT | TEXT" in shown and "--layer N" in shown


@pytest.mark.parametrize("width", [40, 80])
def test_a_grid_goes_on_below_where_its_columns_do_not_fit(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = tuple(f"{i} ' word{i}'" for i in range(9))
    rows = tuple(tuple(f"cell{y}{x}" for x in range(9)) for y in range(3))
    renderer = Renderer(io.StringIO(), io.StringIO())
    renderer.result(Result("result", "lens", {}, (Grid("layer", ("0", "1", "2"), columns, rows),)))
    shown = renderer.out.getvalue()
    assert all(len(line) <= width for line in shown.splitlines())
    assert all(name in shown for name in (*columns, *sum(rows, ())))
    assert shown.count("layer") == {40: 5, 80: 2}[width]


def test_what_was_streamed_is_not_printed_twice_and_letters_that_command_are_spelled_out(looking):
    from rwkvedit.repl.views import visible

    assert visible("a\x1b[31m\r\nb\t猫") == "a\\x1b[31m\\r\nb\t猫"
    renderer = Renderer(io.StringIO(), io.StringIO())
    renderer.result(looking.execute(f"/gen {ASK} --tokens 4", renderer.stream), streamed=True)
    streamed = renderer.out.getvalue()
    (block,) = looking.execute(f"/gen {ASK} --tokens 4").blocks
    assert isinstance(block, Written) and streamed == block.text + "\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_on_a_terminal_only_and_is_taken_away_again():
    off, on = io.StringIO(), Terminal()
    for stream in (off, on):
        renderer = Renderer(io.StringIO(), stream)
        renderer.progress(3, 10, "tracing")
        renderer.progress(0, 0, "x")
        renderer.notice("done")
    assert off.getvalue() == "done\n"
    assert on.getvalue().startswith("\rtracing: 3 of 10\r") and "\x1b[K" not in on.getvalue()
    assert f"\r{'x ...':16}\r\r     \r" in on.getvalue()


# -- pictures -------------------------------------------------------------------------------


def test_a_lens_is_drawn_and_written_as_a_page(looking, tmp_path):
    png, page = tmp_path / "lens.png", tmp_path / "in" / "lens.html"
    result = looking.execute(f"/lens {ASK} --png {png} --html {page}")
    assert result.data["positions"] == [0, 1, 2, 3, 4]
    assert result.notices == (f"wrote {png}", f"wrote {page}")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = page.read_text("utf-8")
    assert "France" in text and "/lens" in text and "http://" not in text.replace("www.w3.org", "")


def test_crown_and_trace_are_drawn_too(looking, tmp_path):
    for line in (f"/crown {ASK}", f"/trace {ASK} France --runs 2"):
        page = tmp_path / "page.html"
        result = looking.execute(f"{line} --html {page} --png {tmp_path / 'x.png'}")
        assert len(result.notices) == 2 and "<html" in page.read_text("utf-8")


# -- shell verbs ----------------------------------------------------------------------------

ARGV = {
    "gen": ["--prompt", PROMPT, "--tokens", "5"],
    "lens": ["--prompt", PROMPT, "--positions", "all"],
    "race": ["--prompt", PROMPT, "--tokens", "Paris", "Rome"],
    "dla": ["--prompt", PROMPT, "--token", " Paris"],
    "neighbors": ["--token", "Paris"],
    "patch-act": ["--donor", OTHER, "--prompt", PROMPT, "--layer", "2"],
    "ablate": ["--part", "mlp:1", "--prompt", PROMPT],
    "steer": ["--prompt", PROMPT, "--layer", "1", "--vector", "embedding: Paris", "--alpha", "4"],
    "capture": ["--prompt", PROMPT, "--layers", "0:2"],
    "vector": ["--vector", "embedding: Paris"],
    "attention": ["--prompt", PROMPT, "--layer", "1"],
    "kv-clone": ["--donor", OTHER, "--prompt", PROMPT, "--layer", "1"],
}


@pytest.mark.parametrize("name", LOOKING)
def test_a_verb_says_what_the_command_says_and_where_its_numbers_come_from(name, looking, capsys):
    from rwkvedit.repl.words import quote

    words = [w if w.startswith("--") else quote(w) for w in ARGV[name]]
    line = f"/{name} {' '.join(words)}".replace('"Paris" "Rome"', '"Paris" --tokens "Rome"')
    document = verb(capsys, name, "toy", *ARGV[name])
    meta = document.pop("meta")
    assert document == json.loads(json.dumps(data(looking, line)))
    assert meta["model"] == "toy" and meta["model_digest"] and meta["dtype"] == "float32"
    assert {"version", "device", "threads", "seed", "command", "seconds"} <= set(meta)


def test_a_verb_for_people_prints_a_table_and_writes_pictures(capsys, tmp_path):
    page = tmp_path / "lens.html"
    assert main(["lens", "toy", "--prompt", PROMPT, "--html", str(page)]) == 0
    captured = capsys.readouterr()
    assert "layer  0 'The'" in captured.out and captured.err == f"wrote {page}\n"
    assert page.exists()


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["lens", "toy"], 2, "the following arguments are required: --prompt"),
        (["lens", "toy", "--prompt", ""], 2, "has no tokens"),
        (["lens", "toy", "--prompt", "x", "--layers", "7"], 2, "no layers 7"),
        (["steer", "toy", "--prompt", "x", "--layer", "1"], 2, "steer needs --vector"),
        (["steer", "toy", "--prompt", "x", "--layer", "y"], 2, "--layer takes a whole number"),
        (["ablate", "toy", "--prompt", "x"], 2, "required: --part"),
        (["lens", "smollm2", "--prompt", "x"], 3, "rwkvedit models pull smollm2"),
        (["lens", "nowhere", "--prompt", "x"], 3, "no model 'nowhere'"),
        (["lens", "toy", "--prompt", "x", "--device", "tpu"], 2, "no device 'tpu'"),
        (["demo", "interp", "--model", "smollm2"], 3, "rwkvedit models pull smollm2"),
    ],
)
def test_a_verbs_mistake_is_one_line_and_its_exit_code(argv, code, said, capsys):
    if argv[-2:] == ["--device", "tpu"]:
        argv = ["lens", "embedded", *argv[2:]]  # the toys take no device
    assert main(argv) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("rwkvedit: ") and captured.err.count("\n") == 1
    assert said in captured.err


# -- the walk -------------------------------------------------------------------------------


def test_the_walk_on_the_toy_takes_every_command_and_all_its_checks_hold(capsys):
    document = verb(capsys, "demo", "interp")
    lines = [step["command"] for step in document["steps"]]
    for name in (*LOOKING, "crown", "trace", "open", "sessions", "use"):
        assert any(line.startswith(f"/{name} ") or line == f"/{name}" for line in lines), name
    assert document["failed"] == 0 and document["passed"] >= 20
    assert [step["ok"] for step in document["steps"] if step["holds"]].count(True) >= 20


def test_a_check_that_does_not_hold_is_said_and_fails_the_walk(monkeypatch, capsys):
    from rwkvedit.repl import tour

    def one(ctx):
        yield tour.Step("Nothing", "/sessions", "water is dry", lambda s, d: False)

    monkeypatch.setattr(tour, "later", one)
    assert main(["demo", "interp"]) == 1
    assert "check: water is dry: NO" in capsys.readouterr().out


def test_the_walk_on_smollm2_holds_too(smollm2, monkeypatch, capsys):
    import rwkvedit.transformer

    real = open_session
    monkeypatch.setattr(
        rwkvedit.transformer, "open_session",
        lambda name, **options: smollm2 if name == "smollm2" else real(name, **options),
    )  # fmt: skip
    monkeypatch.setattr("rwkvedit.repl.tour.RUNS", 1)
    document = verb(capsys, "demo", "interp", "--model", "smollm2")
    assert document["failed"] == 0, [s["command"] for s in document["steps"] if s["ok"] is False]


# -- a real terminal ------------------------------------------------------------------------


@pytest.mark.pty
def test_looking_into_a_model_in_a_terminal(tmp_path):
    import pexpect

    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    env |= {"RWKVEDIT_HOME": str(tmp_path), "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(
        sys.executable, ["-W", "ignore", "-m", "rwkvedit", "--threads", "1"], env=env,
        encoding="utf-8", timeout=90, dimensions=(24, 80),
    )  # fmt: skip
    try:
        child.expect("Ctrl-D leaves")
        child.send("/open toy\r")
        child.expect("llama, 4 layers")
        child.expect("toy>")
        child.send(f"/lens {ASK}\r")
        child.expect(r"after 4 ' is'")
        child.expect("toy>")
        child.send(f"/trace {ASK} France --runs 6000\r")
        child.expect(r"tracing, cells: \d+ of 24")
        child.sendintr()
        child.expect("interrupted; the session is as it was")
        child.expect("toy>")
        child.send("/use chat\r")
        child.expect("back in the conversation")
        child.expect(">")
        child.sendeof()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)
