"""GPTQ by AutoGPTQ itself, for those who have it: `quantize.backend=auto_gptq`.

In: `Work` with calibration samples. Out: packed weights in the staged folder. AutoGPTQ has had no
release since 2024 and imports names that newer transformers do not have, so whether it works here
is found out by importing it; GPT-QModel is its maintained successor.
"""

from __future__ import annotations

import shutil

from llmforge.build.quantizing.gptq import batches
from llmforge.build.quantizing.work import (
    COMPANIONS,
    NotQuantized,
    Work,
    Written,
    device_of,
    dtype_for,
    packed_layers,
)
from llmforge.schema.quantize import QuantizeGptq


def auto_gptq(work: Work, spec: QuantizeGptq) -> Written:
    """Quantize.

    Raises:
        NotQuantized: LF963 where AutoGPTQ cannot be imported, with the reason.
    """
    from llmforge.build.model import dtype_of

    try:
        from auto_gptq import (  # type: ignore[import-not-found]  # no such package in most places
            AutoGPTQForCausalLM,
            BaseQuantizeConfig,
        )
    except Exception as error:  # whatever a library of another time raises while it is imported
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise NotQuantized(
            "LF963",
            f"AutoGPTQ does not work with what is installed here: {said}",
            "quantize.backend",
            "quantize.backend=gptqmodel",
        ) from error
    config = BaseQuantizeConfig(
        bits=spec.bits,
        group_size=spec.group_size,
        desc_act=spec.activation_order,
        sym=spec.symmetric,
        damp_percent=spec.damping,
    )
    dtype = dtype_of(dtype_for(spec, work.source) or "float16")
    model = AutoGPTQForCausalLM.from_pretrained(str(work.source), config, torch_dtype=dtype)
    model.quantize(batches(work.samples), cache_examples_on_gpu=device_of(work.plan) != "cpu")
    model.save_quantized(str(work.staged), use_safetensors=True)
    work.tokenizer.save_pretrained(work.staged)
    for name in COMPANIONS:
        if (work.source / name).is_file():
            shutil.copyfile(work.source / name, work.staged / name)
    return Written(packed_layers(work.staged, ("qweight",)), 0)
