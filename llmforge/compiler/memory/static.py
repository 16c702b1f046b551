"""What stays in memory from step to step: weights, adapter, optimizer state; and the gradients.

In: facts of a model and the solved settings. Out: `Static`, bytes of one device under named terms.
Counts are the model's own, formats are those of `precision`, states are those that each optimizer
was seen to hold. Sharding (ZeRO, FSDP) and data parallel copies are counted here as well.

What a pass adds on top stands in `activations.py` and `loss.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.compiler.facts.families import LinearModule, ModelFacts
from llmforge.compiler.facts.targets import hit_modules
from llmforge.compiler.facts.trained import trained
from llmforge.compiler.memory.activations_tape import BYTES
from llmforge.compiler.memory.preference import reference_weights
from llmforge.schema import RunSpec
from llmforge.schema.adapter import NoAdapter, TargetedAdapter, Vera
from llmforge.schema.distributed import Fsdp2, Zero
from llmforge.schema.optim import Adafactor, AdamW8bit, AdamWPaged, Lion, Muon, Sgd
from llmforge.schema.precision import BitsAndBytes, Gptq

_BLOCK = 64
"""Weights that share a constant under bitsandbytes' 4 bits."""
_OUTER_BLOCK = 256
"""Constants that share one under double quantization."""
_STATE_BLOCK = 256
"""Numbers of an 8-bit optimizer's state that share a float32 constant."""


@dataclass(frozen=True)
class Parts:
    """Parameters of the model by what decides their format."""

    quantized: int
    """In linear modules that are quantized, without biases."""
    embeddings: int
    """Embeddings and output head, tied ones once."""
    norms: int
    rest: int
    """Biases, experts, and linear weights that are not quantized."""
    table: int
    """Of these, the token embedding."""
    largest: int
    """The largest single tensor."""


@dataclass(frozen=True)
class Static:
    """Bytes of one device."""

    held: Mapping[str, int]
    """What stays, by name."""
    gradients: int
    """Of everything that is trained."""
    table_gradient: int
    """Of the token embedding where it is trained and tied to the output head, else 0."""
    last_gradient: int
    """Of the token embedding where it is trained and not tied: the last one to be computed."""
    optimizer_scratch: int
    """What the optimizer's step needs for itself."""
    load: int
    """The most that is held while the model is loaded."""
    host: Mapping[str, int]
    """What lies in main memory instead: offloaded shards, paged states."""
    whole: Mapping[str, int]
    """`weights`, `adapter` and `state` of all devices together, as they are written."""


def static_memory(
    model: ModelFacts, spec: RunSpec, config: Mapping[str, Any] | None = None
) -> Static | None:
    """What stays on one device; None where it depends on sizes that only the build knows.

    `config` is the model's `config.json`: of a quantized checkpoint it says how.
    """
    counts = trained(model, spec.lora)
    if counts is None:
        return None
    world = int(spec.launch.processes)
    parts = model_parts(model, spec)
    base, constants = _base(model, spec, parts, config or {})
    size = _trained_size(spec)
    full = isinstance(spec.lora, NoAdapter)
    added = 0 if full else counts.total - model.parameters
    adapter = added * size + _frozen_beside(model, spec)
    gradients = counts.trainable * size
    state, paged, scratch = _optimizer(model, spec, parts, counts.trainable, size)
    held = {"weights": base, "quantization_constants": constants, "adapter": adapter}
    held |= {"optimizer_state": state, "reference_model": reference_weights(spec, base)}
    host = {"optimizer_state": paged}
    whole = {"weights": base + constants, "adapter": adapter, "state": state + paged}
    load = base + constants + (parts.largest * BYTES[_weights(spec)] if parts.quantized else 0)
    if isinstance(spec.deepspeed, Zero):
        # its optimizer works on float32 copies
        half = spec.precision.compute != "float32"
        state, paged, scratch = _optimizer(model, spec, parts, counts.trainable, 4)
        masters = 4 * counts.trainable
        if half and not parts.quantized and _weights(spec) == "float32":
            held["weights"] = base // 2
        held |= {"optimizer_state": state, "master_weights": masters}
        host = {"optimizer_state": paged}
        whole |= {"weights": held["weights"] + constants, "state": state + paged + masters}
        gradients = counts.trainable * (2 if half else 4)
        held, host, gradients = _zero(model, spec, spec.deepspeed, held, host, gradients)
        if spec.deepspeed.stage == 3:
            host, load = {**host, "loading": load}, load // world
    elif isinstance(spec.fsdp, Fsdp2):
        held, host, gradients = _fsdp(model, spec, spec.fsdp, held, host, gradients)
        host, load = {**host, "loading": load}, load // world
    elif world > 1:
        # DistributedDataParallel reduces gradients in buckets beside them
        held["communication_buckets"] = gradients
    return Static(
        held={name: amount for name, amount in held.items() if amount},
        gradients=gradients,
        table_gradient=parts.table * size if full and model.tied_embeddings else 0,
        last_gradient=parts.table * size if full and not model.tied_embeddings else 0,
        optimizer_scratch=scratch,
        load=load,
        host={name: amount for name, amount in host.items() if amount},
        whole=whole,
    )


def model_parts(model: ModelFacts, spec: RunSpec) -> Parts:
    """The model's parameters, sorted."""
    inner = _inner(model)
    heads = [m for m in model.linear_modules if m.role == "head"]
    quantized = 0
    if isinstance(spec.quantization, BitsAndBytes | Gptq):
        quantized = sum(m.out_features * m.in_features for m in inner)
    separate = [] if model.tied_embeddings else heads
    embeddings = model.embedding_parameters + sum(m.parameters for m in separate)
    linear = sum(m.parameters for m in inner)
    norms = max(0, model.parameters - embeddings - linear - model.expert_parameters)
    width = heads[0].in_features if heads else model.hidden
    sizes = [m.out_features * m.in_features for m in model.linear_modules]
    if model.experts:
        sizes.append(model.expert_parameters // model.layers * 2 // 3)
    return Parts(
        quantized=quantized,
        embeddings=embeddings,
        norms=norms,
        rest=model.parameters - quantized - embeddings - norms,
        table=model.vocabulary * width,
        largest=max([model.vocabulary * width, *sizes]),
    )


def _inner(model: ModelFacts) -> list[LinearModule]:
    """What quantization packs: linear modules but the head; experts are none."""
    return [m for m in model.linear_modules if m.role not in ("head", "vision")]


def _weights(spec: RunSpec) -> str:
    return str(spec.precision.weights)


def _trained_size(spec: RunSpec) -> int:
    """Bytes of a trained number."""
    if isinstance(spec.lora, NoAdapter) or spec.precision.adapter == "weights":
        return BYTES[_weights(spec)]
    return 4


def _base(
    model: ModelFacts, spec: RunSpec, parts: Parts, config: Mapping[str, Any]
) -> tuple[int, int]:
    """Bytes of the model's own weights, and of what quantization keeps beside them."""
    size = BYTES[_weights(spec)]
    apart = {
        "norms": 4 if spec.precision.norms == "float32" else size,
        "embeddings": 4 if spec.precision.embeddings == "float32" else size,
    }
    plain = parts.norms * apart["norms"] + parts.embeddings * apart["embeddings"]
    plain += parts.rest * size
    quantization = spec.quantization
    if isinstance(quantization, BitsAndBytes):
        packed, constants = _bitsandbytes(model, quantization, parts.quantized)
    elif isinstance(quantization, Gptq):
        packed, constants = _gptq(config, parts.quantized)
    else:
        packed, constants = 0, 0
    return plain + packed, constants


def _bitsandbytes(model: ModelFacts, quantization: BitsAndBytes, quantized: int) -> tuple[int, int]:
    if quantization.bits == 8:
        inner = _inner(model)
        copies = 2 * quantized if quantization.int8_fp16_weight else 0
        return quantized + copies, 4 * sum(m.out_features for m in inner)
    blocks = -(-quantized // _BLOCK)
    if quantization.double_quant:
        return quantized // 2, blocks + 4 * -(-blocks // _OUTER_BLOCK)
    return quantized // 2, 4 * blocks


def _gptq(config: Mapping[str, Any], quantized: int) -> tuple[int, int]:
    """Packed weights; per group a scale of 16 bits and a zero point of the weights' width."""
    own = config.get("quantization_config") or {}
    bits, group = own.get("bits") or 4, own.get("group_size") or 128
    groups = quantized // group if group > 0 else 0
    return quantized * bits // 8, groups * 2 + groups * bits // 8


def _frozen_beside(model: ModelFacts, spec: RunSpec) -> int:
    """Buffers that an adapter keeps beside its parameters: VeRA's two shared projections."""
    adapter = spec.lora
    if not isinstance(adapter, Vera):
        return 0
    hit = hit_modules(model, adapter)
    widest = max((m.in_features for m in hit), default=0) + max(
        (m.out_features for m in hit), default=0
    )
    return 4 * adapter.r * widest


def _trained_modules(model: ModelFacts, spec: RunSpec) -> tuple[LinearModule, ...]:
    """Linear modules whose own weights are trained, or that carry an adapter."""
    if isinstance(spec.lora, TargetedAdapter):
        return hit_modules(model, spec.lora)
    return model.linear_modules if isinstance(spec.lora, NoAdapter) else ()


def _optimizer(
    model: ModelFacts, spec: RunSpec, parts: Parts, count: int, size: int
) -> tuple[int, int, int]:
    """State on the device, state that is paged, scratch of a step; bytes.

    torch's optimizers hold their state in the format of the weights, bitsandbytes' in 32 or 8 bits
    with a constant for each 256 numbers; embeddings stay at 32 bits there.
    """
    chosen, full = spec.optimizer, isinstance(spec.lora, NoAdapter)
    largest = parts.largest if full else _largest_of_adapter(model, spec)
    if isinstance(chosen, AdamWPaged):
        return 0, 8 * count, 0
    if isinstance(chosen, AdamW8bit | Lion):
        states = 1 if isinstance(chosen, Lion) else 2
        eight = isinstance(chosen, AdamW8bit) or chosen.bits == 8
        tables = parts.embeddings if full and eight else 0
        per = 1 + 4 / _STATE_BLOCK if eight else 4
        bytes_ = round(states * (per * (count - tables) + 4 * tables))
        return (0, bytes_, 0) if chosen.paged else (bytes_, 0, 0)
    if isinstance(chosen, Adafactor):
        # row and column means; the update and its square are whole
        factored = sum(m.out_features + m.in_features for m in _trained_modules(model, spec))
        return 4 * factored, 0, 2 * 4 * largest
    if isinstance(chosen, Sgd):
        return (count * size if chosen.momentum else 0), 0, 0
    if isinstance(chosen, Muon):
        matrices = count - (parts.embeddings + parts.norms if full else 0)
        # what is no matrix is moved by AdamW, which updates in a copy of the largest
        return size * (matrices + 2 * (count - matrices)), 0, 4 * largest
    return 2 * size * count, 0, 0


def _largest_of_adapter(model: ModelFacts, spec: RunSpec) -> int:
    rank = int(getattr(spec.lora, "r", 1))
    widths = [max(m.out_features, m.in_features) for m in _trained_modules(model, spec)]
    return rank * max(widths, default=model.hidden)


Amounts = dict[str, int]


def _zero(
    model: ModelFacts, spec: RunSpec, zero: Zero, held: Amounts, host: Amounts, gradients: int
) -> tuple[Amounts, Amounts, int]:
    """ZeRO divides optimizer state, then gradients, then weights, stage by stage."""
    world = int(spec.launch.processes)
    held, host = dict(held), {name: amount // world for name, amount in host.items()}
    for name in ("master_weights", "optimizer_state"):
        amount = held.get(name, 0) // world
        if zero.offload_optimizer:
            host[name], held[name] = host.get(name, 0) + amount, 0
        else:
            held[name] = amount
    element = 2 if spec.precision.compute != "float32" else 4
    if zero.stage == 3:
        amount = held["weights"] // world
        held["gathered_weights"] = min(
            held["weights"], zero.max_live_parameters * element, model.parameters * element
        )
        if zero.offload_parameters:
            host["weights"], held["weights"] = amount, 0
        else:
            held["weights"] = amount
    buckets = 2 if zero.overlap_communication else 1
    held["communication_buckets"] = min(buckets * int(zero.bucket_size) * element, 2 * gradients)
    return held, host, gradients // world if zero.stage >= 2 else gradients


def _fsdp(
    model: ModelFacts, spec: RunSpec, fsdp: Fsdp2, held: Amounts, host: Amounts, gradients: int
) -> tuple[Amounts, Amounts, int]:
    """FSDP2: everything divided; two layers are gathered at a time, the next while one works."""
    world = int(spec.launch.processes)
    divided = {name: amount // world for name, amount in held.items()}
    half = BYTES[str(spec.precision.compute)]
    gathered = model.parameters if not fsdp.reshard_after_forward else 0
    layer = (model.parameters - model.embedding_parameters) // model.layers
    gathered = gathered or 2 * layer + model.embedding_parameters
    if fsdp.offload:
        host = {**host, **divided}
        divided = {}
    divided["gathered_weights"] = gathered * half if world > 1 else 0
    return divided, host, gradients // world
