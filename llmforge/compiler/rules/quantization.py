"""LF320-LF324: bases that are quantized already, parts held in float32, models over devices."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.facts.quantized import (
    NO_GRADIENTS,
    PACKAGES_OF_METHOD,
    quantized_base,
)
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.adapter import Ia3, Lora, NoAdapter, PrefixTuning
from llmforge.schema.distributed import Fsdp2, Zero
from llmforge.schema.model import CheckpointModel, HubModel, ModelSpec
from llmforge.schema.precision import BitsAndBytes, Gptq, NoQuantization


@rule("LF320", "GPTQ in the settings or in the base alone")
def gptq_disagrees(context: Context) -> Iterator[Diagnostic]:
    """`quantization=gptq` says with which kernels a GPTQ checkpoint is trained; it does not
    quantize. So it needs a base that is one, and such a base needs it: the kernels that would be
    taken otherwise are the fastest for generating, and many of those pass no gradients on.

    A plain base is packed at load by `quantization=4bit`.
    """
    base, chosen = quantized_base(context.facts.model_config), context.spec.quantization
    if not context.facts.model_config:
        return  # a hub model that is not here: the worker looks again
    if isinstance(chosen, Gptq) and base is None:
        yield Diagnostic(
            "LF320",
            "the base is not quantized, so there is no GPTQ checkpoint to read",
            key="quantization.kind",
            notes=("quantization=4bit packs a plain base while it is loaded",),
            hint="quantization=none",
        )
    elif isinstance(chosen, Gptq) and base is not None and base.method != "gptq":
        yield Diagnostic(
            "LF320",
            f"the base is quantized, but not by GPTQ ({base.name})",
            key="quantization.kind",
            hint="quantization=none",
        )
    elif isinstance(chosen, NoQuantization) and base is not None and base.method == "gptq":
        yield Diagnostic(
            "LF320",
            f"the base is a GPTQ checkpoint ({base.name}), and its kernels are not chosen",
            key=_source_key(context.spec.model),
            hint="quantization=gptq",
        )


def _source_key(model: ModelSpec) -> str:
    return "model.id" if isinstance(model, HubModel) else "model.path"


@rule("LF321", "package of a quantized base is not installed")
def package_missing(context: Context) -> Iterator[Diagnostic]:
    """The checkpoint's weights are packed, and the package that unpacks them is not here.

    GPTQ and AWQ are read by GPT-QModel (with optimum for GPTQ), 8-bit and 4-bit checkpoints of
    bitsandbytes by that.
    """
    base, chosen = quantized_base(context.facts.model_config), context.spec.quantization
    method = "gptq" if isinstance(chosen, Gptq) else base.method if base else ""
    missing = [name for name in PACKAGES_OF_METHOD.get(method, ()) if not context.facts.has(name)]
    if missing:
        yield Diagnostic(
            "LF321",
            f"a base quantized by {method} needs {' and '.join(missing)}, not installed here",
            key="quantization.kind"
            if isinstance(chosen, Gptq)
            else _source_key(context.spec.model),
            hint=f"pip install {' '.join(missing)}",
        )


@rule("LF322", "training that a quantized base does not allow")
def no_gradients(context: Context) -> Iterator[Diagnostic]:
    """Layers of some quantizations are made for generating: transformers does not let them pass
    gradients on, so no adapter before them could learn. Over GPTQ layers, PEFT has no DoRA, IA3 or
    prefix tuning.

    Train over the full-precision original, packed at load with `quantization=4bit` if memory is
    short. Methods that train: bitsandbytes, GPTQ, AWQ.
    """
    lora = context.spec.lora
    gptq = isinstance(context.spec.quantization, Gptq)
    if gptq and (isinstance(lora, Ia3 | PrefixTuning) or getattr(lora, "dora", False)):
        yield Diagnostic(
            "LF322",
            f"{'dora' if getattr(lora, 'dora', False) else lora.kind} over a GPTQ base",
            key="lora.kind",
            hint="lora=small",
        )
    base = quantized_base(context.facts.model_config)
    if base is not None and base.method in NO_GRADIENTS:
        key = _source_key(context.spec.model)
        yield Diagnostic(
            "LF322",
            f"a base quantized by {base.name} cannot be trained, not under an adapter either",
            key=key,
            notes=(f"give the full-precision original as {key}",),
        )


@rule("LF323", "float32 parts that would not stay so")
def parts_lose_their_format(context: Context) -> Iterator[Diagnostic]:
    """Norms or embeddings in float32 beside 16-bit weights need 16-bit arithmetic (autocast), which
    lets formats be mixed; and DeepSpeed casts the whole model to its compute format.

    `precision.norms=weights` holds them as all other weights.
    """
    precision = context.spec.precision
    if precision.weights == "float32":
        return
    zero = isinstance(context.spec.deepspeed, Zero) and precision.compute != "float32"
    why = (
        f"DeepSpeed casts the whole model to {precision.compute}"
        if zero
        else f"in float32 arithmetic over {precision.weights} weights"
    )
    for name in ("norms", "embeddings"):
        if getattr(precision, name) == "float32" and (zero or precision.compute == "float32"):
            yield Diagnostic(
                "LF323",
                f"float32 {name} cannot be held: {why}",
                key=f"precision.{name}",
                hint=f"precision.{name}=weights",
            )


@rule("LF324", "model over devices that cannot train so")
def placing_impossible(context: Context) -> Iterator[Diagnostic]:
    """`model.device_map` spreads one model over the devices of one process. Several processes, ZeRO
    and FSDP place it themselves. What lies on the CPU of a GPU run, or on disk, is read anew in
    every pass and has no place for gradients: it must be frozen under LoRA, and unquantized.

    Without `model.device_map` the trainer puts the model on its device, or shards it.
    """
    spec, model = context.spec, context.spec.model
    if not isinstance(model, CheckpointModel):
        return
    if model.device_map is None:
        if model.offload_folder is not None:
            yield _refused(
                "an offload folder without a device map would be read by nobody",
                "model.offload_folder",
                "model.offload_folder=null",
            )
        return
    processes = spec.launch.processes
    shards = isinstance(spec.deepspeed, Zero) or isinstance(spec.fsdp, Fsdp2)
    if shards or processes != 1:
        who = "ZeRO" if isinstance(spec.deepspeed, Zero) else "FSDP" if shards else None
        yield _refused(
            f"a device map under {who}" if who else f"a device map in {processes} processes",
            "model.device_map",
            "model.device_map=null",
        )
        return
    yield from _offload_faults(context, model)


def _offload_faults(context: Context, model: CheckpointModel) -> Iterator[Diagnostic]:
    """What must hold for the parts that a mapping names `cpu` or `disk`."""
    spec = context.spec
    placed = model.device_map if isinstance(model.device_map, dict) else {}
    away = {"disk"} | ({"cpu"} if hardware(context).device == "cuda" else set())
    gone = [name for name, place in placed.items() if place in away]
    if not gone:
        return
    key = f"model.device_map.{gone[0]}"
    taken = " and ".join(sorted({str(placed[name]) for name in gone}))
    if isinstance(spec.lora, NoAdapter):
        yield _refused(f"trained weights on {taken}", key, "lora=small")
    elif not isinstance(spec.lora, Lora) or spec.lora.init != "default" or spec.lora.dora:
        yield _refused(
            f"an adapter that looks at weights on {taken} when it starts, or cannot lie over them",
            key,
            "lora=small",
        )
    if not isinstance(spec.quantization, NoQuantization) or quantized_base(
        context.facts.model_config
    ):
        what = "a bitsandbytes" if isinstance(spec.quantization, BitsAndBytes) else "a quantized"
        yield _refused(f"parts of {what} base on {taken}", key, "quantization=none")


def _refused(message: str, key: str, hint: str) -> Diagnostic:
    return Diagnostic("LF324", message, key=key, hint=hint)
