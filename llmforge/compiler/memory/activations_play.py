"""A forward pass played on the tape, from the token ids to the output head.

In: facts, the pass and a config. Out: `Played`: what was kept in the layers, in the largest of them
and outside. Layers of one kind keep the same, so each kind is played once and counted as often as
it occurs: a model of a hundred layers takes a few milliseconds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from llmforge.compiler.facts.families import LinearModule, ModelFacts
from llmforge.compiler.memory.activations_attention import TABLES
from llmforge.compiler.memory.activations_layers import Layers
from llmforge.compiler.memory.activations_linear import Linears
from llmforge.compiler.memory.activations_recipes import ForwardPass, Options
from llmforge.compiler.memory.activations_tape import Storage, Tape, Values
from llmforge.schema.adapter import NoAdapter, PromptTuning

_IN_LAYER = re.compile(r"\.(\d+)\.")


@dataclass
class Sum:
    """What was kept in one place."""

    bytes: int = 0
    casts: int = 0
    """Bytes of copies of weights, which `bytes` leaves out."""
    terms: Counter[str] = field(default_factory=Counter)
    """Bytes of both by name."""

    @property
    def all(self) -> int:
        """Copies of weights and the rest."""
        return self.bytes + self.casts

    def add(self, storage: Storage, name: str) -> None:
        """Count one piece of memory."""
        if storage.copy_of_weight:
            self.casts += storage.bytes
        else:
            self.bytes += storage.bytes
        self.terms[name] += storage.bytes

    def add_all(self, other: Sum) -> None:
        """Count what was counted elsewhere."""
        self.bytes += other.bytes
        self.casts += other.casts
        self.terms.update(other.terms)


@dataclass
class Played:
    """A pass that was played; bytes."""

    layers: Sum = field(default_factory=Sum)
    outside: Sum = field(default_factory=Sum)
    largest: Sum = field(default_factory=Sum)
    """The layer that keeps most, without its input."""
    inputs: int = 0
    """Of all layers: what checkpointing keeps of them."""
    handed: int = 0
    """Masks and rotary tables, which checkpointing holds for every layer."""
    pinned: int = 0
    """Of all layers: what is held until the backward pass has ended."""
    forward_casts: int = 0
    """Copies of trained weights that autocast remembers."""


def play(model: ModelFacts, asked: ForwardPass, config: Mapping[str, Any] | None) -> Played:
    """One forward pass."""
    if isinstance(asked.adapter, PromptTuning):
        asked = replace(asked, length=asked.length + asked.adapter.tokens)
    return _Pass(model, asked, config).run()


class _Pass:
    def __init__(
        self, model: ModelFacts, asked: ForwardPass, config: Mapping[str, Any] | None
    ) -> None:
        self.model, self.asked = model, asked
        self.tape = Tape(asked.compute, cuda=asked.device != "cpu")
        self.options = Options(model.family, config)
        self.linears = Linears(model, asked, self.tape)
        self.layers = Layers(model, asked, self.options, self.tape, self.linears)
        self.of_layer, self.outer = _modules(model)
        self.played = Played()

    def run(self) -> Played:
        """Embeddings, layers, final norm and head."""
        tape, found = self.tape, self.played
        hidden = self._outer(self._embed(), "project_in")
        hidden = self._place(hidden)
        self.layers.prepare(hidden)
        first, first_copy = len(tape.kept), len(tape.copies)
        hidden = self._run_layers(hidden)
        last, last_copy = len(tape.kept), len(tape.copies)
        hidden = self._outer(self.layers.final_norm(hidden), "project_out")
        self._outer(hidden, "head")
        for number, (storage, name) in enumerate(tape.kept.items()):
            if not first <= number < last or storage.shared:
                found.outside.add(storage, name)
        if self.asked.checkpointing:
            # every layer is handed the tables, kept by an operation or not
            found.outside.bytes -= found.outside.terms.pop(TABLES, 0)
        found.handed = self.layers.attention.handed()
        found.forward_casts += self._copies(0, first_copy) + self._copies(last_copy)
        return found

    def _run_layers(self, hidden: Values) -> Values:
        options, linears, found = self.options, self.linears, self.played
        known: dict[tuple[Any, ...], tuple[Sum, int, int, Values]] = {}
        for index in range(self.model.layers):
            found.inputs += hidden.storage.bytes
            modules = self.of_layer.get(index, {})
            kind = (
                tuple(modules),
                tuple((m.name in linears.hit, m.name in linears.saved) for m in modules.values()),
                *(options.window(index), options.turns(index), hidden.grad, hidden.format),
            )
            if kind not in known:
                known[kind] = self._run_layer(hidden, modules, index)
            kept, pinned, copies, result = known[kind]
            found.pinned += pinned
            found.layers.add_all(kept)
            found.forward_casts += copies
            hidden = self.tape.like(result)
        return hidden

    def _run_layer(
        self, hidden: Values, modules: Mapping[str, LinearModule], index: int
    ) -> tuple[Sum, int, int, Values]:
        before, before_copy = len(self.tape.kept), len(self.tape.copies)
        before_pin = len(self.tape.pinned)
        result = self.layers(hidden, modules, index)
        kept, alone = Sum(), Sum()
        for storage, name in islice(self.tape.kept.items(), before, None):
            if not storage.shared:
                kept.add(storage, name)
                if storage is not hidden.storage:
                    alone.add(storage, name)
        if alone.all > self.played.largest.all:
            self.played.largest = alone
        pinned = sum(storage.bytes for storage in islice(self.tape.pinned, before_pin, None))
        return kept, pinned, self._copies(before_copy), result

    def _copies(self, first: int, last: int | None = None) -> int:
        """Bytes of copies of trained weights that autocast remembers."""
        return sum(copy.bytes for copy in islice(self.tape.copies.values(), first, last))

    def _outer(self, hidden: Values, which: str) -> Values:
        """Linear modules outside the layers, by role or end of the name."""
        for module in self.outer:
            if module.role == which or module.name.endswith(which):
                hidden = self.linears(hidden, module)
        return hidden

    def _embed(self) -> Values:
        """Embeddings of the tokens; a trained table keeps which rows were taken."""
        tape, asked = self.tape, self.asked
        tokens = asked.rows * asked.length
        head = next((m for m in self.model.linear_modules if m.role == "head"), None)
        width = head.in_features if head is not None else self.model.hidden
        table = self.linears.embedding("embed_tokens", "wte", "embed_in")
        if table.trained:
            tape.keep(tape.fresh(tokens, "int64", False, shared=True), "token ids")
        # without this a frozen base would pass no gradient on to what is computed again
        needed = asked.checkpointing and not isinstance(asked.adapter, NoAdapter)
        virtual = isinstance(asked.adapter, PromptTuning)
        return tape.fresh(tokens * width, table.format, table.trained or needed or virtual)

    def _place(self, hidden: Values) -> Values:
        """Learned positions, and the dropout on embeddings."""
        tape, asked, options = self.tape, self.asked, self.options
        if options.recipe.learned_positions:
            table = self.linears.embedding("embed_positions", "wpe")
            if table.trained:
                rows = asked.rows if self.model.family == "opt" else 1
                ids = tape.fresh(rows * asked.length, "int64", False, shared=True)
                tape.keep(ids, "positions")
            positions = tape.fresh(hidden.count, table.format, table.trained)
            hidden = tape.add(hidden, positions)
        return tape.dropout(hidden, options.dropout(options.recipe.embedded), "embeddings")


def _modules(
    model: ModelFacts,
) -> tuple[dict[int, dict[str, LinearModule]], list[LinearModule]]:
    """Linear modules by layer and by their names from there on, and those outside the layers."""
    of_layer: dict[int, dict[str, LinearModule]] = {}
    outer: list[LinearModule] = []
    for module in model.linear_modules:
        found = _IN_LAYER.search(module.name)
        if found is None:
            outer.append(module)
        elif module.role != "vision":
            of_layer.setdefault(int(found[1]), {})[module.name[found.end() :]] = module
    return of_layer, outer
