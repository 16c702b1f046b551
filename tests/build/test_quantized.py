"""Quantized bases: packed at load, packed afterwards, stored by bitsandbytes or GPTQ.

And what hangs on it: formats of norms, embeddings and adapter; gradient checkpointing in every
mode; models placed over CPU and disk. All of it is looked at on the model that is built, before and
after training steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from llmforge.build.adapter import trainable_share
from llmforge.build.errors import BuildError
from llmforge.build.formats import embeddings, norms
from llmforge.build.load import load, save_final
from llmforge.build.parts import build_parts
from llmforge.build.placing import offloaded
from llmforge.build.trainer import build_trainer
from llmforge.compiler.passes import compile_plan
from llmforge.plan import Plan
from llmforge.stages.prepare import prepare

bitsandbytes = pytest.importorskip("bitsandbytes")

Planned = Callable[..., Plan]

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BF16 = "precision=bfloat16"


def tiny(folder: Path, tokenizer: Path, family: str = "llama") -> Path:
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    if family == "gpt2":
        shape = {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 128}
    config = AutoConfig.for_model(
        family, vocab_size=288, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, **shape,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, llama_like: Path) -> Path:
    """A tiny Llama in float32 with a tokenizer."""
    return tiny(tmp_path_factory.mktemp("base"), llama_like)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory, llama_like: Path) -> Path:
    """GPT-2, whose linear layers hold their weights the other way round."""
    return tiny(tmp_path_factory.mktemp("gpt2-base"), llama_like, "gpt2")


@pytest.fixture
def planned(base: Path, settings, tmp_path: Path, monkeypatch) -> Planned:
    """`planned("quantization=4bit")`: a plan of two steps over sixteen chats."""
    rows = "".join(json.dumps({"messages": chat}) + "\n" for chat in settings.CHATS)
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def make(*overrides: str, model: Path | None = None, scratch: bool = False) -> Plan:
        source = () if scratch else ("model=folder", f"model.path={model or base}")
        return compile_plan(
            [*source, "data=jsonl", "data.train=train.jsonl", "hardware=cpu", "tracking=none",
             "collator.max_length=100", "trainer.epochs=null", "trainer.max_steps=2",
             "trainer.global_batch=4", "trainer.micro_batch=4", "optimizer.lr=0.01",
             "schedule=constant", "schedule.warmup=0", "evaluation=end", "checkpoint.every=null",
             "trainer.log_every=1", *overrides]
        )  # fmt: skip

    return make


def trained(plan: Plan, out: Path) -> Any:
    trainer = build_trainer(plan, build_parts(plan, prepare(plan)), out, [])
    trainer.train()
    return trainer


def built(plan: Plan) -> Any:
    return build_parts(plan, prepare(plan)).model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found: torch.Tensor = model.eval()(torch.arange(20)[None]).logits
    return found


def kinds(model: Any, word: str) -> int:
    return sum(word in type(module).__name__ for module in model.modules())


class TestPackedLate:
    @pytest.mark.parametrize("option", ["4bit", "4bit_fp4", "4bit_single", "8bit"])
    @pytest.mark.parametrize("model", ["base", "gpt2"])
    def test_equal_to_packing_at_load(self, option, model, planned, request):
        folder = request.getfixturevalue(model)
        chosen = (f"quantization={option}", "lora=small", BF16)
        early = built(planned(*chosen, model=folder))
        late = built(planned(*chosen, "quantization.when=after_build", model=folder))
        layer = "Linear8bitLt" if option == "8bit" else "Linear4bit"
        assert kinds(late, layer) == kinds(early, layer) > 0
        assert torch.equal(logits(early), logits(late))
        assert not torch.equal(logits(early), logits(built(planned("lora=small", BF16,
                                                                   model=folder))))  # fmt: skip

    @pytest.mark.parametrize("bits", ["4bit", "8bit"])
    def test_a_model_from_scratch(self, bits, planned, tmp_path: Path):
        plan = planned(f"quantization={bits}", "quantization.when=after_build", "lora=small",
                       "model.hidden=64", "model.layers=2", scratch=True)  # fmt: skip
        trainer = trained(plan, tmp_path / "out")
        layer = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits]
        assert kinds(trainer.model, layer) >= 14
        assert not [n for n, w in trainer.model.named_parameters()
                    if w.requires_grad and "lora_" not in n]  # fmt: skip
        save_final(plan, trainer, tmp_path / "final")
        model, _ = load(tmp_path / "final")
        assert kinds(model, layer) >= 14, "the base is kept as it was trained over"
        assert torch.allclose(logits(model), logits(trainer.model), atol=0.02)


def test_an_evaluation_between_steps_changes_nothing(planned, tmp_path: Path):
    """Widths of 352 are no multiple of a block: bitsandbytes would fail on some CPUs."""
    ends = []
    for look in (True, False):
        plan = planned("quantization=4bit_late", "lora=small", "lora.dropout=0", BF16,
                       "model.layers=1", scratch=True)  # fmt: skip
        trainer = build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path / str(look), [])
        if look:
            logits(trainer.model)
        trainer.train()
        ends.append(logits(trainer.model))
    assert torch.equal(*ends)


class TestStoredByBitsAndBytes:
    @pytest.mark.parametrize("bits", ["4bit", "8bit"])
    def test_loads_and_trains(self, bits, base, planned, tmp_path: Path):
        config = BitsAndBytesConfig(load_in_4bit=bits == "4bit", load_in_8bit=bits == "8bit")
        packed = AutoModelForCausalLM.from_pretrained(base, quantization_config=config)
        packed.save_pretrained(tmp_path / "packed")
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "packed")
        plan = planned("lora=small", model=tmp_path / "packed")
        trainer = trained(plan, tmp_path / "out")
        assert kinds(trainer.model, {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits]) >= 14
        assert 3 < trainer.state.log_history[-1]["train_loss"] < 8
        share = trainable_share(trainer.model)
        assert share["trainable"] == plan.estimate["trainable_parameters"]


def gptq_checkpoint(base: Path, folder: Path, group: int = 32) -> dict[str, torch.Tensor]:
    """Write a GPTQ checkpoint of `base` by plain rounding; returns what the weights stand for.

    The layout is that of the first version: eight 4-bit numbers in an int32, weights along the
    inputs, zero points along the outputs and less one.
    """
    shifts = torch.arange(0, 32, 4)
    weights, held, stood_for = load_file(base / "model.safetensors"), {}, {}
    for name, weight in weights.items():
        if name.split(".")[-2] not in LINEARS:
            held[name] = weight
            continue
        outputs, inputs = weight.shape
        grouped = weight.T.reshape(inputs // group, group, outputs)
        scales = (grouped.abs().amax(dim=1) / 7).half().float().clamp(min=1e-4)
        numbers = (grouped / scales[:, None]).round().clamp(-8, 7) + 8
        stood_for[name] = ((numbers - 8) * scales[:, None]).reshape(inputs, outputs).T
        numbers = numbers.reshape(inputs // 8, 8, outputs).long()
        packed = (numbers << shifts[None, :, None]).sum(dim=1)
        zeros = (torch.full((inputs // group, outputs // 8, 8), 7) << shifts).sum(dim=2)
        own = name.removesuffix("weight")
        held |= {
            f"{own}qweight": packed.to(torch.int64).to(torch.int32),
            f"{own}qzeros": zeros.to(torch.int32),
            f"{own}scales": scales.half(),
            f"{own}g_idx": (torch.arange(inputs) // group).to(torch.int32),
        }
    folder.mkdir(exist_ok=True)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False, "sym": True,
        "checkpoint_format": "gptq",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return {**weights, **stood_for}


class TestGptq:
    @pytest.fixture
    def stored(self, base, tmp_path: Path) -> Path:
        pytest.importorskip("gptqmodel")
        gptq_checkpoint(base, tmp_path / "gptq")
        return tmp_path / "gptq"

    @pytest.mark.parametrize("backend", ["auto_trainable", "torch"])
    @pytest.mark.parametrize("checkpointing", ["true", "false"])
    def test_gradients_reach_every_adapter(
        self, backend, checkpointing, stored, planned, tmp_path: Path
    ):
        plan = planned("quantization=gptq", "lora=small", "lora.targets=all-linear",
                       f"quantization.backend={backend}", "trainer.max_steps=3",
                       f"trainer.gradient_checkpointing={checkpointing}", model=stored)  # fmt: skip
        trainer = trained(plan, tmp_path / "out")
        base_model = trainer.model.get_base_model()
        assert base_model.is_gradient_checkpointing is (checkpointing == "true")
        share = trainable_share(trainer.model)
        assert share["trainable"] == plan.estimate["trainable_parameters"]
        assert share["share"] == pytest.approx(plan.estimate["trainable_share"])
        moved = [name for name, w in trainer.model.named_parameters()
                 if "lora_B" in name and w.abs().sum() > 0]  # fmt: skip
        assert len(moved) == 14
        assert {n.split(".")[-4] for n in moved} == set(LINEARS)

    def test_it_computes_what_the_checkpoint_stands_for(self, base, stored, planned):
        model = built(planned("quantization=gptq", "lora=small", model=stored))
        plain = AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad():
            found = model.eval()(torch.arange(20)[None]).logits
            plain.load_state_dict(gptq_checkpoint(base, stored))
            expected = plain(torch.arange(20)[None]).logits
            rounding = AutoModelForCausalLM.from_pretrained(base)(torch.arange(20)[None]).logits
        error, away = (found - expected).abs().max(), (rounding - expected).abs().max()
        assert error < away / 10

    def test_a_plain_base_that_was_taken_for_one(self, planned, stored, base):
        plan = planned("quantization=gptq", "lora=small", model=stored)
        (stored / "config.json").write_text((base / "config.json").read_text())
        with pytest.raises(BuildError, match="needs a GPTQ checkpoint, and this one is plain"):
            built(plan)

    def test_a_final_model_comes_back(self, stored, planned, tmp_path: Path):
        plan = planned("quantization=gptq", "lora=small", model=stored)
        trainer = trained(plan, tmp_path / "out")
        save_final(plan, trainer, tmp_path / "final")
        model, _ = load(tmp_path / "final")
        assert torch.allclose(logits(model), logits(trainer.model), atol=0.02)


MODES = {
    "full": (),
    "full16": ("precision.weights=bfloat16",),
    "lora": ("lora=small",),
    "4bit": ("lora=small", "quantization=4bit"),
    "8bit": ("lora=small", "quantization=8bit"),
    "4bit late": ("lora=small", "quantization=4bit_late"),
}


class TestFormats:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("part", ["norms", "embeddings"])
    def test_held_in_float32_through_a_step(self, mode, part, planned, tmp_path: Path):
        plan = planned(BF16, f"precision.{part}=float32", *MODES[mode])
        model = trained(plan, tmp_path / "out").model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        of = {"norms": norms, "embeddings": embeddings}[part]
        formats = [weight.dtype for weight in of(base)]
        assert len(formats) == (5 if part == "norms" else 2)
        assert set(formats) == {torch.float32}
        rest = [w.dtype for n, w in base.named_parameters()
                if "k_proj" in n and "lora_" not in n and w.is_floating_point()]  # fmt: skip
        expected = {"full": torch.float32}.get(mode, torch.bfloat16)
        assert set(rest) <= {expected}

    @pytest.mark.parametrize("mode", ["full16", "lora", "4bit", "8bit"])
    def test_held_as_all_weights(self, mode, planned, tmp_path: Path):
        plan = planned(BF16, "precision.norms=weights", "precision.embeddings=weights",
                       "precision.adapter=weights", *MODES[mode])  # fmt: skip
        trainer = trained(plan, tmp_path / "out")
        formats = {w.dtype for w in trainer.model.parameters() if w.is_floating_point()}
        assert formats == {torch.bfloat16}
        assert 3 < trainer.state.log_history[-1]["train_loss"] < 8

    @pytest.mark.parametrize("bits", ["4bit", "8bit"])
    def test_auto_is_the_preparation_of_peft(self, bits, base, planned):
        keywords = planned(BF16, "lora=small", f"quantization={bits}")
        config = BitsAndBytesConfig(**keywords.lowered["quantization_config"])
        theirs = prepare_model_for_kbit_training(
            AutoModelForCausalLM.from_pretrained(
                base, quantization_config=config, dtype=torch.bfloat16
            )
        )
        ours = built(keywords).get_base_model()
        formats = {n.replace(".base_layer", ""): w.dtype for n, w in ours.named_parameters()}
        for name, weight in theirs.named_parameters():
            assert formats[name] == weight.dtype, name

    def test_tied_weights_stay_tied(self, planned):
        plan = planned(BF16, "precision.weights=bfloat16", "precision.embeddings=float32",
                       scratch=True)  # fmt: skip
        model = built(plan)
        assert model.lm_head.weight is model.get_input_embeddings().weight
        assert model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "full16"])
def test_gradient_checkpointing_takes_effect(mode, planned, tmp_path: Path):
    """On in the layers and the trainer; what is trained ends as it does without."""
    ends = []
    for on in ("true", "false"):
        plan = planned(f"trainer.gradient_checkpointing={on}", *MODES[mode])
        trainer = trained(plan, tmp_path / on)
        model = trainer.model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        assert {layer.gradient_checkpointing for layer in base.model.layers} == {on == "true"}
        known = [getattr(trainer.args, name, None)
                 for name in ("gradient_checkpointing", "activation_checkpointing")]  # fmt: skip
        assert (True in known) is (on == "true")
        ends.append({n: w.detach() for n, w in model.named_parameters() if w.requires_grad})
    for name, weight in ends[0].items():
        assert torch.allclose(weight, ends[1][name], atol=1e-4), name
    if mode != "full":
        assert all(w.abs().sum() > 0 for n, w in ends[0].items() if "lora_B" in n)


class TestPlacing:
    PARTS = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")

    def on_disk(self, *layers: str) -> str:
        places = {**dict.fromkeys(self.PARTS, "cpu"), "model.layers.1": "cpu"}
        places |= dict.fromkeys(layers, "disk")
        inside = ", ".join(f"{name}: {place}" for name, place in places.items())
        return f"model.device_map={{{inside}}}"

    def test_regrouped_experts_go_to_the_folder(self, llama_like, planned, tmp_path: Path):
        mixtral = tiny(tmp_path / "mixtral", llama_like, "mixtral")
        plan = planned("lora=small", "lora.targets=[q_proj]", self.on_disk("model.layers.1"),
                       "model.offload_folder=away", model=mixtral)  # fmt: skip
        trainer = trained(plan, tmp_path / "out")
        assert any((tmp_path / "away").iterdir())
        assert all(w.abs().sum() > 0 for n, w in trainer.model.named_parameters()
                   if "lora_B" in n)  # fmt: skip

    @pytest.mark.parametrize("asked", ["auto", "balanced", "sequential"])
    def test_a_device_that_has_room(self, asked, planned, tmp_path: Path):
        plan = planned("lora=small", f"model.device_map={asked}")
        trainer = trained(plan, tmp_path / "out")
        assert {w.device.type for w in trainer.model.parameters()} == {"cpu"}

    @pytest.mark.parametrize("checkpointing", ["true", "false"])
    def test_a_frozen_base_on_disk_trains_as_one_in_memory(
        self, checkpointing, planned, tmp_path: Path
    ):
        same = ("lora=small", "trainer.max_steps=3", "lora.dropout=0",
                f"trainer.gradient_checkpointing={checkpointing}")  # fmt: skip
        plan = planned(*same, self.on_disk("model.layers.0", "model.layers.1"))
        trainer = build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path / "out", [])
        away = offloaded(trainer.model)
        assert len(away) == 18
        assert not [name for name in away if "lora_" in name]
        start = {n: w.detach().clone() for n, w in trainer.model.named_parameters()
                 if w.requires_grad}  # fmt: skip
        trainer.train()
        here = build_parts(planned(*same), prepare(plan))
        for name, weight in here.model.named_parameters():
            if name in start:
                weight.data = start[name].clone()
        there = build_trainer(planned(*same), here, tmp_path / "here", [])
        there.train()
        for name, weight in there.model.named_parameters():
            if weight.requires_grad:
                found = trainer.model.get_parameter(name)
                assert torch.allclose(weight, found, atol=1e-5), name
                assert not torch.equal(found, start[name])
        save_final(plan, trainer, tmp_path / "final")
        assert torch.allclose(logits(load(tmp_path / "final")[0]), logits(there.model), atol=0.05)
