"""On a CUDA device: packed samples do not see each other, whatever computes the attention.

Run with `pytest -m gpu tests/e2e/test_gpu_packing.py`. What a CPU can show is in
`tests/build/test_isolation.py`; here are the kernels: fused attention in bfloat16, compiled flex
attention forward and backward, flash attention where it is installed, quantized bases.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
)

from llmforge.build.canary import COARSE_LIMIT, EXACT_LIMIT, PackingLeak, check_isolation
from llmforge.build.collate import Collator
from llmforge.compiler.facts.isolation import isolates

pytestmark = pytest.mark.gpu

# heads of 64 and widths of 256: what the kernels and bitsandbytes want
SIZES = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
    "head_dim": 64,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=32),
    "qwen3": Qwen3Config(**SIZES),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "gemma2": Gemma2Config(**SIZES, sliding_window=32),
    "gpt2": GPT2Config(vocab_size=512, n_embd=256, n_layer=3, n_head=4, n_positions=1024,
                       resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "opt": OPTConfig(vocab_size=512, hidden_size=256, ffn_dim=512, num_hidden_layers=3,
                     num_attention_heads=4, max_position_embeddings=1024, dropout=0.0,
                     word_embed_proj_dim=256),
}  # fmt: skip
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2")

ROWS = [[90, 37, 120], [200, 41], [64, 64, 64, 50]]
"""Samples of each packed row, in tokens: none ends where a kernel's block of 128 does."""


def build(family: str, attention: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[family])
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    return model.cuda().train()


def samples() -> list[list[np.ndarray]]:
    rng = np.random.default_rng(1)
    return [[rng.integers(3, 512, length) for length in row] for row in ROWS]


def on_device(batch: dict[str, Any]) -> dict[str, Any]:
    return {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def packed(attention: str) -> dict[str, Any]:
    packs = []
    for row in samples():
        labels = [np.concatenate([[-100], ids[1:]]) for ids in row]
        packs.append(
            {
                "input_ids": np.concatenate(row),
                "labels": np.concatenate(labels),
                "segments": [len(ids) for ids in row],
            }
        )
    return on_device(Collator(pad_id=0, multiple=8, attention=attention)(packs))


def one_by_one() -> list[dict[str, Any]]:
    return [
        on_device(Collator(pad_id=0)([{"input_ids": ids, "labels": ids}]))
        for row in samples()
        for ids in row
    ]


def step(model: Any, batches: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one optimizer step over all batches."""
    tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=tokens).loss
        loss.backward()
        total += loss.item()
    return total, {
        name: weight.grad.float().clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def wanted(family: str, attention: str) -> None:
    """Skip what is not installed, or what the table does not grant."""
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    if not isolates(family, attention, {}).ok:
        pytest.skip(f"the table denies {family} with {attention}")


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_bfloat16(family: str, attention: str) -> None:
    wanted(family, attention)
    found = check_isolation(build(family, attention), packed(attention))
    assert found.difference <= COARSE_LIMIT
    assert found.moved > 0.1
    if family != "mixtral":
        assert found.difference == 0.0


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_float32(attention: str) -> None:
    found = check_isolation(build("llama", attention, torch.float32), packed(attention))
    assert found.limit == EXACT_LIMIT
    assert found.difference == 0.0


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_autocast_over_float32_weights(family: str, attention: str) -> None:
    wanted(family, attention)
    model = build(family, attention, torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        found = check_isolation(model, packed(attention))
    assert found.limit == COARSE_LIMIT
    assert found.difference == 0.0


@pytest.mark.parametrize(
    ("attention", "dtype", "within"),
    [
        ("sdpa", torch.float32, 1e-4),
        ("flex_attention", torch.float32, 1e-2),  # its kernels may multiply in TF32
        ("sdpa", torch.bfloat16, 5e-2),
        ("flex_attention", torch.bfloat16, 5e-2),
        ("flash_attention_2", torch.bfloat16, 5e-2),
    ],
)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_forward_and_backward_are_those_of_each_sample_alone(
    family: str, attention: str, dtype: torch.dtype, within: float
) -> None:
    """Against eager attention, sample by sample; gradients as whole vectors."""
    wanted(family, attention)
    model = build(family, attention, dtype)
    alone = build(family, "eager", dtype)
    alone.load_state_dict(model.state_dict())
    loss, gradients = step(model, [packed(attention)])
    expected_loss, expected = step(alone, one_by_one())

    assert loss == pytest.approx(expected_loss, rel=within)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        apart = (gradient - expected[name]).norm() / expected[name].norm()
        assert apart <= within, f"{name}: {apart:.2e}"


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_leak_is_caught(family: str, attention: str) -> None:
    """A cache takes the mask away; flash attention goes by its borders, so these are falsified."""
    if attention == "flash_attention_2":
        wanted(family, attention)
        batch = packed(attention)
        model = build(family, attention)
        ends = batch["cu_seq_lens_q"][[0, 2]]

        def blur(_module: Any, _args: Any, inputs: dict[str, Any]) -> Any:
            one = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
            return _args, inputs | one | {
                "max_length_q": int(ends[1]),
                "max_length_k": int(ends[1]),
            }

        model.register_forward_pre_hook(blur, with_kwargs=True)
    else:
        model = build(family, attention)
        batch = packed(attention) | {"use_cache": True}
    with pytest.raises(PackingLeak) as caught:
        check_isolation(model, batch)
    assert caught.value.found.difference > 0.01


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model = build("llama", "sdpa")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # large channels: LLM.int8() has outliers to look for
                weight.mul_(torch.randn_like(weight).exp())
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_bases_under_an_adapter(saved: Path, bits: int, attention: str) -> None:
    from peft import LoraConfig, get_peft_model

    wanted("llama", attention)
    quantization = (
        BitsAndBytesConfig(load_in_8bit=True)
        if bits == 8
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    )
    config = AutoConfig.from_pretrained(saved)
    config.use_cache = False
    base = AutoModelForCausalLM.from_pretrained(
        saved, config=config, quantization_config=quantization, attn_implementation=attention,
        dtype=torch.bfloat16, device_map={"": 0},
    )  # fmt: skip
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear")).train()
    found = check_isolation(model, packed(attention))
    assert found.limit == COARSE_LIMIT
    assert found.difference <= COARSE_LIMIT
    if attention != "flash_attention_2":
        with pytest.raises(PackingLeak):
            check_isolation(model, packed(attention) | {"use_cache": True})


def test_training_goes_on_as_without_the_canary() -> None:
    def losses(canary: bool) -> list[float]:
        model = build("llama", "sdpa", torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        torch.manual_seed(3)
        found = []
        for number in range(5):
            with torch.autocast("cuda", torch.bfloat16):
                batch = packed("sdpa")
                if canary and number == 0:
                    check_isolation(model, batch)
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found

    before = torch.cuda.get_rng_state()
    check_isolation(build("gpt2", "sdpa"), packed("sdpa"))
    torch.cuda.set_rng_state(before)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert losses(canary=True) == losses(canary=False)
    finally:
        torch.use_deterministic_algorithms(False)


def test_one_row_is_all_the_memory_it_takes() -> None:
    """The peak stays below that of the training step that follows."""
    model = build("llama", "sdpa")
    batch = packed("sdpa")
    model(**batch).loss.backward()  # kernels and gradients are there
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    check_isolation(model, batch)
    canary = torch.cuda.max_memory_allocated() - held
    torch.cuda.reset_peak_memory_stats()
    model(**batch).loss.backward()
    assert canary < torch.cuda.max_memory_allocated() - held
