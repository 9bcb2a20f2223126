"""A walk through everything that can be asked of an open model: commands, and what must hold.

Each step is a line as it could be typed at the chat, why it is typed, and a check that is computed
another way than the command computed it. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np

from rwkvedit.repl.commands import REGISTRY
from rwkvedit.repl.result import Result

FRANCE, JAPAN = "The capital of France is", "The capital of Japan is"
BOB = (
    "User: Bob lives in Austin.\n\nAssistant: Got it.\n\n"
    "User: Where does Bob live?\n\nAssistant: Bob lives in"
)
ANN = BOB.replace("Austin", "Chicago")
CLOSE = 1e-4
RUNS = 3  # noise runs of the trace

Check = Callable[[Any, dict[str, Any]], bool]


@dataclass(frozen=True)
class Step:
    """``line`` is what is typed; ``holds`` says what ``check`` finds in (session, data)."""

    why: str
    line: str
    holds: str = ""
    check: Check | None = None


@dataclass(frozen=True)
class Done:
    step: Step
    result: Result
    ok: bool | None
    """None where there was nothing to check."""

    def to_json(self) -> dict[str, Any]:
        return {
            "why": self.step.why,
            "command": self.step.line,
            "result": self.result.data,
            "holds": self.step.holds or None,
            "ok": self.ok,
        }


def walk(
    ctx: Any, model: str, before: Callable[[Step], None] = lambda step: None
) -> Iterator[Done]:
    """Open ``model`` and take every step; ``before`` is told of each. Errors pass through."""
    first = Step("Open a model to look into", f"/open {model}")
    for step in chain((first,), later(ctx)):
        before(step)
        command, values = REGISTRY.parse(step.line)
        result = command.run(ctx, **values)
        ok = None
        if step.check is not None:
            ok = bool(step.check(ctx.sessions.current.session, result.data))
        yield Done(step, result, ok)


def later(ctx: Any) -> Iterator[Step]:
    """The steps after the model is open; they depend on its depth and kind."""
    session = ctx.sessions.current.session
    yield from steps(session.n_layer, recurrent=session.kind == "rwkv7")
    if session.kind != "rwkv7":
        yield Step("RWKV-7 answers through the same session", "/open embedded")
        yield from recurrent(ctx.sessions.current.session.n_layer)
    yield Step("What is open", "/sessions")
    yield Step("Back to the conversation", "/use chat")


def typed(text: str) -> str:
    from rwkvedit.repl.words import quote

    return quote(text)


def steps(layers: int, recurrent: bool = False) -> Iterator[Step]:
    """Every primitive on one model of so many layers."""
    here, other = (BOB, ANN) if recurrent else (FRANCE, JAPAN)
    word = "Chicago" if recurrent else "Paris"
    prompt, donor = typed(here), typed(other)
    middle, last = layers // 2, layers - 1

    yield Step("Continue a text", f"/gen {prompt} --tokens 8",
               "the same, token for token, without a cache", _as_without_a_cache(here))
    yield Step("What each layer would say next", f"/lens {prompt}",
               "the last layer says what the model says",
               lambda s, d: d["rows"][-1][0]["top"][0]["id"] == s.forward(here).argmax)
    yield Step("Two tokens through the layers", f"/race {prompt} {word} Rome",
               "P after the last layer is the model's own",
               lambda s, d: all(abs(t["p"][-1] - s.forward(here).p(t["id"])) < CLOSE
                                for t in d["tracks"]))
    yield Step("What each part adds to a logit, no norm", f"/dla {prompt} {word}",
               "the parts add up to the raw logit", _adds_up)
    yield Step("Tokens with close embeddings", f"/neighbors {word} --top 5",
               "cosines in falling order", lambda s, d: _falling(d["neighbors"], "cosine"))
    yield Step("A vector, and what it promotes", f'/vector "embedding: {word}"',
               "it is closest to its own token",
               lambda s, d: d["neighbors"][0]["cosine"] > 1 - CLOSE)
    yield Step("What passes at a site of each layer", f"/capture {prompt} --site ffn.out",
               "residual in, attention and MLP add up to residual out", _streams(here))
    if not recurrent:
        yield Step("Where a head looks", f"/attention {prompt} --layer {middle} --head 0",
                   "each row sums to 1", lambda s, d: np.allclose(
                       np.sum(d["weights"], -1), 1, atol=CLOSE))
    yield Step("Another text's last residual, put in here",
               f"/patch-act {donor} {prompt} --layer {last}",
               "it carries the other's whole answer",
               lambda s, d: _near(d["after"], d["donor"]))
    yield Step("One MLP zeroed, for this text only", f"/ablate mlp:{middle} {prompt}",
               "nothing stays on: the model says what it said before",
               lambda s, d: _near(d["before"], [t.to_json() for t in s.forward(here).top(5)]))
    yield Step("A vector added after a layer, from now on",
               f'/steer --layer {middle} --vector "embedding: {word}" --alpha 4')
    yield Step("Text written with it, at every step", f"/gen {prompt} --tokens 8",
               "the same, token for token, without a cache",
               _as_without_a_cache(here, middle, word))
    yield Step("Taken off again", "/steer off", "the hooks are gone",
               lambda s, d: not d["active"] and not s._hooks)
    if not recurrent:
        yield Step("Another text's cached keys and values, one layer",
                   f"/kv-clone {donor} {prompt} --layer {middle}",
                   "with every layer cloned it goes on as the other", _all_cloned(here, other))
    yield Step("The layer the answer hangs on", f"/crown {prompt}",
               "P with that MLP zeroed is what an ablated forward gives", _crown_agrees(here))
    subject = "Bob" if recurrent else "France"
    yield Step("Where the fact lies: noise on its subject, one state restored at a time",
               f"/trace {prompt} {subject} --runs {RUNS}",
               "the last state of all, restored, brings everything back",
               lambda s, d: abs(d["hidden"][-1][-1] - d["clean"]) < CLOSE)


def recurrent(layers: int) -> Iterator[Step]:
    """A few of them on RWKV-7, whose channel-mix stands for the MLP."""
    wanted = ("/lens", "/patch-act", "/ablate", "/steer", "/gen", "/crown")
    for step in steps(layers, recurrent=True):
        if step.line.startswith(wanted):
            yield step


def _as_without_a_cache(prompt: str, layer: int | None = None, word: str = "") -> Check:
    def check(session: Any, data: dict[str, Any]) -> bool:
        from rwkvedit.transformer import Steer, words

        hooks = []
        if layer is not None:
            hooks = [Steer(layer, session.embedding_for(words.token_id(session, word)), 4.0)]
        plain = session.generate_with_hooks(prompt, hooks, 8, kv_cache=False)
        return plain.tokens == data["tokens"]

    return check


def _adds_up(session: Any, data: dict[str, Any]) -> bool:
    parts = data["embedding"] + sum(data["attention"]) + sum(data["mlp"])
    return abs(parts - data["total"]) <= 1e-3 * max(1, abs(data["total"]))


def _falling(rows: list[dict[str, Any]], key: str) -> bool:
    return all(a[key] >= b[key] for a, b in pairwise(rows))


def _streams(prompt: str) -> Check:
    def check(session: Any, data: dict[str, Any]) -> bool:
        sites = ("resid_in", "att.out", "ffn.out", "resid_out")
        _, got = session.forward_with_capture(prompt, 0, sites)
        a, b, c, d = (got[f"blocks.0.{site}"] for site in sites)
        size = float(np.linalg.norm(d))
        same = np.allclose(np.linalg.norm(c, axis=-1), data["norms"][0], rtol=1e-4)
        return same and float(np.linalg.norm(a + b + c - d)) < 1e-4 * size

    return check


def _near(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    return all(
        x["id"] == y["id"] and abs(x["p"] - y["p"]) < CLOSE for x, y in zip(a, b, strict=True)
    )


def _all_cloned(prompt: str, donor: str) -> Check:
    def check(session: Any, data: dict[str, Any]) -> bool:
        mine, theirs = session.tokens(prompt), session.tokens(donor)
        cache, other = session.prefill(mine[:-1]), session.prefill(theirs[:-1])
        for layer in range(session.n_layer):
            cache = session.clone_layer_from(cache, other, layer)
        a = session.forward(mine[-1:], cache=cache).logits
        return bool(np.allclose(a, session.forward(donor).logits, atol=1e-3))

    return check


def _crown_agrees(prompt: str) -> Check:
    def check(session: Any, data: dict[str, Any]) -> bool:
        row = next(r for r in data["scan"] if r["layer"] == data["crown"])
        token = data["baseline"]["tokens"][0]
        zeroed = session.forward_ablate(prompt, data["crown"], "mlp", None)
        return abs(zeroed.p(token) - row["p"]) < CLOSE

    return check
