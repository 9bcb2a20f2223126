"""Generation with hooks active on every step, over a cache that is kept between steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from rwkvedit.errors import UsageError
from rwkvedit.transformer.hooks import Hook, Window
from rwkvedit.transformer.results import Generation

if TYPE_CHECKING:
    from rwkvedit.recurrent.generate import Sampler
    from rwkvedit.transformer.session import ModelSession, Prompt


def generate_with_hooks(
    session: ModelSession,
    prompt: Prompt,
    hooks: Sequence[Hook] = (),
    max_new_tokens: int = 20,
    *,
    sampler: Sampler | None = None,
    stop_ids: Collection[int] | None = None,
    kv_cache: bool = True,
    cache: Any = None,
    bos: bool | None = None,
    on_text: Callable[[str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Generation:
    """Write up to ``max_new_tokens`` (greedily without a ``sampler``).

    Hooks see absolute positions: the prompt's rows in the first call, then one new row a step. The
    last row (``positions=None``) is the prompt's last row and every row after it, so that the
    cached run equals ``kv_cache=False``, which runs the whole text again at every step, token for
    token. ``stop_ids`` None means the model's own end tokens. ``cache`` continues from what a
    ``prefill`` (or surgery on it) remembers. ``on_text`` gets text once its characters are whole.
    """
    if (
        isinstance(max_new_tokens, bool)
        or not isinstance(max_new_tokens, int)
        or max_new_tokens < 1
    ):
        raise UsageError(f"max_new_tokens {max_new_tokens!r}: expected 1 or more")
    ids = session.tokens(prompt, bos)
    before = 0 if cache is None else cache.length
    last = before + len(ids) - 1
    window = Window(before, last, last + max_new_tokens)  # the last token chosen is never fed
    session.check_length(window.limit)
    ends = set(session.end_ids if stop_ids is None else stop_ids)
    fed, now, new = list(ids), cache, []
    stopped, shown = "length", 0
    while True:
        if cancel is not None and cancel():
            stopped = "cancelled"
            break
        run = session.run(fed, hooks, cache=now, keep_cache=kv_cache, window=window)
        row = run.logits[0]
        token = int(row.argmax()) if sampler is None else sampler.sample(row)
        if kv_cache:
            now, fed = run.cache, [token]
        else:
            fed = [*fed, token]
        if token in ends:
            stopped = "end"
            break
        new.append(token)
        if on_text is not None:
            text = session.text(new)
            if not text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) > shown:
                on_text(text[shown:])
                shown = len(text)
        if len(new) == max_new_tokens:
            break
    text = session.text(new)
    if on_text is not None and len(text) > shown:
        on_text(text[shown:])
    return Generation(ids, new, text, stopped, now if kv_cache else None)
