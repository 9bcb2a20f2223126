"""The open model's own numbers: residuals, vectors, attention, and surgery on its cache."""

from __future__ import annotations

from typing import Any

from rwkvedit.errors import UsageError
from rwkvedit.repl.commands.base import command
from rwkvedit.repl.commands.look import GROUP, LAYER, LAYERS, SITE, found, needed
from rwkvedit.repl.commands.sessions import BOS, PROMPT
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Fields, Result, Text

OUT = Option("--out", "write the numbers there (.npy, .npz)", metavar="FILE", completer="file")


@command(
    "capture",
    group=GROUP,
    args=[PROMPT],
    options=[LAYERS, SITE, OUT, BOS],
    help="What passes at a site of each layer: its length at every position, or all of it "
    "with --out.",
    example='/capture "The capital of France is" --layers 0:2 --out residuals.npz',
)
def capture(ctx: Any, prompt: str, **options: Any) -> Result:
    from rwkvedit.repl import views
    from rwkvedit.transformer.hooks import site_name

    opened, site = ctx.sessions.current, site_name(options["site"])
    if site == "att.weights":
        raise UsageError("attention weights have a command of their own: /attention")
    with opened.hooked() as session:
        run, arrays = session.forward_with_capture(
            prompt, options["layers"], site, bos=options["bos"] or None
        )
        layers = session.shape.layers(options["layers"])
    data, blocks = views.captured(arrays, layers, session.pieces(run.tokens))
    path, notices = saved(options["out"], arrays)
    data |= {"prompt": prompt, "site": site, "path": path}
    return found("capture", opened, [Text(f"||{site}||"), *blocks], data, notices)


@command(
    "vector",
    group=GROUP,
    args=[
        Arg("vector", rest=True, flag=True, completer="vector",
            about="embedding: TOKEN, unembedding: TOKEN, residual: TEXT, difference: TEXT | TEXT, "
            "random: SEED, or a .npy or .json file"),
    ],
    options=[
        LAYER,
        Option("--top", "how many tokens", kind=int, default=5, metavar="K"),
        OUT,
    ],
    help="A vector of the residual stream: what it promotes directly, and what lies close.",
    example='/vector "difference: I love this | I hate this" --layer 2',
)  # fmt: skip
def vector(ctx: Any, vector: str, layer: int | None, top: int, out: str | None) -> Result:
    import numpy as np

    from rwkvedit.repl import views
    from rwkvedit.transformer import words

    opened = ctx.sessions.current
    if top < 1:
        raise UsageError(f"--top takes a number from 1 on, not {top}")
    with opened.hooked() as session:
        x = words.vector(session, vector, layer)
    promoted, table = views.projection(session.project_through_unembed(x, top))
    close, near = views.neighbors(session.embedding_neighbors(x, top))
    path, notices = saved(out, {"vector": x})
    norm = float(np.linalg.norm(x))
    data = {"vector": vector, "width": len(x), "norm": norm, **promoted, **close, "path": path}
    head = Fields.of(length=norm, width=len(x))
    blocks = [head, Text("directly, with no norm:"), *table, Text("closest embeddings:"), *near]
    return found("vector", opened, blocks, data, notices)


@command(
    "attention",
    group=GROUP,
    args=[PROMPT],
    options=[LAYER, Option("--head", "which head", kind=int, metavar="H"), BOS],
    help="Where a head looks: its weights, a row for each position.",
    example='/attention "The capital of France is" --layer 1 --head 2',
)
def attention(ctx: Any, prompt: str, layer: int | None, head: int | None, bos: bool) -> Result:
    from rwkvedit.repl import views

    opened = ctx.sessions.current
    layer = needed(layer, opened, "--layer", "attention")
    with opened.hooked() as session:
        ids = session.tokens(prompt, bos or None)
        weights = session.attention_pattern(ids, layer, head)
    whose = f"head {head}"
    if head is None:
        weights, whose = weights.mean(0), f"mean of {session.shape.n_head} heads"
    data, blocks = views.attention(weights, session.pieces(ids))
    data |= {"prompt": prompt, "layer": layer, "head": head}
    return found("attention", opened, [Text(f"layer {layer}, {whose}"), *blocks], data)


@command(
    "kv-clone",
    group=GROUP,
    args=[
        Arg("donor", quoted=True, flag=True, about="the text whose keys and values are taken"),
        Arg("prompt", rest=True, flag=True, about="the text they are put into"),
    ],
    options=[
        LAYER,
        Option("--positions", "only a:b (without: the whole layer, of equally long texts)",
               metavar="a:b"),
        BOS,
    ],
    help="Put one layer's cached keys and values of a text into another's cache.",
    example='/kv-clone "The capital of Japan is" "The capital of France is" --layer 2',
)  # fmt: skip
def kv_clone(ctx: Any, donor: str, prompt: str, layer: int | None, **options: Any) -> Result:
    from rwkvedit.repl import views
    from rwkvedit.transformer import words

    opened, bos = ctx.sessions.current, options["bos"] or None
    layer = needed(layer, opened, "--layer", "kv-clone")
    with opened.hooked() as session:
        theirs, mine = session.tokens(donor, bos), session.tokens(prompt, bos)
        if len(mine) < 2 or len(theirs) < 2:
            raise UsageError("nothing is cached before a text's last token: give longer texts")
        cache, other = session.prefill(mine[:-1]), session.prefill(theirs[:-1])
        if options["positions"] is None:
            changed = session.clone_layer_from(cache, other, layer)
        else:
            start, stop = words.span(options["positions"])
            changed = session.clone_layer_position_range(cache, other, layer, start, stop)
        runs = {
            "before": session.forward(mine[-1:], cache=cache),
            "donor": session.forward(theirs[-1:], cache=other),
            "after": session.forward(mine[-1:], cache=changed),
        }
    data, blocks = views.compared(runs)
    data |= {"prompt": prompt, "donor_prompt": donor, "layer": layer,
             "positions": options["positions"],
             "flipped": runs["after"].argmax != runs["before"].argmax}  # fmt: skip
    which = f"positions {options['positions']}" if options["positions"] else "all positions"
    head = Text(f"keys and values of layer {layer}, {which}")
    return found("kv-clone", opened, [head, *blocks], data)


def saved(out: str | None, arrays: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Write arrays where ``--out`` says: (path, notices)."""
    if out is None:
        return None, []
    import io
    from pathlib import Path

    import numpy as np

    from rwkvedit.files import atomic_write

    path, body = Path(out).expanduser(), io.BytesIO()
    if path.suffix not in (".npy", ".npz"):
        raise UsageError(f"--out takes a .npy or .npz file, not '{out}'")
    if path.suffix == ".npz":
        np.savez(body, **arrays)
    else:
        every = list(arrays.values())
        np.save(body, np.stack(every) if len(every) > 1 else every[0])
    return str(atomic_write(path, body.getvalue())), [f"wrote {path}"]
