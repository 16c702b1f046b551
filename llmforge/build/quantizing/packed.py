"""Rounding to the nearest, without calibration: bitsandbytes, and integers of compressed-tensors.

In: `Work`. Out: packed weights in the staged folder. bitsandbytes packs while the model is loaded
and is saved as it lies. compressed-tensors is an open layout of plain integer tensors and scales:
the same file loads on CPU and GPU and in vLLM. transformers unpacks it at the first use, so there
it saves disk and not memory.

torchao was looked at beside it: its 4-bit layouts are made for one kind of device, so that what a
CPU has packed no GPU reads.
"""

from __future__ import annotations

from typing import Any

import torch

from llmforge.build.quantizing.work import Work, Written, device_of, dtype_for, open_source, save
from llmforge.schema.quantize import QuantizeBitsAndBytes, QuantizeCompressed


def bitsandbytes(work: Work) -> Written:
    """Pack while loading, and save (builder of `quantize.kind=bitsandbytes`)."""
    from transformers import BitsAndBytesConfig

    spec = work.spec
    assert isinstance(spec, QuantizeBitsAndBytes)  # noqa: S101 - registered for this kind
    if spec.bits == 4:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=spec.quant_type,
            bnb_4bit_use_double_quant=spec.double_quant,
            bnb_4bit_compute_dtype=dtype_for(spec, work.source) or _own_dtype(work),
        )
    else:
        how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=spec.int8_threshold)
    model = open_source(work, quantization_config=how, device_map={"": device_of(work.plan)})
    import bitsandbytes as library

    packed = [
        module
        for module in model.modules()
        if isinstance(module, library.nn.Linear4bit | library.nn.Linear8bitLt)
    ]
    save(work, model)
    return Written(len(packed), sum(one.in_features * one.out_features for one in packed))


def _own_dtype(work: Work) -> str:
    import json

    config = json.loads((work.source / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def compressed_tensors(work: Work) -> Written:
    """Round to the nearest and save (builder of `quantize.kind=compressed_tensors`)."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    spec = work.spec
    assert isinstance(spec, QuantizeCompressed)  # noqa: S101 - registered for this kind
    model = open_source(work)
    how = QuantizationArgs(
        num_bits=spec.bits,
        type="int",
        symmetric=True,  # zero points are packed in a shape that transformers does not expect
        strategy="channel" if spec.group_size is None else "group",
        group_size=spec.group_size,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=how)
    # the head reads what all blocks have added up, and is often the embedding itself
    head = [name for name, module in model.named_modules() if module is _head(model)]
    config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=head)
    apply_quantization_config(model, config, show_progress=False)
    packed = []
    with torch.no_grad():
        for module in model.modules():
            if getattr(getattr(module, "quantization_scheme", None), "weights", None) is not None:
                _scale(module, how)
                module.quantization_status = QuantizationStatus.FROZEN
                packed.append(module)
    weights = sum(module.in_features * module.out_features for module in packed)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    save(work, model)
    compressor.update_config(str(work.staged))
    return Written(len(packed), weights)


def _head(model: Any) -> Any:
    return model.get_output_embeddings()


def _scale(module: Any, how: Any) -> None:
    """Scales and zero points of a layer by the ranges of its weights."""
    from compressed_tensors.quantization.utils import calculate_qparams

    weight = module.weight
    width = how.group_size or weight.shape[1]
    groups = weight.reshape(weight.shape[0], -1, width)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), how)
    module.weight_scale.copy_(scale)
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.copy_(zero)
