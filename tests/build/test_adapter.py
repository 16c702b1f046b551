"""Adapters of every kind: trained, saved, loaded, counted; their starts; every precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmforge.build import adapter_start
from llmforge.build.adapter import trainable_share
from llmforge.build.callbacks import EpochOrder
from llmforge.build.errors import BuildError
from llmforge.build.load import load, save_final
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.compiler.passes import compile_plan
from llmforge.plan import Plan
from llmforge.stages.prepare import prepare

Planned = Callable[..., Plan]

# small enough for a model whose largest weight has rank 32, large enough to be seen to change
SMALL = {
    "dora": ("lora.r=4",),
    "rslora": ("lora.r=4",),
    "pissa": ("lora.r=4",),
    "olora": ("lora.r=4",),
    "eva": ("lora.r=2", "lora.similarity=0.5"),
    "vera": ("lora.r=16",),
    "adalora": ("lora.initial_r=4", "lora.target_r=2", "lora.warmup=0", "lora.final=0",
                "lora.interval=1"),
    "prompt": ("lora.tokens=4",),
    "prefix": ("lora.tokens=4",),
}  # fmt: skip
SHAPE = ("model.hidden=32", "model.layers=2", "model.context=128")
KINDS = ["small", "xllm", "ia3", *SMALL]


@pytest.fixture(scope="module")
def base(tmp_path_factory, llama_like: Path) -> Path:
    """A tiny Llama with an output head of its own, and a tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", num_hidden_layers=2, hidden_size=32, intermediate_size=64, vocab_size=288,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("base")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(llama_like).save_pretrained(folder)
    return folder


@pytest.fixture
def planned(base: Path, settings, tmp_path: Path, monkeypatch) -> Planned:
    """`planned("lora=vera")`: a plan of two steps over sixteen chats, on the base unless told."""
    rows = "".join(json.dumps({"messages": chat}) + "\n" for chat in settings.CHATS)
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def make(*overrides: str, scratch: bool = False) -> Plan:
        model = () if scratch else ("model=folder", f"model.path={base}")
        return compile_plan(
            [*model, "data=jsonl", "data.train=train.jsonl", "hardware=cpu", "tracking=none",
             "collator.max_length=100", "trainer.epochs=null", "trainer.max_steps=2",
             "trainer.global_batch=4", "trainer.micro_batch=4", "optimizer.lr=0.01",
             "schedule=constant", "schedule.warmup=0", "evaluation=end", "checkpoint.every=null",
             "trainer.log_every=1", *overrides]
        )  # fmt: skip

    return make


def options(name: str) -> tuple[str, ...]:
    return (f"lora={name}", *SMALL.get(name, ()))


def trained(plan: Plan, out: Path, **how: Any) -> Any:
    # EpochOrder: a resumed second epoch goes through the rows as it would have
    trainer = build_trainer(plan, build_parts(plan, prepare(plan)), out, [EpochOrder()])
    trainer.train(**how)
    return trainer


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    ids = tokenizer("What comes after 1?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found: torch.Tensor = model.eval()(ids).logits
    assert found.shape[1] == ids.shape[1], "one row of logits for each token of the text"
    return found


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_trains_and_comes_back(name, planned, tmp_path: Path):
    plan = planned(*options(name))
    parts = build_parts(plan, prepare(plan))
    before = {n: w.detach().clone() for n, w in parts.model.named_parameters()}
    trainer = build_trainer(plan, parts, tmp_path / "out", [])

    trainer.train()

    moved = {n for n, w in parts.model.named_parameters() if not torch.equal(w, before[n])}
    frozen = {n for n, w in parts.model.named_parameters() if not w.requires_grad}
    assert moved
    assert not moved & frozen
    save_final(plan, trainer, tmp_path / "final")
    found = logits(*load(tmp_path / "final"))
    expected = logits(trainer.model, trainer.processing_class)
    # PiSSA and OLoRA come back as the original base and a change to it: the same but for rounding
    assert torch.allclose(found, expected, atol=1e-4 if name in ("pissa", "olora") else 1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_trained_is_what_the_plan_said(name, planned):
    plan = planned(*options(name))

    found = trainable_share(build_parts(plan, prepare(plan)).model)

    assert found["trainable"] == plan.estimate["trainable_parameters"]
    assert found["share"] == pytest.approx(plan.estimate["trainable_share"], rel=1e-12)


@pytest.mark.parametrize("name", ["small", "vera", "adalora", "ia3", "prompt", "prefix"])
def test_a_base_from_scratch_lies_beside_its_adapter(name, planned, tmp_path: Path):
    plan = planned(*options(name), *SHAPE, scratch=True)
    trainer = trained(plan, tmp_path / "out")

    save_final(plan, trainer, tmp_path / "final")

    (tmp_path / "final").rename(tmp_path / "elsewhere")
    found = logits(*load(tmp_path / "elsewhere"))
    assert torch.allclose(found, logits(trainer.model, trainer.processing_class), atol=1e-6)


@pytest.mark.parametrize("name", ["dora", "vera", "adalora", "ia3", "prompt"])
def test_gradient_checkpointing_reaches_the_adapter(name, planned, tmp_path: Path):
    """The same weights as without: recomputing loses no gradient."""
    ends = []
    for on in ("true", "false"):
        plan = planned(*options(name), f"trainer.gradient_checkpointing={on}")
        trainer = trained(plan, tmp_path / on)
        ends.append([w for w in trainer.model.parameters() if w.requires_grad])
        assert trainer.model.get_base_model().is_gradient_checkpointing is (on == "true")
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


class TestStarts:
    @pytest.mark.parametrize("name", ["pissa", "olora"])
    def test_the_model_starts_as_its_base(self, name, planned):
        plain = planned("lora=none")
        plan = planned(*options(name))
        base, parts = build_parts(plain, prepare(plain)), build_parts(plan, prepare(plan))
        expected = logits(base.model, base.tokenizer)
        assert torch.allclose(logits(parts.model, parts.tokenizer), expected, atol=1e-5)

    @pytest.mark.parametrize("name", ["pissa", "olora"])
    @pytest.mark.parametrize("rslora", ["true", "false"])
    def test_what_is_saved_is_plain_lora(self, name, rslora, planned, tmp_path: Path):
        plan = planned(*options(name), f"lora.rslora={rslora}", "lora.alpha=8")
        trainer = trained(plan, tmp_path / "out")
        save_final(plan, trainer, tmp_path / "final")
        config = json.loads((tmp_path / "final/adapter_config.json").read_text())
        assert (config["r"], config["init_lora_weights"]) == (8, True)
        found = logits(*load(tmp_path / "final"))
        expected = logits(trainer.model, trainer.processing_class)
        assert torch.allclose(found, expected, atol=1e-4)

    def test_loftq_undoes_part_of_the_rounding(self, planned):
        pytest.importorskip("bitsandbytes")
        four = ("quantization=4bit_single", "lora.r=8")
        errors = {}
        for name in ("loftq", "small"):
            plan = planned(f"lora={name}", *four)
            model = build_parts(plan, prepare(plan)).model
            whole = load_file(Path(plan.spec.model.path) / "model.safetensors")
            errors[name] = rounding_error(model, whole)
        assert errors["loftq"] < 0.8 * errors["small"]

    def test_eva_lies_in_the_directions_of_the_data(self, planned):
        plan = planned(*options("eva"))
        parts = build_parts(plan, prepare(plan))
        rows = next(layer for _, layer in adapter_start.lora_layers(parts.model)).lora_A["default"]
        # orthonormal rows: directions, not noise
        assert torch.allclose(rows.weight @ rows.weight.T, torch.eye(2), atol=1e-4)

    def test_eva_that_does_not_settle_says_what_to_change(self, planned):
        plan = planned("lora=eva", "lora.r=8", "lora.similarity=1.0", "lora.batches=3")
        with pytest.raises(BuildError, match=r"not settled after 3 batches"):
            build_parts(plan, prepare(plan))


def rounding_error(model: Any, whole: dict[str, torch.Tensor]) -> float:
    """How far base and adapter together are from the checkpoint's weights."""
    from bitsandbytes.functional import dequantize_4bit

    total = 0.0
    for name, layer in adapter_start.lora_layers(model):
        rounded = layer.get_base_layer().weight
        held = dequantize_4bit(rounded.data, rounded.quant_state).float()
        total += float((whole[f"{name}.weight"] - held - layer.get_delta_weight("default")).norm())
    return total


class TestAdaLora:
    FIVE = (
        "lora=adalora", "lora.initial_r=4", "lora.target_r=2", "lora.warmup=1", "lora.final=2",
        "lora.interval=1", "trainer.max_steps=6",
    )  # fmt: skip

    @staticmethod
    def ranks(model: Any) -> int:
        return sum(int((w != 0).sum()) for n, w in model.named_parameters() if "lora_E" in n)

    def test_ranks_go_down_to_the_target(self, planned, tmp_path: Path):
        trainer = trained(planned(*self.FIVE), tmp_path / "out")
        modules = 14  # two layers of seven
        assert self.ranks(trainer.model) == 2 * modules

    @pytest.mark.parametrize("stop", [3, 5])
    def test_a_resumed_run_allocates_the_same(self, planned, tmp_path: Path, stop):
        """Before the final phase, and in it."""
        plan = planned(*self.FIVE, f"checkpoint.every={stop}", "checkpoint.keep=9")
        through = trained(plan, tmp_path / "out")
        at = str(tmp_path / "out" / f"checkpoint-{stop}")
        resumed = trained(plan, tmp_path / "again", resume_from_checkpoint=at)
        for one, other in zip(through.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_accumulation_changes_nothing(self, planned, tmp_path: Path):
        """The term for orthogonality counts once a step, as the loss does."""
        ends = []
        for micro in (4, 2):
            plan = planned(*self.FIVE, f"trainer.micro_batch={micro}", "lora.orthogonality=5.0")
            trainer = trained(plan, tmp_path / str(micro))
            ends.append(trainer.state.log_history[-2]["grad_norm"])
        assert ends[0] == pytest.approx(ends[1], rel=1e-3)


class TestTrainedWhole:
    @pytest.mark.parametrize("name", ["small", "adalora"])
    def test_a_tied_embedding_stays_tied(self, name, planned, tmp_path: Path):
        whole = "lora.modules_to_save=[embed_tokens]"
        plan = planned(*options(name), whole, *SHAPE, scratch=True)
        assert plan.facts["model"]["tied_embeddings"]
        trainer = trained(plan, tmp_path / "out")
        assert trainable_share(trainer.model)["trainable"] == plan.estimate["trainable_parameters"]
        base = trainer.model.get_base_model()
        table = base.get_input_embeddings().modules_to_save["default"].weight
        assert base.get_output_embeddings().modules_to_save["default"].weight is table
        save_final(plan, trainer, tmp_path / "final")
        found = logits(*load(tmp_path / "final"))
        assert torch.equal(found, logits(trainer.model, trainer.processing_class))

    def test_an_embedding_and_a_head_apart(self, planned, tmp_path: Path):
        plan = planned("lora=small", "lora.modules_to_save=[embed_tokens,lm_head]")
        trainer = trained(plan, tmp_path / "out")
        assert trainable_share(trainer.model)["trainable"] == plan.estimate["trainable_parameters"]


class TestPrecision:
    @pytest.mark.parametrize("name", ["small", "vera", "adalora", "ia3", "prompt", "prefix"])
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_in_every_format_of_a_cpu(self, name, precision, planned, tmp_path: Path):
        """float16 needs a GPU: LF304."""
        plan = planned(*options(name), f"precision={precision}")
        trainer = trained(plan, tmp_path / "out")
        formats = {w.dtype for w in trainer.model.parameters() if w.requires_grad}
        assert formats == {torch.float32}
        assert 3 < trainer.state.log_history[-1]["train_loss"] < 8

    @pytest.mark.parametrize(
        ("name", "bits"),
        [
            *[(name, "8bit") for name in ("small", "vera", "adalora", "ia3", "prompt")],
            *[(name, "4bit") for name in ("small", "dora", "vera", "adalora", "ia3", "prompt")],
            ("small", "4bit_fp4"),
            ("small", "4bit_single"),
        ],
    )
    def test_over_a_quantized_base(self, name, bits, planned, tmp_path: Path):
        pytest.importorskip("bitsandbytes")
        plan = planned(*options(name), f"quantization={bits}")
        parts = build_parts(plan, prepare(plan))
        assert trainable_share(parts.model)["trainable"] == plan.estimate["trainable_parameters"]
        assert trainable_share(parts.model)["total"] == round(
            plan.estimate["trainable_parameters"] / plan.estimate["trainable_share"]
        )
        result = build_trainer(plan, parts, tmp_path, []).train()
        assert 3 < result.training_loss < 8


def test_presets_of_a_width_train_over_it(planned, tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    with chdir(tmp_path):
        plan = planned("lora=4bit_s", "quantization=4bit_single")
    trainer = trained(plan, tmp_path / "out")
    hit = {name.split(".")[-1] for name, _ in adapter_start.lora_layers(trainer.model)}
    assert hit == {"q_proj", "v_proj"}
