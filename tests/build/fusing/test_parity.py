"""The proof passes right merges in every format, and tells wrong ones and where they begin."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmforge.build.fusing.merge import fuse
from llmforge.build.fusing.parity import Bounds, Proof, prove
from llmforge.build.fusing.parity_figures import agree
from llmforge.build.fusing.parity_look import Probe, stored_probes
from llmforge.build.fusing.parity_sides import alone, beside, prove_fused
from llmforge.compose import compose
from llmforge.stages.fuse import ProofFailed

PROBES = [
    Probe("prose", "The ferry left the harbour before dawn."),
    Probe("digits", "17 + 25 = 42"),
    Probe("chat", messages=[{"role": "user", "content": "Which is heavier?"}]),
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def bounds() -> Bounds:
    """The shipped ones."""
    values = compose([]).values["fuse"]
    chosen = {name: values[name] for name in Bounds.__dataclass_fields__}
    return Bounds(**{**chosen, "probe_tokens": 48, "new_tokens": 6})


@pytest.fixture(scope="module")
def pair(checkpoint, tmp_path_factory) -> Callable[..., tuple[Path, Path]]:
    """`pair("gpt2", "bfloat16")`: a base in a format, and an adapter trained over it."""
    made: dict[tuple[str, str], tuple[Path, Path]] = {}

    def make(family: str, dtype: str = "float32") -> tuple[Path, Path]:
        if (family, dtype) not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{dtype}")
            base, adapter = folder / "base", folder / "adapter"
            shutil.copytree(checkpoint(family), base)
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.data.mul_(3)  # a fresh model hardly tells tokens apart
            model.save_pretrained(base)
            tokenizer = AutoTokenizer.from_pretrained(base)
            tokenizer.chat_template = TEMPLATE
            tokenizer.add_tokens(["<tool>"])
            wrapped = get_peft_model(
                model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
            )
            for name, weight in wrapped.named_parameters():
                if "lora_B" in name:
                    weight.data.normal_(0, 0.05)
            wrapped.save_pretrained(adapter)
            tokenizer.save_pretrained(adapter)
            made[family, dtype] = base, adapter
        return made[family, dtype]

    return make


def scaled(adapter: Path, folder: Path, factor: float, part: str = "") -> Path:
    """The adapter with another strength, in the modules whose name has `part`."""
    shutil.copytree(adapter, folder)
    weights = load_file(folder / WEIGHTS)
    for name in weights:
        if "lora_B" in name and part in name:
            weights[name] *= factor
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("family", "stored", "asked", "compute"),
    [
        ("llama", "float32", None, "float32"),
        ("llama", "bfloat16", None, "bfloat16"),
        ("llama", "float32", "float16", "float32"),
        ("qwen2", "bfloat16", None, "float32"),
        ("gemma", "float32", "bfloat16", "float32"),
        ("gpt2", "bfloat16", None, "bfloat16"),
        ("opt", "float16", None, "float32"),
    ],
)
def test_a_right_merge_passes_with_room(
    pair, bounds: Bounds, tmp_path: Path, family: str, stored: str, asked: str | None, compute: str
):
    base, adapter = pair(family, stored)
    made = fuse(base, adapter, tmp_path / "fused", asked)

    proof = prove_fused(base, adapter, tmp_path / "fused", PROBES, bounds, made.dtype, compute)

    assert proof.passed, proof.reasons
    assert proof.first_difference is None
    assert proof.overall.mean_kl < bounds.max_kl / 10
    assert proof.overall.max_relative < bounds.max_difference / 2
    assert proof.overall.lost < bounds.max_lost / 2
    if made.dtype == compute == "float32":
        assert proof.overall.max_relative < 1e-4
        assert proof.same_texts == len(PROBES)
    assert json.loads(json.dumps(proof.to_dict()))["passed"] is True
    assert "nats" in proof.summary()


WRONG = {
    "missing": (0.0, "", "model.layers.0.self_attn.q_proj"),
    "half": (0.5, "", "model.layers.0.self_attn.q_proj"),
    "double": (2.0, "", "model.layers.0.self_attn.q_proj"),
    "one layer missing": (0.0, "layers.1.", "model.layers.1.self_attn.q_proj"),
    "one module missing": (0.0, "layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj"),
}


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_merge_fails_and_its_first_module_is_named(
    pair, bounds: Bounds, tmp_path: Path, fault: str, stored: str
):
    factor, part, first = WRONG[fault]
    base, adapter = pair("llama", stored)
    made = fuse(base, scaled(adapter, tmp_path / "wrong", factor, part), tmp_path / "fused")

    proof = prove_fused(base, adapter, tmp_path / "fused", PROBES, bounds, made.dtype)

    assert not proof.passed
    assert proof.first_difference is not None
    assert proof.first_difference.name == first
    assert any(first in reason for reason in proof.reasons)
    assert not proof.rounded_off, "a longer format would not help"


def test_an_adapter_that_rounding_outweighs_is_told_from_a_wrong_merge(
    pair, bounds: Bounds, tmp_path: Path
):
    base, adapter = pair("llama", "bfloat16")
    weak = scaled(adapter, tmp_path / "weak", 0.001)

    def proved(made: str) -> Proof:
        fuse(base, weak, tmp_path / made, made)
        return prove_fused(base, weak, tmp_path / made, PROBES, bounds, made, "float32")

    short = proved("bfloat16")
    assert (short.passed, short.rounded_off) == (False, True), short.reasons
    told = ProofFailed(short, "bfloat16")
    assert told.hint == "fuse.dtype=float32"
    assert any("more than rounding to bfloat16" in note for note in told.notes)
    assert proved("float32").passed, "what the hint says works"


def tampered(folder: Path, fault: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if fault == "template":
        tokenizer.chat_template = TEMPLATE.replace("\n", "")
    elif fault == "no template":
        tokenizer.chat_template = None
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    elif fault == "end token":
        tokenizer.eos_token = "<unk>"
    elif fault == "stops":
        (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
        return
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("fault", "told"),
    [("template", "renders"), ("no template", "no chat template"), ("end token", "eos_token"),
     ("stops", "eos_token_id")],
)  # fmt: skip
def test_other_templates_and_stops_fail(pair, bounds, tmp_path: Path, fault: str, told: str):
    base, adapter = pair("llama")
    fuse(base, adapter, tmp_path / "fused")
    tampered(tmp_path / "fused", fault)

    proof = prove_fused(base, adapter, tmp_path / "fused", PROBES, bounds, "float32")

    assert not proof.passed
    assert any(told in reason for reason in proof.reasons), proof.reasons
    assert proof.first_difference is None, "the weights are right"


def test_a_swapped_tokenizer_fails(pair, bounds, gpt2_like: Path, tmp_path: Path):
    base, adapter = pair("llama")
    fuse(base, adapter, tmp_path / "fused")
    AutoTokenizer.from_pretrained(gpt2_like).save_pretrained(tmp_path / "fused")

    told = " ".join(
        prove_fused(base, adapter, tmp_path / "fused", PROBES, bounds, "float32").tokenizer
    )

    assert "<tool>" in told, "an added token is lost"
    assert "tokens, not" in told
    assert "splits" in told


def test_lost_rows_fail(pair, bounds, tmp_path: Path):
    base, adapter = pair("llama")
    fuse(base, adapter, tmp_path / "fused")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "fused")
    model.resize_token_embeddings(285)
    model.save_pretrained(tmp_path / "fused")

    proof = prove_fused(base, adapter, tmp_path / "fused", PROBES, bounds, "float32")

    assert any("3 rows fewer" in reason for reason in proof.reasons)


def test_numbers_that_are_none_fail(pair, bounds, tmp_path: Path):
    base, adapter = pair("llama")
    fuse(base, adapter, tmp_path / "fused")
    weights = load_file(tmp_path / "fused" / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, tmp_path / "fused" / "model.safetensors", metadata={"format": "pt"})

    proof = prove_fused(base, adapter, tmp_path / "fused", PROBES, bounds, "float32")

    assert not proof.passed
    assert proof.first_difference is not None
    assert proof.first_difference.name == "model.norm"
    assert proof.to_dict()["overall"]["mean_kl"] is None


def test_one_model_at_a_time(pair, bounds, tmp_path: Path):
    import gc
    import weakref

    base, adapter = pair("llama")
    fuse(base, adapter, tmp_path / "fused")
    first: list[Any] = []

    def with_adapter() -> Any:
        side = beside(base, adapter, "float32", "cpu", "float32")
        first.append(weakref.ref(side.model))
        return side

    def without() -> Any:
        gc.collect()
        assert first[0]() is None, "the first model has gone"
        return alone(tmp_path / "fused", "float32", "cpu", "float32")

    proof: Proof = prove(with_adapter, without, PROBES, bounds, tmp_path / "store")

    assert proof.passed, proof.reasons


def test_the_figures_are_those_of_the_formulas():
    one = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
    two = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 0.0]])

    found = agree(one, two, effect=8.0)

    p, q = one[0].softmax(0), two[0].softmax(0)
    assert found.max_difference == 2.0
    assert found.mean_difference == pytest.approx(4 / 6)
    assert found.max_kl == pytest.approx(float((p * (p / q).log()).sum()))
    assert found.mean_kl == pytest.approx(found.max_kl / 2)
    assert found.agreement == 0.5
    assert found.lost == pytest.approx(1.0), "as far from it as the base is"
    assert found.widest_flip == pytest.approx(2.0 / float(one[0].std()))


def test_stored_probes_have_names_of_their_own(llama_like: Path):
    probes = stored_probes()
    tokenizer = AutoTokenizer.from_pretrained(llama_like)

    assert len({probe.name for probe in probes}) == len(probes) >= 12
    assert all(8 <= len(probe.ids(tokenizer, 256)) <= 256 for probe in probes)


def test_an_end_token_of_number_zero_is_one():
    from types import SimpleNamespace

    from llmforge.build.fusing.parity import _stops

    tokenizer = SimpleNamespace(eos_token_id=2)
    assert _stops(tokenizer, SimpleNamespace(eos_token_id=0)) == [0]
    assert _stops(tokenizer, SimpleNamespace(eos_token_id=[0, 5])) == [0, 5]
    assert _stops(tokenizer, None) == [2]
