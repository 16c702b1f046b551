"""A DeepSpeed JSON of one's own: an ordinary section in the plan, and every fault of the file."""

from __future__ import annotations

import json

import pytest

from llmforge.compiler.passes import check, compile_plan

pytest.importorskip("deepspeed")

TWO = ["hardware=h200", "hardware.count=2", "launch=torchrun", "model=tiny_llama"]
FILE = [*TWO, "deepspeed=file", "deepspeed.path=ds.json"]


@pytest.fixture
def written(work):
    """`written({...})` writes ds.json."""

    def write(values: object) -> None:
        text = values if isinstance(values, str) else json.dumps(values, indent=2)
        (work / "ds.json").write_text(text, encoding="utf-8")

    return write


def told(code: str, *more: str) -> list[tuple[str, str | None]]:
    return [(d.message, d.hint) for d in check([*FILE, *more]).diagnostics if d.code == code]


def test_it_becomes_an_ordinary_section(written):
    zero = {"stage": 3, "reduce_bucket_size": 5e8, "stage3_prefetch_bucket_size": "auto"}
    zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    written({"zero_optimization": zero})

    plan = compile_plan(FILE)

    section = plan.settings["deepspeed"]
    assert (section["kind"], section["stage"]) == ("zero", 3)
    assert section["bucket_size"] == 500_000_000
    assert section["prefetch_bucket_size"] == 128 * 128 * 9 // 10, "auto is the plan's"
    assert (section["offload_optimizer"], section["pin_memory"]) == (True, True)
    made = plan.lowered["training_arguments"]["deepspeed"]
    assert made["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert made["train_batch_size"] == plan.settings["trainer"]["global_batch"]


def test_every_value_names_its_line(written):
    written({"zero_optimization": {"stage": 2}, "aio": {"block_size": 7}})

    origins = compile_plan(FILE).origins

    found = origins.chain("deepspeed.stage")[-1]
    assert (found.where, found.line) == ("ds.json", 3)
    found = origins.chain("deepspeed.more.aio.block_size")[-1]
    assert (found.where, found.line) == ("ds.json", 6)


def test_what_the_plan_does_not_own_is_passed_on(written):
    nvme = {"device": "nvme", "nvme_path": "fast", "pin_memory": True}
    zero = {"stage": 3, "offload_optimizer": nvme, "zero_hpz_partition_size": 2}
    written({"zero_optimization": zero, "aio": {"block_size": 7}, "bf16": {"enabled": True}})

    made = compile_plan(FILE).lowered["training_arguments"]["deepspeed"]

    assert made["aio"] == {"block_size": 7}
    assert made["zero_optimization"]["offload_optimizer"] == nvme
    assert made["zero_optimization"]["zero_hpz_partition_size"] == 2
    assert made["bf16"] == {"enabled": True}


@pytest.mark.parametrize(
    ("claim", "message", "hint"),
    [
        (
            {"optimizer": {"type": "AdamW", "params": {"betas": [0.8, 0.99]}}},
            "`optimizer.params.betas` is [0.8, 0.99], and optimizer.betas is [0.9, 0.95]",
            "'optimizer.betas=[0.8,0.99]'",
        ),
        ({"train_batch_size": 64}, "`train_batch_size` is 64, and trainer.global_batch is 32",
         "trainer.global_batch=64"),
        ({"train_micro_batch_size_per_gpu": 4},
         "`train_micro_batch_size_per_gpu` is 4, and trainer.micro_batch is 16",
         "trainer.micro_batch=4"),
        ({"gradient_accumulation_steps": 2},
         "`gradient_accumulation_steps` is 2, and trainer.accumulation is 1",
         "trainer.accumulation=2"),
        ({"gradient_clipping": 0.5}, "`gradient_clipping` is 0.5, and optimizer.clip_norm is 1.0",
         "optimizer.clip_norm=0.5"),
        ({"fp16": {"enabled": True, "initial_scale_power": 16}},
         "`fp16.enabled` is true, and precision.compute is bfloat16", "precision=float16"),
        ({"optimizer": {"type": "Lion", "params": {"lr": "auto"}}},
         "`optimizer.type` is Lion, and optimizer.kind is adamw", "optimizer=lion"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}},
         "`optimizer.params.lr` is 1e-05, and optimizer.lr is 0.003", "optimizer.lr=1e-05"),
        ({"scheduler": {"type": "WarmupDecayLR"}},
         "`scheduler.type` is WarmupDecayLR, and schedule.kind is cosine", "schedule=linear"),
        ({"amp": {"enabled": True}}, "`amp.enabled` is true, and precision.compute is bfloat16",
         'write "auto" for `amp.enabled` in ds.json'),
    ],
)  # fmt: skip
def test_a_contradiction_names_both_places(claim, message, hint, written):
    written({**claim, "zero_optimization": {"stage": 2}})

    found = [d for d in check(FILE).diagnostics if d.code == "LF430"]

    assert [(d.message.partition(": ")[2], d.hint) for d in found] == [(message, hint)]
    assert found[0].message.startswith("ds.json:")
    assert found[0].origins, "where the plan has it"


def test_what_the_file_repeats_or_leaves_open_is_no_contradiction(written):
    written(
        {
            "train_batch_size": 32,
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_clipping": 1,
            "bf16": {"enabled": "auto"},
            "optimizer": {"type": "AdamW", "params": {"lr": 0.003, "betas": "auto"}},
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": 2, "overlap_comm": "auto"},
        }
    )
    assert not check(FILE).diagnostics


def test_the_plan_may_take_the_file_s_values_over(written):
    written({"train_batch_size": 64, "zero_optimization": {"stage": 2}})

    assert told("LF430")
    assert not told("LF430", "trainer.global_batch=64")


@pytest.mark.parametrize(
    ("claims", "given", "hint"),
    [
        ({"train_batch_size": 64}, ["trainer.accumulation=1", "trainer.micro_batch=16"],
         "trainer.global_batch=64 trainer.accumulation=auto"),
        ({"train_batch_size": 6}, ["trainer.micro_batch=16"],
         "trainer.global_batch=6 trainer.micro_batch=auto"),
        ({"train_batch_size": 7}, [], None),
        ({"train_micro_batch_size_per_gpu": 3}, [], None),
        ({"gradient_accumulation_steps": 4}, ["trainer.micro_batch=16"],
         "trainer.accumulation=4 trainer.micro_batch=auto"),
        ({"train_batch_size": 48, "train_micro_batch_size_per_gpu": 3}, [],
         "trainer.global_batch=48 trainer.micro_batch=3"),
        ({"train_batch_size": 48, "train_micro_batch_size_per_gpu": 16}, [],
         "trainer.global_batch=48"),
    ],
    ids=str,
)  # fmt: skip
def test_a_batch_of_the_file_that_is_taken_over_divides(claims, given, hint, written):
    """Over two processes; where none does, the file is what must change."""
    written({**claims, "zero_optimization": {"stage": 2}})
    first = next(iter(claims))

    found = dict(told("LF430", *given)).popitem() if len(claims) == 1 else told("LF430", *given)[0]

    if hint is None:
        assert found[1] == f'write "auto" for `{first}` in ds.json'
        return
    assert found[1] == hint
    left = check([*FILE, *given, *hint.split()]).diagnostics
    assert [d.code for d in left if d.is_error and "global_batch" in (d.key or "")] == []


def test_steps_of_the_file_take_the_place_of_epochs(written):
    claim = {"type": "WarmupDecayLR", "params": {"total_num_steps": 90, "warmup_num_steps": 5000}}
    written({"scheduler": claim, "zero_optimization": {"stage": 2}})
    linear = "schedule=linear"

    assert [hint for _, hint in told("LF430", linear)] == [
        "trainer.max_steps=90 trainer.epochs=null",
        'write "auto" for `scheduler.params.warmup_num_steps` in ds.json',
    ]
    assert not told("LF206", linear, "trainer.max_steps=90", "trainer.epochs=null")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "ds.json: not JSON"),
        ("[1]", "ds.json: not a JSON object of settings"),
        ('{"aio": {}, "aio": {}}', "ds.json: `aio` stands there twice"),
        ('{"zero_optimization": {"stage": 4}}', "ds.json:1: no ZeRO stage from 1 to 3"),
        ('{"zero_optimization": {"stage": true}}', "ds.json:1: no ZeRO stage from 1 to 3"),
        ("{}", "ds.json: no ZeRO stage from 1 to 3"),
        ('{"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}',
         "ds.json:1: `zero_optimization.offload_optimizer` is no mapping"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used(text, message, written):
    written(text)

    assert [found[0][: len(message)] for found in told("LF432")] == [message]


def test_a_missing_file(work):
    assert told("LF432")[0][0].startswith("ds.json: cannot be read")


def test_an_unknown_key_is_told_with_the_nearest(written):
    written({"zero_optimization": {"stage": 2}, "steps_per_printt": 1})

    assert told("LF431") == [
        ("DeepSpeed has no key `steps_per_printt`",
         "write `steps_per_print` for `steps_per_printt`"),
    ]  # fmt: skip


def test_an_unknown_key_of_the_stage_too(written):
    written({"zero_optimization": {"stage": 2, "overlap_com": True}})

    assert told("LF431") == [
        ("DeepSpeed has no key `zero_optimization.overlap_com`",
         "write `overlap_comm` for `overlap_com`"),
    ]  # fmt: skip


def test_every_key_that_deepspeed_reads_is_known():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    from llmforge.compiler.rules.deepspeed_file import _OF_ZERO

    fields = DeepSpeedZeroConfig.model_fields.items()
    assert {field.alias or name for name, field in fields} <= _OF_ZERO


def test_only_what_changes_numbers_makes_another_run(written):
    def fingerprint(**more: object) -> str:
        written({"zero_optimization": {"stage": 2}, **more})
        return compile_plan(FILE).fingerprint

    assert fingerprint() == fingerprint(steps_per_print=9, aio={"block_size": 7})
    assert fingerprint() != fingerprint(communication_data_type="fp32")
