"""What config.json says of a quantized checkpoint, in the spellings that are about."""

from __future__ import annotations

import pytest

from llmforge.compiler.facts.quantized import NO_GRADIENTS, QuantizedBase, quantized_base


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4}, QuantizedBase("gptq", 4)),
        ({"quant_method": "awq", "bits": 4}, QuantizedBase("awq", 4)),
        ({"quant_method": "awq", "w_bit": 4}, QuantizedBase("awq", 4)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, QuantizedBase("bitsandbytes", 4)),
        ({"load_in_8bit": True}, QuantizedBase("bitsandbytes", 8)),
        ({"quant_method": "MXFP4"}, QuantizedBase("mxfp4", None)),
        ({"bits": "four"}, QuantizedBase("unknown", None)),
        ("yes", QuantizedBase("unknown", None)),
        ({}, None),
        (None, None),
    ],
)
def test_methods(own, expected):
    assert quantized_base({"quantization_config": own}) == expected


def test_plain_weights():
    assert quantized_base({"model_type": "llama"}) is None


def test_a_part_of_a_larger_model():
    config = {"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 8}}}
    found = quantized_base(config)
    assert found is not None
    assert found.name == "gptq, 8 bits"


def test_methods_without_gradients_are_those_of_the_library():
    """As transformers' own quantizers say of themselves."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    for method in NO_GRADIENTS:
        quantizer = AUTO_QUANTIZER_MAPPING[method]
        says = quantizer.is_trainable
        assert says.fget(object.__new__(quantizer)) is False, method
    for method in ("gptq", "bitsandbytes_4bit", "bitsandbytes_8bit"):
        quantizer = AUTO_QUANTIZER_MAPPING[method]
        assert quantizer.is_trainable.fget(object.__new__(quantizer)) is True, method
