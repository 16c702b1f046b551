"""Linear modules on the tape: as they are, quantized, and with an adapter around them.

In: values and a linear module of the facts. Out: its result, while the tape notes what is kept.
The steps are PEFT's and bitsandbytes'. Kinds of adapters that plugins add count as none.

A 4-bit module keeps nothing of its own: neither its input, since it has no gradient for its weight,
nor the weight it unpacks. An 8-bit module keeps its input whole, in the format it came in, though
its backward pass never reads it, and as an attribute, so that checkpointing cannot drop it; its few
columns of outliers, whose number the data decide, are left out. GPTQ's Triton kernel keeps nothing;
its torch kernel keeps every weight unpacked.
"""

from __future__ import annotations

from llmforge.compiler.facts.families import LinearModule, ModelFacts
from llmforge.compiler.facts.targets import hit_modules, resolve, saved_modules
from llmforge.compiler.memory.activations_recipes import ForwardPass
from llmforge.compiler.memory.activations_tape import Tape, Values, Weight
from llmforge.schema.adapter import (
    AdaLora,
    Ia3,
    LowRank,
    NoAdapter,
    TargetedAdapter,
    Vera,
)
from llmforge.schema.precision import BitsAndBytes, Gptq


class Linears:
    """Every linear module of a model, with its weights in the formats of a run."""

    def __init__(self, model: ModelFacts, asked: ForwardPass, tape: Tape) -> None:
        adapter, quantization = asked.adapter, asked.quantization
        self.tape, self.adapter, self.weights = tape, adapter, asked.weights
        self.all_trained = isinstance(adapter, NoAdapter)
        self.bits = quantization.bits if isinstance(quantization, BitsAndBytes) else 0
        self.gptq = isinstance(quantization, Gptq)
        self.unpacks = isinstance(quantization, Gptq) and quantization.backend == "torch"
        apart = "float32" if self.bits else asked.weights
        self.norms, self.embeddings = asked.norms or apart, asked.embeddings or apart
        self.trained = asked.trained
        self.hit = frozenset(module.name for module in hit_modules(model, adapter))
        self.saved: frozenset[str] = frozenset()
        self.scaled_input: frozenset[str] = frozenset()
        self.bias_trained = str(getattr(adapter, "bias", "none"))
        if isinstance(adapter, TargetedAdapter):
            self.saved = frozenset(saved_modules(model, adapter.modules_to_save))
        if isinstance(adapter, Ia3):
            found = resolve(model, adapter.feedforward)
            self.scaled_input = frozenset(module.name for module in found)
        self.called: set[str] = set()
        """Names of the modules that were asked for a result."""
        self._weights: dict[str, tuple[Weight, Weight | None]] = {}

    def norm(self, count: int) -> Weight:
        """Weight of a norm."""
        return Weight(count, self.norms, self.all_trained)

    def experts(self, count: int) -> Weight:
        """Weights of routers and experts, which are no linear modules."""
        return Weight(count, self.weights, self.all_trained)

    def embedding(self, *ends: str) -> Weight:
        """Weight of an embedding, by the ends of the names it goes by; its size is not asked for:
        nothing copies it."""
        if any(name.endswith(ends) for name in self.saved):
            return Weight(0, self._whole(self.embeddings), trained=True)
        return Weight(0, self.embeddings, self.all_trained)

    def __call__(self, values: Values, module: LinearModule) -> Values:
        """A module's result."""
        tokens = values.count // module.in_features
        self.called.add(module.name)
        if module.name not in self.hit:
            return self._base(values, module, tokens)
        if isinstance(self.adapter, Ia3):
            return self._ia3(values, module, tokens)
        result = self._base(values, module, tokens)
        if isinstance(self.adapter, LowRank):
            return self._low_rank(self.adapter, values, result, module, tokens)
        if isinstance(self.adapter, Vera):
            return self._vera(self.adapter, values, result, module, tokens)
        if isinstance(self.adapter, AdaLora):
            return self._adalora(self.adapter, values, result, module, tokens)
        return result

    def _whole(self, format_: str) -> str:
        """Format of what is trained whole beside an adapter; without autocast its neighbours'."""
        return self.trained if self.tape.autocast else format_

    def _parameters(self, module: LinearModule) -> tuple[Weight, Weight | None]:
        if module.name not in self._weights:
            whole = module.name in self.saved
            trained = self.all_trained or whole
            format_ = self.embeddings if module.role == "head" else self.weights
            format_ = self._whole(format_) if whole else format_
            weight = Weight(module.in_features * module.out_features, format_, trained)
            of_hit = self.bias_trained not in ("none", "all") and module.name in self.hit
            bias_trained = trained or self.bias_trained == "all" or of_hit
            bias_format = self._whole(format_) if bias_trained and not trained else format_
            bias = Weight(module.out_features, bias_format, bias_trained) if module.bias else None
            self._weights[module.name] = weight, bias
        return self._weights[module.name]

    def _base(self, values: Values, module: LinearModule, tokens: int) -> Values:
        tape, out = self.tape, tokens * module.out_features
        weight, bias = self._parameters(module)
        name = module.name.rpartition(".")[2]
        if module.role == "head" or weight.trained:
            return tape.linear(values, weight, out, name, bias)
        if self.unpacks and values.grad:
            unpacked = tape.cast(values, tape.compute if tape.autocast else values.format)
            count = module.in_features * module.out_features
            tape.keep(tape.fresh(count, unpacked.format, False), f"{name}: weight, unpacked")
        if self.gptq:
            return tape.fresh(out, tape.compute if tape.autocast else values.format, values.grad)
        if not self.bits:
            return tape.linear(values, weight, out, name, bias)
        grad = values.grad or (bias is not None and bias.trained)
        if self.bits == 4:  # works in the compute format and gives the input's back
            return tape.fresh(out, values.format, grad)
        if grad:
            tape.pin(values, f"{name}: input of the 8-bit module")
        # on the CPU the module is a float product, which autocast reaches
        format_ = tape.compute if tape.autocast and not tape.cuda else values.format
        return tape.fresh(out, format_, grad)

    def _input(self, values: Values) -> Values:
        """What the adapter gets: under autocast quantized modules leave the format to it."""
        if self.bits and self.tape.autocast and self.tape.cuda:
            return values
        return self.tape.cast(values, self.trained)

    def _low_rank(
        self,
        adapter: LowRank,
        values: Values,
        result: Values,
        module: LinearModule,
        tokens: int,
    ) -> Values:
        tape, name, r = self.tape, module.name.rpartition(".")[2], adapter.r
        dropped = tape.dropout(self._input(values), adapter.dropout, f"{name} LoRA")
        first = Weight(r * module.in_features, self.trained, trained=True)
        second = Weight(r * module.out_features, self.trained, trained=True)
        inside = tape.linear(dropped, first, tokens * r, f"{name} LoRA A")
        update = tape.linear(inside, second, tokens * module.out_features, f"{name} LoRA B")
        if adapter.dora:
            update = self._dora(adapter, dropped, update, result, module)
        format_ = result.format
        if self.bits and not (tape.autocast and tape.cuda):
            update = tape.cast(update, format_)
        result = tape.add(result, update)
        return result if self.bits else tape.cast(result, format_)

    def _dora(
        self,
        adapter: LowRank,
        dropped: Values,
        update: Values,
        result: Values,
        module: LinearModule,
    ) -> Values:
        """Both products are scaled by a factor for each channel, and so kept once more.

        With dropout the base is computed a second time from the dropped input, by a copy of its
        weight in the adapter's format.
        """
        tape, name = self.tape, f"{module.name.rpartition('.')[2]} DoRA"
        if adapter.dropout:
            weight = Weight(module.in_features * module.out_features, self.trained, False)
            again = tape.linear(dropped, weight, result.count, name)
            stored = self._parameters(module)[0].format
            if dropped.grad and not tape.autocast and (self.bits or stored != self.trained):
                tape.keep(tape.fresh(weight.count, self.trained, False), f"{name}: weight")
        else:
            again = tape.like(result) if module.bias else result
        scale = tape.fresh(module.out_features, self.trained, grad=True)
        tape.keep(tape.like(scale), f"{name}: norms of the weight")
        less = tape.like(scale)
        return tape.add(
            tape.mul(less, again, f"{name}: base"), tape.mul(scale, update, f"{name}: update")
        )

    def _vera(
        self, adapter: Vera, values: Values, result: Values, module: LinearModule, tokens: int
    ) -> Values:
        tape, name, r = self.tape, f"{module.name.rpartition('.')[2]} VeRA", adapter.r
        dropped = tape.dropout(tape.cast(values, self.trained), adapter.dropout, name)
        shared = Weight(r * module.in_features, self.trained, trained=False)
        inside = tape.linear(dropped, shared, tokens * r, f"{name} A")
        inner = Weight(r, self.trained, trained=True)
        inside = tape.scaled(inside, inner, f"{name}: between")
        shared = Weight(r * module.out_features, self.trained, trained=False)
        update = tape.linear(inside, shared, result.count, f"{name} B")
        outer = Weight(module.out_features, self.trained, trained=True)
        update = tape.scaled(update, outer, f"{name}: update")
        return tape.cast(tape.add(result, update), values.format)

    def _adalora(
        self, adapter: AdaLora, values: Values, result: Values, module: LinearModule, tokens: int
    ) -> Values:
        tape, name, r = self.tape, f"{module.name.rpartition('.')[2]} AdaLoRA", adapter.initial_r
        dropped = tape.dropout(self._input(values), adapter.dropout, name)
        scaled = tape.fresh(r * module.in_features, self.trained, grad=True)
        names = f"{name} A: input", f"{name} A: weight"
        inside = tape.matmul(dropped, scaled, tokens * r, names)
        second = Weight(r * module.out_features, self.trained, trained=True)
        tape.linear(inside, second, result.count, f"{name} B")
        return tape.fresh(result.count, result.format, grad=True)  # added in place

    def _ia3(self, values: Values, module: LinearModule, tokens: int) -> Values:
        tape, name = self.tape, f"{module.name.rpartition('.')[2]} IA3"
        if module.name in self.scaled_input:
            factors = Weight(module.in_features, self.trained, trained=True)
            wide = tape.scaled(tape.cast(values, self.trained), factors, f"{name}: input")
            return self._base(tape.cast(wide, values.format), module, tokens)
        result = self._base(values, module, tokens)
        factors = Weight(module.out_features, self.trained, trained=True)
        return tape.cast(tape.scaled(result, factors, f"{name}: result"), result.format)
