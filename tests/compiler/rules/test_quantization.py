"""Quantized bases, parts in float32, device maps: what is refused, and where rules stay silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.compiler.context import Context
from llmforge.compiler.rules import RULES

OURS = ("LF302", "LF303", "LF308", "LF309", "LF320", "LF321", "LF322", "LF323", "LF324")
ADAPTER = ("model=folder", "model.path=tiny", "lora=small")
GPU = (*ADAPTER, "hardware=h200")


def codes(context: Context) -> list[str]:
    return [d.code for r in RULES if r.code in OURS for d in r.check(context)]


@pytest.fixture
def stored(bench: Path, checkpoint):
    """`stored("gptq")`: overrides of an adapter over a base quantized that way."""

    def make(method: str, **more: object) -> tuple[str, ...]:
        own = {"quant_method": method, "bits": 4, **more}
        checkpoint(bench / f"tiny-{method}", quantization_config=own)
        return ("model=folder", f"model.path=tiny-{method}", "lora=small", "hardware=h200")

    return make


class TestStored:
    @pytest.mark.parametrize(
        ("method", "chosen", "expected"),
        [
            ("gptq", "gptq", []),
            ("gptq", "none", ["LF320"]),
            ("gptq", "4bit", ["LF302"]),
            ("gptq", "4bit_late", ["LF302"]),
            ("awq", "none", []),
            ("awq", "gptq", ["LF320"]),
            ("bitsandbytes", "none", []),
            ("bitsandbytes", "8bit", ["LF302"]),
            ("mxfp4", "none", ["LF322"]),
        ],
    )
    def test_against_what_is_chosen(self, method, chosen, expected, stored, solved):
        assert codes(solved(*stored(method), f"quantization={chosen}")) == expected

    @pytest.mark.parametrize(
        ("adapter", "expected"),
        [("dora", ["LF322"]), ("ia3", ["LF322"]), ("prefix", ["LF322"]), ("vera", []),
         ("adalora", []), ("prompt", []), ("rslora", [])],
    )  # fmt: skip
    def test_adapters_that_peft_has_over_gptq(self, adapter, expected, stored, solved):
        overrides = [o for o in stored("gptq") if not o.startswith("lora=")]
        context = solved(*overrides, "quantization=gptq", f"lora={adapter}")
        assert codes(context) == expected

    @pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
    def test_needs_an_adapter(self, method, stored, solved):
        chosen = "gptq" if method == "gptq" else "none"
        context = solved(*stored(method), f"quantization={chosen}", {"lora": {"kind": "none"}})
        assert codes(context) == ["LF303"]

    @pytest.mark.parametrize(
        ("method", "missing"),
        [("gptq", "gptqmodel"), ("gptq", "optimum"), ("awq", "gptqmodel"),
         ("bitsandbytes", "bitsandbytes")],
    )  # fmt: skip
    def test_needs_its_package(self, method, missing, stored, solved, everything_installed):
        del everything_installed[missing]
        chosen = "gptq" if method == "gptq" else "none"
        assert codes(solved(*stored(method), f"quantization={chosen}")) == ["LF321"]

    def test_a_hub_model_that_is_not_here_is_looked_at_later(self, solved):
        context = solved("model=hub", "model.id=example/none", "lora=small", "quantization=gptq")
        assert codes(context) == []


class TestFromScratch:
    def test_packed_at_load(self, solved):
        assert codes(solved("lora=small", "quantization=4bit")) == ["LF309"]

    @pytest.mark.parametrize("bits", ["4bit", "8bit"])
    def test_packed_late(self, bits, solved):
        late = "quantization.when=after_build"
        assert codes(solved("lora=small", f"quantization={bits}", late)) == []

    def test_gptq(self, solved):
        assert codes(solved("lora=small", "quantization=gptq")) == ["LF320"]


class TestFormats:
    def test_auto_is_always_accepted(self, solved):
        for more in (("quantization=4bit",), ("launch=torchrun", "deepspeed=stage2"), ()):
            context = solved(*GPU, "hardware.count=2", *more)
            assert codes(context) == []

    @pytest.mark.parametrize(
        ("overrides", "norms", "embeddings"),
        [
            ((), "weights", "weights"),
            (("quantization=4bit",), "float32", "float32"),
            (("quantization=8bit",), "float32", "float32"),
            (("quantization=4bit", "precision=float32"), "weights", "weights"),
            (("quantization=4bit", "precision.compute=float32", "precision.weights=bfloat16"),
             "weights", "weights"),
            (("quantization=8bit", "launch=torchrun", "deepspeed=stage2"), "weights", "weights"),
            (("precision=stable",), "float32", "weights"),
        ],
    )  # fmt: skip
    def test_what_auto_becomes(self, overrides, norms, embeddings, solved):
        found = solved(*GPU, *overrides).spec.precision
        assert (found.norms, found.embeddings) == (norms, embeddings)
        assert found.adapter == "float32"

    def test_over_gptq_the_embeddings_stay(self, stored, solved):
        found = solved(*stored("gptq"), "quantization=gptq").spec.precision
        assert (found.norms, found.embeddings) == ("float32", "weights")

    @pytest.mark.parametrize("part", ["norms", "embeddings"])
    def test_under_deepspeed(self, part, solved):
        asked = (f"precision.{part}=float32", "launch=torchrun", "deepspeed=stage2")
        assert codes(solved(*GPU, "hardware.count=2", *asked)) == ["LF323"]
        assert codes(solved(*GPU, "hardware.count=2", *asked, "precision=float32",
                            f"precision.{part}=float32")) == []  # fmt: skip

    def test_an_adapter_in_float16(self, solved):
        half = (*ADAPTER, "hardware=t4", "precision=float16", "precision.adapter=weights")
        assert codes(solved(*half)) == ["LF308"]


class TestDeviceMap:
    @pytest.mark.parametrize("asked", ["auto", "balanced", "sequential", "{model: 0, lm_head: 1}"])
    def test_one_process_over_devices(self, asked, solved):
        assert codes(solved(*GPU, "hardware.count=2", f"model.device_map={asked}")) == []
        assert codes(solved(*GPU, f"model.device_map={asked}", {"lora": {"kind": "none"}})) == []

    @pytest.mark.parametrize(
        "more",
        [("launch=torchrun",), ("launch=torchrun", "deepspeed=stage3"),
         ("launch=torchrun", "fsdp=full_shard")],
    )  # fmt: skip
    def test_several_processes(self, more, solved):
        context = solved(*GPU, "hardware.count=2", "model.device_map=auto", *more)
        assert codes(context) == ["LF324"]

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            ((), []),
            (("lora=dora",), ["LF324"]),
            (("lora=ia3",), ["LF324"]),
            (("lora=eva",), ["LF324"]),
            (("quantization=8bit",), ["LF324"]),
        ],
    )
    @pytest.mark.parametrize("place", ["cpu", "disk"])
    def test_parts_that_are_not_held(self, more, expected, place, solved):
        chosen = f"model.device_map={{model: 0, lm_head: {place}}}"
        overrides = [*GPU, *more, chosen]
        if any(one.startswith("lora=") for one in more):
            overrides.remove("lora=small")
        assert codes(solved(*overrides)) == expected

    def test_a_cpu_is_no_offload_of_a_cpu_run(self, solved):
        chosen = ("model=folder", "model.path=tiny", "model.device_map={model: cpu, lm_head: cpu}")
        assert codes(solved(*chosen)) == []

    def test_places_reach_the_library(self, compiled):
        plan = compiled(*GPU, "model.device_map={model: 0, lm_head: disk}",
                        "model.offload_folder=away")  # fmt: skip
        assert plan.lowered["model"]["device_map"] == {"model": 0, "lm_head": "disk"}
        assert plan.lowered["model"]["offload_folder"] == "away"
