"""LF3: number formats, quantization, attention kernels."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.facts.quantized import quantized_base
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.model import HubModel, ModelSpec, ScratchModel
from llmforge.schema.optim import AdamW8bit
from llmforge.schema.precision import BitsAndBytes, NoQuantization


@rule("LF301", "4-bit with 8-bit")
def four_bit_with_eight_bit(context: Context) -> Iterator[Diagnostic]:
    """A base is held in 4 bits or in 8, never both.

    Settings of the other width would be read by nobody, and the run would not be what the config
    seems to say. Choose `quantization=4bit` or `quantization=8bit`.
    """
    found = context.spec.quantization
    if not isinstance(found, BitsAndBytes):
        return
    of_four = {"quant_type": found.quant_type, "double_quant": found.double_quant}
    of_eight = {
        "int8_threshold": found.int8_threshold,
        "int8_fp16_weight": found.int8_fp16_weight,
    }
    own, foreign = (of_four, of_eight) if found.bits == 4 else (of_eight, of_four)
    missing = [name for name, value in own.items() if value is None]
    stray = [name for name, value in foreign.items() if value is not None]
    if missing:
        yield Diagnostic(
            "LF301",
            f"{found.bits}-bit base without {_listed(missing)}",
            key="quantization.bits",
            notes=(f"{_listed(stray)} belong to the other width",) if stray else (),
            hint=f"quantization={found.bits}bit",
        )
    elif stray:
        yield Diagnostic(
            "LF301",
            f"{found.bits}-bit base with settings of the other width: {_listed(stray)}",
            key=f"quantization.{stray[0]}",
            hint=" ".join(f"quantization.{name}=null" for name in stray),
        )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


@rule("LF302", "quantizing a base that is quantized")
def base_already_quantized(context: Context) -> Iterator[Diagnostic]:
    """The checkpoint's config.json says that its weights are quantized already.

    Quantizing rounded weights again would throw away what is left of them, or fail at load. Take
    the checkpoint as it is, or choose its full-precision original.
    """
    own = quantized_base(context.facts.model_config)
    if own is not None and isinstance(context.spec.quantization, BitsAndBytes):
        yield Diagnostic(
            "LF302",
            f"the base is quantized already ({own.name})",
            key="quantization.kind",
            hint="quantization=gptq" if own.method == "gptq" else "quantization=none",
        )


@rule("LF303", "quantized base without adapter")
def quantized_without_adapter(context: Context) -> Iterator[Diagnostic]:
    """Quantized weights cannot be trained: they have no gradients.

    Train adapters over them (`lora=small`), or load the base unquantized.
    """
    own = quantized_base(context.facts.model_config) is not None
    chosen = not isinstance(context.spec.quantization, NoQuantization)
    if (own or chosen) and isinstance(context.spec.lora, NoAdapter):
        yield Diagnostic(
            "LF303",
            "a quantized base cannot be trained without an adapter",
            key="quantization.kind" if chosen else _source_key(context.spec.model),
            hint="lora=small",
        )


def _source_key(model: ModelSpec) -> str:
    return "model.id" if isinstance(model, HubModel) else "model.path"


@rule("LF304", "float16 on a CPU")
def float16_on_cpu(context: Context) -> Iterator[Diagnostic]:
    """float16 training needs loss scaling and kernels that only GPUs have.

    On a CPU use float32, or bfloat16 to save memory.
    """
    precision = context.spec.precision
    if hardware(context).device != "cpu":
        return
    for name in ("compute", "weights"):
        if getattr(precision, name) == "float16":
            yield Diagnostic(
                "LF304",
                f"float16 {name} on a CPU",
                key=f"precision.{name}",
                hint=f"precision.{name}=float32",
            )
            return  # weights follow the compute format; one finding says it


@rule("LF305", "bfloat16 on hardware without it")
def bfloat16_missing(context: Context) -> Iterator[Diagnostic]:
    """The GPU has no bfloat16 arithmetic (compute capability below 8.0).

    It would be emulated, several times slower than float16 with loss scaling.
    """
    machine = hardware(context)
    precision = context.spec.precision
    if machine.bf16:
        return
    for name in ("compute", "weights"):
        if getattr(precision, name) == "bfloat16":
            yield Diagnostic(
                "LF305",
                f"bfloat16 {name} on {machine.name}, which has none",
                key=f"precision.{name}",
                notes=(f"compute capability {machine.compute_capability}",),
                hint="precision.compute=float16" if name == "compute" else "precision.weights=auto",
            )
            return  # weights follow the compute format; one finding says it


@rule("LF306", "attention that cannot run here")
def attention_impossible(context: Context) -> Iterator[Diagnostic]:
    """FlashAttention-2 needs a CUDA GPU from compute capability 8.0 and a 16-bit compute format;
    PyTorch's flex attention trains on a CUDA GPU only. Some models have fewer implementations.

    PyTorch's own fused attention (`sdpa`) runs everywhere.
    """
    attention, machine = context.spec.model.attention, hardware(context)
    model, why = context.facts.model, None
    if model is not None and attention not in (*model.attentions, "auto"):
        yield Diagnostic(
            "LF306",
            f"{attention} attention, which transformers' {model.family} does not have",
            key="model.attention",
            notes=(f"it has {', '.join(model.attentions)}",),
            hint="model.attention=auto",
        )
        return
    if attention == "flex_attention":
        why = "without CUDA" if machine.device != "cuda" else None
    elif attention != "flash_attention_2":
        return
    elif machine.device != "cuda":
        why = "without CUDA"
    elif not machine.bf16:
        why = f"on {machine.name} (compute capability {machine.compute_capability})"
    elif context.spec.precision.compute == "float32":
        why = "in float32"
    if why:
        yield Diagnostic(
            "LF306",
            f"{attention.partition('_')[0]} attention {why}",
            key="model.attention",
            hint="model.attention=sdpa",
        )


@rule("LF307", "bitsandbytes is not installed")
def bitsandbytes_missing(context: Context) -> Iterator[Diagnostic]:
    """8-bit and 4-bit bases and 8-bit optimizers are bitsandbytes' work."""
    if context.facts.has("bitsandbytes"):
        return
    for key, found in (
        ("quantization.kind", isinstance(context.spec.quantization, BitsAndBytes)),
        ("optimizer.kind", isinstance(context.spec.optimizer, AdamW8bit)),
    ):
        if found:
            yield Diagnostic(
                "LF307",
                "bitsandbytes is needed but not installed",
                key=key,
                hint="pip install 'llmforge[quantize]'",
            )


@rule("LF308", "training weights held in float16")
def float16_masters(context: Context) -> Iterator[Diagnostic]:
    """Weights that are trained need more than float16: small updates round to nothing.

    Keep them in float32 and compute in float16 (`precision=float16` does), or freeze them under
    an adapter.
    """
    spec = context.spec
    frozen = not isinstance(spec.lora, NoAdapter) or isinstance(spec.quantization, BitsAndBytes)
    if hardware(context).device == "cpu":
        return  # LF304 refuses float16 there whoever is trained
    if spec.precision.adapter == "weights" and spec.precision.weights == "float16" and frozen:
        yield Diagnostic(
            "LF308",
            "the adapter is trained, but held in float16",
            key="precision.adapter",
            hint="precision.adapter=float32",
        )
    if spec.precision.weights == "float16" and not frozen:
        yield Diagnostic(
            "LF308",
            "all weights are trained, but held in float16",
            key="precision.weights",
            hint="precision.weights=float32",
        )


@rule("LF309", "packing at load what is not loaded")
def scratch_quantized(context: Context) -> Iterator[Diagnostic]:
    """`quantization.when=load` packs a checkpoint's weights while they are read; a model from
    scratch reads none, so the setting would be read by nobody.

    `quantization.when=after_build` packs random weights as well, to try a recipe out.
    """
    chosen = context.spec.quantization
    if (
        isinstance(context.spec.model, ScratchModel)
        and isinstance(chosen, BitsAndBytes)
        and chosen.when == "load"
    ):
        yield Diagnostic(
            "LF309",
            "a model from scratch has no weights to quantize at load",
            key="quantization.kind",
            notes=("quantization.when=after_build packs random weights too, under an adapter",),
            hint="quantization=none",
        )
