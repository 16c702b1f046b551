"""LF96: a model that cannot be quantized as asked, found before there is a model."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.quantize import (
    NoQuantize,
    QuantizeBitsAndBytes,
    QuantizeCompressed,
    QuantizeGptq,
)

_PACKAGES = {
    "gptq": ("gptqmodel", "optimum"),
    "bitsandbytes": ("bitsandbytes",),
    "compressed_tensors": ("compressed-tensors",),
}
"""Kind -> what it needs installed, and transformers to read the result."""
_GROUPS = (128, 64, 32)
_PACKED = 32
_GPU_KERNELS = ("exllama_v2", "marlin", "triton")


@rule("LF962", "group size that does not divide a layer")
def group_does_not_divide(context: Context) -> Iterator[Diagnostic]:
    """Inputs of a layer share a scale in groups; where the last group would be short, most kernels
    do not read the result, and those that pad it give other numbers. So the group size must divide
    the inputs of each layer that is packed; the output head is not. GPTQ without groups packs
    rows by 32 numbers.
    """
    chosen, model = context.spec.quantize, context.facts.model
    if not isinstance(chosen, QuantizeGptq | QuantizeCompressed) or model is None:
        return
    group = chosen.group_size
    if group is None:
        return
    if group == -1:
        group = _PACKED  # a whole row is packed in words of so many numbers
    layers = [one for one in model.linear_modules if one.role != "head"]
    odd = next((one for one in layers if one.in_features % group), None)
    if odd is None:
        return
    fitting = [g for g in _GROUPS if g < group and all(one.in_features % g == 0 for one in layers)]
    hint = f"quantize.group_size={fitting[0]}" if fitting else "quantize=int8"
    yield Diagnostic(
        "LF962",
        f"groups of {group} do not divide the {odd.in_features} inputs of {odd.name}",
        key="quantize.group_size",
        hint=hint,
    )


@rule("LF963", "package of a quantization is not installed")
def package_missing(context: Context) -> Iterator[Diagnostic]:
    """GPTQ is done by GPT-QModel, driven by optimum; the other kinds by the packages they are named
    after. transformers needs the same ones to read what is made.

    `quantize.backend=auto_gptq` needs AutoGPTQ, which has had no release since 2024 and does not
    run with every version of transformers; where it is installed and fails, the reason is told when
    it is imported. `gptqmodel` is its maintained successor.
    """
    chosen = context.spec.quantize
    if isinstance(chosen, NoQuantize):
        return
    needed = list(_PACKAGES.get(chosen.kind, ()))
    own = isinstance(chosen, QuantizeGptq) and chosen.backend == "auto_gptq"
    if own and not context.facts.has("auto-gptq"):
        yield Diagnostic(
            "LF963",
            "quantize.backend=auto_gptq needs auto-gptq, not installed here",
            key="quantize.backend",
            notes=("it has had no release since 2024; gptqmodel is its successor",),
            hint="quantize.backend=gptqmodel",
        )
    # what AutoGPTQ makes is read by transformers, which takes the successor for it
    missing = [name for name in needed if not context.facts.has(name)]
    if missing:
        yield Diagnostic(
            "LF963",
            f"quantizing by {chosen.kind} needs {' and '.join(missing)}, not installed here",
            key="quantize.kind",
            hint=f"pip install {' '.join(missing)}",
        )


@rule("LF964", "model whose weights would stay as they are")
def leaves_most_weights(context: Context) -> Iterator[Diagnostic]:
    """What is packed are linear layers. transformers keeps the experts of a mixture stacked in
    tensors of their own, which no way of quantizing here looks at: most of the weights would stay
    as they are, and the result would say that it is quantized.
    """
    model = context.facts.model
    if isinstance(context.spec.quantize, NoQuantize) or model is None or not model.experts:
        return
    yield Diagnostic(
        "LF964",
        f"{model.architecture} has {model.experts} experts a layer in stacked weights, which are "
        "not packed",
        key="quantize.kind",
        hint="quantize=none",
    )


@rule("LF965", "no calibration rows")
def no_calibration(context: Context) -> Iterator[Diagnostic]:
    """GPTQ rounds by what the layers see on calibration samples. `source=texts` takes them from
    `quantize.calibration.texts`, `source=data` from the rows that the overrides in
    `quantize.calibration.data` choose; either must be given. A model that no run here has trained
    has no rows of its own.
    """
    chosen = context.spec.quantize
    if not isinstance(chosen, QuantizeGptq):
        return
    calibration = chosen.calibration
    given = {"run": True, "data": calibration.data, "texts": calibration.texts}
    if not given[calibration.source]:
        key = f"quantize.calibration.{calibration.source}"
        yield Diagnostic(
            "LF965",
            f"calibration by {calibration.source}, and `{key}` is empty",
            key=key,
            hint="quantize.calibration.source=run",
        )


@rule("LF967", "kernel that needs a GPU")
def kernel_needs_gpu(context: Context) -> Iterator[Diagnostic]:
    """`quantize.kernel` is written into the result and taken by whoever loads it; what was made is
    also read back and measured on this machine. ExLlama, Marlin and Triton run on GPUs alone, and
    so does AutoGPTQ. `torch` runs everywhere; `auto` leaves the choice to the machine that loads
    the folder, which may compile a kernel first, or take one that refuses narrow layers.
    """
    chosen = context.spec.quantize
    if not isinstance(chosen, QuantizeGptq) or hardware(context).device == "cuda":
        return
    if chosen.kernel in _GPU_KERNELS:
        yield Diagnostic(
            "LF967",
            f"the {chosen.kernel} kernel needs a GPU, and the plan is for a CPU",
            key="quantize.kernel",
            hint="quantize.kernel=torch",
        )
    if chosen.backend == "auto_gptq":
        yield Diagnostic(
            "LF967",
            "AutoGPTQ needs a GPU, and the plan is for a CPU",
            key="quantize.backend",
            hint="quantize.backend=gptqmodel",
        )


@rule("LF974", "settings of another width")
def settings_of_another_width(context: Context) -> Iterator[Diagnostic]:
    """bitsandbytes has two formats with settings of their own: `quant_type` and `double_quant` of
    the one with 4 bits, `int8_threshold` of the one with 8. The options `bnb_4bit` and `bnb_8bit`
    have the right ones.
    """
    chosen = context.spec.quantize
    if not isinstance(chosen, QuantizeBitsAndBytes):
        return
    four = (chosen.quant_type, chosen.double_quant)
    fits = None not in four if chosen.bits == 4 else chosen.int8_threshold is not None
    if not fits:
        yield Diagnostic(
            "LF974",
            f"bitsandbytes with {chosen.bits} bits lacks its settings",
            key="quantize.bits",
            hint=f"quantize=bnb_{chosen.bits}bit",
        )
