"""What a failed build says."""

from __future__ import annotations

import pytest
import torch

from llmforge.build.errors import BuildError, DataRefused, NonFiniteLoss, building
from llmforge.origins import Origin, Origins
from llmforge.plan import Plan


def plan_with(origins: dict[str, list[Origin]]) -> Plan:
    return Plan({}, {}, {}, {}, Origins(origins), {})


LORA = plan_with(
    {
        "lora.kind": [
            Origin("file", "conf/lora/none.yaml", "none", 3, "chosen by lora=none"),
            Origin("file", "conf/lora/small.yaml", "lora", 4, "chosen by lora=small"),
        ]
    }
)


def test_the_section_its_origin_and_the_original_error():
    with pytest.raises(BuildError) as caught, building("lora", LORA):
        raise ValueError("Target modules ['q'] not found")
    assert str(caught.value) == (
        "while building `lora` (conf/lora/small.yaml:4 chosen by lora=small): "
        "ValueError: Target modules ['q'] not found"
    )
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.__cause__.__traceback__ is not None
    assert caught.value.section == "lora"


def test_a_section_without_a_kind_is_placed_by_its_first_key():
    plan = plan_with({"tokenizer.source": [Origin("override", "tokenizer.source=x", "x")]})
    told = r"`tokenizer` \(command line\): OSError: gone"
    with pytest.raises(BuildError, match=told), building("tokenizer", plan):
        raise OSError("gone")


def test_a_section_the_plan_knows_nothing_of_is_named_alone():
    told = r"^while building `model`: KeyError: 'x'$"
    with pytest.raises(BuildError, match=told), building("model", plan_with({})):
        raise KeyError("x")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_stays_reachable(error):
    with pytest.raises(BuildError) as caught, building("model", LORA):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), DataRefused("x:1"), NonFiniteLoss(3, "loss is nan")]
)
def test_what_speaks_for_itself_passes_through(error):
    with pytest.raises(type(error)) as caught, building("model", LORA):
        raise error
    assert caught.value is error


def test_errors_are_wrapped_once():
    told = "while building `lora`"
    with (
        pytest.raises(BuildError, match=told) as caught,
        building("model", LORA),
        building("lora", LORA),
    ):
        raise ValueError("x")
    assert "model" not in str(caught.value)
