"""GPTQ: weights rounded so that layers' outputs on calibration samples change least.

In: `Work` with calibration samples. Out: packed weights in the staged folder, and each layer's
error. The rounding is GPT-QModel's, driven block by block by optimum, which is the way transformers
itself goes; here stand the model's blocks, what is recorded, and a config that says which layout
the weights really have: version 1 (what AutoGPTQ wrote) for symmetric ones, version 2 for others.

Weights are packed by the plain PyTorch layer: others lay them out anew for their kernels at the
first use, and what is saved then could not be read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from llmforge.build.quantizing.work import NotQuantized, Work, Written, open_source, save
from llmforge.schema.quantize import QuantizeGptq

CONFIG = "quantize_config.json"


def gptq(work: Work) -> Written:
    """Quantize (builder of `quantize.kind=gptq`).

    Raises:
        NotQuantized: LF964 for a model without a list of blocks.
    """
    spec = work.spec
    assert isinstance(spec, QuantizeGptq)  # noqa: S101 - registered for this kind
    if spec.backend == "auto_gptq":
        from llmforge.build.quantizing.autogptq import auto_gptq

        return auto_gptq(work, spec)
    # its bars would fill the log line by line
    os.environ.setdefault("TQDM_DISABLE", "1")
    from gptqmodel.utils.model import hf_convert_gptq_v2_to_v1_format
    from optimum.gptq import GPTQQuantizer

    model = open_source(work)
    blocks = blocks_of(model)
    quantizer = GPTQQuantizer(
        bits=spec.bits,
        group_size=spec.group_size,
        desc_act=spec.activation_order,
        # a better order inside groups, at no cost for who reads them
        act_group_aware=not spec.activation_order and spec.group_size > 0,
        sym=spec.symmetric,
        damp_percent=spec.damping,
        dataset=batches(work.samples),
        model_seqlen=spec.calibration.length,
        block_name_to_quantize=blocks,
        batch_size=1,
        backend="gptq_torch",
    )
    weights = sum(layer.weight.numel() for layer in linear_layers(model, blocks).values())
    with recorded(model, work) as record:
        model = quantizer.quantize_model(model)
    model, converted = hf_convert_gptq_v2_to_v1_format(
        model, quantizer.sym, quantizer.bits, quantizer.quant_linear, quantizer.format,
        quantizer.meta,
    )  # fmt: skip
    if converted:
        quantizer.format = "gptq"
    quantizer.dataset = None  # the samples themselves do not belong into a config
    described = {**quantizer.to_dict(), "quant_method": "gptq"}
    described["checkpoint_format"] = described["format"]
    if spec.kernel != "auto":
        described["backend"] = spec.kernel
    model.config.quantization_config = described
    save(work, model)
    text = json.dumps(described, indent=2) + "\n"
    (work.staged / CONFIG).write_text(text, encoding="utf-8")
    return Written(len(record.seen), weights, record.errors, tuple(record.fell_back))


def batches(samples: list[list[int]]) -> list[dict[str, torch.Tensor]]:
    """Each sample a batch of its own, so that no layer ever sees padding."""
    found = [torch.tensor([ids], dtype=torch.long) for ids in samples]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in found]


def blocks_of(model: torch.nn.Module) -> str:
    """Name of the list of blocks that hold the model's linear layers: the largest list of modules.

    Raises:
        NotQuantized: there is none.
    """
    sizes = {
        name: sum(weight.numel() for weight in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and name and linear_layers(model, name)
    }
    if not sizes:
        raise NotQuantized(
            "LF964",
            f"{type(model).__name__} has no list of blocks with linear layers",
            "quantize.kind",
            "quantize=int8",
        )
    return str(max(sizes, key=lambda name: sizes[name]))


def linear_layers(model: torch.nn.Module, within: str) -> dict[str, Any]:
    """Full name -> layer, of those that are rounded; subclasses with a forward of their own, such
    as routers of experts, are left whole."""
    return {
        f"{within}.{name}": module
        for name, module in model.get_submodule(within).named_modules()
        if type(module) is torch.nn.Linear or isinstance(module, Conv1D)
    }


class _Record:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.errors: dict[str, float] = {}
        self.fell_back: list[str] = []


@contextmanager
def recorded(model: torch.nn.Module, work: Work) -> Iterator[_Record]:
    """While it lasts, what GPT-QModel tells of each layer is kept; optimum drops it."""
    import optimum.gptq.quantizer as driver

    names = {id(module): name for name, module in model.named_modules()}
    total = len(linear_layers(model, blocks_of(model)))
    record, plain = _Record(), driver.GPTQ

    class Told(plain):  # type: ignore[misc, valid-type]
        """Tells its error."""

        def __init__(self, module: Any, *given: Any, **named: Any) -> None:
            super().__init__(module, *given, **named)
            self.told = names.get(id(module), f"layer {len(record.seen)}")

        def fasterquant(self, *given: Any, **named: Any) -> Any:
            found = super().fasterquant(*given, **named)
            error = found[4]
            if isinstance(error, int | float):
                record.errors[self.told] = float(error)
            else:
                record.fell_back.append(self.told)
            record.seen.append(self.told)
            if len(record.seen) % max(1, total // 10) == 0 or len(record.seen) == total:
                work.say(f"rounded {len(record.seen)} of {total} layers")
            return found

    driver.GPTQ = Told
    try:
        yield record
    finally:
        driver.GPTQ = plain
