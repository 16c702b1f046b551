"""Attention on the tape: projections, positions, and the kernel that was chosen.

In: normed values and a layer's linear modules. Out: the output projection's result. What the
kernels keep: sdpa, FlashAttention and flex attention keep queries, keys, values, their result and
one number for each row of scores; the eager kernel keeps the scores' probabilities themselves,
rows * heads * length * length, once in float32 and once in the format of the arithmetic.

Where CUDA is known to differ from this: its sdpa pads a mask whose rows are no multiple of 16, and
heads wider than 256 channels, or sdpa with dropout on probabilities on the CPU, fall back to a
kernel that keeps the scores.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmforge.compiler.facts.families import LinearModule, ModelFacts
from llmforge.compiler.memory.activations_linear import Linears
from llmforge.compiler.memory.activations_recipes import ForwardPass, Options
from llmforge.compiler.memory.activations_tape import Tape, Values, size
from llmforge.schema.adapter import PrefixTuning

_FUSED = ("c_attn", "qkv_proj", "query_key_value")
TABLES = "rotary positions"
"""Name of the term."""
_OUT = ("o_proj", "out_proj", "dense", "c_proj")


class Attention:
    """The attention of every layer of one model in one pass."""

    def __init__(
        self, model: ModelFacts, asked: ForwardPass, options: Options, tape: Tape, linears: Linears
    ) -> None:
        self.model, self.asked, self.options = model, asked, options
        self.tape, self.linears = tape, linears
        self.tokens = asked.rows * asked.length
        self.scale = options.dropout(options.recipe.scores)
        self.prefix = asked.adapter.tokens if isinstance(asked.adapter, PrefixTuning) else 0
        self._turns: dict[bool, tuple[Values, Values]] = {}
        self._format = tape.compute

    def prepare(self, hidden: Values) -> None:
        """Tables of rotary positions, shared by all layers of a kind."""
        self._format = hidden.format
        channels = self.options.rotary_channels(self.model.head_dim)
        if not channels or self.options.family == "gptj":
            return
        format_ = "float32" if self.options.recipe.norm == "olmo" else hidden.format
        count = self.asked.length * channels
        for kind in self._table_kinds():
            cosine = self.tape.fresh(count, format_, False, shared=True)
            sine = self.tape.fresh(count, format_, False, shared=True)
            self._turns[kind] = cosine, sine

    def handed(self) -> int:
        """Bytes of what every layer is handed: tables of rotary positions and the masks."""
        tables = sum(table.storage.bytes for pair in self._turns.values() for table in pair)
        return tables + sum(self._mask_bytes() for kind in self._kinds() if self._needs_mask(kind))

    def _table_kind(self, index: int) -> bool:
        """Gemma 3 turns layers with a sliding window by tables of their own."""
        own = self.options.family in ("gemma3", "gemma3_text")
        return own and bool(self.options.window(index))

    def _table_kinds(self) -> set[bool]:
        return {self._table_kind(index) for index in range(self.model.layers)}

    def _kinds(self) -> list[int]:
        """One layer of each width of sliding windows."""
        found: dict[int, int] = {}
        for index in range(self.model.layers):
            found.setdefault(self.options.window(index), index)
        return list(found.values())

    def _mask_bytes(self) -> int:
        count = self.asked.rows * self.asked.length**2
        eager = self.asked.attention == "eager"
        return size(count, self._format if eager else "bool")

    def _needs_mask(self, index: int) -> bool:
        if self.asked.attention == "eager":
            return True
        if self.asked.attention != "sdpa":
            return False
        window = self.options.window(index)
        hides = bool(window) and self.asked.length >= window
        return self.asked.masked or hides or bool(self.prefix)

    def __call__(
        self,
        values: Values,
        modules: Mapping[str, LinearModule],
        index: int,
    ) -> Values:
        """The layer's attention."""
        names = {
            name.rpartition(".")[2]: name
            for name, module in modules.items()
            if module.role == "attention"
        }
        found = {end: modules[name] for end, name in names.items()}
        query, key, value = self._project(values, found)
        query, key = self._norm_heads(query, True), self._norm_heads(key, False)
        if self.options.family == "opt":
            query = self.tape.like(query)  # scaled here and not in the kernel
        if self.options.turns(index):
            query, key = self._turn(query, index), self._turn(key, index)
        if self.prefix:
            key, value = self._longer(key), self._longer(value)
        mixed = self._mix(query, key, value, index)
        width = self.model.heads * self.model.head_dim
        absent = LinearModule("o_proj", self.model.hidden, width, False, "attention")
        out = next((found[end] for end in _OUT if end in found), absent)
        return self.linears(mixed, out)

    def _project(
        self, values: Values, found: Mapping[str, LinearModule]
    ) -> tuple[Values, Values, Values]:
        model = self.model
        width, kv_width = model.heads * model.head_dim, model.kv_heads * model.head_dim
        fused = next((found[end] for end in _FUSED if end in found), None)
        if fused is not None:
            whole = self.linears(values, fused)
            kv = whole.part(self.tokens * kv_width)
            return whole.part(self.tokens * width), kv, kv
        made = []
        for end, out in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)):
            absent = LinearModule(end, out, model.hidden, False, "attention")
            made.append(self.linears(values, found.get(end, absent)))
        return made[0], made[1], made[2]

    def _norm_heads(self, values: Values, query: bool) -> Values:
        kind, model = self.options.head_norm, self.model
        if not kind:
            return values
        heads = model.heads if query else model.kv_heads
        name = "query norm" if query else "key norm"
        count = model.head_dim * (heads if kind == "whole" else 1)
        weight = self.linears.norm(count)
        groups = self.tokens * (1 if kind == "whole" else heads)
        if kind == "layer":
            return self.tape.layer_norm(values, groups, weight, name)
        return self.tape.rms_norm(values, groups, weight, name, self.options.recipe.norm)

    def _turn(self, values: Values, index: int) -> Values:
        """Rotary positions: the tables are kept, the values are not."""
        if self.options.family == "gptj":  # makes its tables anew for each use
            count = self.asked.length * self.options.rotary_channels(self.model.head_dim)
            pair = [self.tape.fresh(count, values.format, False) for _ in range(2)]
        elif self._turns:
            pair = list(self._turns[self._table_kind(index)])
        else:
            return values
        turned = self.tape.mul(values, pair[0], TABLES)
        self.tape.mul(values, pair[1], TABLES)
        return self.tape.cast(turned, values.format) if self._back() else turned

    def _back(self) -> bool:
        return self.options.recipe.norm == "olmo"

    def _longer(self, values: Values) -> Values:
        """With the trained keys or values of prefix tuning before them."""
        per_token = values.count // self.tokens
        more = self.asked.rows * self.prefix * per_token
        return self.tape.fresh(values.count + more, values.format, True)

    # kernels

    def _mix(self, query: Values, key: Values, value: Values, index: int) -> Values:
        eager = self.asked.attention == "eager"
        masked = self._needs_mask(index)
        groups = self.model.heads // self.model.kv_heads
        if groups > 1 and not eager and self.tape.cuda and self.tape.compute == "float32":
            # no fused kernel of CUDA takes float32 with fewer heads of keys than of queries
            eager = eager or (self.asked.attention == "sdpa" and not masked)
        if groups > 1 and (eager or (self.asked.attention == "sdpa" and masked)):
            key, value = self._repeated(key, groups), self._repeated(value, groups)
        return self._scores(query, key, value) if eager else self._fused(query, key, value, masked)

    def _repeated(self, values: Values, groups: int) -> Values:
        """Keys or values once for each head of queries; of a single head views are enough."""
        if self.model.kv_heads == 1:
            return values.part(values.count * groups)
        return self.tape.fresh(values.count * groups, values.format, values.grad)

    def _fused(self, query: Values, key: Values, value: Values, masked: bool) -> Values:
        tape = self.tape
        query, key, value = tape.lowered(query), tape.lowered(key), tape.lowered(value)
        grad = query.grad or key.grad or value.grad
        result = tape.fresh(query.count, query.format, grad)
        if grad:
            for values, name in ((query, "query"), (key, "key"), (value, "value")):
                tape.keep(values, f"attention: {name}")
            tape.keep(result, "attention: result")
            rows = query.count // self.model.head_dim
            tape.keep(tape.fresh(rows, "float32", False), "attention: log-sum-exp")
            if masked:  # turned into numbers for each layer
                count = self.asked.rows * self.asked.length * (self.asked.length + self.prefix)
                tape.keep(tape.fresh(count, query.format, False), "attention: mask")
        copied = self.options.recipe.joined and self.asked.attention == "sdpa"
        return tape.like(result) if copied else result

    def _operand(self, values: Values) -> Values:
        """A factor of a batched product: copied so that heads lie behind one another."""
        lowered = self.tape.lowered(values)
        return self.tape.like(lowered) if self.asked.rows > 1 else lowered

    def _scores(self, query: Values, key: Values, value: Values) -> Values:
        tape, kind = self.tape, self.options.recipe.attention
        asked_format = query.format
        if kind == "upcast":
            query, key = tape.cast(query, "float32"), tape.cast(key, "float32")
        length = self.asked.length
        count = self.asked.rows * self.model.heads * length * (length + self.prefix)
        names = "attention: query", "attention: key"
        scores = tape.matmul(self._operand(query), self._operand(key), count, names)
        height = self.options.number("attn_logit_softcapping", self.options.recipe.softcap)
        if height and self.options.recipe.norm == "gemma":
            scores = tape.unary(scores, "attention: capped scores", "result")
        scores = tape.add(scores, tape.fresh(0, self._format, False))  # the mask
        if kind == "llama":
            found = tape.softmax(scores, "float32", "attention: probabilities")
            found = tape.cast(found, asked_format)
        else:
            found = tape.softmax(scores, None, "attention: probabilities")
            found = tape.cast(found, value.format)
        found = tape.dropout(found, self.scale, "attention")
        names = "attention: probabilities as factor", "attention: value"
        mixed = tape.matmul(found, self._operand(value), self._count(), names)
        return tape.like(mixed)

    def _count(self) -> int:
        return self.tokens * self.model.heads * self.model.head_dim
