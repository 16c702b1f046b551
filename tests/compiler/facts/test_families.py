"""The formulas against the models that transformers builds, and against PEFT's own matching."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from llmforge.compiler.facts.families import (
    BadConfig,
    LinearModule,
    UnknownFamily,
    facts_from_config,
    known_families,
    lora_parameters,
    match_modules,
)

LLAMA = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA_KV = LLAMA | {"num_key_value_heads": 2}
OPT = {
    "vocab_size": 96,
    "hidden_size": 64,
    "ffn_dim": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
GPT_NEO = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 40,
}
GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 40}
GPTJ = GPT2 | {"rotary_dim": 8}
# padding tokens of the configuration classes that lie beyond the tiny vocabulary
PAD = {"pad_token_id": None}
MIXTRAL = LLAMA | {"num_attention_heads": 8, "num_local_experts": 4}
QWEN_MOE = LLAMA_KV | {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
TINY: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": LLAMA | {"num_attention_heads": 8},
    "qwen2": LLAMA_KV,
    "qwen3": LLAMA_KV | {"head_dim": 16},
    "gemma": LLAMA_KV | {"head_dim": 16},
    "gemma2": LLAMA_KV | {"head_dim": 16},
    "gemma3_text": LLAMA_KV | {"head_dim": 16},
    "phi3": LLAMA | PAD,
    "stablelm": LLAMA_KV,
    "smollm3": LLAMA | PAD,
    "olmo2": LLAMA,
    "gptj": GPTJ,
    "phi": LLAMA,
    "mixtral": MIXTRAL,
    "qwen2_moe": QWEN_MOE | {"shared_expert_intermediate_size": 40},
    "qwen3_moe": QWEN_MOE,
    "opt": OPT | {"word_embed_proj_dim": 32},
    "gpt_neo": GPT_NEO,
    "gpt_neox": LLAMA,
    "gpt2": GPT2,
}
ODD: list[tuple[str, dict[str, Any]]] = [
    ("llama", LLAMA_KV),
    ("llama", LLAMA | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("llama", LLAMA_KV | {"head_dim": 24}),
    ("llama", LLAMA_KV | {"attention_bias": True}),
    ("llama", LLAMA_KV | {"mlp_bias": True}),
    ("mistral", LLAMA_KV | {"head_dim": 24}),
    ("mistral", LLAMA_KV | {"head_dim": 10, "hidden_size": 66, "tie_word_embeddings": True}),
    ("mistral", LLAMA_KV | {"attention_bias": True, "mlp_bias": True}),  # no such keys: ignored
    ("qwen2", LLAMA_KV | {"tie_word_embeddings": True, "num_key_value_heads": None}),
    ("qwen2", LLAMA_KV | {"head_dim": 24}),  # not a field of Qwen2Config, and yet heeded
    ("qwen2", LLAMA | {"num_attention_heads": 64}),  # 32 kv heads by default
    ("qwen3", LLAMA_KV),  # head_dim 128 by default
    ("qwen3", LLAMA_KV | {"attention_bias": True, "tie_word_embeddings": True}),
    ("gemma", LLAMA | {"num_attention_heads": 16}),  # 16 kv heads of 256 by default
    ("gemma", LLAMA_KV | {"attention_bias": True, "tie_word_embeddings": False}),
    ("opt", OPT | {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),  # as opt-350m
    ("opt", OPT | {"word_embed_proj_dim": 32, "tie_word_embeddings": False}),
    ("opt", OPT | {"word_embed_proj_dim": None, "enable_bias": False}),
    ("opt", OPT | {"layer_norm_elementwise_affine": False}),
    ("opt", OPT | {"_remove_final_layer_norm": True}),
    ("gpt_neo", GPT_NEO | {"intermediate_size": 100, "tie_word_embeddings": False}),
    ("gpt_neo", LLAMA | {"attention_types": [[["local"], 2]]}),  # the common names of keys
    ("gpt_neox", LLAMA | {"tie_word_embeddings": True}),
    ("gpt_neox", LLAMA | {"attention_bias": False, "use_parallel_residual": False}),
    ("gpt2", GPT2 | {"n_inner": 100, "tie_word_embeddings": False}),
    ("gpt2", GPT2 | {"hidden_size": 32}),  # the common name wins over n_embd
    ("gptj", GPTJ | {"n_inner": 100, "tie_word_embeddings": True}),  # the head's bias is its own
    ("gemma2", LLAMA | {"num_attention_heads": 8}),  # 4 kv heads of 256 by default
    ("gemma2", LLAMA_KV | {"attention_bias": True, "tie_word_embeddings": False}),
    ("gemma3_text", LLAMA | {"num_attention_heads": 8}),
    ("gemma3_text", LLAMA_KV | {"attention_bias": True, "tie_word_embeddings": False}),
    ("phi3", LLAMA_KV | PAD | {"tie_word_embeddings": True}),
    ("phi3", LLAMA_KV | PAD | {"head_dim": 24}),  # not a field of Phi3Config, and yet heeded
    ("stablelm", LLAMA_KV | {"use_qkv_bias": True, "qk_layernorm": True}),
    ("stablelm", LLAMA_KV | {"use_parallel_residual": True, "tie_word_embeddings": True}),
    ("stablelm", LLAMA | {"num_attention_heads": 32}),  # 32 kv heads by default
    ("smollm3", LLAMA_KV | PAD | {"attention_bias": True, "mlp_bias": True}),
    ("smollm3", LLAMA_KV | PAD | {"head_dim": 24, "tie_word_embeddings": False}),
    ("olmo2", LLAMA_KV | {"attention_bias": True, "tie_word_embeddings": True}),
    ("olmo2", LLAMA_KV | {"head_dim": 24}),
    ("phi", LLAMA_KV | {"qk_layernorm": True}),
    ("phi", LLAMA_KV | {"tie_word_embeddings": True, "head_dim": 24}),
    ("mixtral", LLAMA_KV | {"num_local_experts": 3, "num_experts_per_tok": 1, "head_dim": 24}),
    ("mixtral", LLAMA_KV | {"num_experts": 3, "tie_word_embeddings": True}),  # the common name
    ("qwen2_moe", QWEN_MOE | {"qkv_bias": False, "mlp_only_layers": [1]}),
    ("qwen2_moe", QWEN_MOE | {"decoder_sparse_step": 2, "tie_word_embeddings": True}),
    ("qwen2_moe", LLAMA | {"num_attention_heads": 16}),  # 60 experts of 1,408 by default
    ("qwen3_moe", QWEN_MOE | {"mlp_only_layers": [0, 1]}),  # no experts left
    ("qwen3_moe", QWEN_MOE | {"head_dim": 24, "attention_bias": True, "decoder_sparse_step": 2}),
    ("qwen3_moe", LLAMA | {"num_attention_heads": 8}),  # 128 experts of 768 by default
]
NEEDED = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_layers"),
    *("num_attention_heads", "num_heads", "ffn_dim", "n_embd", "n_layer", "n_head"),
}


def meta_model(config: Any) -> Any:
    """The real model without its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear | Conv1D)


def linear_shape(name: str, module: Any) -> tuple[str, int, int, bool]:
    rows, columns = module.weight.shape
    if isinstance(module, Conv1D):
        rows, columns = columns, rows
    return name, rows, columns, module.bias is not None


def without_defaults(config: Any) -> dict[str, Any]:
    """A terse config.json: the sizes, and what differs from the configuration class."""
    default = AutoConfig.for_model(config.model_type).to_dict()
    written = config.to_dict()
    kept = {k: v for k, v in written.items() if k in NEEDED or v != default.get(k)}
    return kept | {"model_type": config.model_type}


def assert_facts_equal_model(json: dict[str, Any], config: Any) -> None:
    facts, model = facts_from_config(json), meta_model(config)
    embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]

    assert facts.family == config.model_type
    assert facts.architecture == type(model).__name__
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert facts.embedding_parameters == sum(e.weight.numel() for e in embeddings)
    assert [(m.name, m.out_features, m.in_features, m.bias) for m in facts.linear_modules] == [
        linear_shape(name, module) for name, module in model.named_modules() if is_linear(module)
    ]
    flags = {"sdpa": "sdpa", "flash_attention_2": "flash_attn", "flex_attention": "flex_attn"}
    supported = [k for k, flag in flags.items() if getattr(model, f"_supports_{flag}")]
    assert facts.attentions == ("eager", *supported)
    experts = [(n, p.numel()) for n, p in model.named_parameters() if ".experts." in n]
    assert facts.expert_parameters == sum(size for _, size in experts)
    assert bool(facts.experts) == bool(experts)
    if experts:
        assert facts.experts == config.num_experts
        assert facts.experts_per_token == config.num_experts_per_tok
    assert facts.tied_embeddings == (
        model.get_output_embeddings().weight is model.get_input_embeddings().weight
    )
    assert facts.vocabulary == config.vocab_size == model.get_input_embeddings().num_embeddings
    assert facts.context == config.max_position_embeddings
    assert facts.layers == config.num_hidden_layers
    assert facts.hidden == config.hidden_size
    assert facts.heads == config.num_attention_heads
    assert facts.kv_heads == getattr(config, "num_key_value_heads", facts.heads)
    assert facts.head_dim == (getattr(config, "head_dim", None) or facts.hidden // facts.heads)


# The formulas are the model.


@pytest.mark.parametrize("family", known_families())
def test_a_model_of_nothing_but_the_needed_sizes(family: str) -> None:
    config = AutoConfig.for_model(family, **TINY[family])
    assert_facts_equal_model(TINY[family] | {"model_type": family}, config)


@pytest.mark.parametrize(("family", "changes"), ODD, ids=lambda value: str(value)[-40:])
def test_odd_settings(family: str, changes: dict[str, Any]) -> None:
    config = AutoConfig.for_model(family, **changes)
    assert_facts_equal_model(changes | {"model_type": family}, config)
    assert_facts_equal_model(config.to_dict(), config)
    assert_facts_equal_model(without_defaults(config), config)


@pytest.mark.parametrize("family", known_families())
def test_the_default_configuration_of_every_class(family: str) -> None:
    config = AutoConfig.for_model(family)
    assert_facts_equal_model(config.to_dict(), config)
    assert_facts_equal_model(without_defaults(config), config)


GEMMA3 = {
    "text_config": LLAMA_KV | {"head_dim": 16, "vocab_size": 96},
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "image_size": 42,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}], ids=str)
def test_a_language_model_that_sees(changes: dict[str, Any]) -> None:
    json = GEMMA3 | changes | {"model_type": "gemma3"}
    config = AutoConfig.for_model(**json)
    facts, model = facts_from_config(json), meta_model(config)

    assert facts.architecture == type(model).__name__
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert [(m.name, m.out_features, m.in_features, m.bias) for m in facts.linear_modules] == [
        linear_shape(name, module) for name, module in model.named_modules() if is_linear(module)
    ]
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert facts.tied_embeddings == (head.weight is embedding.weight)
    assert facts.embedding_parameters == embedding.weight.numel()
    assert (facts.layers, facts.hidden, facts.context) == (2, 64, 131072)
    roles = {module.role for module in facts.linear_modules if "vision" in module.name}
    assert roles == {"vision"}


def test_defaults_of_the_text_part_stand_in() -> None:
    """Configs on the hub leave out heads and vocabulary."""
    sizes = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2}
    json = GEMMA3 | {"model_type": "gemma3", "text_config": sizes}
    model = meta_model(AutoConfig.for_model(**json))

    assert facts_from_config(json).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "changes",
    [{"vision_config": None}, {"text_config": None}, {"vision_config": {"model_type": "clip"}}],
    ids=str,
)
def test_another_tower_is_left_to_the_meta_device(changes: dict[str, Any]) -> None:
    with pytest.raises(UnknownFamily):
        facts_from_config(GEMMA3 | changes | {"model_type": "gemma3"})


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", LLAMA), ("opt", OPT), ("gpt_neo", GPT_NEO), ("gpt_neox", LLAMA), ("gpt2", GPT2)],
)
def test_the_intermediate_width_is_that_of_the_mlp(family: str, changes: dict[str, Any]) -> None:
    facts = facts_from_config(changes | {"model_type": family})
    mlp = [module for module in facts.linear_modules if module.role == "mlp"]
    assert {m.out_features for m in mlp} == {facts.intermediate, facts.hidden}


def test_every_module_has_its_role() -> None:
    facts = facts_from_config(OPT | {"model_type": "opt", "word_embed_proj_dim": 32})
    assert [(m.name.removeprefix("model.decoder."), m.role) for m in facts.linear_modules[:8]] == [
        ("project_out", "embedding_projection"),
        ("project_in", "embedding_projection"),
        ("layers.0.self_attn.k_proj", "attention"),
        ("layers.0.self_attn.v_proj", "attention"),
        ("layers.0.self_attn.q_proj", "attention"),
        ("layers.0.self_attn.out_proj", "attention"),
        ("layers.0.fc1", "mlp"),
        ("layers.0.fc2", "mlp"),
    ]
    assert facts.linear_modules[-1] == LinearModule("lm_head", 96, 32, False, "head")


def test_keys_of_both_generations_of_transformers_are_accepted_and_ignored() -> None:
    plain = LLAMA | {"model_type": "llama"}
    old = plain | {"torch_dtype": "bfloat16", "rope_theta": 1e4, "rope_scaling": None}
    new = plain | {"dtype": "bfloat16", "rope_parameters": {"rope_type": "default"}}
    assert facts_from_config(old) == facts_from_config(new) == facts_from_config(plain)


# Published figures that no option of `conf/model` has; the others stand in `test_shapes.py`.


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [((2048, 16384, 18, 8, 1), 2_506_172_416), ((3072, 24576, 28, 16, 16), 8_537_680_896)],
    ids=["gemma-2b", "gemma-7b"],
)
def test_published_totals_of_gemma(sizes: tuple[int, ...], parameters: int) -> None:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = dict(zip((*names, "num_key_value_heads"), sizes, strict=True))
    facts = facts_from_config({"model_type": "gemma", "vocab_size": 256000, **config})
    assert facts.parameters == parameters


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [((768, 12, 12), 124_439_808), ((1600, 48, 25), 1_557_611_200)],
    ids=["gpt2", "gpt2-xl"],
)
def test_published_totals_of_gpt2(sizes: tuple[int, int, int], parameters: int) -> None:
    config = dict(zip(("n_embd", "n_layer", "n_head"), sizes, strict=True))
    facts = facts_from_config({"model_type": "gpt2", "vocab_size": 50257, **config})
    assert facts.parameters == parameters


# PEFT wraps what match_modules says.

# of these PEFT takes "all-linear" for the experts and the router as well, which are no linear maps
STACKED = ("mixtral", "qwen3_moe")


def wrapped_by_peft(family: str, targets: Any) -> tuple[set[str], int]:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **TINY[family]))
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=targets))
    names = {name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)}
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return {name.removeprefix("base_model.model.") for name in names}, trainable


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        *((family, "all-linear") for family in known_families() if family not in STACKED),
        ("llama", "All-Linear"),
        ("llama", ["q_proj", "v_proj"]),
        ("llama", ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]),
        ("llama", ["lm_head", "_proj", "o_proj"]),  # "_proj" ends no name after a dot
        ("llama", r".*\.layers\.1\.(self_attn|mlp)\.[a-z]+_proj"),
        ("llama", r"model\.layers\.\d+\.self_attn\.(k|v)_proj"),
        ("gpt2", ["c_proj"]),  # of the attention and of the MLP
        ("gpt2", r".*attn\.c_.*"),
        ("gpt_neox", ["query_key_value", "lm_head"]),
        ("opt", ["fc1", "out_proj"]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_matching_is_that_of_peft(family: str, targets: Any) -> None:
    facts = facts_from_config(TINY[family] | {"model_type": family})
    matched = match_modules(facts, targets)
    names, trainable = wrapped_by_peft(family, targets)
    assert {module.name for module in matched} == names
    assert lora_parameters(matched, 3) == trainable


@pytest.mark.parametrize("family", STACKED)
@pytest.mark.filterwarnings("ignore")
def test_experts_stay_out_when_the_linear_modules_are_named(family: str) -> None:
    facts = facts_from_config(TINY[family] | {"model_type": family})
    matched = match_modules(facts, "all-linear")
    names, trainable = wrapped_by_peft(family, [module.name for module in matched])
    assert {module.name for module in matched} == names
    assert lora_parameters(matched, 3) == trainable


def test_active_parameters_leave_out_the_experts_not_chosen() -> None:
    facts = facts_from_config(MIXTRAL | {"model_type": "mixtral"})
    one = 3 * 64 * 112  # gate, up and down of one expert
    assert facts.expert_parameters == 2 * 4 * one
    assert facts.active_parameters == facts.parameters - 2 * 2 * one
    dense = facts_from_config(LLAMA | {"model_type": "llama"})
    assert dense.active_parameters == dense.parameters


@pytest.mark.parametrize("targets", ["q_proj", ["proj"], ["all-linear"], [], "", ["q_proj."]])
def test_what_matches_nothing(targets: Any) -> None:
    assert match_modules(facts_from_config(LLAMA | {"model_type": "llama"}), targets) == ()


def test_all_linear_takes_the_embedding_projections_and_leaves_the_head() -> None:
    facts = facts_from_config(OPT | {"model_type": "opt", "word_embed_proj_dim": 32})
    chosen = match_modules(facts, "all-linear")
    assert chosen == facts.linear_modules[:-1]
    assert chosen[0].name == "model.decoder.project_out"


def test_lora_parameters_by_hand() -> None:
    wide = LinearModule("w", out_features=10, in_features=4, bias=True, role="mlp")
    assert lora_parameters([wide], 8) == 8 * (10 + 4)
    assert lora_parameters([wide, wide], 1) == 28
    assert lora_parameters([], 8) == 0


# Errors.


def test_an_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(UnknownFamily, match=r"'mamba'.*llama, mistral, .*gpt2"):
        facts_from_config({"model_type": "mamba"})


@pytest.mark.parametrize("family", known_families())
@pytest.mark.parametrize("value", [None, "64", 64.0, True, 0, -1, [64]])
def test_a_size_is_a_positive_whole_number(family: str, value: Any) -> None:
    key = "n_embd" if family == "gpt2" else "hidden_size"
    with pytest.raises(BadConfig, match=f"{key} must be a positive whole number") as raised:
        facts_from_config(TINY[family] | {"model_type": family, key: value})
    assert raised.value.key == key


@pytest.mark.parametrize(
    ("family", "key"), [(f, key) for f, sizes in TINY.items() for key in sizes if key in NEEDED]
)
def test_a_needed_key_is_missed_by_its_name(family: str, key: str) -> None:
    config = {k: v for k, v in TINY[family].items() if k != key} | {"model_type": family}
    with pytest.raises(BadConfig, match=f"{key} .* missing"):
        facts_from_config(config)


@pytest.mark.parametrize(
    ("family", "changes", "key"),
    [
        ("llama", {"num_attention_heads": 3}, "hidden_size"),
        ("llama", {"num_attention_heads": 3, "head_dim": 16}, "hidden_size"),
        ("mistral", {"num_attention_heads": 24}, "hidden_size"),
        ("gpt_neox", {"num_attention_heads": 3}, "hidden_size"),
        ("gpt2", {"n_head": 3}, "n_embd"),
        ("opt", {"num_attention_heads": 3}, "hidden_size"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("qwen2", {"num_key_value_heads": 8}, "num_key_value_heads"),
        ("llama", {"num_key_value_heads": "2"}, "num_key_value_heads"),
        ("llama", {"head_dim": 0}, "head_dim"),
        ("llama", {"mlp_bias": None}, "mlp_bias"),
        ("llama", {"attention_bias": 1}, "attention_bias"),
        ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ("llama", {"max_position_embeddings": None}, "max_position_embeddings"),
        ("llama", {"per_layer_config": {"0": {"num_key_value_heads": 1}}}, "per_layer_config"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("opt", {"word_embed_proj_dim": 1.5}, "word_embed_proj_dim"),
        ("phi", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("stablelm", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok"),
        ("qwen2_moe", {"mlp_only_layers": 1}, "mlp_only_layers"),
        ("llama", {"model_type": None}, "model_type"),
    ],
)
def test_contradictions_and_wrong_types(family: str, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(BadConfig, match=key) as raised:
        facts_from_config(TINY[family] | {"model_type": family} | changes)
    assert raised.value.key == key


def test_a_default_that_contradicts_is_an_error_too() -> None:
    """Qwen 2 has 32 key/value heads unless told otherwise; transformers fails in `forward`."""
    with pytest.raises(BadConfig, match=r"num_key_value_heads \(32\) must divide the 4 heads"):
        facts_from_config(LLAMA | {"model_type": "qwen2"})


def test_the_module_does_not_import_torch() -> None:
    program = (
        "import sys, llmforge.compiler.facts.families;"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
