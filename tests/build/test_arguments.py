"""What the plan says reaches `TrainingArguments`; what does not ends the run by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import TrainingArguments

from llmforge.build.arguments import ArgumentLost, training_arguments

COMPOSITIONS = [
    ("hardware=cpu",),
    ("hardware=cpu", "checkpoint=best", "deterministic=true", "trainer.neftune_alpha=5"),
    ("hardware=cpu", "evaluation=end", "checkpoint.every=null", "trainer.log_every=null"),
    ("hardware=cpu", "trainer.gradient_checkpointing=true", "precision=bfloat16"),
    ("hardware=cpu", "optimizer=adafactor_relative"),
    ("hardware=cpu", "schedule=polynomial", "optimizer=sgd"),
    ("hardware=cpu", "trainer.workers=2", "trainer.prefetch=4", "trainer.keep_workers=true"),
    (
        "hardware=cpu", "trainer.extra.ddp_timeout=77", "trainer.extra.debug=underflow_overflow",
        "trainer.extra.include_num_input_tokens_seen=true", "trainer.extra.log_level=error",
        "trainer.extra.logging_first_step=false", "trainer.extra.torch_empty_cache_steps=3",
    ),
]  # fmt: skip


@pytest.mark.parametrize("overrides", COMPOSITIONS, ids=" ".join)
def test_every_keyword_stands_in_the_arguments(overrides, compiled, tmp_path):
    keywords = compiled(*overrides).lowered["training_arguments"]

    made = training_arguments(keywords, tmp_path)

    assert made.output_dir == str(tmp_path)
    assert made.learning_rate == keywords.get("learning_rate", made.learning_rate)


def test_an_extra_reaches_the_object(compiled, tmp_path):
    plan = compiled(*COMPOSITIONS[-1])
    made = training_arguments(plan.lowered["training_arguments"], tmp_path)

    assert (made.ddp_timeout, made.log_level, made.logging_first_step) == (77, "error", False)
    assert [option.value for option in made.debug] == ["underflow_overflow"]
    assert made.include_num_input_tokens_seen == "all"


def test_a_value_that_the_library_replaces_is_told(tmp_path):
    with pytest.raises(ArgumentLost, match=r"`dataloader_pin_memory` was given as True and is Fal"):
        training_arguments({"use_cpu": True, "dataloader_pin_memory": True}, tmp_path)


def test_a_backend_that_would_compile_unasked_is_told(tmp_path):
    keywords = {"use_cpu": True, "torch_compile": False, "torch_compile_backend": "inductor"}

    with pytest.raises(ArgumentLost, match="`torch_compile` was given as False and is True"):
        training_arguments(keywords, tmp_path)


def test_an_argument_of_a_class_of_ones_own(tmp_path):
    @dataclass
    class Own(TrainingArguments):
        beta: float = dataclasses.field(default=0.1)

    made = training_arguments({"use_cpu": True, "learning_rate": 0.5}, tmp_path, Own, beta=0.3)

    assert isinstance(made, Own)
    assert (made.beta, made.learning_rate) == (0.3, 0.5)


def test_an_unknown_one_is_the_library_s_to_refuse(tmp_path):
    with pytest.raises(TypeError, match="nonsense"):
        training_arguments({"use_cpu": True, "nonsense": 1}, tmp_path)


@pytest.mark.parametrize(
    ("given", "attribute", "becomes"),
    [
        ({"report_to": "none"}, "report_to", ["wandb"]),
        ({"accelerator_config": {"dispatch_batches": False}}, "accelerator_config", None),
        ({"eval_strategy": "no"}, "eval_strategy", "steps"),
        ({"fsdp": True}, "fsdp", None),
    ],
    ids=str,
)
def test_each_way_of_comparing_can_fail(given, attribute, becomes, tmp_path):
    """The class changes what it was given, as a later version might."""

    @dataclass
    class Changing(TrainingArguments):
        def __post_init__(self) -> None:
            super().__post_init__()
            if attribute == "accelerator_config":
                self.accelerator_config.dispatch_batches = True
            else:
                setattr(self, attribute, becomes)

    with pytest.raises(ArgumentLost, match=attribute):
        training_arguments({"use_cpu": True, **given}, Path(tmp_path), Changing)
