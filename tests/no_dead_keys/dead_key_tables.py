"""What cannot be read off the schema: where a field matters, what else it may be, and exceptions.

Keys are `Class.field`, of the class that brings the field in, or a full name: `data.shuffle (csv)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KINDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("deepspeed", "file"): ("deepspeed.path=deepspeed_one.json",),
    ("lora", "file"): ("lora.path=lora_one.json",),
    ("model", "folder"): ("model.path=tiny",),
    ("model", "hub"): ("model=llama3_8b",),
    ("model", "trained"): ('model.overrides=["name=base"]',),
    ("optimizer", "file"): ("optimizer.path=optimizer_one.json",),
}
"""Kinds whose first option leaves something to say."""

BESIDES: dict[str, tuple[str, ...]] = {
    "AutoCollator.train_end_of_turn": ("data=builtin",),
    "AutoCollator.turns": ("data=builtin",),
    "BitsAndBytes.int8_threshold": ("quantization=8bit",),
    "BitsAndBytes.int8_fp16_weight": ("quantization=8bit",),
    "CheckpointSpec.best_direction": ("checkpoint=best",),
    "Device.count": ("launch=torchrun",),
    "FuseSpec.after_training": ("lora=small",),
    "MixData.exhausted": ("data.weights={one: 0.9, two: 0.1}",),
    "OptimizerSpec.lr_adapter": ("lora=small", "optimizer.lr=auto"),
    "OptimizerSpec.lr_finetune": ("optimizer.lr=auto",),
    "OptimizerSpec.lr_scratch": ("model=tiny_llama", "optimizer.lr=auto"),
    "OptimizerSpec.lora_plus_ratio": ("lora=small",),
    "Rows.eval_surplus": ("data.max_eval_rows=4",),
    "SqlSource.parameters": (
        "data.train=select * from qa where id < :most", "data.parameters={most: 9}",
    ),
    "Scalars.num_gpus": ("launch=torchrun",),
    "TokenizerSpec.vocabulary": ("model=small_llama",),
    "TrainerSpec.compile_backend": ("trainer.compile=true",),
    "TrainerSpec.compile_mode": ("trainer.compile=true",),
    "TrainerSpec.epochs_finetune": ("trainer.epochs=auto",),
    "TrainerSpec.epochs_scratch": ("model=tiny_llama", "trainer.epochs=auto"),
    **{
        f"Zero.{name}": ("deepspeed=stage3",)
        for name in (
            "max_live_parameters", "max_reuse_distance", "offload_parameters",
            "persistence_threshold", "prefetch_bucket_size", "sub_group_size",
        )
    },
    "Zero.pin_memory": ("deepspeed=stage2_offload",),
}  # fmt: skip
"""Field -> settings beside which it means something."""

VALUES: dict[str, list[Any] | Callable[[Any], list[Any]]] = {
    "AdamFields.betas": [[0.5, 0.6]],
    "ClassSource.options": [{"size": 3}],
    "CollatorSpec.max_length": [32],
    "Lion.betas": [[0.5, 0.6]],
    "LoraFile.path": ["lora_two.json"],
    "MixData.sources": lambda now: [{"one": now["one"]}],
    "MixData.weights": [{"one": 0.9, "two": 0.1}],
    "MultiStep.milestones": [[3, 5]],
    "OptimizerFile.path": ["optimizer_two.json"],
    "OptimizerSpec.lora_plus_ratio": [16.0],
    "Source.select": [['answer == "8"', 'question contains "spider"'], ['answer == "2"']],
    "SqlSource.parameters": [{"most": 5}],
    "TargetedAdapter.modules_to_save": [["lm_head"]],
    "TrainerSpec.extra": [{"ddp_timeout": 77}],
    "Zero.more": [{"steps_per_print": 7}],
    "ZeroFile.path": ["deepspeed_two.json"],
    "Fsdp2.wrap": [["LlamaDecoderLayer"]],
    "TokenizerSpec.chat_template": ["chatml"],
    "TrainedModel.overrides": [["name=base", "optimizer.lr=1e-4"]],
}
"""Field -> values that neither its type nor another option tells."""

SHARED: dict[str, str] = {
    "Source": "rows of all kinds go one way once they are opened (`sources/flow.py`)",
    "Fields": "one class for all kinds; `data.fields.prompt` is changed for each of them",
}
"""Classes whose fields count as read for every kind once one kind's were read."""

CHECKED: dict[str, str] = {
    "Device.compute_capability": "what it means for a run is `bf16`; refusals name it",
    "Device.cores": "too many data-loader processes for them are warned of",
    "Device.name": "a label for people, in plans and refusals",
    "HubSpec.repository": "beside `hub=none` it only tells that nothing is pushed there",
    "LowRank.expect_bits": "what a preset expects of `quantization`; it only refuses",
    "TargetedAdapter.expect_modules": "what the user expects of `targets`; it only refuses",
    "Zero.claims": "what a file says of settings that the plan owns; it only refuses",
}
"""Exceptions: fields from which nothing follows but what a refusal says."""

REFUSED: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "Device.compute_capability": (
        ("hardware=t4", "precision=bfloat16", "model.attention=flash_attention_2"), ["7.0"],
    ),
    "Device.cores": (("hardware=cpu", "trainer.workers=4"), [8]),
    "Device.name": (("hardware=t4", "precision=bfloat16"), ["another"]),
    "HubSpec.repository": (("hub=none",), ["me/mine"]),
    "LowRank.expect_bits": ((), [8]),
    "TargetedAdapter.expect_modules": ((), [1000]),
    "Zero.claims": ((), [{"train_batch_size": {"value": 7, "place": "ds.json:2"}}]),
}  # fmt: skip
"""Exception -> settings, and values of the field, which bring the refusal about."""

DEAD: dict[str, str] = {
    "trainer.loss_kernel (dpo)": "every trainer has the key, and TRL knows one way only",
}
"""Exceptions: fields that do nothing, each with why it is there all the same."""
