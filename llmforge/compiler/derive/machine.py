"""What follows from the machine: hardware, world size, precision, attention, kernels.

In: spec and facts. Out: solved values with reasons. Hardware is probed here when it is `auto`;
everything else is computed from what the plan then holds.
"""

from __future__ import annotations

from llmforge.compiler.context import Context, Derived, Step
from llmforge.compiler.facts.families.base import ATTENTIONS
from llmforge.compiler.facts.hardware import probe_hardware
from llmforge.compiler.facts.isolation import isolates
from llmforge.compiler.facts.versions import installed_versions
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.optim import AdamW
from llmforge.schema.precision import BitsAndBytes
from llmforge.schema.run import AutoHardware, Device

_CHECKPOINTING_FROM = 3_000_000_000
"""Parameters above which activations, not weights, fill a device first."""


def probe_machine(context: Context) -> Step:
    """`hardware=auto` becomes this machine; installed versions become facts."""
    facts = {"versions": installed_versions()}
    if not isinstance(context.spec.hardware, AutoHardware):
        return Step(facts=facts)
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


def derive_processes(context: Context) -> Step:
    """World size: one process, or one per device."""
    launch = context.spec.launch
    if launch.processes != "auto":
        return Step()
    if launch.kind == "local":
        return Step((Derived("launch.processes", 1, "a local launch is one process"),))
    return Step(
        (
            Derived(
                "launch.processes",
                hardware(context).count,
                "one process per device",
                ("hardware.count",),
            ),
        )
    )


def derive_precision(context: Context) -> Step:
    """Compute format from the hardware, weight format from who is trained."""
    spec, found = context.spec, []
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
        value = compute if frozen else "float32"
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
    return Step(tuple(found))


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


def derive_kernels(context: Context) -> Step:
    """Fused optimizer and gradient checkpointing."""
    spec, found = context.spec, []
    if isinstance(spec.optimizer, AdamW) and spec.optimizer.fused == "auto":
        found.append(
            Derived(
                "optimizer.fused",
                True,
                "every supported torch has the fused kernel, on CPU and GPU",
                ("hardware.device",),
            )
        )
    if spec.trainer.gradient_checkpointing == "auto":
        parameters = context.facts.model.parameters if context.facts.model else 0
        large = parameters > _CHECKPOINTING_FROM and hardware(context).device == "cuda"
        why = (
            f"{parameters:,} parameters: activations would fill the device first"
            if large
            else "activations of a model this size fit without recomputing"
            if parameters
            else "the model's size is not known; turn it on if memory runs out"
        )
        found.append(
            Derived(
                "trainer.gradient_checkpointing",
                large,
                why,
                ("hardware.device", "facts.model.parameters"),
            )
        )
    return Step(tuple(found))
