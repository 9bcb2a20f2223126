"""Reading and replacing what flows through a forward pass. Knows names, not arithmetic.

A hook is ``f(tensor) -> None`` (read) or ``-> Tensor`` of the same shape (replace). Every tensor
has a leading batch axis B (1 for a single prompt); positions at and after a shorter prompt's own
length are padding. Names (i is a layer):

    blocks.{i}.resid_in, .resid_mid, .resid_out           (B, T, D)   residual stream
    blocks.{i}.att.r, .w, .k, .v, .a, .kk, .b             (B, T, H, N)
        w is the decay in (0, 1), a the in-context learning rate, kk the unit removal key,
        b = kk * a; k and v as they enter the recurrence
    blocks.{i}.att.wkv_before, .wkv_after                 (B, H, N, N) fp32, at the ends of the call
    blocks.{i}.att.out                                    (B, T, D)   added to the residual
    blocks.{i}.ffn.key                                    (B, T, F)   relu squared, into ffn.value
    blocks.{i}.ffn.out                                    (B, T, D)   added to the residual

TransformerLens's names are aliases: hook_resid_pre, hook_resid_mid, hook_resid_post, hook_attn_out,
hook_mlp_out, attn.hook_v, mlp.hook_post.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from rwkvedit.errors import UsageError

Hook = Callable[[Tensor], Tensor | None]

SITES = (
    "resid_in", "resid_mid", "resid_out",
    "att.r", "att.w", "att.k", "att.v", "att.a", "att.kk", "att.b",
    "att.wkv_before", "att.wkv_after", "att.out", "ffn.key", "ffn.out",
)  # fmt: skip

ALIASES = {
    "hook_resid_pre": "resid_in",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_out",
    "hook_attn_out": "att.out",
    "hook_mlp_out": "ffn.out",
    "attn.hook_v": "att.v",
    "mlp.hook_post": "ffn.key",
}


def hook_names(n_layer: int) -> list[str]:
    """Every hook name of a model of ``n_layer`` layers."""
    return [f"blocks.{i}.{site}" for i in range(n_layer) for site in SITES]


def canonical(name: str, n_layer: int) -> str:
    """The official spelling; UsageError with near names when there is no such hook."""
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blocks" and parts[1].isdigit():
        site = ALIASES.get(parts[2], parts[2])
        if int(parts[1]) < n_layer and site in SITES:
            return f"blocks.{int(parts[1])}.{site}"
        if site in SITES:
            raise UsageError(f"no hook {name!r}: the model has layers 0 to {n_layer - 1}")
    known = hook_names(n_layer) + [f"blocks.{i}.{a}" for i in range(n_layer) for a in ALIASES]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
    raise UsageError(f"no hook {name!r}; near names: {', '.join(near)}")


class Hooks:
    """A table name -> hook, handed to ``model.forward(..., hooks=...)``."""

    def __init__(self, table: Mapping[str, Hook] | None = None, **hooks: Hook) -> None:
        self._table: dict[str, list[Hook]] = {}
        for name, hook in {**(table or {}), **hooks}.items():
            self.add(name, hook)

    def add(self, name: str, hook: Hook) -> Hooks:
        """Add a hook; several on one name run in order. Returns self."""
        self._table.setdefault(name, []).append(hook)
        return self

    __setitem__ = add

    def items(self) -> Iterator[tuple[str, Hook]]:
        for name, hooks in self._table.items():
            for hook in hooks:
                yield name, hook

    def __len__(self) -> int:
        return sum(map(len, self._table.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._table


class Tap:
    """The hooks of one forward pass, names resolved; calling it passes a tensor through them."""

    def __init__(self, n_layer: int, *sources: Any) -> None:
        self._table: dict[str, list[Hook]] = {}
        for source in sources:
            for name, hook in source.items() if source is not None else ():
                self._table.setdefault(canonical(name, n_layer), []).append(hook)

    def __bool__(self) -> bool:
        return bool(self._table)

    def has(self, layer: int, site: str) -> bool:
        return f"blocks.{layer}.{site}" in self._table

    def __call__(self, layer: int, site: str, x: Tensor) -> Tensor:
        for hook in self._table.get(f"blocks.{layer}.{site}", ()):
            new = hook(x)
            if new is not None:
                if new.shape != x.shape:
                    raise UsageError(
                        f"hook blocks.{layer}.{site} gave shape {tuple(new.shape)}, "
                        f"expected {tuple(x.shape)}"
                    )
                x = new.to(dtype=x.dtype, device=x.device)
        return x


class Record(dict[str, Tensor]):
    """Collects what passes: ``rec = Record(names); model.forward(..., hooks=rec.hooks)``."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.hooks = Hooks({name: self._reader(name) for name in names})

    def _reader(self, name: str) -> Hook:
        def read(x: Tensor) -> None:
            self[name] = x

        return read
