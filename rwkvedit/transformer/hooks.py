"""Five callbacks on a forward pass, the names of its sites, and the checks before they go on.

A hook says what it wants of which layer; ``ModelSession`` puts it on for one call or for a ``with``
block and always takes it off. Knows names, shapes and positions, not arithmetic and no model.

Glossary (B rows, T tokens of this call, D residual width, F MLP width, H heads):
    resid_in     (B, T, D)      the residual stream entering a layer
    att.weights  (B, H, T, S)   attention weights after softmax; S counts cached tokens too
    att.out      (B, T, D)      what attention (time-mix) adds to the residual
    resid_mid    (B, T, D)      the residual after attention
    ffn.key      (B, T, F)      the MLP's activation, as it enters down_proj (ffn.value in RWKV-7)
    ffn.out      (B, T, D)      what the MLP (channel-mix) adds to the residual
    resid_out    (B, T, D)      the residual leaving a layer

Full names are ``blocks.{layer}.{site}``; TransformerLens's names are aliases (``ALIASES``). In a
GPT-NeoX block attention and MLP run side by side: there resid_mid is resid_in + att.out, which the
MLP does not see.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvedit.errors import UsageError

SITES = ("resid_in", "att.weights", "att.out", "resid_mid", "ffn.key", "ffn.out", "resid_out")

ALIASES = {
    "hook_resid_pre": "resid_in",
    "attn.hook_pattern": "att.weights",
    "hook_attn_out": "att.out",
    "hook_resid_mid": "resid_mid",
    "mlp.hook_post": "ffn.key",
    "hook_mlp_out": "ffn.out",
    "hook_resid_post": "resid_out",
}

CALLBACKS = {
    "on_pre_layer": "resid_in",
    "on_attention_weights": "att.weights",
    "on_post_attention": "resid_mid",
    "on_ffn_activation": "ffn.key",
    "on_post_layer": "resid_out",
}
CHANGING = ("on_post_attention", "on_post_layer")
"""The callbacks whose return value replaces what they were given."""

Fn = Callable[[Tensor], "Tensor | None"]
Layers = int | str | Iterable[int] | None
Positions = int | str | Iterable[int] | None


@dataclass(frozen=True)
class Shape:
    """What hooks are checked against. ``context`` is the most tokens, or None (no limit)."""

    n_layer: int
    d_model: int
    n_head: int
    d_ffn: int
    vocab_size: int
    context: int | None = None
    weights: bool = True
    """Are there attention weights to see?"""

    def layer(self, layer: object) -> int:
        """A layer number from 0 on; UsageError on any other."""
        if not _whole(layer) or not 0 <= int(layer) < self.n_layer:  # type: ignore[call-overload]
            raise UsageError(f"no layer {layer!r}: the model has layers 0 to {self.n_layer - 1}")
        return int(layer)  # type: ignore[call-overload]

    def layers(self, layers: Layers) -> list[int]:
        """None and ``all`` are every layer; ``upper``/``lower`` half; ``a:b`` with b excluded."""
        n = self.n_layer
        if layers is None or isinstance(layers, str):
            return _named_layers(layers or "all", n)
        if _whole(layers):
            return [self.layer(layers)]
        if not isinstance(layers, Iterable):
            raise UsageError(f"no layers {layers!r}: give a number, a list, or a:b")
        found = [self.layer(i) for i in layers]
        if not found:
            raise UsageError(f"no layers given: the model has layers 0 to {n - 1}")
        return found

    def head(self, head: object) -> int:
        if not _whole(head) or not 0 <= int(head) < self.n_head:  # type: ignore[call-overload]
            raise UsageError(f"no head {head!r}: the model has heads 0 to {self.n_head - 1}")
        return int(head)  # type: ignore[call-overload]

    def vector(self, vector: Any, what: str = "vector") -> Tensor:
        """A finite floating (D,) vector as fp32; UsageError on another width or type."""
        try:
            x = torch.as_tensor(np.asarray(vector) if not isinstance(vector, Tensor) else vector)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(
                f"{what}: expected {self.d_model} numbers, found {vector!r:.60}"
            ) from None
        if tuple(x.shape) != (self.d_model,):
            raise UsageError(
                f"{what} has shape {tuple(x.shape)}: the residual is {self.d_model} wide, "
                f"expected ({self.d_model},)"
            )
        if not x.is_floating_point():
            raise UsageError(f"{what} is {x.dtype}: expected floating point, like float32")
        if not torch.isfinite(x).all():
            raise UsageError(f"{what} holds NaN or infinity")
        return x.float()

    def token(self, token: object) -> int:
        if not _whole(token) or not 0 <= int(token) < self.vocab_size:  # type: ignore[call-overload]
            raise UsageError(
                f"token {token!r} is outside the model's vocabulary (0 to {self.vocab_size - 1})"
            )
        return int(token)  # type: ignore[call-overload]

    def tokens(self, tokens: Iterable[Any]) -> list[int]:
        """Every one of them as ``token`` reads it."""
        ids = list(tokens)
        if {*map(type, ids)} == {int} and min(ids) >= 0 and max(ids) < self.vocab_size:
            return ids
        return [self.token(t) for t in ids]


def position(position: object, length: int) -> int:
    """A position in ``length`` tokens, from its end when negative; UsageError on any other."""
    if not _whole(position) or not -length <= int(position) < length:  # type: ignore[call-overload]
        raise UsageError(
            f"no position {position!r}: the prompt has {length} tokens, positions 0 to "
            f"{length - 1} (or -{length} to -1)"
        )
    at = int(position)  # type: ignore[call-overload]
    return at + length if at < 0 else at


@dataclass(frozen=True)
class Window:
    """The positions of one run of several forward calls (generation)."""

    first: int
    """The first position that is fed."""
    last: int
    """From here on rows count as the last one: the prompt's last."""
    limit: int
    """One past the last position that will be fed."""


@dataclass(frozen=True)
class Call:
    """One forward call, as hooks see it. All positions are absolute (cached tokens count)."""

    offset: int
    """The absolute position of row 0: 0, or the number of cached tokens."""
    lengths: tuple[int, ...]
    """Tokens of each row of the batch in this call; what comes after is padding."""
    last: tuple[int, ...]
    """Each row's last position; while generating, the prompt's last (every later one counts)."""
    first: int
    """The first position that the run fed or will feed."""
    limit: tuple[int, ...]
    """One past the last position that the run feeds, for each row."""

    @classmethod
    def of(cls, offset: int, lengths: tuple[int, ...], window: Window | None = None) -> Call:
        """The call of ``lengths`` tokens after ``offset`` cached ones."""
        if window is None:
            ends = tuple(offset + n for n in lengths)
            return cls(offset, lengths, tuple(n - 1 for n in ends), offset, ends)
        n = len(lengths)
        return cls(offset, lengths, (window.last,) * n, window.first, (window.limit,) * n)

    def check(self, positions: Positions, what: str = "hook") -> None:
        """UsageError when a position is one that this run never feeds."""
        for p in _as_positions(positions):
            for last, limit in zip(self.last, self.limit, strict=True):
                at = p if p >= 0 else p + last + 1
                if not 0 <= at < limit:
                    raise UsageError(
                        f"{what}: no position {p}: the run has positions 0 to {limit - 1}"
                    )
                if at < self.first:
                    raise UsageError(
                        f"{what}: position {p} is one of the {self.first} tokens already cached"
                    )

    def mask(self, positions: Positions, width: int, device: Any = None) -> Tensor:
        """(B, width, 1) bool: the rows of this call that ``positions`` mean.

        None is the last row (while generating, each newest row), ``all`` every row that is not
        padding, numbers are absolute positions (negative ones count from the prompt's end).
        """
        out = torch.zeros(len(self.lengths), width, 1, dtype=torch.bool)
        for b, (length, last) in enumerate(zip(self.lengths, self.last, strict=True)):
            if positions is None:
                out[b, max(last - self.offset, 0) : length] = True
            elif positions == "all":
                out[b, :length] = True
            else:
                for p in _as_positions(positions):
                    at = (p if p >= 0 else p + last + 1) - self.offset
                    if 0 <= at < length:
                        out[b, at] = True
        return out if device is None else out.to(device)


class Hook:
    """Base of all hooks: override any of the five callbacks; ``layers`` limits where they fire.

    Callbacks get read-only numpy arrays with a leading batch axis (shapes in the module's glossary)
    or, with ``tensors = True``, torch tensors. ``on_post_attention`` and ``on_post_layer`` may
    return an array of the same shape, which then takes the place of what they were given; a value
    returned by one of the other three, a wrong shape or a wrong type is a UsageError.
    ``self.call`` says which absolute positions the rows are (see ``Call``).
    """

    layers: Layers = None
    tensors: bool = False
    call: Call

    def on_pre_layer(self, layer: int, h: Any) -> None:
        """h (B, T, D): the residual stream entering ``layer``."""

    def on_attention_weights(self, layer: int, w: Any) -> None:
        """w (B, H, T, S): attention weights; the whole model then runs eager attention."""

    def on_post_attention(self, layer: int, h: Any) -> Any:
        """h (B, T, D): the residual after attention. Return an array to replace it, or None."""

    def on_ffn_activation(self, layer: int, act: Any) -> None:
        """act (B, T, F): the MLP's activation, the input of down_proj."""

    def on_post_layer(self, layer: int, h: Any) -> Any:
        """h (B, T, D): the residual leaving ``layer``. Return an array to replace it, or None."""

    def check(self, shape: Shape) -> None:
        """Raise UsageError when this hook cannot work on such a model. Called at registration."""
        shape.layers(self.layers)

    def check_call(self, call: Call) -> None:
        """Raise UsageError when this run never feeds a position that the hook names."""

    def begin(self, call: Call) -> None:
        """Called before each forward call, after ``check_call``."""
        self.call = call

    def taps(self, shape: Shape) -> list[tuple[int, str, Fn]]:
        """(layer, site, function) for every overridden callback; built-ins override this."""
        out: list[tuple[int, str, Fn]] = []
        for name, site in CALLBACKS.items():
            if getattr(type(self), name) is getattr(Hook, name):
                continue
            for layer in shape.layers(self.layers):
                out.append((layer, site, self._adapter(name, layer)))
        return out

    def _adapter(self, name: str, layer: int) -> Fn:
        callback, changes, raw = getattr(self, name), name in CHANGING, self.tensors

        def tap(x: Tensor) -> Tensor | None:
            new = callback(layer, x if raw else as_numpy(x))
            if new is None:
                return None
            if not changes:
                raise UsageError(
                    f"{type(self).__name__}.{name} returned a value and may only read: "
                    f"change the residual in {' or '.join(CHANGING)}"
                )
            if isinstance(new, Tensor):
                return new
            array = np.asarray(new)
            if array.dtype.kind != "f":
                raise UsageError(
                    f"{type(self).__name__}.{name} returned {array.dtype}: expected floating point"
                )
            return torch.from_numpy(array if array.flags.writeable else array.copy())

        return tap


class TapTable:
    """The functions of one call, by (layer, site); calling it passes a tensor through them."""

    def __init__(self) -> None:
        self._table: dict[tuple[int, str], list[Fn]] = {}

    def add(self, layer: int, site: str, fn: Fn) -> None:
        self._table.setdefault((layer, site), []).append(fn)

    def first(self, layer: int, site: str, fn: Fn) -> None:
        """As ``add``, but before every other function there."""
        self._table.setdefault((layer, site), []).insert(0, fn)

    def __bool__(self) -> bool:
        return bool(self._table)

    def __iter__(self) -> Any:
        return iter(self._table)

    def has(self, layer: int, site: str) -> bool:
        return (layer, site) in self._table

    def __call__(self, layer: int, site: str, x: Tensor) -> Tensor:
        for fn in self._table.get((layer, site), ()):
            new = fn(x)
            if new is None:
                continue
            if new.shape != x.shape:
                raise UsageError(
                    f"a hook on blocks.{layer}.{site} gave shape {tuple(new.shape)}, "
                    f"expected {tuple(x.shape)}"
                )
            x = new.to(dtype=x.dtype, device=x.device)
        return x


def canonical(name: str, shape: Shape) -> tuple[int, str]:
    """(layer, site) of an official or a TransformerLens name; UsageError gives near names."""
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blocks" and parts[1].isdigit():
        site = ALIASES.get(parts[2], parts[2])
        if site in SITES:
            layer = shape.layer(int(parts[1]))
            need_weights(shape, site)
            return layer, site
    known = [f"blocks.{i}.{s}" for i in range(shape.n_layer) for s in (*SITES, *ALIASES)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
    raise UsageError(f"no hook {name!r}; near names: {', '.join(near)}")


def site_name(name: str) -> str:
    """A site by its own, its TransformerLens or its callback's name; UsageError on any other."""
    site = ALIASES.get(name, CALLBACKS.get(name, name))
    if site not in SITES:
        raise UsageError(f"no site {name!r}: choose {', '.join(SITES)}")
    return site


def need_weights(shape: Shape, site: str) -> None:
    """UsageError on ``att.weights`` of a model that has none."""
    if site == "att.weights" and not shape.weights:
        raise UsageError(
            "RWKV-7 has no attention weights: its tokens meet in a recurrent state "
            "(see rwkvedit.recurrent.hooks for att.r, att.w, att.k, att.v)"
        )


def table_of(shape: Shape, hooks: Sequence[Hook], taps: Mapping[str, Fn] | None = None) -> TapTable:
    """Everything of ``hooks`` and ``taps``, checked against the model."""
    table = TapTable()
    for hook in hooks:
        check_hook(hook, shape)
        for layer, site, fn in hook.taps(shape):
            need_weights(shape, site)
            table.add(layer, site, fn)
    for name, fn in (taps or {}).items():
        table.add(*canonical(name, shape), fn)
    return table


def check_hook(hook: object, shape: Shape) -> None:
    """What registration checks: it is a hook, and it fits the model."""
    if not isinstance(hook, Hook):
        raise UsageError(
            f"{hook!r:.60} is not a hook: derive from rwkvedit.transformer.Hook, or pass functions "
            "by name in taps={'blocks.0.resid_out': f}"
        )
    hook.check(shape)
    for _, site, _ in hook.taps(shape):
        need_weights(shape, site)


def as_numpy(x: Tensor) -> np.ndarray:
    """A read-only fp32 (or wider) view where the memory allows it, else a copy."""
    x = x.detach()
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    array = x.cpu().numpy().view()
    array.flags.writeable = False
    return array


def finite(value: object, what: str) -> float:
    """A finite number as float; UsageError on any other."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise UsageError(f"{what} {value!r}: expected a number")
    if not math.isfinite(value):
        raise UsageError(f"{what} {value!r}: expected a finite number")
    return float(value)


def check_positions(positions: Positions, shape: Shape) -> Positions:
    """Positions in a form that can be used again; UsageError on what is not one."""
    if positions is None or positions == "all":
        return positions
    found = _as_positions(positions)
    if not found:
        raise UsageError("no positions given: None is the last row, 'all' every row")
    for p in found:
        if shape.context is not None and not -shape.context <= p < shape.context:
            raise UsageError(f"no position {p}: the model reads {shape.context} tokens at most")
    return found


def _as_positions(positions: Positions) -> tuple[int, ...]:
    if positions is None or positions == "all":
        return ()
    if _whole(positions):
        return (int(positions),)  # type: ignore[arg-type]
    if isinstance(positions, str) or not isinstance(positions, Iterable):
        raise UsageError(f"no positions {positions!r}: give numbers, 'all', or None (the last row)")
    found = tuple(positions)
    for p in found:
        if not _whole(p):
            raise UsageError(f"no position {p!r}: expected a whole number")
    return tuple(int(p) for p in found)


def _whole(x: object) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def _named_layers(text: str, n: int) -> list[int]:
    named = {"all": (0, n), "lower": (0, n // 2), "upper": (n // 2, n)}
    start, colon, stop = text.partition(":")
    try:
        if text in named:
            a, b = named[text]
        elif colon:
            a, b = int(start or 0), int(stop or n)
        else:
            a, b = int(text), int(text) + 1
    except ValueError:
        raise UsageError(
            f"no layers {text!r}: give a number, a:b (b excluded), all, upper or lower"
        ) from None
    if not 0 <= a < b <= n:
        raise UsageError(f"no layers {text}: the model has layers 0 to {n - 1}")
    return list(range(a, b))
