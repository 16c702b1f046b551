"""The memory sheet: what each phase of a run takes on one device, and whether it fits.

In: facts of a model and solved settings. Out: `Sheet`. What is foretold is the most that PyTorch's
allocator holds at once (`torch.cuda.max_memory_allocated`); what lies outside of it (the CUDA
context, the gaps between blocks) is counted apart. A row is taken to be as long as
`collator.max_length`: the configured shape is budgeted, not the rows seen so far.

The step has several moments, the largest of which is the phase: the loss, its backward pass, that
of the last and of the first layer, the end with all gradients, and the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.compiler.facts.families import ModelFacts
from llmforge.compiler.facts.targets import hit_modules
from llmforge.compiler.memory.activations import Activations, ForwardPass, activations
from llmforge.compiler.memory.activations_tape import BYTES
from llmforge.compiler.memory.evaluation import (
    answer_memory,
    answers_at_once,
    evaluation_logits,
)
from llmforge.compiler.memory.loss import LossMemory, loss_memory
from llmforge.compiler.memory.preference import passes_reference, reference_cast
from llmforge.compiler.memory.static import Static, static_memory
from llmforge.schema import RunSpec
from llmforge.schema.adapter import LowRank, PromptTuning, TargetedAdapter
from llmforge.schema.distributed import Fsdp2, Zero
from llmforge.schema.precision import NoQuantization
from llmforge.schema.run import Device

WORKSPACE = 68 * 2**20
"""cuBLAS' own buffers, which it takes from the same allocator."""

CUDA_CONTEXT = 640 * 2**20
"""Driver, kernels and libraries, outside the allocator."""
PROCESS = 900 * 2**20
"""A CPU run: interpreter and libraries."""

SLACK = 0.03
"""Share of the peak that gaps between blocks cost when memory runs short: the allocator then gives
unused blocks back, and what is left is rounding and pieces that fit nothing."""

Terms = dict[str, int]


@dataclass(frozen=True)
class Sheet:
    """Bytes of one device."""

    phases: Mapping[str, Terms]
    """Phase -> named terms of its largest moment: `load`, `step`, `evaluation`, `save`."""
    moment: str
    """Which moment of the step is the largest."""
    host: Mapping[str, int]
    """Main memory taken by shards and states that are kept there."""
    outside: int
    """Outside the allocator."""
    slack: int
    available: int
    """Memory of the device."""

    @property
    def totals(self) -> dict[str, int]:
        """Bytes of each phase."""
        return {name: sum(terms.values()) for name, terms in self.phases.items()}

    @property
    def peak_phase(self) -> str:
        totals = self.totals
        return max(totals, key=totals.__getitem__)

    @property
    def peak(self) -> int:
        """The most allocated at once, over all phases."""
        return max(self.totals.values())

    @property
    def needed(self) -> int:
        """Everything the device must have."""
        return self.peak + self.outside + self.slack

    @property
    def fits(self) -> bool:
        return self.needed <= self.available


def memory_sheet(
    model: ModelFacts, spec: RunSpec, config: Mapping[str, Any] | None = None
) -> Sheet | None:
    """The sheet of solved settings; None where a size is known to the build alone.

    Args:
        model: facts.
        spec: `trainer.micro_batch`, `trainer.gradient_checkpointing`, `collator.max_length`,
            formats and kernels are numbers and names, not `auto`.
        config: the model's `config.json`.
    """
    machine = spec.hardware
    if not isinstance(machine, Device):
        return None
    static = static_memory(model, spec, config)
    if static is None:
        return None
    asked = forward_pass(spec, machine.device)
    kept = activations(model, asked, config)
    batch = spec.evaluation.micro_batch
    sequences = spec.trainer.SEQUENCES
    evaluation_rows = sequences * batch if isinstance(batch, int) else 2 * asked.rows
    length = int(spec.collator.max_length)
    rows = sequences * int(spec.trainer.micro_batch)
    loss = loss_memory(model, spec, rows, length, evaluation_rows, config)
    workspace = WORKSPACE if machine.device == "cuda" else 0
    always = {**static.held, "workspace": workspace}
    moment, step = _step(model, spec, asked, static, always, kept, loss)
    casts = 0 if is_sharded(spec) else kept.forward_casts
    forward = forward_scratch(model, spec, asked, evaluation_rows, length) + casts
    evaluated = [evaluation_logits(model, spec, loss, evaluation_rows, length)]
    evaluated.append({"scratch": forward})
    if answered := answers_at_once(spec):
        scratch = forward_scratch(model, spec, asked, answered, length) + casts
        size = _hidden_size(spec, asked)
        evaluated.append(answer_memory(model, spec, answered, scratch, size))
    evaluation = max(evaluated, key=lambda terms: sum(terms.values()))
    phases = {
        "load": {"loading": static.load},
        "step": step,
        "evaluation": {**always, **evaluation},
        "save": always,
    }
    phases = {name: {k: v for k, v in terms.items() if v} for name, terms in phases.items()}
    peak = max(sum(terms.values()) for terms in phases.values())
    return Sheet(
        phases=phases,
        moment=moment,
        host=static.host,
        outside=CUDA_CONTEXT if machine.device == "cuda" else PROCESS,
        slack=round(SLACK * peak),
        available=round(machine.memory_gib * 2**30) // _sharing(spec, machine),
    )


def _sharing(spec: RunSpec, machine: Device) -> int:
    """Processes that share one device: all of a CPU's."""
    return int(spec.launch.processes) if machine.device == "cpu" else 1


def is_sharded(spec: RunSpec) -> bool:
    """Engines that hold weights in the compute format themselves, so that autocast copies none."""
    return isinstance(spec.deepspeed, Zero) or isinstance(spec.fsdp, Fsdp2)


def forward_pass(spec: RunSpec, device: str) -> ForwardPass:
    """The training pass that solved settings ask for."""
    precision = spec.precision
    weights, packed = str(precision.weights), spec.collator.packing != "none"
    flash = "flash" in str(spec.model.attention)
    rows, length = int(spec.trainer.micro_batch), int(spec.collator.max_length)
    rows *= spec.trainer.SEQUENCES
    return ForwardPass(
        # flash attention is handed all packs as one row
        rows=1 if packed and flash else rows,
        length=rows * length if packed and flash else length,
        compute=str(precision.compute),
        weights=weights,
        attention=str(spec.model.attention),
        # rows as long as the longest have no padding, and transformers then makes no mask
        masked=packed and not flash,
        checkpointing=bool(spec.trainer.gradient_checkpointing),
        adapter=spec.lora,
        quantization=spec.quantization,
        device=device,
        norms="float32" if precision.norms == "float32" else weights,
        embeddings="float32" if precision.embeddings == "float32" else weights,
        trained=weights if precision.adapter == "weights" else "float32",
    )


def _step(
    model: ModelFacts,
    spec: RunSpec,
    asked: ForwardPass,
    static: Static,
    always: Terms,
    kept: Activations,
    loss: LossMemory,
) -> tuple[str, Terms]:
    """The largest moment of an optimizer step, and its terms."""
    earlier = static.gradients if int(spec.trainer.accumulation) > 1 else 0
    sharded = is_sharded(spec)
    casts = 0 if sharded else kept.weight_casts - loss.head_cast
    passed = {
        **always,
        "gradients": earlier,
        "activations": kept.layers + kept.outside,
        "weight_casts": casts,
    }
    scratch = backward_scratch(model, spec, asked)
    layer = {"recomputed_layer": kept.one_layer + kept.one_layer_casts, "scratch": scratch}
    ended = {**always, "gradients": static.gradients, "activations": kept.pinned}
    # the token embedding's gradient comes last of all, unless it is the output head's as well
    nearly = {**ended, "gradients": static.gradients - static.last_gradient}
    moments = {
        "loss": {
            **passed,
            "weight_casts": 0 if sharded else max(kept.forward_casts - loss.head_cast, casts),
            "logits_and_loss": loss.forward,
        },
        "backward pass of the loss": {**passed, "logits_and_loss": loss.backward},
        "backward pass of the last layer": {
            **passed,
            **(layer if asked.checkpointing else {"scratch": scratch}),
            "logits_and_loss": loss.kept,
        },
        "backward pass of the first layer": {
            **nearly,
            "activations": kept.outside + kept.pinned,
            **layer,
        },
        # gradients of one table wait to be added to each other
        "end of the backward pass": {
            **ended,
            "tied_gradients": loss.tables * static.table_gradient,
        },
        "optimizer": {**ended, "activations": 0, "scratch": static.optimizer_scratch},
    }
    if passes_reference(spec):
        # the policy's pass is kept while the reference's goes through, layer by layer; then its
        # log-probabilities are computed
        through = forward_scratch(model, spec, asked, asked.rows, asked.length, adapted=False)
        through += 0 if sharded else reference_cast(model, spec)
        moments["reference's pass"] = {
            **passed,
            "weight_casts": moments["loss"]["weight_casts"],
            "scratch": max(0, through - (loss.forward - loss.kept)),
            "logits_and_loss": loss.forward,
        }
    name = max(moments, key=lambda name: sum(moments[name].values()))
    return name, moments[name]


_DORA = 5.5
"""Copies of a weight in float32 that DoRA makes for its norm."""


def _hidden_size(spec: RunSpec, asked: ForwardPass) -> int:
    """Bytes of a number in the residual stream: behind float32 norms a quantized module's input,
    and with it its result, stays float32."""
    quantized = not isinstance(spec.quantization, NoQuantization)
    return 4 if quantized and asked.norms == "float32" else BYTES[asked.compute]


_SCORES_BACKWARD, _SCORES_FORWARD = 8, 10
"""Bytes per attention score that eager attention needs for itself: gradients, or scores, their
softmax in float32 and its copy in the compute format."""


def backward_scratch(model: ModelFacts, spec: RunSpec, asked: ForwardPass) -> int:
    """Gradients that exist at once inside a layer: those of the feed-forward layer's three parts,
    of the residual stream, and of eager attention's scores; bytes."""
    tokens, size = _tokens(asked, asked.rows, asked.length), BYTES[asked.compute]
    stream = _hidden_size(spec, asked)
    inner = 3 * _intermediate(model) * size + 3 * model.hidden * stream
    scores = _scores(model, asked, asked.rows, asked.length) * _SCORES_BACKWARD
    return tokens * inner + scores + _dora_scratch(model, spec)


def _intermediate(model: ModelFacts) -> int:
    """Width of what a token goes through between the projections."""
    return max(model.experts_per_token * model.expert_intermediate, model.intermediate)


def _scores(model: ModelFacts, asked: ForwardPass, rows: int, length: int) -> int:
    """Attention scores of a layer that stand in memory."""
    return rows * model.heads * length * length if asked.attention == "eager" else 0


def _dora_scratch(model: ModelFacts, spec: RunSpec) -> int:
    adapter = spec.lora
    if not isinstance(adapter, LowRank) or not adapter.dora:
        return 0
    hit = hit_modules(model, adapter)
    return round(_DORA * 4 * max((m.out_features * m.in_features for m in hit), default=0))


def forward_scratch(
    model: ModelFacts,
    spec: RunSpec,
    asked: ForwardPass,
    rows: int,
    length: int,
    adapted: bool = True,
) -> int:
    """What one layer needs for itself without gradients: the feed-forward layer's three parts, an
    adapter's float32 copy of the last one's input (unless it is switched off), the residual stream;
    bytes."""
    stream, wide = _hidden_size(spec, asked), _intermediate(model)
    adapted = (
        adapted
        and isinstance(spec.lora, TargetedAdapter)
        and any(m.in_features == model.intermediate for m in hit_modules(model, spec.lora))
    )
    inner = 3 * wide * stream + (4 * wide if adapted else 0) + 3 * model.hidden * stream
    scores = _scores(model, asked, rows, length) * _SCORES_FORWARD
    return _tokens(asked, rows, length) * inner + scores + _dora_scratch(model, spec)


def _tokens(asked: ForwardPass, rows: int, length: int) -> int:
    virtual = asked.adapter.tokens if isinstance(asked.adapter, PromptTuning) else 0
    return rows * (length + virtual)


def gib(amount: int) -> str:
    """Bytes as `12.3 GiB`."""
    return f"{amount / 2**30:.1f} GiB"
