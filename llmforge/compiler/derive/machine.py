"""What follows from the machine: hardware, precision, attention.

In: spec and facts. Out: solved values with reasons. Hardware is probed here when it is `auto`;
everything else is computed from what the plan then holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmforge.compiler.context import Context, Derived, Step
from llmforge.compiler.facts.families.base import ATTENTIONS
from llmforge.compiler.facts.hardware import probe_hardware
from llmforge.compiler.facts.isolation import isolates
from llmforge.compiler.facts.quantized import quantized_base
from llmforge.compiler.facts.space import space_of
from llmforge.compiler.facts.versions import installed_versions
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.distributed import Zero
from llmforge.schema.precision import BitsAndBytes, NoQuantization
from llmforge.schema.run import AutoHardware, Device


def probe_machine(context: Context) -> Step:
    """`hardware=auto` becomes this machine, its disk included; installed versions become facts."""
    facts: dict[str, Any] = {"versions": installed_versions()}
    if not isinstance(context.spec.hardware, AutoHardware):
        return Step(facts=facts)
    facts["space"] = space_of(Path(context.spec.paths.runs))
    found = probe_hardware()
    reason = "asked of the driver" if found["device"] == "cuda" else "no GPU driver answers here"
    values = {"kind": "device", **found}
    return Step(
        tuple(Derived(f"hardware.{k}", v, reason, probed=True) for k, v in values.items()),
        facts,
    )


def hardware(context: Context) -> Device:
    """The machine the plan is for; `probe_machine` ran before."""
    assert isinstance(context.spec.hardware, Device)  # noqa: S101 - guaranteed by the pass order
    return context.spec.hardware


def derive_precision(context: Context) -> Step:
    """Compute format from the hardware, weight format from who is trained, then the parts that
    are held apart from the other weights."""
    spec, found = context.spec, []
    weights = spec.precision.weights
    machine = hardware(context)
    compute = spec.precision.compute
    if compute == "auto":
        compute = "bfloat16" if machine.device == "cuda" and machine.bf16 else "float32"
        why = (
            "the GPU has bfloat16 tensor cores"
            if compute == "bfloat16"
            else "float32 is the fastest full format of a CPU"
            if machine.device == "cpu"
            else "the GPU has no bfloat16; float16 would need loss scaling"
        )
        found.append(
            Derived("precision.compute", compute, why, ("hardware.device", "hardware.bf16"))
        )
    if spec.precision.weights == "auto":
        frozen = not isinstance(spec.lora, NoAdapter) or isinstance(spec.quantization, BitsAndBytes)
        weights = value = compute if frozen else "float32"
        why = (
            "a frozen base needs no more than the compute format"
            if frozen
            else "weights that are trained keep float32 masters"
        )
        found.append(
            Derived(
                "precision.weights",
                value,
                why,
                ("precision.compute", "lora.kind", "quantization.kind"),
            )
        )
    return Step((*found, *_parts_apart(context, compute, str(weights))))


def _parts_apart(context: Context, compute: str, weights: str) -> Iterator[Derived]:
    """Norms, embeddings and adapter: what `precision.weights` does not decide by itself."""
    spec, precision = context.spec, context.spec.precision
    base = quantized_base(context.facts.model_config)
    quantization = spec.quantization
    packed = not isinstance(quantization, NoQuantization) or base is not None
    bitsandbytes = isinstance(quantization, BitsAndBytes) or (
        base is not None and base.method == "bitsandbytes"
    )
    one_format = isinstance(spec.deepspeed, Zero)
    for name, apart in (("norms", packed), ("embeddings", bitsandbytes)):
        if getattr(precision, name) != "auto":
            continue
        if weights == "float32":
            value, why = "weights", "all weights are float32"
        elif compute == "float32":
            value, why = "weights", "without 16-bit arithmetic (autocast) formats cannot be mixed"
        elif one_format:
            value, why = "weights", "DeepSpeed holds all weights in the compute format"
        elif apart:
            value, why = "float32", "as is usual over quantized weights, whose errors add to theirs"
        else:
            value, why = "weights", "the base is not quantized, and its norms came in this format"
        reads = ("precision.weights", "quantization.kind", "deepspeed.kind", "model")
        yield Derived(f"precision.{name}", value, why, reads)
    if precision.adapter == "auto":
        why = "small updates of what is trained round to nothing in 16 bits"
        yield Derived("precision.adapter", "float32", why)


def derive_attention(context: Context) -> Step:
    """The fastest attention the hardware and the installation have."""
    spec = context.spec
    if spec.model.attention != "auto":
        return Step()
    reads = ("hardware.device", "precision.compute", "model", "collator.packing")
    family, model = context.facts.model_config.get("model_type"), context.facts.model
    runs_with = model.attentions if model is not None else ATTENTIONS
    cuda = hardware(context).device == "cuda"
    half = spec.precision.compute != "float32"
    packed = spec.collator.packing != "none"
    if "sdpa" not in runs_with:
        value, why = "eager", f"transformers' {family} has no fused attention"
    elif packed and not isolates(str(family), "flash_attention_2", context.facts.versions).ok:
        value, why = "sdpa", "packed samples would see each other with flash attention"
    elif "flash_attention_2" not in runs_with:
        value, why = "sdpa", f"transformers' {family} has no flash attention"
    elif hardware(context).bf16 and cuda and half and context.facts.has("flash-attn"):
        # its kernels need the GPU generation that brought bfloat16
        value, why = "flash_attention_2", "flash-attn is installed and the compute format is 16-bit"
    else:
        value, why = "sdpa", "PyTorch's fused attention runs everywhere"
    return Step((Derived("model.attention", value, why, reads),))
