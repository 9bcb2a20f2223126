"""What rank-one changes of one layer's ``down_proj`` do to every prediction, with gradients.

Write-vector edits and LoRA adapters are both W + left right^T, so both are measured and trained
here. Two engines give the same numbers:

    Through   any layer: the model is run from the layer on, with left (right.x) added to what its
              MLP writes
    Readout   the last layer alone, where nothing but the final norm and W_U follow: with raw =
              W_U (w * h) kept, a change costs one product W_U (w * left) and no matrix product a
              position: logits = s (raw + (right.x) q) + const, s = 1 / rms of the changed residual

``effects`` picks one. Changes no weights.

Glossary: D residual width, F MLP width, V vocabulary, N rows, T tokens, P positions, K changes that
are trained beside each other, x (P, F) what enters ``down_proj``, h (P, D) the residual that leaves
the last layer, w the final norm's weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvedit.transformer.components import ROWS, keys

if TYPE_CHECKING:
    from rwkvedit.transformer.session import ModelSession

CHUNK = 4
"""Positions whose logits are worked on together: they stay in a processor's cache."""

KEPT, TOGETHER = 600, 16
"""Positions whose raw logits training keeps, and works out in one product."""

Place = tuple[int, int]
"""A row and a position in it."""
Cancel = Callable[[], bool]


@dataclass(frozen=True)
class Effect:
    """A change at P positions."""

    p_before: Tensor
    """(P,): of the target."""
    p_after: Tensor
    forward: Tensor
    """(P,): KL(before || after), nats."""
    reverse: Tensor
    """(P,): KL(after || before), nats."""
    same: Tensor
    """(P,) bool: is the likeliest token as before?"""


class Effects:
    """Rows of tokens, and what a change of ``layer`` does to what follows their positions."""

    def __init__(
        self, session: ModelSession, layer: int, rows: Sequence[Sequence[int]],
        cancel: Cancel | None = None,
    ) -> None:  # fmt: skip
        self.session, self.layer = session, layer
        self.rows = [list(row) for row in rows]
        self.cancel = cancel

    def logits(self, places: Sequence[Place], left: Tensor, right: Tensor) -> Tensor:
        """(P, K, V) logits with each of K changes; left (K, D), right (K, F) may take gradients."""
        raise NotImplementedError

    def before(self, places: Sequence[Place]) -> Tensor:
        """(P, V) log-probabilities as they are."""
        raise NotImplementedError

    def losses(
        self,
        fires: Sequence[Place],
        rests: Sequence[Place],
        left: Tensor,
        right: Tensor,
        target: int,
        weights: tuple[Tensor, Tensor],
    ) -> Tensor:
        """A scalar to be minimised over left (K, D) and right (K, F): the sum over k of
        weights[0][k] * (mean cross-entropy at ``fires``) + weights[1][k] * (mean KL(before ||
        after) at ``rests``), nats; all of it one forward pass."""
        with torch.enable_grad():
            now = self.logits([*fires, *rests], left, right).log_softmax(-1)  # (P, K, V)
        loss = -(weights[0] * now[: len(fires), :, target].mean(0)).sum()
        if rests:
            was = self.before(rests)[:, None]
            gap = (was.exp() * (was - now[len(fires) :])).sum(-1).mean(0)
            loss = loss + (weights[1] * gap).sum()
        return loss

    def reads(self) -> Tensor:
        """(N, T, F) fp32: what enters ``down_proj``, padding 0."""
        return keys(self.session, self.rows, [self.layer], cancel=self.cancel)[self.layer]

    def measure(
        self, places: Sequence[Place], left: Tensor, right: Tensor, target: int
    ) -> Effect:
        """One change, left (D,) and right (F,), at ``places``."""
        parts = []
        for at in range(0, len(places), CHUNK):
            if self.cancel is not None and self.cancel():
                raise KeyboardInterrupt
            some = places[at : at + CHUNK]
            with torch.no_grad():
                was = self.before(some)
                now = self.logits(some, left[None], right[None])[:, 0].log_softmax(-1)
            parts.append(_compared(was, now, target))
        return Effect(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _compared(was: Tensor, now: Tensor, target: int) -> tuple[Tensor, ...]:
    """Of (P, V) log-probabilities: p before and after, both divergences, same answer."""
    gap = was - now
    p, q = was.exp(), now.exp()
    forward, reverse = (p * gap).sum(-1), -(q * gap).sum(-1)
    same = was.argmax(-1) == now.argmax(-1)
    return p[:, target], q[:, target], forward.clamp(min=0), reverse.clamp(min=0), same


class Through(Effects):
    """By running the model: any layer, any architecture."""

    def logits(self, places: Sequence[Place], left: Tensor, right: Tensor) -> Tensor:
        wanted = sorted({n for n, _ in places})
        rows = [self.rows[n] for n in wanted]
        out = []
        for k in range(len(left)):
            kept: list[Tensor] = []

            def remember(x: Tensor, kept: list[Tensor] = kept) -> None:
                kept.append(x)

            def write(x: Tensor, k: int = k, kept: list[Tensor] = kept) -> Tensor:
                a = kept[-1].float() @ right[k].to(x.device)  # (B, T)
                return (x.float() + a[..., None] * left[k].to(x.device)).to(x.dtype)

            out.append(self._run(rows, wanted, places, {"ffn.key": remember, "ffn.out": write}))
        return torch.stack(out, 1)

    def before(self, places: Sequence[Place]) -> Tensor:
        wanted = sorted({n for n, _ in places})
        return self._run([self.rows[n] for n in wanted], wanted, places, {}).log_softmax(-1)

    def _run(
        self, rows: list[list[int]], wanted: list[int], places: Sequence[Place], sites: dict
    ) -> Tensor:
        taps = {f"blocks.{self.layer}.{site}": fn for site, fn in sites.items()}
        run = self.session.run(rows, taps=taps, logits="all", grad=torch.is_grad_enabled())
        index = {n: b for b, n in enumerate(wanted)}
        return torch.stack([run.logits[index[n]][t] for n, t in places])


class Readout(Effects):
    """The last layer, in closed form. Keeps x and h of its rows in memory, fp32."""

    def __init__(
        self, session: ModelSession, rows: Sequence[Sequence[int]], cancel: Cancel | None = None
    ) -> None:
        super().__init__(session, session.n_layer - 1, rows, cancel)
        self.starts: list[int] = []
        self._held: list[Place] = []
        self._rows: dict[int, Tensor] = {}
        self._raw = self._p = torch.empty(0)
        self._before: tuple[Tensor, ...] = ()
        xs, hs, total = [], [], 0
        for at in range(0, len(self.rows), ROWS):
            if cancel is not None and cancel():
                raise KeyboardInterrupt
            batch, got = self.rows[at : at + ROWS], dict[str, Tensor]()

            def tap(site: str, got: dict[str, Tensor] = got) -> Callable[[Tensor], None]:
                return lambda x: got.__setitem__(site, x.detach())

            sites = ("ffn.key", "resid_out")
            session.run(
                batch, logits="none", taps={f"blocks.{self.layer}.{s}": tap(s) for s in sites}
            )
            for b, row in enumerate(batch):
                self.starts.append(total)
                total += len(row)
                xs.append(got["ffn.key"][b, : len(row)].float())
                hs.append(got["resid_out"][b, : len(row)].float())
        norm = session.model.final_norm()
        self.x, h = torch.cat(xs), torch.cat(hs)
        self._centred, self._eps, self._w = norm.centred, norm.eps, norm.weight.float()
        self.h = self._centre(h)
        with torch.no_grad():
            zero = torch.zeros(session.d_model, device=session.device)
            zero = zero if norm.bias is None else norm.bias.float()
            self.const = session.model.project(zero[None])[0]  # (V,): the norm's and W_U's bias
            self.bare = session.model.project(torch.zeros_like(zero)[None])[0]  # W_U's alone

    def reads(self) -> Tensor:
        out = torch.zeros(len(self.rows), max(map(len, self.rows)), self.x.shape[1])
        for n, (row, start) in enumerate(zip(self.rows, self.starts, strict=True)):
            out[n, : len(row)] = self.x[start : start + len(row)].cpu()
        return out

    def _centre(self, h: Tensor) -> Tensor:
        return h - h.mean(-1, keepdim=True) if self._centred else h

    def _at(self, places: Sequence[Place]) -> Tensor:
        return torch.tensor([self.starts[n] + t for n, t in places])

    def _project(self, h: Tensor) -> Tensor:
        return self.session.model.project(self._w * h) - self.bare

    def losses(
        self,
        fires: Sequence[Place],
        rests: Sequence[Place],
        left: Tensor,
        right: Tensor,
        target: int,
        weights: tuple[Tensor, Tensor],
    ) -> Tensor:
        at = self._at([*fires, *rests])
        h = self.h[at]
        with torch.enable_grad():
            a = self.x[at] @ right.T  # (P, K)
            d = self._centre(left)
            q = self._project(d)  # (K, V)
            square = (h * h).sum(-1, keepdim=True) + 2 * a * (h @ d.T) + a * a * (d * d).sum(-1)
            s = torch.rsqrt(square / h.shape[1] + self._eps)
            share = torch.cat([
                (weights[0] / len(fires)).expand(len(fires), -1),
                (weights[1] / max(1, len(rests))).expand(len(rests), -1),
            ])  # fmt: skip
            s0 = torch.rsqrt((h * h).sum(-1) / h.shape[1] + self._eps)
            loss: Tensor = _Losses.apply(
                a, s, q, self._raws(at.tolist()), s0, self.const, share, len(fires), target,
            )  # fmt: skip
        return loss

    def _raws(self, at: Sequence[int]) -> list[Tensor]:
        """(V,) raw logits of each position; the first KEPT asked for are kept.

        What is missing is worked out in products of TOGETHER rows, the last filled up: so many rows
        cost one reading of W_U, and a position's last bits do not depend on how many there are.
        """
        found = {i: self._rows[i] for i in at if i in self._rows}
        missing = [i for i in dict.fromkeys(at) if i not in found]
        if missing:
            full = missing + missing[:1] * (-len(missing) % TOGETHER)
            with torch.no_grad():
                for i in range(0, len(full), TOGETHER):
                    some = full[i : i + TOGETHER]
                    found.update(zip(some, self._project(self.h[some]), strict=True))
        for i in missing[: max(0, KEPT - len(self._rows))]:
            self._rows[i] = found[i].clone()  # not a view that holds the whole product
        return [found[i] for i in at]

    def logits(self, places: Sequence[Place], left: Tensor, right: Tensor) -> Tensor:
        at = self._at(places)
        x, h = self.x[at], self.h[at]  # (P, F), (P, D)
        a = x @ right.T  # (P, K)
        d = self._centre(left)  # (K, D)
        q = self._project(d)  # (K, V)
        square = (h * h).sum(-1, keepdim=True) + 2 * a * (h @ d.T) + a * a * (d * d).sum(-1)
        s = torch.rsqrt(square / h.shape[1] + self._eps)  # (P, K)
        raw = self._project(h).detach()[:, None]  # (P, 1, V)
        return torch.addcmul(raw * s[..., None], (s * a)[..., None], q[None]) + self.const

    def before(self, places: Sequence[Place]) -> Tensor:
        at = self._at(places)
        h = self.h[at]
        s = torch.rsqrt((h * h).sum(-1, keepdim=True) / h.shape[1] + self._eps)
        return (self._project(h) * s + self.const).log_softmax(-1)

    @torch.no_grad()
    def hold(self, places: Sequence[Place]) -> None:
        """Keep what ``places``, which are measured often, were like: V * 8 bytes a position."""
        self._held = list(places)
        at = self._at(self._held)
        h = self.h[at]
        s = torch.rsqrt((h * h).sum(-1) / h.shape[1] + self._eps)
        self._raw = torch.empty(len(at), len(self.const))
        self._p = torch.empty_like(self._raw)
        lse, top, entropy = [], [], []
        for i in range(0, len(at), 4 * CHUNK):
            j = slice(i, i + 4 * CHUNK)
            raw = self._raw[j] = self._project(h[j])
            z = raw * s[j, None] + self.const
            lse.append(z.logsumexp(-1))
            top.append(z.argmax(-1))
            p = self._p[j] = (z - lse[-1][:, None]).exp()
            entropy.append(torch.linalg.vecdot(p, z) - lse[-1])
        self._before = (s, torch.cat(lse), torch.cat(top), torch.cat(entropy))

    @torch.no_grad()
    def measure(
        self, places: Sequence[Place], left: Tensor, right: Tensor, target: int
    ) -> Effect:
        if self._held != list(places):
            self.hold(places)
        at, d = self._at(places), self._centre(left)
        q = self._project(d[None])[0]  # (V,)
        h = self.h[at]
        a = self.x[at] @ right  # (P,)
        size = (h * h).sum(-1) + 2 * a * (h @ d) + a * a * d.dot(d)
        s1 = torch.rsqrt(size / h.shape[1] + self._eps)
        s0, lse0, top0, entropy = self._before
        parts = []
        for i in range(0, len(at), CHUNK):
            if self.cancel is not None and self.cancel():
                raise KeyboardInterrupt
            j = slice(i, i + CHUNK)
            raw, p = self._raw[j], self._p[j]
            now = torch.addcmul(raw, a[j, None], q).mul_(s1[j, None]).add_(self.const)
            same = now.argmax(-1) == top0[j]
            now -= now.logsumexp(-1, keepdim=True)
            after = now.exp()
            forward = entropy[j] - torch.linalg.vecdot(p, now)
            was = s0[j] * torch.linalg.vecdot(after, raw) + after @ self.const - lse0[j]
            reverse = torch.linalg.vecdot(after, now) - was
            parts.append((p[:, target], after[:, target], forward.clamp(min=0),
                          reverse.clamp(min=0), same))  # fmt: skip
        return Effect(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Losses(torch.autograd.Function):
    """The weighted sum of ``Effects.losses`` from a (P, K), s (P, K) and q (K, V), with their
    gradients worked out a position at a time, so that K rows of V numbers stay in the cache."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        a, s, q, rows, s0, const, share, fires, target = given
        da, ds, dq = torch.zeros_like(a), torch.zeros_like(s), torch.zeros_like(q)
        total = torch.zeros(())
        for p, raw in enumerate(rows):
            y = torch.addcmul(raw, a[p, :, None], q)  # (K, V)
            z = y * s[p, :, None]
            z += const
            lse = z.logsumexp(-1)  # (K,)
            if p < fires:
                losses = lse - z[:, target]
                g = z.sub_(lse[:, None]).exp_()
                g[:, target] -= 1.0
            else:
                was = (raw * s0[p]).add_(const).log_softmax(-1)
                before = was.exp()
                losses = before.dot(was) - z @ before + lse
                g = z.sub_(lse[:, None]).exp_().sub_(before)
            g *= share[p, :, None]
            total = total + (share[p] * losses).sum()
            da[p] = s[p] * torch.linalg.vecdot(g, q)
            ds[p] = torch.linalg.vecdot(g, y)
            dq.addcmul_(g, (s[p] * a[p])[:, None])
        ctx.save_for_backward(da, ds, dq)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        da, ds, dq = ctx.saved_tensors
        g = grads[0]
        return g * da, g * ds, g * dq, None, None, None, None, None, None


def effects(
    session: ModelSession,
    layer: int,
    rows: Sequence[Sequence[int]],
    cancel: Cancel | None = None,
) -> Effects:
    """The engine for this layer: closed form for the last one in fp32, else the model itself."""
    if layer == session.n_layer - 1 and session.dtype == torch.float32:
        return Readout(session, rows, cancel)
    return Through(session, layer, rows, cancel)


def top_of(logp: Tensor, piece: Callable[[int], str], k: int) -> list[tuple[str, float]]:
    """The k likeliest of (V,) log-probabilities: (text, P)."""
    found: Any = logp.topk(k)
    return [(piece(int(i)), float(v.exp())) for v, i in zip(*found, strict=True)]
