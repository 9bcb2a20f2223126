"""Looking into the open model: lens, race, direct logits, patches, ablations, steering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.commands.sessions import BOS, PROMPT, hooks_note
from rwkvedit.repl.pictures import HTML, PNG, Pictures
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Block, Result, Text, result, say
from rwkvedit.repl.sessions import Held, Opened

GROUP = "models"

LAYERS = Option("--layers", "which layers: a number, a:b, all, upper or lower", metavar="a:b")
AT = Option("--position", "which position: a number, or last", metavar="P")
POSITIONS = Option("--positions", "which positions: last, all, or numbers like 0,2:4",
                   metavar="P")  # fmt: skip
LAYER = Option("--layer", "after which layer", kind=int, metavar="N")
SITE = Option(
    "--site",
    "resid_in, resid_mid, resid_out, att.out, ffn.key or ffn.out",
    default="resid_out",
    metavar="SITE",
)
OPTIONAL_PROMPT = Arg("prompt", required=False, rest=True, flag=True, about=PROMPT.about)
QUOTED_PROMPT = Arg("prompt", quoted=True, flag=True, about=PROMPT.about)
VECTOR = Option(
    "--vector",
    'what is added, like "embedding: Paris" (see /help vector)',
    metavar="V",
    completer="vector",
)
OFF = "off"


def found(
    name: str,
    opened: Opened,
    blocks: list[Block],
    data: dict[str, Any],
    notices: Sequence[str] = (),
) -> Result:
    """A measurement's result: which session it is of, and what was on."""
    said = [*hooks_note(opened), *notices]
    return result(name, *blocks, notices=said, session=opened.name, active=opened.active, **data)


@command(
    "lens",
    group=GROUP,
    args=[PROMPT],
    options=[
        LAYERS,
        POSITIONS,
        Option("--top", "how many tokens of each layer", kind=int, default=3, metavar="K"),
        PNG,
        HTML,
        BOS,
    ],
    help="Logit lens: what each layer's residual would say next.",
    example='/lens "The capital of France is" --positions all',
)
def lens(ctx: Any, prompt: str, **options: Any) -> Result:
    from rwkvedit.repl import views
    from rwkvedit.transformer import words

    opened = ctx.sessions.current
    pictures, top = Pictures(options), options["top"]
    at = words.positions(options["positions"] or ("all" if pictures else None))
    if top < 1:
        raise UsageError(f"--top takes a number from 1 on, not {top}")
    with opened.hooked() as session:
        seen = session.logit_lens(prompt, options["layers"], at, top, bos=options["bos"] or None)
    data, blocks = views.lens(seen)
    notices = []
    if pictures:
        from rwkvedit.report.locate import lens_page, lens_plot

        notices = pictures.write(
            session, ctx.line, lambda: lens_plot(seen), lambda meta: lens_page(seen, meta)
        )
    return found("lens", opened, blocks, {"prompt": prompt, **data}, notices)


@command(
    "race",
    group=GROUP,
    args=[
        QUOTED_PROMPT,
        Arg("tokens", required=False, many=True, flag=True, about="what to follow"),
    ],
    options=[LAYERS, AT, BOS],
    help="Tokens through the layers by the lens (without any: the model's own three likeliest).",
    example='/race "The capital of France is" Paris Rome',
)
def race(ctx: Any, prompt: str, tokens: list[str], **options: Any) -> Result:
    from rwkvedit.repl import views
    from rwkvedit.transformer import words

    opened = ctx.sessions.current
    with opened.hooked() as session:
        ids = session.tokens(prompt, options["bos"] or None)
        at = words.one_position(options["position"], len(ids))
        wanted = [words.token_id(session, word) for word in tokens]
        if not wanted:
            wanted = [t.id for t in session.forward(ids[: at + 1]).top(3)]
        seen = session.track_race(ids, wanted, options["layers"], at)
    data, blocks = views.race(seen, views.at([at], session.pieces(ids))[0])
    return found("race", opened, blocks, {"prompt": prompt, "position": at, **data})


@command(
    "dla",
    group=GROUP,
    args=[
        QUOTED_PROMPT,
        Arg("token", required=False, rest=True, flag=True, about="whose logit (its own answer)"),
    ],
    options=[AT, BOS],
    help="Direct logits: what each attention and MLP adds to a token's raw logit.",
    example='/dla "The capital of France is" Paris',
)
def dla(ctx: Any, prompt: str, token: str | None, **options: Any) -> Result:
    from rwkvedit.repl import views
    from rwkvedit.transformer import words

    opened = ctx.sessions.current
    with opened.hooked() as session:
        ids = session.tokens(prompt, options["bos"] or None)
        at = words.one_position(options["position"], len(ids))
        wanted = None if token is None else words.token_id(session, token)
        seen = session.direct_logits(ids, wanted, at)
    data, blocks = views.attribution(seen, views.at([at], session.pieces(ids))[0])
    return found("dla", opened, blocks, {"prompt": prompt, **data})


@command(
    "neighbors",
    group=GROUP,
    args=[Arg("token", rest=True, flag=True, about="the token (a word, or #ID)")],
    options=[Option("--top", "how many", kind=int, default=10, metavar="K")],
    help="The tokens whose embeddings lie closest by cosine.",
    example="/neighbors Paris",
)
def neighbors(ctx: Any, token: str, top: int) -> Result:
    from rwkvedit.repl import views
    from rwkvedit.transformer import words

    session = ctx.sessions.current.session
    own = words.token_id(session, token)
    data, blocks = views.neighbors(session.embedding_neighbors(own, top))
    of = {"id": own, "token": session.piece(own)}
    head = Text(f"closest to {views.shown(of['token'], own)}")
    return result("neighbors", head, *blocks, session=ctx.sessions.using, of=of, **data)


@command(
    "patch-act",
    group=GROUP,
    args=[
        Arg("donor", quoted=True, flag=True, about="the text whose activation is taken"),
        Arg("prompt", rest=True, flag=True, about="the text it is put into"),
    ],
    options=[
        LAYER,
        AT,
        Option("--donor-position", "where it is taken, if elsewhere", metavar="P"),
        SITE,
        BOS,
    ],
    help="Put one activation of a text's run into another's, and see what changes.",
    example='/patch-act "The capital of Japan is" "The capital of France is" --layer 3',
)
def patch_act(ctx: Any, donor: str, prompt: str, layer: int | None, **options: Any) -> Result:
    from rwkvedit.repl import views
    from rwkvedit.transformer import words

    opened = ctx.sessions.current
    layer = needed(layer, opened, "--layer", "patch-act")
    bos = options["bos"] or None
    with opened.hooked() as session:
        theirs, mine = session.tokens(donor, bos), session.tokens(prompt, bos)
        at = words.one_position(options["position"], len(mine))
        asked = options["donor_position"] or options["position"]
        source = words.one_position(asked, len(theirs))
        done = session.patch_activations(theirs, mine, layer, at, source, options["site"])
    data, blocks = views.compared(
        {"before": done.before, "donor": done.donor, "after": done.after}
    )
    pieces = session.pieces(mine), session.pieces(theirs)
    head = (
        f"{options['site']} of layer {layer}: {views.at([source], pieces[1])[0]} of the donor "
        f"at {views.at([at], pieces[0])[0]}"
    )
    data |= {"layer": layer, "site": options["site"], "position": at, "donor_position": source}
    data["flipped"] = done.after.argmax != done.before.argmax
    about = {"prompt": prompt, "donor_prompt": donor}
    return found("patch-act", opened, [Text(head), *blocks], {**about, **data})


@command(
    "ablate",
    group=GROUP,
    args=[
        Arg("part", required=False, flag=True, completer="part",
            about="mlp:N, attention:a:b or residual:N"),
        OPTIONAL_PROMPT,
    ],
    options=[POSITIONS, BOS],
    help="Zero a part of the open model: once for a text, or until /ablate off without one.",
    example='/ablate mlp:2 "The capital of France is"',
)  # fmt: skip
def ablate(ctx: Any, part: str | None, prompt: str | None, **options: Any) -> Result:
    from rwkvedit.transformer import ZeroAblate, words

    opened = ctx.sessions.current
    if part in (None, OFF):
        return switched("ablate", opened, opened.ablations, part, "mlp:2 zeroes one")
    at = words.positions(options["positions"] or "all")
    name, layers = words.part_of(opened.session, part)
    hook = ZeroAblate(layers, name, at)
    text = f"{part} zeroed{where(options['positions'])}"
    data = {"part": name, "layers": layers, "positions": options["positions"] or "all"}
    if prompt is None:
        return held("ablate", opened, opened.ablations, Held(text, hook), data)
    return once("ablate", opened, prompt, Held(text, hook), options["bos"] or None, data)


@command(
    "steer",
    group=GROUP,
    args=[OPTIONAL_PROMPT],
    options=[
        LAYER,
        VECTOR,
        Option("--alpha", "how much of it (1)", kind=float, default=1.0, metavar="A"),
        POSITIONS,
        BOS,
    ],
    help="Add a vector after a layer: once for a text, or until /steer off without one.",
    example='/steer --layer 2 --vector "embedding: Paris" --alpha 4',
)
def steer(ctx: Any, prompt: str | None, **options: Any) -> Result:
    import numpy as np

    from rwkvedit.transformer import Steer, words

    opened, alpha, spec = ctx.sessions.current, options["alpha"], options["vector"]
    if spec is None and options["layer"] is None and prompt in (None, OFF):
        example = '--layer 2 --vector "embedding: Paris" --alpha 4 adds one'
        return switched("steer", opened, opened.steering, prompt, example)
    layer = needed(options["layer"], opened, "--layer", "steer")
    vector = words.vector(opened.session, needed(spec, opened, "--vector", "steer"), layer)
    hook = Steer(layer, vector, alpha, words.positions(options["positions"]))
    norm = abs(alpha) * float(np.linalg.norm(vector))
    text = f"{alpha:g} x ({spec}) added after layer {layer}{where(options['positions'])}"
    data = {"layer": layer, "vector": spec, "alpha": alpha, "norm": norm,
            "positions": options["positions"] or "last"}  # fmt: skip
    if prompt is None:
        note = f"its length is {norm:.1f}; /capture shows those of the residuals"
        return held("steer", opened, opened.steering, Held(text, hook), data, [note])
    return once("steer", opened, prompt, Held(text, hook), options["bos"] or None, data)


def needed(value: Any, opened: Opened, flag: str, name: str) -> Any:
    """``value``, or a UsageError that says what to add."""
    if value is None:
        layers = f"a number from 0 to {opened.session.n_layer - 1}"
        about = layers if flag == "--layer" else 'like "embedding: Paris"'
        raise UsageError(f"/{name} needs {flag}: {about}")
    return value


def where(positions: str | None) -> str:
    return f" at {positions}" if positions else ""


def once(
    name: str, opened: Opened, prompt: str, change: Held, bos: bool | None, data: dict[str, Any]
) -> Result:
    """One text without the change and with it; nothing stays on."""
    from rwkvedit.repl import views

    with opened.hooked() as session:
        before = session.forward(prompt, bos=bos)
        after = session.forward(prompt, [change.hook], bos=bos)
    more, blocks = views.compared({"before": before, "after": after})
    more["flipped"] = after.argmax != before.argmax
    return found(name, opened, [Text(change.text), *blocks], {"prompt": prompt, **data, **more})


def held(
    name: str,
    opened: Opened,
    onto: list[Held],
    change: Held,
    data: dict[str, Any],
    notices: Sequence[str] = (),
) -> Result:
    """Switch a change on, checked against the model first."""
    from rwkvedit.transformer.hooks import check_hook

    check_hook(change.hook, opened.session.shape)
    onto.append(change)
    text = f"{change.text}: on in {opened.name} until /{name} {OFF}"
    return say(name, text, notices=notices, session=opened.name, active=opened.active, **data)


def switched(name: str, opened: Opened, onto: list[Held], word: str | None, example: str) -> Result:
    """List what is on, or switch it all off."""
    texts = [each.text for each in onto]
    if word == OFF:
        onto.clear()
        text = f"off: {', '.join(texts)}" if texts else f"nothing was on; /{name} {example}"
    else:
        text = "\n".join(texts) if texts else f"nothing is on; /{name} {example}"
    return say(name, text, session=opened.name, active=opened.active)
