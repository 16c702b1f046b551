"""The canary: it passes what keeps samples apart, catches what does not, and leaves no trace."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
)

from llmforge.build.canary import COARSE_LIMIT, EXACT_LIMIT, PackingLeak, check_isolation
from llmforge.build.collate import Collator

LLAMA = LlamaConfig(
    vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2, n_positions=64)
"""With its dropouts of 0.1."""


def build(config: PretrainedConfig = LLAMA, attention: str = "sdpa") -> Any:
    """In training mode, as it is when the first batch comes."""
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    config.use_cache = False  # as the Trainer has it
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()


def batch(*rows: list[int], attention: str = "sdpa", side: str = "right") -> dict[str, Any]:
    """`batch([5, 9], [14])`: two packed rows of samples of these lengths."""
    rng = np.random.default_rng(3)
    packs = []
    for segments in rows:
        ids = rng.integers(3, 96, sum(segments))
        packs.append({"input_ids": ids, "labels": ids, "segments": segments})
    return Collator(pad_id=0, multiple=8, attention=attention, side=side)(packs)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_passes_bit_for_bit(attention, side):
    found = check_isolation(build(attention=attention), batch([5, 9, 4], [14], side=side))
    assert found.difference == 0.0
    assert found.moved > 0.1
    assert found.limit == EXACT_LIMIT
    assert found.tokens > 9


def test_looks_at_the_row_with_the_most_samples():
    found = check_isolation(build(), batch([14], [3, 4, 5], [6, 8]))
    assert found.tokens == 16 - 3


def test_rows_of_one_sample_each_are_cut_in_two():
    assert check_isolation(build(), batch([16], [16])).tokens == 8
    with pytest.raises(PackingLeak):
        check_isolation(build(MambaConfig(**TINY_MAMBA), "eager"), batch([16], [16]))


def test_one_row_only_is_run():
    model, shapes = build(), []
    model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    check_isolation(model, batch([5, 9], [3, 4], [10]))
    assert shapes == [(1, 16), (1, 16)]


def test_flash_attentions_batch_is_cut_to_two_samples():
    # with one row, a mask from the positions does what flash attention does with the borders
    model, seen = build(), []
    model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs), with_kwargs=True)
    found = check_isolation(model, batch([5, 9], [3, 4], attention="flash_attention_2"))
    assert found.difference == 0.0
    assert found.tokens == 9
    assert seen[0]["input_ids"].shape == (1, 14)
    assert seen[0]["cu_seq_lens_q"].tolist() == [0, 5, 14]
    assert seen[0]["max_length_k"] == 9
    assert (seen[0]["input_ids"] != seen[1]["input_ids"]).tolist() == [[True] * 5 + [False] * 9]
    assert check_isolation(model, batch([16], attention="flash_attention_2")).tokens == 8


def test_every_token_of_the_first_sample_is_another_one():
    model, seen = build(), []
    model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True
    )
    given = batch([6, 8])
    check_isolation(model, given)
    assert (seen[0] != seen[1]).sum() == 6
    assert set(seen[1].unique().tolist()) <= set(given["input_ids"].unique().tolist())

    same = {**given, "input_ids": torch.zeros_like(given["input_ids"])}
    check_isolation(model, same)
    assert (seen[2] != seen[3]).sum() == 6


# what it must catch

TINY_MAMBA = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
TINY_OPT = {
    "vocab_size": 96, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64, "word_embed_proj_dim": 32,
}  # fmt: skip


def test_a_cache_takes_the_mask_away():
    model = build()
    given = batch([5, 9, 4], [14])
    with pytest.raises(PackingLeak) as caught:
        check_isolation(model, {**given, "use_cache": True})
    assert caught.value.found.difference > 100 * COARSE_LIMIT
    assert "LlamaForCausalLM with `sdpa` attention lets packed samples see" in str(caught.value)
    assert "hint: collator.packing=none" in str(caught.value)

    del given["use_cache"]
    model.config.use_cache = True  # a model's own default, should nothing speak against it
    with pytest.raises(PackingLeak):
        check_isolation(model, given)


def test_a_padding_mask_takes_the_mask_away():
    given = batch([5, 9, 4], [14])
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    with pytest.raises(PackingLeak):
        check_isolation(build(), given)


@pytest.mark.parametrize("config", [MambaConfig(**TINY_MAMBA), OPTConfig(**TINY_OPT)])
def test_families_that_leak(config):
    with pytest.raises(PackingLeak):
        check_isolation(build(config, "eager"), batch([5, 9, 4], [14]))


def leaking(model: Any, share: float) -> Any:
    """Adds a share of each row's mean to all of its hidden states."""
    model.model.layers[0].register_forward_hook(
        lambda _, __, hidden: hidden + share * hidden.mean(dim=1, keepdim=True)
    )
    return model


@pytest.mark.parametrize(("share", "caught"), [(1e-2, True), (1e-4, True), (0.0, False)])
def test_a_small_leak(share, caught):
    model = leaking(build(), share)
    if not caught:
        assert check_isolation(model, batch([5, 9])).difference == 0.0
        return
    with pytest.raises(PackingLeak) as error:
        check_isolation(model, batch([5, 9]))
    assert error.value.found.difference < 100 * share


def test_a_model_that_cannot_tell_is_no_proof():
    model = build()
    torch.nn.init.zeros_(model.lm_head.weight)
    with pytest.raises(PackingLeak, match="moved no logits of LlamaForCausalLM"):
        check_isolation(model, batch([5, 9]))


def test_logits_that_are_not_finite_are_no_proof():
    model = build()
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(PackingLeak, match="not finite"):
        check_isolation(model, batch([5, 9]))


# precisions and wrappers


def test_a_mixture_of_experts_moves_in_the_last_digits():
    config = MixtralConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    found = check_isolation(build(config), batch([7, 9, 4], [20]))
    assert 0 <= found.difference <= EXACT_LIMIT


def test_sixteen_bit_weights():
    found = check_isolation(build().bfloat16(), batch([5, 9], [14]))
    assert found.limit == COARSE_LIMIT
    assert found.difference <= COARSE_LIMIT


def test_autocast_whose_logits_are_cast_back():
    # what accelerate makes of a model when it trains in mixed precision
    from accelerate.utils import convert_outputs_to_fp32

    model = build()
    inner = torch.autocast("cpu", torch.bfloat16)(model.forward)
    model.forward = convert_outputs_to_fp32(inner)
    given = batch([5, 9], [14])
    assert model(**given).logits.dtype == torch.float32
    assert check_isolation(model, given).limit == COARSE_LIMIT


def test_under_an_adapter():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build(), LoraConfig(r=4, target_modules="all-linear"))
    assert check_isolation(model, batch([5, 9], [14])).difference == 0.0
    with pytest.raises(PackingLeak, match="LlamaForCausalLM with `sdpa`"):
        check_isolation(model, {**batch([5, 9], [14]), "use_cache": True})


def test_columns_that_int8_computes_in_16_bits_are_no_leak(tmp_path):
    """LLM.int8() picks them over all tokens of a batch, so samples move each other a little."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model = build().bfloat16()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # some channels are larger than others, as in trained models
                weight.mul_(torch.randn(weight.shape, generator=generator).exp())
    model.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16,
        device_map={"": "cpu"},
    )  # fmt: skip
    given = batch([12, 9, 7])
    before = model(**given).logits
    other = {**given, "input_ids": given["input_ids"].clone()}
    other["input_ids"][:, :12] = given["input_ids"][:, 12:24]
    assert not torch.equal(model(**other).logits[:, 12:], before[:, 12:]), "as it is, they move"

    assert check_isolation(model, given).difference == 0.0
    with pytest.raises(PackingLeak):
        check_isolation(model, {**given, "use_cache": True})
    assert torch.equal(model(**given).logits, before), "and it is as it was"

    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    assert check_isolation(adapted, given).difference == 0.0


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_in_a_process_group(one_process):
    model = torch.nn.parallel.DistributedDataParallel(build())
    given = batch([5, 9], [14])
    assert check_isolation(model, given).difference == 0.0
    with pytest.raises(PackingLeak):
        check_isolation(model, {**given, "use_cache": True})
    model(**given).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


def of_two(rank: int, store: str, queue: Any) -> None:
    """One of two processes; the model of the second leaks."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    model = build() if rank == 0 else leaking(build(), 0.1)
    try:
        check_isolation(model, batch([5, 9], [14]) if rank == 0 else batch([16]))
        queue.put("passed")
    except PackingLeak:
        queue.put("leak")
    torch.distributed.destroy_process_group()


def test_all_processes_stop_when_one_sees_a_leak(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    started = [
        context.Process(target=of_two, args=(rank, str(tmp_path / "store"), queue))
        for rank in range(2)
    ]
    for process in started:
        process.start()
    told = [queue.get(timeout=120) for _ in started]
    for process in started:
        process.join(timeout=60)
    assert told == ["leak", "leak"]


# no trace


class Counting(torch.nn.Module):
    """A layer that counts its calls in one buffer and replaces another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = self.calls + 1
        random.random()  # noqa: S311 - drawn so that it must be put back
        np.random.rand()
        torch.rand(1)
        return hidden


def test_the_model_is_as_it_was():
    model = build(GPT2)
    counting = model.transformer.ln_f
    model.transformer.ln_f = torch.nn.Sequential(counting, Counting())
    model.transformer.h[0].eval()  # frozen, say
    model(**batch([5, 9])).loss.backward()
    modes = {name: module.training for name, module in model.named_modules()}
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    grads = {name: (weight.grad, weight.grad.clone()) for name, weight in model.named_parameters()}
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    check_isolation(model, batch([5, 9], [14]))

    assert {name: module.training for name, module in model.named_modules()} == modes
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1]), name
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name])
        assert weight.grad is grads[name][0]
        assert torch.equal(weight.grad, grads[name][1])
        assert weight.requires_grad
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    assert random.getstate() == drawn[0]
    assert np.random.get_state()[1].tolist() == drawn[1]
    assert torch.equal(torch.get_rng_state(), drawn[2])


def test_the_model_is_as_it_was_after_a_failure_too():
    model = build(GPT2)
    before = torch.get_rng_state()

    def fail(*_: Any) -> None:
        torch.rand(1)
        raise RuntimeError("out of memory, say")

    model.transformer.ln_f.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="say"):
        check_isolation(model, batch([5, 9]))
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), before)


def losses(canary: bool, autocast: bool) -> list[float]:
    model = build(GPT2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(5)
    found = []
    for step in range(5):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            given = batch([5, 9, 2 + step], [14])
            if canary and step == 0:
                check_isolation(model, given)
            loss = model(**given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("autocast", [False, True])
def test_training_with_dropout_is_bit_for_bit_the_same(autocast):
    plain = losses(canary=False, autocast=autocast)
    assert losses(canary=True, autocast=autocast) == plain
    assert len(set(plain)) == 5
