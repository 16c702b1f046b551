"""The foretold bytes against what torch keeps: tiny models of every family, wrapped as in a run.

The truth is counted by hooks on saved tensors: unique pieces of memory that are neither parameters
nor buffers. Sizes differ from each other, so that no term can pass for another. `LLMFORGE_DEVICE`
runs the same on another device than the CPU.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from llmforge.build.formats import embeddings, norms
from llmforge.compiler.facts.families import ModelFacts, facts_from_config
from llmforge.compiler.facts.targets import peft_targets
from llmforge.compiler.memory.activations import ForwardPass, activations, terms
from llmforge.schema.adapter import (
    AdaLora,
    AdapterSpec,
    Ia3,
    Lora,
    NoAdapter,
    PrefixTuning,
    PromptTuning,
    Vera,
)
from llmforge.schema.precision import BitsAndBytes, NoQuantization, QuantizationSpec

DEVICE = os.environ.get("LLMFORGE_DEVICE", "cpu")
ROWS, LENGTH, PADDING = 3, 13, 4

LLAMA = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA_KV = LLAMA | {"num_key_value_heads": 2}
WIDE = LLAMA_KV | {"head_dim": 24}  # heads wider together than the hidden channels
GPT = {"n_embd": 64, "n_head": 4, "n_positions": 40, "vocab_size": 96}
GPT |= {"bos_token_id": 1, "eos_token_id": 2}
NEO = LLAMA | {"num_heads": 4, "intermediate_size": 112}
OPT = LLAMA | {"ffn_dim": 112, "word_embed_proj_dim": 64}
MOE = LLAMA_KV | {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
TINY: dict[str, dict[str, Any]] = {
    "llama": LLAMA_KV,
    "mistral": LLAMA | {"num_key_value_heads": 1},
    "qwen2": LLAMA_KV,
    "qwen3": WIDE,
    "gemma": WIDE,
    # the cap on logits belongs to the loss, which is not counted here
    "gemma2": WIDE | {"final_logit_softcapping": None},
    "gemma3_text": WIDE,
    "phi3": LLAMA_KV,
    "stablelm": LLAMA_KV,
    "smollm3": LLAMA_KV,
    "olmo2": LLAMA_KV,
    "opt": OPT,
    "gpt_neo": NEO,
    "gpt_neox": LLAMA,
    "gptj": GPT | {"rotary_dim": 8},
    # the CPU's sdpa knows no dropout
    "gpt2": GPT | {"attn_pdrop": 0.0},
    "phi": LLAMA_KV,
    "mixtral": LLAMA_KV | {"num_local_experts": 4},
    "qwen2_moe": MOE | {"shared_expert_intermediate_size": 40},
    "qwen3_moe": MOE,
}
NO_SDPA = ("gemma2", "gpt_neo", "gptj")
NONE = NoAdapter(kind="none")
PLAIN = NoQuantization(kind="none")
FORMATS = (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products: threads would only wait for each other
    yield
    torch.set_num_threads(before)


def lora(dropout: float = 0.0, targets: str | list[str] = "all-linear", **other: Any) -> Lora:
    fixed: dict[str, Any] = {"r": 8, "alpha": 16, "bias": "none", "rslora": False, "dora": False}
    fixed |= {"modules_to_save": [], "expect_modules": 0, "expect_bits": None, "init": "default"}
    return Lora(**{"kind": "lora", "dropout": dropout, "targets": targets, **fixed, **other})


ADAPTERS = (NONE, lora(), lora(0.1), lora(0.1, "role:attention"), lora(0.0, "role:mlp"))


def config_of(family: str, layers: int, **changes: Any) -> Any:
    keys = TINY[family] | {"num_hidden_layers": layers} | changes
    if family == "gpt_neo":
        keys |= {"num_layers": layers, "attention_types": [[["global"], layers]]}
    if family in ("gpt2", "gptj"):
        keys["n_layer"] = keys.pop("num_hidden_layers")
    return AutoConfig.for_model(family, **keys)


def quantized(model: Any, bits: int) -> Any:
    """The model with bitsandbytes' layers, norms and embeddings in float32."""
    keywords = {"bnb_4bit_compute_dtype": torch.bfloat16, "bnb_4bit_quant_type": "nf4"}
    chosen = BitsAndBytesConfig(load_in_4bit=True, **keywords)
    chosen = BitsAndBytesConfig(load_in_8bit=True) if bits == 8 else chosen
    packed = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        quantization_config=chosen,
        dtype=torch.bfloat16,
        device_map={"": DEVICE},
    )
    for part in (norms(packed), embeddings(packed)):
        for weight in part:
            weight.data = weight.data.float()
    return packed


def built(config: Any, asked: ForwardPass) -> tuple[Any, ModelFacts]:
    """A model as llmforge builds it, and its facts."""
    facts = facts_from_config(config.to_dict())
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=asked.attention
    ).to(getattr(torch, asked.weights))
    if isinstance(asked.quantization, BitsAndBytes):
        model = quantized(model, asked.quantization.bits)
    adapter = asked.adapter
    if not isinstance(adapter, NoAdapter):
        model = get_peft_model(model, peft_config(adapter, facts), autocast_adapter_dtype=True)
    if not isinstance(adapter, NoAdapter):
        for name, weight in model.named_parameters():
            if "ranknum" in name:
                weight.requires_grad_(False)
            if weight.requires_grad and asked.compute != "float32":
                weight.data = weight.data.float()
    model.config.use_cache = False
    model.to(DEVICE).train()
    if asked.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if not isinstance(adapter, NoAdapter):
            model.enable_input_require_grads()
    return model, facts


def peft_config(adapter: AdapterSpec, facts: ModelFacts) -> Any:
    common: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if isinstance(adapter, PromptTuning | PrefixTuning):
        kind = PromptTuningConfig if isinstance(adapter, PromptTuning) else PrefixTuningConfig
        return kind(num_virtual_tokens=adapter.tokens, **common)
    common["target_modules"] = peft_targets(facts, adapter.targets)
    if isinstance(adapter, Ia3):
        names = peft_targets(facts, adapter.feedforward)
        return IA3Config(feedforward_modules=names, **common)
    if isinstance(adapter, Vera):
        return VeraConfig(r=adapter.r, vera_dropout=adapter.dropout, **common)
    if isinstance(adapter, AdaLora):
        sizes = {"init_r": adapter.initial_r, "target_r": adapter.target_r, "total_step": 100}
        return AdaLoraConfig(lora_dropout=adapter.dropout, **sizes, **common)
    assert isinstance(adapter, Lora)
    saved = adapter.modules_to_save or None
    keywords = {"bias": adapter.bias, "use_dora": adapter.dora, "modules_to_save": saved}
    sizes = {"r": adapter.r, "lora_alpha": adapter.alpha, "lora_dropout": adapter.dropout}
    return LoraConfig(**sizes, **keywords, **common)


class Box:
    """What a graph holds in the place of a tensor, for as long as it needs it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Kept:
    """Memory that is kept after a forward pass, counted once for each piece."""

    def __init__(self, model: Any) -> None:
        held = (*model.parameters(), *model.buffers())
        self.held = {tensor.untyped_storage().data_ptr() for tensor in held}
        self.boxes: list[weakref.ref[Box]] = []
        self.others: list[torch.Tensor] = []

    def pack(self, tensor: torch.Tensor) -> Box:
        box = Box(tensor)
        self.boxes.append(weakref.ref(box))
        return box

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda box: box.tensor):
            yield

    def keep(self, tensor: torch.Tensor) -> None:
        self.others.append(tensor)

    def sizes(self) -> dict[int, int]:
        """Bytes by address; to be asked while the result of the pass is alive."""
        boxes = (reference() for reference in self.boxes)
        tensors = [box.tensor for box in boxes if box is not None]
        storages = [tensor.untyped_storage() for tensor in (*tensors, *self.others)]
        found = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}
        return {address: size for address, size in found.items() if address not in self.held}

    @property
    def bytes(self) -> int:
        return sum(self.sizes().values())

    def look_into(self, result: torch.Tensor) -> None:
        """bitsandbytes keeps tensors as attributes, where hooks do not see them."""
        waiting, seen = [result.grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            if "MatMul8bit" in type(node).__name__:
                own = (getattr(node, "A", None), *getattr(node, "tensors", ()))
                for tensor in own:
                    if isinstance(tensor, torch.Tensor):
                        self.keep(tensor)


def autocast(asked: ForwardPass) -> Any:
    if asked.compute == "float32":
        return contextlib.nullcontext()
    return torch.autocast(DEVICE, dtype=getattr(torch, asked.compute))


def batch(asked: ForwardPass) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 90, (asked.rows, asked.length), device=DEVICE)
    mask = torch.ones_like(ids)
    if asked.masked:
        mask[:, -PADDING:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def kept_by_torch(model: Any, asked: ForwardPass) -> int:
    kept = Kept(model)
    with kept.listening(), autocast(asked):
        logits = model(**batch(asked)).logits
    kept.look_into(logits)
    return kept.bytes


def forward_pass(
    formats: tuple[str, str] = ("bfloat16", "bfloat16"),
    adapter: AdapterSpec = NONE,
    attention: str = "sdpa",
    masked: bool = False,
    checkpointing: bool = False,
    quantization: QuantizationSpec = PLAIN,
) -> ForwardPass:
    return ForwardPass(
        *(ROWS, LENGTH, *formats, attention, masked, checkpointing, adapter, quantization),
        device=DEVICE,
    )


def compare(family: str, asked: ForwardPass, layers: int = 2, **changes: Any) -> tuple[int, int]:
    """Bytes foretold, bytes kept."""
    config = config_of(family, layers, **changes)
    model, facts = built(config, asked)
    found = activations(facts, asked, config.to_dict())
    return found.layers + found.outside + found.weight_casts, kept_by_torch(model, asked)


@pytest.mark.parametrize("formats", FORMATS, ids="-over-".join)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", TINY)
def test_every_byte_is_foretold(family: str, attention: str, formats: tuple[str, str]) -> None:
    if attention == "sdpa" and family in NO_SDPA:
        pytest.skip("its class has no sdpa")
    wrong = {}
    cases = [(adapter, 2 + number % 2) for number, adapter in enumerate(ADAPTERS)]
    for adapter, layers in [(NONE, 3), *cases]:
        if family in ("mixtral", "qwen3_moe") and getattr(adapter, "targets", "") == "role:mlp":
            continue  # their experts are no linear modules, so that nothing is left to hit
        config = config_of(family, layers)
        model, facts = built(config, forward_pass(formats, adapter, attention))
        for masked in (False, True):
            asked = forward_pass(formats, adapter, attention, masked)
            found = activations(facts, asked, config.to_dict())
            foretold = found.layers + found.outside + found.weight_casts
            kept = kept_by_torch(model, asked)
            if foretold != kept:
                wrong[layers, masked, str(adapter)] = (foretold, kept)
    assert not wrong


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"hidden_act": "gelu", "attention_bias": True, "mlp_bias": True}),
        ("llama", {"hidden_act": "relu", "tie_word_embeddings": True}),
        ("gpt2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "activation_function": "relu"}),
        ("opt", {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),
        ("opt", {"word_embed_proj_dim": 32, "dropout": 0.0, "enable_bias": False}),
        ("mistral", {"sliding_window": 8}),
        ("gemma3_text", {"sliding_window": 8, "sliding_window_pattern": 2}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("smollm3", {"no_rope_layers": [0, 1, 1]}),
        ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": True}),
        ("stablelm", {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
        ("phi", {"qk_layernorm": True, "resid_pdrop": 0.1}),
        ("gpt_neox", {"use_parallel_residual": False, "hidden_dropout": 0.1}),
        ("qwen2_moe", {"mlp_only_layers": [1]}),
        ("qwen3_moe", {"norm_topk_prob": True}),
    ],
)
def test_keys_of_the_config_are_heeded(family: str, changes: dict[str, Any]) -> None:
    for adapter in (NONE, lora(0.1)):
        for formats in FORMATS[1:]:
            foretold, kept = compare(family, forward_pass(formats, adapter), 3, **changes)
            assert foretold == kept


def test_dropout_on_probabilities_is_kept_by_the_eager_kernel() -> None:
    for family, key in (("llama", "attention_dropout"), ("gptj", "attn_pdrop")):
        asked = forward_pass(attention="eager")
        foretold, kept = compare(family, asked, **{key: 0.1})
        assert foretold == kept
        assert foretold > compare(family, asked)[0]


TARGETS: dict[str, Any] = {"targets": "all-linear", "modules_to_save": [], "expect_modules": 0}
ADALORA = {"initial_r": 8, "target_r": 4, "alpha": 16, "dropout": 0.1, "bias": "none"}
ADALORA |= {"warmup": 1, "final": 1, "interval": 1, "orthogonality": 0.5}
ADALORA |= {"sensitivity_decay": 0.8, "uncertainty_decay": 0.8}
OTHERS: dict[str, AdapterSpec] = {
    "dora": lora(dora=True),
    "dora with dropout": lora(0.1, dora=True),
    "biases": lora(bias="all"),
    "head trained whole": lora(targets="role:attention", modules_to_save=["lm_head"]),
    "embeddings trained whole": lora(modules_to_save=["embed_tokens"]),
    "vera": Vera(
        kind="vera", r=16, dropout=0.1, initial=0.1, save_projection=True, bias="none", **TARGETS
    ),
    "adalora": AdaLora(kind="adalora", **ADALORA, **TARGETS),
    "ia3": Ia3(kind="ia3", feedforward="role:down", **TARGETS | {"targets": "role:key+value+down"}),
    "prompt": PromptTuning(kind="prompt", tokens=5, init="uniform"),
    "prefix": PrefixTuning(kind="prefix", tokens=5, init="normal"),
}


@pytest.mark.parametrize("formats", FORMATS, ids="-over-".join)
@pytest.mark.parametrize("name", OTHERS)
def test_other_adapters_are_foretold_within_two_percent(
    name: str, formats: tuple[str, str]
) -> None:
    changes = {"attention_bias": True} if name == "biases" else {}
    foretold, kept = compare("llama", forward_pass(formats, OTHERS[name]), 3, **changes)
    assert foretold == pytest.approx(kept, rel=0.02)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "phi3"])
def test_quantized_bases_are_foretold(family: str, bits: int) -> None:
    keywords: dict[str, Any] = {"quant_type": "nf4", "double_quant": False} if bits == 4 else {}
    keywords = {"quant_type": None, "double_quant": None} | keywords
    chosen = BitsAndBytes(
        kind="bitsandbytes",
        when="after_build",
        bits=bits,  # type: ignore[arg-type]  # pytest gives an int
        int8_threshold=None if bits == 4 else 6.0,
        int8_fp16_weight=None if bits == 4 else False,
        **keywords,
    )
    for dropout in (0.0, 0.1):
        asked = forward_pass(adapter=lora(dropout), quantization=chosen)
        foretold, kept = compare(family, asked, 3)
        assert foretold == kept


@pytest.mark.parametrize("adapter", [NONE, lora(0.1)], ids=["full", "lora"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_neox", "gptj"])
def test_checkpointing_keeps_inputs_and_one_layer_at_a_time(
    family: str, attention: str, adapter: AdapterSpec
) -> None:
    if attention == "sdpa" and family in NO_SDPA:
        pytest.skip("its class has no sdpa")
    for formats in FORMATS[1:]:
        asked = forward_pass(formats, adapter, attention, masked=True, checkpointing=True)
        config = config_of(family, 3)
        model, facts = built(config, asked)
        found = activations(facts, asked, config.to_dict())
        inputs, handed, outside, layer = checkpointed(model, asked)
        assert found.layers == inputs
        assert found.outside + found.weight_casts == outside + handed
        assert found.one_layer + found.one_layer_casts == layer


def checkpointed(model: Any, asked: ForwardPass) -> tuple[int, int, int, int]:
    """Bytes of the layers' inputs still held after the forward pass, of what all of them are
    handed, of what is kept outside, and of what the last layer keeps when it runs again."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = [m for m in base.modules() if hasattr(m, "gradient_checkpointing")]
    layers = [m for m in layers if "Layer" in type(m).__name__ or "Block" in type(m).__name__]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    inputs: list[weakref.ref[torch.Tensor]] = []

    def note(_: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        calls.append((args[1:], keywords))
        inputs.append(weakref.ref(args[0]))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    kept = Kept(model)
    with kept.listening(), autocast(asked):
        logits = model(**batch(asked)).logits
    for hook in hooks:
        hook.remove()
    outside = kept.sizes()
    alive = {}
    for reference in inputs:
        tensor = reference()
        assert tensor is not None
        storage = tensor.untyped_storage()
        alive[storage.data_ptr()] = storage.nbytes()
        outside.pop(storage.data_ptr(), None)  # checkpointing keeps it by an operation
    last = inputs[-1]()
    assert last is not None
    hidden = last.detach().clone().requires_grad_()
    del logits
    args, keywords = calls[-1]
    shared = Kept(model)
    for value in _tensors(calls):
        if value.dtype != torch.int64:  # positions
            shared.keep(value)
            outside.pop(value.untyped_storage().data_ptr(), None)
    layers[-1].gradient_checkpointing = False
    again = Kept(model)
    again.held |= {hidden.untyped_storage().data_ptr()} | set(shared.sizes())
    with again.listening(), autocast(asked):
        result = layers[-1](hidden, *args, **keywords)
    layer = again.bytes
    del result
    return sum(alive.values()), shared.bytes, sum(outside.values()), layer


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def test_autocast_holds_copies_of_all_trained_linear_weights_until_the_loss() -> None:
    facts = facts_from_config(config_of("llama", 5).to_dict())
    linear = sum(module.parameters for module in facts.linear_modules)
    asked = forward_pass(("bfloat16", "float32"))
    assert activations(facts, asked).forward_casts == 2 * linear
    assert activations(facts, asked).weight_casts == 2 * linear
    again = activations(facts, replace(asked, checkpointing=True))
    assert again.forward_casts == 2 * linear
    assert again.weight_casts == 2 * facts.vocabulary * facts.hidden
    assert activations(facts, forward_pass(("bfloat16", "bfloat16"))).forward_casts == 0


def test_a_family_without_a_recipe_is_taken_for_llama() -> None:
    known = facts_from_config(config_of("llama", 4).to_dict())
    asked = forward_pass(adapter=lora(0.1))
    unknown = replace(known, family="new_one")
    assert activations(unknown, asked) == activations(known, asked)
    # also one whose modules have other names than any recipe's
    other = [replace(m, name=m.name.replace("q_proj", "wq")) for m in known.linear_modules]
    found = activations(replace(unknown, linear_modules=tuple(other)), asked)
    assert found.layers == pytest.approx(activations(known, asked).layers, rel=0.05)


def test_terms_have_names_and_add_up() -> None:
    config = config_of("llama", 3)
    facts = facts_from_config(config.to_dict())
    asked = forward_pass(adapter=lora(0.1))
    found = activations(facts, asked)
    named = terms(facts, asked)
    assert sum(named.values()) == found.layers + found.one_layer_casts * 3 - _first_layers(named)
    assert {"q_proj LoRA: dropout", "attention: log-sum-exp", "gate times up"} <= set(named)


def _first_layers(named: dict[str, int]) -> int:
    """Copies of the first layer's A matrices, which no gradient passes through."""
    return 3 * 8 * 64 * 2 if "q_proj LoRA A: weight in bfloat16" in named else 0


def test_longer_rows_and_more_of_them_keep_more() -> None:
    facts = facts_from_config(config_of("llama", 3).to_dict())
    asked = forward_pass()
    assert activations(facts, replace(asked, rows=6)).layers == 2 * activations(facts, asked).layers
    flash = replace(asked, attention="flash_attention_2", length=1024, masked=True)
    eager = replace(flash, attention="eager")
    assert activations(facts, eager).layers > 5 * activations(facts, flash).layers


def test_a_hundred_layers_take_milliseconds() -> None:
    facts = facts_from_config(config_of("llama", 100).to_dict())
    few = facts_from_config(config_of("llama", 2).to_dict())
    asked = forward_pass(adapter=lora(0.1), checkpointing=True)
    many = activations(facts, asked)
    assert many.layers == 50 * activations(few, asked).layers
    assert many.one_layer == activations(few, asked).one_layer
