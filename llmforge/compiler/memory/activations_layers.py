"""A decoder layer on the tape: attention, feed-forward layer, norms and residuals.

In: hidden values and a layer's linear modules. Out: hidden values, while the tape notes what is
kept. The order of operations is that of the model classes of transformers, since it decides which
values are kept twice in two formats and which once.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmforge.compiler.facts.families import LinearModule, ModelFacts
from llmforge.compiler.memory.activations_attention import Attention
from llmforge.compiler.memory.activations_linear import Linears
from llmforge.compiler.memory.activations_recipes import ForwardPass, Options
from llmforge.compiler.memory.activations_tape import Storage, Tape, Values

_COMPOSED = ("gelu_new", "gelu_fast", "gelu_python_tanh")
_OF_RESULT = ("relu", "tanh", "sigmoid")
_UP = ("up_proj", "c_fc", "fc1", "fc_in", "dense_h_to_4h")
_DOWN = ("down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h")


class Layers:
    """The layers of one model in one pass."""

    def __init__(
        self, model: ModelFacts, asked: ForwardPass, options: Options, tape: Tape, linears: Linears
    ) -> None:
        self.model, self.options, self.tape, self.linears = model, options, tape, linears
        self.tokens = asked.rows * asked.length
        self.attention = Attention(model, asked, options, tape, linears)
        self.residual = options.dropout(options.recipe.residual)

    def prepare(self, hidden: Values) -> None:
        """What is made once for all layers, from the embeddings."""
        self.attention.prepare(hidden)

    def __call__(self, hidden: Values, modules: Mapping[str, LinearModule], index: int) -> Values:
        """One layer's result.

        Args:
            hidden: rows * length * hidden numbers.
            modules: the layer's linear modules by their names from the layer on.
            index: which layer.
        """
        order = self.options.order
        if order in ("parallel", "parallel_two"):
            normed = self._norm(hidden, "first norm")
            one = self._drop(self.attention(normed, modules, index))
            if order == "parallel_two":
                normed = self._norm(hidden, "second norm")
            two = self._drop(self._feed_forward(normed, modules))
            hidden = self.tape.add(self.tape.add(one, two), hidden)
        else:
            found = hidden if order in ("post", "after") else self._norm(hidden, "first norm")
            found = self._drop(self.attention(found, modules, index))
            if order in ("post", "sandwich"):
                found = self._norm(found, "norm after attention")
            hidden = self.tape.add(hidden, found)
            if order == "after":
                hidden = self._norm(hidden, "first norm")
            found = hidden if order in ("post", "after") else self._norm(hidden, "second norm")
            found = self._drop(self._feed_forward(found, modules))
            if order in ("post", "sandwich"):
                found = self._norm(found, "norm after feed-forward")
            hidden = self.tape.add(hidden, found)
            if order == "after":
                hidden = self._norm(hidden, "second norm")
        return self._unknown(hidden, modules)

    def _norm(self, values: Values, name: str) -> Values:
        """A norm over the hidden channels."""
        weight = self.linears.norm(self.model.hidden)
        kind = self.options.recipe.norm
        if kind == "layer":
            return self.tape.layer_norm(values, self.tokens, weight, name)
        return self.tape.rms_norm(values, self.tokens, weight, name, kind)

    def final_norm(self, hidden: Values) -> Values:
        """The norm behind the layers; OPT has none where norms come after the residual."""
        absent = self.options.order == "after" or self.options.flag("_remove_final_layer_norm")
        return hidden if absent else self._norm(hidden, "final norm")

    def _drop(self, values: Values) -> Values:
        return self.tape.dropout(values, self.residual, "residual")

    def _unknown(self, hidden: Values, modules: Mapping[str, LinearModule]) -> Values:
        """Modules that no recipe knows: an adapter around one keeps its input, at least."""
        for module in modules.values():
            if module.name in self.linears.hit - self.linears.called:
                count = self.tokens * module.in_features
                self.linears(self.tape.fresh(count, hidden.format, hidden.grad), module)
        return hidden

    # feed-forward layers

    def _feed_forward(self, values: Values, modules: Mapping[str, LinearModule]) -> Values:
        parts = {
            name.rpartition(".")[2]: name
            for name, module in modules.items()
            if module.role == "mlp" and "shared_expert" not in name
        }
        if self.model.experts and not parts:
            return self._experts(values, modules)
        by_end = {end: modules[name] for end, name in parts.items()}
        return self._dense(values, by_end, self.model.intermediate)

    def _dense(self, values: Values, found: Mapping[str, LinearModule], inner: int) -> Values:
        """Gate, up and down; gate and up in one module; or up and down."""
        hidden = self.model.hidden
        down = next((found[end] for end in _DOWN if end in found), None)
        down = down or LinearModule("down_proj", hidden, inner, False, "mlp")
        up = next((found[end] for end in _UP if end in found), None)
        if "gate_up_proj" in found:
            both = self.linears(values, found["gate_up_proj"])
            gate, above = both.part(both.count // 2), both.part(both.count // 2)
        elif up is not None and "gate_proj" not in found:
            return self.linears(self._act(self.linears(values, up)), down)
        else:
            absent = LinearModule("gate_proj", inner, hidden, False, "mlp")
            gate = self.linears(values, found.get("gate_proj", absent))
            gate, above = gate, self.linears(values, up or absent)
        product = self.tape.mul(self._act(gate), above, "gate times up")
        return self.linears(product, down)

    def _act(self, values: Values) -> Values:
        """The activation function; some are written in Python and keep four values, not one."""
        tape, act = self.tape, self.options.act
        if act not in _COMPOSED:
            of = "result" if act in _OF_RESULT else "input"
            return tape.unary(values, f"activation function: {of}", of)
        cubed = tape.unary(tape.raised(values), "activation function: input")
        bent = tape.unary(tape.add(values, cubed), "activation function: tanh", "result")
        half, plus_one = tape.like(values), tape.like(bent)
        return tape.mul(half, plus_one, "activation function: factors")

    def _experts(self, values: Values, modules: Mapping[str, LinearModule]) -> Values:
        """Tokens sorted by their experts, each expert's map over its share of them.

        The weights of all experts are one parameter, read by one grouped product.
        """
        tape, model, plain = self.tape, self.model, self.linears.experts
        chosen = self.tokens * model.experts_per_token
        inner = model.expert_intermediate
        weights = self._route(values, chosen)
        for name in ("order", "tokens", "places"):
            self._index(chosen, f"experts: {name}", values.grad)
        picked = tape.fresh(chosen * model.hidden, values.format, values.grad)
        pair = plain(2 * inner * model.hidden * model.experts)
        if values.grad:
            tape.keep(Values(0, "int64", False, Storage(4 * model.experts)), "experts: shares")
        both = tape.grouped(picked, pair, chosen * 2 * inner, "experts' gate and up")
        gate, up = both.part(chosen * inner), both.part(chosen * inner)
        product = tape.mul(self._act(gate), up, "experts' gate times up")
        down = plain(inner * model.hidden * model.experts)
        result = tape.grouped(product, down, chosen * model.hidden, "experts' down")
        result = tape.mul(result, weights, "experts: results and their weights")
        result = tape.fresh(self.tokens * model.hidden, values.format, result.grad)
        shared = {name: m for name, m in modules.items() if "shared_expert" in name}
        if not shared:
            return result
        by_end = {name.rpartition(".")[2]: module for name, module in shared.items()}
        width = by_end["gate_proj"].out_features if "gate_proj" in by_end else model.intermediate
        always = self._dense(values, by_end, width)
        if "shared_expert_gate" in by_end:
            opened = self.linears(values, by_end["shared_expert_gate"])
            opened = tape.unary(opened, "shared expert's gate", "result")
            always = tape.mul(opened, always, "shared expert: result and gate")
        return tape.add(result, always)

    def _route(self, values: Values, chosen: int) -> Values:
        """The router: probabilities of all experts, then those of the chosen ones."""
        tape, model = self.tape, self.model
        weight = self.linears.experts(model.experts * model.hidden)
        logits = tape.linear(values, weight, self.tokens * model.experts, "router")
        tape.softmax(logits, "float32", "router: probabilities")
        self._index(chosen, "router: choice", logits.grad)
        best = tape.fresh(chosen, "float32", logits.grad)
        normed = self.options.family == "mixtral" or self.options.flag("norm_topk_prob")
        if normed and logits.grad:
            tape.keep(tape.fresh(self.tokens, "float32", True), "router: sums")
            tape.keep(best, "router: chosen probabilities")
        best = tape.like(best)
        return best if self.options.family == "mixtral" else tape.cast(best, logits.format)

    def _index(self, count: int, name: str, grad: bool) -> None:
        if grad:
            self.tape.keep(self.tape.fresh(count, "int64", False), name)
