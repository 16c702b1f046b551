"""Rules of sharding: which optimizers and bases it takes, and that every hint is accepted."""

from __future__ import annotations

import pytest

from llmforge.compiler.rules.distributed import (
    bitsandbytes_optimizer_over_fsdp,
    fsdp_with_bitsandbytes,
    offloaded_bitsandbytes_optimizer,
)

EIGHT = ("model=folder", "model.path=tiny", "hardware=h100_80gb", "hardware.count=8",
         "launch=torchrun")  # fmt: skip
OF_BITSANDBYTES = ["adamw_8bit", "adamw_paged", "adamw8bit_s_ns", "lion", "lion_8bit"]
OF_OTHERS = ["adamw", "adamw_finetune", "sgd", "adafactor"]


def hints(rule, context):
    return [finding.hint for finding in rule(context)]


class TestOptimizersOverFsdp:
    @pytest.mark.parametrize("optimizer", OF_BITSANDBYTES)
    def test_bitsandbytes_takes_no_distributed_tensors(self, optimizer, solved):
        context = solved(*EIGHT, "fsdp=full_shard", f"optimizer={optimizer}")

        assert hints(bitsandbytes_optimizer_over_fsdp, context) == ["optimizer=adamw_finetune"]

    @pytest.mark.parametrize("optimizer", OF_OTHERS)
    def test_torch_does(self, optimizer, solved):
        context = solved(*EIGHT, "fsdp=full_shard", f"optimizer={optimizer}")

        assert hints(bitsandbytes_optimizer_over_fsdp, context) == []

    @pytest.mark.parametrize("engine", ["fsdp=none", "deepspeed=stage2"])
    def test_plain_tensors_are_no_trouble(self, engine, solved):
        context = solved(*EIGHT, engine, "optimizer=adamw_8bit")

        assert hints(bitsandbytes_optimizer_over_fsdp, context) == []

    @pytest.mark.parametrize(
        ("what", "hint"),
        [(("lora=small",), "optimizer=adamw_lora"), (("model=tiny_llama",), "optimizer=adamw")],
    )
    def test_the_hint_has_the_rate_of_what_is_trained(self, what, hint, solved):
        chosen = [o for o in EIGHT if what[0].partition("=")[0] != o.partition("=")[0]]
        chosen = [o for o in chosen if "model=folder" in chosen or not o.startswith("model.")]
        context = solved(*chosen, *what, "fsdp=full_shard", "optimizer=adamw_8bit")

        assert hints(bitsandbytes_optimizer_over_fsdp, context) == [hint]
        better = solved(*chosen, *what, "fsdp=full_shard", hint)
        assert hints(bitsandbytes_optimizer_over_fsdp, better) == []


class TestQuantizedBaseOverFsdp:
    @pytest.mark.parametrize("bits", ["4bit", "8bit", "4bit_fp4"])
    def test_bytes_are_not_sharded(self, bits, solved):
        context = solved(*EIGHT, "fsdp=full_shard", "lora=small", f"quantization={bits}")

        assert hints(fsdp_with_bitsandbytes, context) == ["fsdp=none"]

    @pytest.mark.parametrize(
        "others",
        [("fsdp=full_shard",), ("deepspeed=stage2", "quantization=4bit"), ("quantization=4bit",)],
    )
    def test_each_alone_is_no_trouble(self, others, solved):
        assert hints(fsdp_with_bitsandbytes, solved(*EIGHT, "lora=small", *others)) == []


class TestOffloadedOptimizers:
    OFFLOADED = (*EIGHT, "deepspeed=stage2", {"deepspeed.offload_optimizer": True})

    @pytest.mark.parametrize("optimizer", OF_BITSANDBYTES)
    def test_a_step_on_the_cpu(self, optimizer, solved):
        context = solved(*self.OFFLOADED, f"optimizer={optimizer}")

        assert hints(offloaded_bitsandbytes_optimizer, context) == [
            "deepspeed.offload_optimizer=false"
        ]

    @pytest.mark.parametrize("optimizer", OF_OTHERS)
    def test_torch_steps_anywhere(self, optimizer, solved):
        context = solved(*self.OFFLOADED, f"optimizer={optimizer}")

        assert hints(offloaded_bitsandbytes_optimizer, context) == []

    def test_without_offload(self, solved):
        context = solved(*EIGHT, "deepspeed=stage2", "optimizer=adamw_8bit")

        assert hints(offloaded_bitsandbytes_optimizer, context) == []
