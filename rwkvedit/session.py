"""One conversation: text in, replies out, its memory edited, every step undoable. Prints nothing.

    session = rwkvedit.open()
    session.say("Bob lives in Austin.")
    session.edit("Bob lives in Austin", "Bob lives in Chicago")
    session.ask("Where does Bob live?").text

A Session is the one mutable object, and all it holds is its journal's current Place, which is
swapped in one assignment. Whatever is interrupted or fails before that leaves it as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from rwkvedit.errors import RwkvEditError, UsageError
from rwkvedit.facts import Fact
from rwkvedit.files import spare_foreign
from rwkvedit.heard import (
    bare,
    fact_text,
    facts_in,
    merge_heard,
    replaced_heard,
    same_text,
    without,
)
from rwkvedit.journal import DEFAULT_BUDGET, Branch, Journal, Place, Turn
from rwkvedit.recurrent.generate import Sampler
from rwkvedit.recurrent.state import State
from rwkvedit.recurrent.workspace import layer_range
from rwkvedit.settings import DEFAULTS, SAMPLING, names, setting
from rwkvedit.settings import ratio as ratio_of
from rwkvedit.speaking import Reply, Speaker

__all__ = ["Reply", "Session"]

MAX_CONTROLS = 16  # heard facts that an edit checks, latest first
WARM_PARAMETERS = 50_000_000  # larger models are not run before they are spoken to
WARM_EDIT = ("Bob lives in Paris", "Bob lives in Rome")


class Session:
    """A conversation with a loaded model. See the module's docstring."""

    def __init__(
        self,
        loaded: Any,
        sampler: Sampler | None = None,
        system: str | None = None,
        *,
        budget: int = DEFAULT_BUDGET,
        **settings: Any,
    ) -> None:
        self.loaded = loaded
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.template = loaded.template
        self._speaker = Speaker(loaded)
        unknown = set(settings) - set(DEFAULTS)
        if unknown:
            raise UsageError(f"no setting {', '.join(sorted(unknown))}; there are {names()}")
        start = Place(
            self.model.zero_state(),
            (),
            (sampler or Sampler()).get_state(),
            settings=tuple({**DEFAULTS, **settings}.items()),
        )
        if system:
            start = self._speaker.with_system(start, self._speaker.spoken(system))
        self.journal = Journal(start, budget)
        self.files: set[Path] = set()  # that this session saved to or loaded

    # -- what it is now --------------------------------------------------------------------

    @property
    def place(self) -> Place:
        return self.journal.place

    @property
    def state(self) -> State:
        """The State after every token fed (and every edit). A value: keep it as you like."""
        return self.place.state

    @property
    def tokens(self) -> list[int]:
        """Every token fed so far."""
        return list(self.place.tokens)

    @property
    def turns(self) -> tuple[Turn, ...]:
        return self.place.turns

    @property
    def system(self) -> str | None:
        return self.place.system

    @property
    def heard_facts(self) -> tuple[Fact, ...]:
        """Facts told by the user (or edited in) and still current, oldest first."""
        return self.place.heard

    @property
    def heard(self) -> list[str]:
        """``heard_facts`` as sentences."""
        return [fact.text or fact.statement() for fact in self.place.heard]

    @property
    def sampler(self) -> Sampler:
        """A sampler exactly where this conversation's stands. Change it with ``set``."""
        return Sampler.from_state(self.place.sampler)

    @property
    def branches(self) -> dict[str, Branch]:
        return self.journal.book.branches

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling and editing settings by name."""
        sampler = self.sampler
        out: dict[str, Any] = {name: getattr(sampler, name) for name in SAMPLING}
        return {**out, **dict(self.place.settings)}

    # -- talking ---------------------------------------------------------------------------

    def say(
        self,
        text: str,
        on_text: Callable[[str], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Reply:
        """A user's turn and the model's reply.

        Ctrl-C (or ``cancel`` returning true) ends the reply where it is, and the turn is closed.
        During prefill it raises KeyboardInterrupt and nothing was said.
        """
        text = self._speaker.spoken(text)
        place = self.place
        sampler = self.sampler
        reply, after = self._speaker.turn(place, text, sampler, on_text, cancel)
        after = replace(after, heard=merge_heard(place.heard, facts_in(text)))
        return self._commit("say", text, after, reply)

    def retry(
        self,
        on_text: Callable[[str], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Reply:
        """Answer the last turn again, with fresh randomness."""
        place, start = self._last_turn("retry")
        sampler = self.sampler
        text = place.turns[-1].user
        start = replace(start, settings=place.settings)
        reply, after = self._speaker.turn(start, text, sampler, on_text, cancel)
        after = replace(after, heard=place.heard)
        if sampler.temperature == 0 and reply.text == place.turns[-1].reply:
            note = "at temperature 0 a retry says the same; /set temperature 0.8 varies it"
            reply = replace(reply, notices=(*reply.notices, note))
        return self._commit("retry", text, after, reply)

    def continue_(
        self,
        on_text: Callable[[str], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Reply:
        """Go on with the last reply from where it ended."""
        place, start = self._last_turn("continue")
        end = self.template.encode_end(self.tokenizer)
        fed = place.tokens[len(start.tokens) : len(place.tokens) - len(end)]
        began = perf_counter()
        logits, state = self._speaker.feed(list(fed), start.state)
        sampler = self.sampler
        said = place.turns[-1]
        open_place = replace(place, state=state, tokens=start.tokens + fed, turns=place.turns[:-1])
        reply, after = self._speaker.reply(
            open_place, logits, said.user, sampler, on_text, cancel, perf_counter() - began, "more"
        )
        if not reply.tokens:
            note = "the model has nothing to add"
            return replace(reply, notices=(*reply.notices, note))
        whole = Turn(said.user, said.reply + reply.text, reply.stopped)
        after = replace(after, turns=(*after.turns[:-1], whole))
        return self._commit("continue", said.user, after, reply)

    def ask(
        self,
        question: str,
        on_text: Callable[[str], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Reply:
        """The reply to a question, on a copy: nothing of this conversation changes."""
        text = self._speaker.spoken(question)
        reply, _ = self._speaker.turn(self.place, text, self.sampler, on_text, cancel)
        return reply

    def prob(self, prompt: str, tokens: Sequence[str] = (), top: int = 10) -> dict[str, float]:
        """P of each continuation after ``prompt``, on a copy; the likeliest tokens without any.

        ``prompt`` up to its last "?" is asked as a user's turn; the rest is the assistant's own
        words so far. Each of ``tokens`` is a word or several; a space is put before it unless it
        brings one. Its probability is the product over its tokens.
        """
        state, fed = self.state, self._speaker.prompt_tokens(prompt)
        with torch.no_grad():
            logits, state = self._speaker.feed(fed, state)
            first = torch.log_softmax(logits.float(), -1)
            if not tokens:
                best = first.topk(min(top, first.numel()))
                shown = [self.tokenizer.decode([int(i)]) for i in best.indices]
                return dict(zip(shown, best.values.exp().tolist(), strict=True))
            spelled = {word: self._speaker.continuation(word) for word in tokens}
            out = {}
            for word, ids in spelled.items():
                total = float(first[ids[0]])
                if len(ids) > 1:
                    rest, _ = self.model.forward(ids[:-1], state, full=True)
                    logp = torch.log_softmax(rest.float(), -1)
                    total += sum(float(logp[i, token]) for i, token in enumerate(ids[1:]))
                out[word] = math.exp(total)
        return out

    # -- changing what it remembers --------------------------------------------------------

    def edit(
        self,
        old: str,
        new: str,
        *,
        method: str | None = None,
        ratio: float | str | None = None,
        layers: str | None = None,
        start: str | None = None,
        check: Sequence[str] = (),
        dry_run: bool = False,
        library: Any = None,
        budget_ms: float | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Any:
        """Replace a fact in the live state; returns the EditReport. Options default to settings.

        ``budget_ms`` is what a method that trains may spend.
        """
        from rwkvedit.recurrent.edit import BUDGET_MS, apply_edit

        old, new = fact_text(old, "the old fact"), fact_text(new, "the new fact")
        if same_text(old, new):
            raise UsageError("the old and the new fact are the same; there is nothing to edit")
        settings = self.settings
        controls, left = self._controls((old, new), check)
        outcome = apply_edit(
            self.loaded,
            self.state,
            old,
            new,
            method=method or settings["method"],
            ratio=ratio_of(settings["ratio"] if ratio is None else ratio),
            layers=layers or settings["layers"],
            start=start or settings["start"],
            controls=controls,
            history=list(self.tokens),
            dry_run=dry_run,
            library=library,
            budget_ms=BUDGET_MS if budget_ms is None else budget_ms,
            cancel=cancel,
        )
        heard = replaced_heard(self.place.heard, old, new)
        return self._commit_edit("edit", f"{old} -> {new}", outcome, heard, dry_run, left)

    def forget(
        self,
        fact: str,
        entity: str,
        *,
        ratio: float | str | None = None,
        layers: str | None = None,
        check: Sequence[str] = (),
        dry_run: bool = False,
        cancel: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Any:
        """Remove one property of an entity and keep the entity; returns the EditReport."""
        from rwkvedit.recurrent.erase import apply_forget

        fact, entity = fact_text(fact, "the fact"), fact_text(entity, "the entity")
        options |= {"ratio": ratio, "layers": layers, "dry_run": dry_run, "cancel": cancel}
        label = f"{fact} ({entity})"
        return self._erase("forget", label, apply_forget, (fact, entity), check, options)

    def nuke(
        self,
        fact: str,
        *,
        ratio: float | str | None = None,
        layers: str | None = None,
        check: Sequence[str] = (),
        dry_run: bool = False,
        cancel: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Any:
        """Remove a fact whole, against a neutral base; returns the EditReport."""
        from rwkvedit.recurrent.erase import apply_nuke

        fact = fact_text(fact, "the fact")
        options |= {"ratio": ratio, "layers": layers, "dry_run": dry_run, "cancel": cancel}
        return self._erase("nuke", fact, apply_nuke, (fact,), check, options)

    def warm(self) -> None:
        """Do once, before it is waited for, what the first turn and the first edit would.

        Reads the saved calibrations, compiles the fact patterns and, for a model small enough to
        run in passing, makes one dry edit of a fresh state. Changes nothing; safe on a thread of
        its own.
        """
        from rwkvedit.recurrent.edit import apply_edit

        facts_in("Bob lives in Paris.")
        if self.model.parameters > WARM_PARAMETERS:
            return
        with suppress(RwkvEditError):
            apply_edit(self.loaded, self.model.zero_state(), *WARM_EDIT, dry_run=True)

    # -- going back and aside --------------------------------------------------------------

    def undo(self, steps: int = 1) -> list[Any]:
        """Go back: state, tokens, sampler and heard facts, bit for bit."""
        return self.journal.undo(steps)

    def redo(self, steps: int = 1) -> list[Any]:
        """Go forward again after ``undo``."""
        return self.journal.redo(steps)

    def branch(self, name: str) -> None:
        """A new branch from here, and onto it."""
        self.journal.start_branch(name)

    def switch(self, name: str) -> None:
        """To another branch, where it was left."""
        self.journal.switch(name)

    def clear(self) -> None:
        """A fresh conversation with the same settings and system text. Can be undone."""
        place = self.place
        fresh = Place(self.model.zero_state(), (), place.sampler, settings=place.settings)
        if place.system:
            fresh = self._speaker.with_system(fresh, place.system)
        self.journal.record("clear", "a fresh conversation", fresh)

    def set_system(self, text: str) -> None:
        """Tell the model how to behave, from here on."""
        place = self._speaker.with_system(self.place, self._speaker.spoken(text))
        self.journal.record("system", text, place)

    def set(self, name: str, value: Any) -> Any:
        """Change a setting (see ``settings``); returns the value as understood."""
        place = self.place
        if name in SAMPLING:
            new = setting(name, value)
            values = {**{n: getattr(self.sampler, n) for n in SAMPLING}, name: new}
            fresh = Sampler(**values).get_state()
            if name != "seed":
                fresh |= {"rng": place.sampler["rng"], "counts": place.sampler["counts"]}
            after = replace(place, sampler=fresh)
        elif name in DEFAULTS:
            new = setting(name, value)
            if name == "layers":
                layer_range(new, self.state.n_layer)
            after = replace(place, settings=tuple({**dict(place.settings), name: new}.items()))
        else:
            raise UsageError(f"no setting {name}; there are {names()}")
        self.journal.record("set", f"{name} = {new}", after)
        return new

    # -- files -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """State, tokens, sampler and journal in one file; returns its path."""
        from rwkvedit.sessionfile import save

        written = save(self, Path(path))
        self.files.add(written)
        return written

    def load(self, path: str | Path) -> str | None:
        """Become the conversation in ``path``; refused, with nothing changed, if it is not ours.

        Can be undone. The file's own steps are then on a branch of their own; its name comes back,
        or None where they are all here already, or where nothing happened yet in this session: it
        then takes the file's whole journal over.
        """
        from rwkvedit.sessionfile import load

        book = load(self, Path(path))
        self.files.add(Path(path).expanduser())
        return self.journal.load(book, Path(path).stem)

    def save_state(self, path: str | Path) -> Path:
        """The State alone in one file, without words or journal; returns its path."""
        from rwkvedit.recurrent.statefile import FORMAT, save_state

        digests = {
            "model_digest": self.model.digest, "tokenizer_digest": self.tokenizer.digest,
        }
        told = {"tokens": len(self.place.tokens)}
        return save_state(spare_foreign(path, FORMAT), self.state, **digests, extra=told)

    def load_state(self, path: str | Path) -> None:
        """Remember what a State file remembers, with no words of it at hand. Can be undone."""
        from rwkvedit.recurrent.statefile import load_state

        state, _ = load_state(
            path, self.model.config, model_digest=self.model.digest,
            tokenizer_digest=self.tokenizer.digest,
        )
        place = self.place
        bare = Place(state.to(self.model.device), (), place.sampler, settings=place.settings)
        self.journal.record("state", f"from {path}", bare)

    # -- inside ----------------------------------------------------------------------------

    def _commit(self, verb: str, label: str, place: Place, reply: Reply) -> Reply:
        notice = self.journal.record(verb, label, place)
        return replace(reply, notices=(*reply.notices, notice)) if notice else reply

    def _erase(
        self, verb: str, label: str, apply: Callable[..., Any], words: tuple[str, ...],
        check: Sequence[str], options: dict[str, Any],
    ) -> Any:
        """Erase with the settings' layers; strength is searched unless a ratio is given."""
        fact = words[0]
        ratio = options["ratio"]
        options["ratio"] = "auto" if ratio is None else ratio_of(ratio)
        options["layers"] = options["layers"] or self.settings["layers"]
        controls, left = self._controls((fact,), check)
        outcome = apply(
            self.loaded, self.state, *words, controls=controls, heard=self.place.heard, **options)
        heard = without(self.place.heard, fact)
        return self._commit_edit(verb, label, outcome, heard, options["dry_run"], left)

    def _commit_edit(
        self, verb: str, label: str, outcome: Any, heard: tuple[Fact, ...], dry_run: bool,
        unchecked: int,
    ) -> Any:
        report = replace(outcome.report, unchecked=unchecked)
        if dry_run or not report.applied:
            return report
        place = self.place
        if not all(bool(torch.isfinite(x).all()) for x in outcome.state.tensors()):
            raise RwkvEditError("the edit would make the state infinite; nothing was changed")
        took = report.verdict in ("took", "leaked")
        after = replace(place, state=outcome.state, heard=heard if took else place.heard)
        self.journal.record(verb, f"{label}: {report.verdict}", after)
        return report

    def _controls(self, edited: Sequence[str], check: Sequence[str]) -> tuple[list[str], int]:
        """Facts whose answers must not move: those asked for, then the latest heard.

        Beside them the number of older ones that are left unchecked.
        """
        keys = {fact.key for text in edited for fact in facts_in(text)}
        texts = {bare(text) for text in edited}
        asked = [fact_text(text, "a fact to check") for text in check]
        for text in asked:
            if bare(text) in texts or keys & {fact.key for fact in facts_in(text)}:
                raise UsageError(f'--check "{text}" is the fact being changed; check another one')
        others = [
            fact.text or fact.statement()
            for fact in reversed(self.place.heard)
            if fact.key not in keys and bare(fact.text) not in texts
        ]
        known = {bare(text) for text in asked}
        others = [text for text in others if bare(text) not in known]
        return asked + others[:MAX_CONTROLS], max(0, len(others) - MAX_CONTROLS)

    def _last_turn(self, verb: str) -> tuple[Place, Place]:
        """(where we are, where the last turn began); an error if something but settings came since.
        """
        branch = self.journal.branch
        index = last = branch.cursor
        while last > 0 and branch.entries[last].verb == "set":
            last -= 1
        loaded = self.journal.origin(branch.entries[last])
        if branch.entries[last].verb == "load" and loaded is not None:
            branch, index = loaded
            last = index
        while index > 0 and branch.entries[index].verb in ("retry", "continue", "set"):
            index -= 1
        if branch.entries[index].verb != "say":
            if not self.place.turns:
                raise RwkvEditError(f"nothing to {verb} yet: say something first")
            raise RwkvEditError(
                f"cannot {verb}: the last step was /{branch.entries[last].verb}, not a reply; "
                "/undo takes it back"
            )
        start = branch.entries[index - 1].place
        if start is None:
            raise RwkvEditError(
                f"cannot {verb}: the step before was dropped from the journal; say it again"
            )
        return self.place, start
