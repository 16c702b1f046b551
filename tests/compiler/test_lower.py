"""Lowered keywords, bound to the installed libraries: a renamed argument is found here first."""

from __future__ import annotations

import inspect

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    TrainingArguments,
    get_scheduler,
)
from transformers.optimization import Adafactor

TINY = ("model=folder", "model.path=tiny")
EIGHT = ("hardware=h200", "hardware.count=8", "launch=torchrun")

COMPOSITIONS = [
    ("hardware=cpu",),
    ("hardware=cpu", "checkpoint=best"),
    ("hardware=cpu", "evaluation=end", "checkpoint.every=null", "trainer.log_every=null"),
    ("hardware=cpu", "trainer.group_by_length=false", "trainer.gradient_checkpointing=true"),
    ("hardware=cpu", "precision=bfloat16", "deterministic=true", "trainer.neftune_alpha=5"),
    ("hardware=cpu", "optimizer=sgd", "schedule=linear"),
    ("hardware=cpu", "optimizer=adafactor", "schedule=constant"),
    ("hardware=cpu", "optimizer=adafactor_relative"),
    ("hardware=cpu", "optimizer=adamw_8bit", "optimizer.paged=false"),
    ("hardware=h200", "optimizer=adamw_8bit"),
    ("hardware=t4", "precision=float16", "optimizer.fused=false"),
    (*EIGHT, "deepspeed=stage2"),
    (*EIGHT, "fsdp=full_shard"),
]


@pytest.mark.parametrize("overrides", COMPOSITIONS, ids=" ".join)
def test_training_arguments_are_known_to_transformers(overrides, compiled):
    lowered = compiled(*overrides).lowered["training_arguments"]

    inspect.signature(TrainingArguments).bind(output_dir="here", **lowered)


@pytest.mark.parametrize("overrides", COMPOSITIONS[:8], ids=" ".join)
def test_training_arguments_are_accepted_on_a_cpu(overrides, compiled, tmp_path):
    lowered = compiled(*overrides).lowered["training_arguments"]

    made = TrainingArguments(output_dir=str(tmp_path), **lowered)

    assert made.max_steps == lowered["max_steps"]
    assert made.report_to == []  # nothing switches itself on
    assert made.device.type == "cpu"


def test_training_arguments_that_decide_a_run(compiled):
    lowered = compiled(
        "hardware=cpu", "trainer.epochs=null", "trainer.max_steps=400", "trainer.global_batch=64",
        "trainer.micro_batch=16", "optimizer.lr=2e-3", "optimizer.betas=[0.9,0.98]", "seed=7",
        "evaluation.every=25%", "checkpoint.every=50%", "schedule=cosine", "schedule.floor=0.2",
    ).lowered["training_arguments"]  # fmt: skip

    expected = {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "gradient_accumulation_steps": 4,
        "max_steps": 400,
        "learning_rate": 2e-3,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-8,
        "optim": "adamw_torch_fused",
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.2},
        "warmup_steps": 12,
        "bf16": False,
        "fp16": False,
        "use_cpu": True,
        "eval_strategy": "steps",
        "eval_steps": 100,
        "save_strategy": "steps",
        "save_steps": 200,
        "save_total_limit": 2,
        "seed": 7,
    }
    assert {name: lowered[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("precision=bfloat16",), {"bf16": True, "fp16": False}),
        (("optimizer.clip_norm=null",), {"max_grad_norm": 0.0}),
        (("trainer.group_by_length=true",), {"train_sampling_strategy": "group_by_length"}),
        (("trainer.group_by_length=false",), {"train_sampling_strategy": "random"}),
        (
            ("trainer.group_by_length=false", "data.shuffle=false"),
            {"train_sampling_strategy": "sequential"},
        ),
        (("evaluation.every=null",), {"eval_strategy": "no"}),
        (("data.eval_fraction=0", "evaluation=end"), {"eval_strategy": "no"}),
        (("checkpoint.every=null",), {"save_strategy": "no"}),
        (("trainer.log_every=null",), {"logging_strategy": "no"}),
        (("deterministic=true",), {"full_determinism": True}),
        (
            ("checkpoint=best",),
            {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
             "greater_is_better": False},
        ),
        (
            ("trainer.gradient_checkpointing=true",),
            {"gradient_checkpointing": True,
             "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        ),
    ],
)  # fmt: skip
def test_training_arguments_follow(overrides, expected, compiled):
    lowered = compiled("hardware=cpu", *overrides).lowered["training_arguments"]

    assert {name: lowered[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "optim"),
    [
        (("optimizer=adamw",), "adamw_torch_fused"),
        (("optimizer=adamw", "optimizer.fused=false"), "adamw_torch"),
        (("optimizer=adamw_8bit",), "paged_adamw_8bit"),
        (("optimizer=adamw_8bit", "optimizer.paged=false"), "adamw_bnb_8bit"),
    ],
)
def test_optimizers_that_transformers_builds(overrides, optim, compiled):
    plan = compiled("hardware=h200", *overrides)

    assert plan.lowered["training_arguments"]["optim"] == optim
    assert plan.lowered["optimizer"] is None


@pytest.mark.parametrize(
    ("option", "build"),
    [("sgd", torch.optim.SGD), ("adafactor", Adafactor), ("adafactor_relative", Adafactor)],
)
def test_optimizers_that_llmforge_builds(option, build, compiled):
    plan = compiled("hardware=cpu", f"optimizer={option}")
    parameter = torch.nn.Parameter(torch.ones(4, 4))

    optimizer = build([parameter], **plan.lowered["optimizer"])
    parameter.sum().backward()
    optimizer.step()

    assert "optim" not in plan.lowered["training_arguments"]
    assert not torch.equal(parameter, torch.ones(4, 4))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # the rate after 0, 5, 10 (the end of warm-up), 60 and 110 (the end) steps
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.55, 0.1]),
    ],
)
def test_schedules_build_and_run_their_course(schedule, rates, compiled):
    lowered = compiled("hardware=cpu", f"schedule={schedule}", "schedule.warmup=10").lowered[
        "training_arguments"
    ]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)

    scheduler = get_scheduler(
        lowered["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=lowered["warmup_steps"],
        num_training_steps=110,
        scheduler_specific_kwargs=lowered.get("lr_scheduler_kwargs"),
    )

    course = []
    for _ in range(111):
        course.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [course[step] for step in (0, 5, 10, 60, 110)] == pytest.approx(rates, abs=1e-3)


@pytest.mark.parametrize("lora", ["small", "medium", "large"])
def test_lora_config_is_known_to_peft(lora, compiled):
    lowered = compiled(*TINY, f"lora={lora}").lowered["lora_config"]

    made = LoraConfig(**lowered)

    assert (made.r, made.lora_alpha) == {
        "small": (8, 16), "medium": (32, 64), "large": (128, 128)
    }[lora]  # fmt: skip
    assert made.use_rslora is (lora == "large")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("quantization=4bit",),
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
             "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"},
        ),
        (
            ("quantization=8bit",),
            {"load_in_8bit": True, "llm_int8_threshold": 6.0, "llm_int8_has_fp16_weight": False},
        ),
    ],
)  # fmt: skip
def test_quantization_config_is_known_to_transformers(overrides, expected, compiled):
    lowered = compiled("hardware=h200", *TINY, "lora=small", *overrides).lowered

    made = BitsAndBytesConfig(**lowered["quantization_config"])

    assert lowered["quantization_config"] == expected
    assert made.load_in_4bit is ("load_in_4bit" in expected)


def test_what_is_off_is_lowered_to_null(compiled):
    lowered = compiled("hardware=cpu").lowered

    assert [lowered[p] for p in ("optimizer", "lora_config", "quantization_config")] == [None] * 3
    assert not {"deepspeed", "fsdp", "fsdp_config"} & set(lowered["training_arguments"])


def test_deepspeed_gets_every_number_of_the_plan(compiled):
    """Nothing is `auto` and nothing is written twice: the JSON follows from the plan."""
    lowered = compiled(
        *EIGHT, "deepspeed=stage3", "deepspeed.offload_optimizer=true",
        "deepspeed.offload_parameters=true", "trainer.global_batch=64", "trainer.micro_batch=4",
    ).lowered["training_arguments"]["deepspeed"]  # fmt: skip

    assert lowered == {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": 128 * 128,  # the square of the model's width
            "offload_optimizer": {"device": "cpu", "pin_memory": False},
            "offload_param": {"device": "cpu", "pin_memory": False},
            "sub_group_size": 1_000_000_000,
            "stage3_prefetch_bucket_size": 14_745,
            "stage3_param_persistence_threshold": 1_280,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


@pytest.mark.parametrize("offload", [False, True])
def test_fsdp_is_known_to_accelerate(offload, compiled, tmp_path):
    override = f"fsdp.offload={str(offload).lower()}"
    lowered = compiled(*EIGHT, "fsdp=full_shard", override).lowered["training_arguments"]

    made = TrainingArguments(str(tmp_path), fsdp=True, fsdp_config=lowered["fsdp_config"])

    assert made.fsdp_plugin_args["fsdp_version"] == 2
    assert made.fsdp_plugin_args["reshard_after_forward"] is True
    assert made.fsdp_plugin_args.get("cpu_offload", False) is offload


def test_fsdp_shards_and_gathers(compiled):
    lowered = compiled(*EIGHT, "fsdp=full_shard").lowered["training_arguments"]

    assert lowered["fsdp"] is True
    assert lowered["fsdp_config"] == {
        "version": 2,
        "reshard_after_forward": True,
        "cpu_offload": False,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "activation_checkpointing": False,
        "state_dict_type": "FULL_STATE_DICT",
    }


def test_under_fsdp_its_own_checkpointing_is_used(compiled):
    overrides = ("fsdp=full_shard", "trainer.gradient_checkpointing=true")
    lowered = compiled(*EIGHT, *overrides).lowered["training_arguments"]

    assert lowered["fsdp_config"]["activation_checkpointing"] is True
    assert lowered["gradient_checkpointing"] is False


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_first_stages_have_the_published_values(stage, compiled):
    """Row XP1 and XP2 of the presets that users come from."""
    overrides = (*EIGHT, f"deepspeed={stage}_offload")
    found = compiled(*overrides).lowered["training_arguments"]["deepspeed"]

    assert found["zero_optimization"] == {
        "stage": int(stage[-1]),
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "allgather_partitions": True,
        "allgather_bucket_size": 200_000_000,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 200_000_000,
        "contiguous_gradients": True,
        "round_robin_gradients": True,
    }


def test_more_keys_are_laid_over_what_was_made(compiled):
    zero = "zero_optimization: {zero_hpz_partition_size: 2}"
    more = f"deepspeed.more={{aio: {{block_size: 1048576}}, {zero}}}"
    found = compiled(*EIGHT, "deepspeed=stage3", more).lowered["training_arguments"]["deepspeed"]

    assert found["aio"] == {"block_size": 1048576}
    assert found["zero_optimization"]["zero_hpz_partition_size"] == 2
    assert found["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("hardware=cpu", *TINY),
            {"pretrained_model_name_or_path": "tiny", "revision": None, "trust_remote_code": False,
             "use_safetensors": True, "dtype": "float32", "attn_implementation": "sdpa"},
        ),
        (
            ("hardware=cpu", "model=hub", "model.id=example/none", "model.revision=abc"),
            {"pretrained_model_name_or_path": "example/none", "revision": "abc",
             "trust_remote_code": False, "use_safetensors": True, "dtype": "float32",
             "attn_implementation": "sdpa"},
        ),
    ],
)  # fmt: skip
def test_checkpoints_are_loaded_from_safetensors(overrides, expected, compiled):
    assert compiled(*overrides).lowered["model"] == expected


FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "opt", "gpt2", "gpt_neo", "gpt_neox"]


def built(plan):
    """The model of a plan, without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**plan.lowered["model"]["config"])
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_build_the_model_that_was_foretold(family, compiled):
    plan = compiled("hardware=cpu", f"model.family={family}")

    model = built(plan)

    assert type(model).__name__ == plan.facts["model"]["architecture"]
    assert model.num_parameters() == plan.estimate["total_parameters"]
    assert plan.estimate["trainable_parameters"] == plan.estimate["total_parameters"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    "lora",
    [
        ("lora=small",),
        ("lora=large",),
        ("lora=small", "lora.dora=true"),
        ("lora=small", 'lora.targets=".*[.]1[.].*(q_proj|c_attn|query_key_value)"'),
    ],
    ids=" ".join,
)
def test_trainable_parameters_are_those_of_peft(family, lora, compiled):
    plan = compiled("hardware=cpu", f"model.family={family}", *lora)

    model = get_peft_model(built(plan), LoraConfig(**plan.lowered["lora_config"]))

    assert model.get_nb_trainable_parameters()[0] == plan.estimate["trainable_parameters"]
