"""Plans made by hand, for tests of what is built from a plan.

`make_plan` stands in for `llmforge.compile`: settings as dotted keys over the small ones below,
facts looked up in the data files, keywords lowered. Everything else in these tests reads the plan
only, so the real compiler can take this place.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmforge.compiler.facts.data import look_at
from llmforge.compiler.facts.shapes import config_of
from llmforge.compose import compose, options
from llmforge.digests import file_digest
from llmforge.origins import Origin, Origins, leaves
from llmforge.plan import Plan, stage_fingerprints
from llmforge.registry import component
from llmforge.schema import SINGLE
from llmforge.schema.data import BuiltinData, JsonlSource, MixData
from llmforge.schema.optim import OptimizerSpec
from llmforge.schema.typed import typed
from llmforge.sources import chat_templates

SETTINGS: dict[str, Any] = {
    "name": "test",
    "seed": 7,
    "plugins": [],
    "callbacks": {},
    "metrics": {},
    "hooks": {"kind": "none"},
    "deterministic": False,
    "model": {
        "kind": "scratch",
        "family": "llama",
        "layers": 2,
        "hidden": 32,
        "intermediate": 64,
        "heads": 2,
        "kv_heads": 2,
        "context": 128,
        "vocabulary": 300,
        "tie_embeddings": True,
        "attention": "sdpa",
    },
    "tokenizer": {
        "source": "train",
        "vocabulary": 300,
        "chat_template": "auto",
        "padding_side": "auto",
    },
    "data": {
        "kind": "jsonl",
        "train": "missing.jsonl",
        "evaluation": None,
        "fields": {
            "text": "text",
            "prompt": "prompt",
            "completion": "completion",
            "text_parts": "text_parts",
            "instruction": "instruction",
            "input": "input",
            "output": "output",
            "messages": "messages",
            "chosen": "chosen",
            "rejected": "rejected",
            "tools": "tools",
            "role": "role",
            "content": "content",
            "flag": "train",
        },
        "shape": "auto",
        "roles": {},
        "strict_turns": False,
        "select": [],
        "transform": None,
        "fold": None,
        "eval_fraction": 0.25,
        "split_seed": 7,
        "max_train_rows": None,
        "max_eval_rows": None,
        "eval_surplus": "drop",
        "shuffle": True,
        "max_bad_rows": 0,
        "max_untrained_rows": None,
        "max_cut_tokens": None,
        "require_end_token": False,
        "max_overlap": None,
        "workers": 1,
        "streaming": False,
    },
    "collator": {
        "kind": "chat",
        "turns": "all",
        "train_end_of_turn": True,
        "separator": "\n",
        "max_length": 64,
        "truncation": "right",
        "packing": "none",
        "pad_to_multiple": 8,
    },
    "optimizer": {
        "kind": "adamw",
        "lr": 0.01,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "fused": False,
    },
    "schedule": {"kind": "constant", "warmup": 0},
    "lora": {"kind": "none"},
    "quantization": {"kind": "none"},
    "precision": {"compute": "float32", "weights": "float32"},
    "deepspeed": {"kind": "none"},
    "fsdp": {"kind": "none"},
    "trainer": {
        "kind": "lm",
        "epochs": None,
        "max_steps": 2,
        "global_batch": 4,
        "micro_batch": 4,
        "accumulation": 1,
        "gradient_checkpointing": False,
        "label_smoothing": 0.0,
        "neftune_alpha": None,
        "log_every": 1,
        "workers": 0,
        "group_by_length": False,
    },
    "evaluation": {
        "every": None,
        "at_start": False,
        "micro_batch": 4,
        "exact_match_rows": 4,
        "answers_at_once": 4,
        "samples": 2,
    },
    "checkpoint": {
        "every": None,
        "keep": 2,
        "best": None,
        "best_direction": "minimize",
        "resume": True,
        "max_shard_size": "5GB",
    },
    "tracking": {"kind": "none"},
    "launch": {"kind": "local", "processes": 1, "threads": 0},
    "hardware": {
        "kind": "device",
        "device": "cpu",
        "name": "cpu",
        "count": 1,
        "memory_gib": 16.0,
        "compute_capability": None,
        "bf16": True,
        "cores": 2,
    },
    "generation": {
        "max_new_tokens": 8,
        "sample": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
    },
    "hub": {"kind": "none", "repository": None},
    "fuse": {},
    "quantize": {"kind": "none"},
    "num_gpus": None,
    "card": {"license": None, "language": None, "tags": [], "text": None},
    "paths": {"runs": "runs", "cache": ".llmforge", "env_file": None},
}

LORA = {
    "kind": "lora",
    "r": 4,
    "alpha": 8,
    "dropout": 0.0,
    "targets": "all-linear",
    "bias": "none",
    "rslora": False,
    "dora": False,
    "modules_to_save": [],
    "expect_modules": 0,
}

CHATS = [
    [
        {"role": "user", "content": f"What comes after {number}?"},
        {"role": "assistant", "content": f"{number + 1} comes after {number}."},
    ]
    for number in range(16)
]
"""Sixteen one-question chats."""


def all_completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Every section with all fields of its kind."""
    return {section: completed(section, given) for section, given in settings.items()}


def completed(section: str, given: Any) -> Any:
    """A section with the fields of its kind alone; what is not given is as shipped."""
    kind = given.get("kind") if isinstance(given, dict) else None
    if kind is None:
        return {**shipped(section), **given} if section in SINGLE else given
    fields = component(section, kind).spec.model_fields
    values = {**shipped(section, kind), **given}
    return {name: value for name, value in values.items() if name in fields}


@functools.cache
def shipped(section: str, kind: str | None = None) -> dict[str, Any]:
    """The first shipped option of a kind; nothing where there is none."""
    for option in options(section):
        if kind is None or written_kind(option.path) in (kind, None):
            found = compose([f"{section}={option.name}"]).values.get(section, {})
            if kind is None or found.get("kind") == kind:
                return dict(found)
    return {}


@functools.cache
def written_kind(path: Path) -> str | None:
    """The kind that a file of `conf/`, or one it builds on, says; composing each takes long."""
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "kind" in told:
        return str(told["kind"])
    names = [name for name in told.get("defaults", []) if isinstance(name, str)]
    files = [path.with_name(f"{name}.yaml") for name in reversed(names)]
    kinds = [written_kind(file) for file in files if file.is_file()]
    return next((kind for kind in kinds if kind is not None), None)


def plan_by_hand(changes: dict[str, Any]) -> Plan:
    settings = copy.deepcopy(SETTINGS)
    for key, value in changes.items():
        *parents, name = key.split(".")
        here = settings
        for part in parents:
            here = here[part]
        here[name] = value
    settings = all_completed(settings)
    facts, found = look_at(typed(settings).data, Path(settings["paths"]["cache"]))
    assert facts is not None, [finding.message for finding in found]
    if settings["data"]["shape"] == "auto":
        settings["data"]["shape"] = facts.shape
    spec = typed(settings)
    origins = Origins()
    for key, value in leaves(settings):
        section = key.partition(".")[0]
        reason = f"{section}=test"
        origins.add(key, Origin("file", f"conf/{section}/test.yaml", value, 4, reason))
    return Plan(
        settings=settings,
        facts={"data": facts.to_dict()},
        lowered=lower_by_hand(spec),
        estimate={},
        origins=origins,
        stages=stage_fingerprints(
            spec, {"data": facts.identity(), "tokenizer": template_by_hand(spec)}
        ),
    )


def template_by_hand(spec: Any) -> dict[str, str]:
    """What stands behind the template's name counts, not the name."""
    template = spec.tokenizer.chat_template
    if template == "auto":
        return {}
    file = chat_templates.path(template) if template in chat_templates.names() else Path(template)
    return {"chat_template": file_digest(file, Path(spec.paths.cache))}


def lower_by_hand(spec: Any) -> dict[str, Any]:
    model: dict[str, Any] = {
        "dtype": spec.precision.weights,
        "attn_implementation": spec.model.attention,
    }
    if spec.model.kind == "scratch":
        model["config"] = config_of(spec.model, spec.model.vocabulary)
    else:
        model |= {
            "pretrained_model_name_or_path": spec.model.path,
            "revision": None,
            "trust_remote_code": False,
            "use_safetensors": True,
        }
    lora = None
    if spec.lora.kind == "lora":
        lora = {
            "r": spec.lora.r,
            "lora_alpha": spec.lora.alpha,
            "lora_dropout": spec.lora.dropout,
            "target_modules": spec.lora.targets,
            "bias": spec.lora.bias,
            "modules_to_save": spec.lora.modules_to_save or None,
            "task_type": "CAUSAL_LM",
        }
    trainer, optimizer = spec.trainer, spec.optimizer
    optimizer_keywords = None
    if optimizer.kind == "adafactor":
        left_out = set(OptimizerSpec.model_fields) - {"lr"}
        own = {k: v for k, v in optimizer.settings().items() if k not in left_out}
        optimizer_keywords = own
    arguments = {
        "per_device_train_batch_size": trainer.micro_batch,
        "per_device_eval_batch_size": spec.evaluation.micro_batch,
        "gradient_accumulation_steps": trainer.accumulation,
        "max_steps": trainer.max_steps,
        "gradient_checkpointing": trainer.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False}
        if trainer.gradient_checkpointing
        else None,
        "label_smoothing_factor": trainer.label_smoothing,
        "train_sampling_strategy": "group_by_length" if trainer.group_by_length else "sequential",
        "learning_rate": optimizer.lr if optimizer.lr is not None else 0.0,
        "weight_decay": optimizer.weight_decay,
        "optim": {"adamw": "adamw_torch"}.get(optimizer.kind, optimizer.kind),
        "max_grad_norm": optimizer.clip_norm or 0.0,
        "lr_scheduler_type": "constant_with_warmup",
        "seed": spec.seed,
        "data_seed": spec.seed,
        "bf16": spec.precision.compute == "bfloat16",
        "fp16": spec.precision.compute == "float16",
        "use_cpu": True,
        "logging_steps": trainer.log_every,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "prediction_loss_only": True,
    }
    return {
        "training_arguments": arguments,
        "optimizer": optimizer_keywords,
        "parameter_groups": {
            "lr": optimizer.lr,
            "weight_decay": optimizer.weight_decay,
            "decay_norms": optimizer.decay_norms,
            "lora_plus_ratio": optimizer.lora_plus_ratio,
            "embedding_lr": optimizer.embedding_lr,
            "layer_decay": optimizer.layer_decay,
            "matrices_apart": optimizer.kind == "muon",
        },
        "clipping": {"value": optimizer.clip_value},
        "schedule": None,
        "model": model,
        "lora_config": lora,
        "quantization_config": None,
    }


MakePlan = Callable[..., Plan]


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """`make_plan({"collator.turns": "last"}, rows=[...])`: a plan over rows written to a file."""

    def make(changes: dict[str, Any] | None = None, rows: list[Any] | None = None) -> Plan:
        changes = {"paths.cache": str(tmp_path / "cache"), **(changes or {})}
        if changes.get("data", {}).get("kind") == "builtin":
            shared = SETTINGS["data"].items()
            own = {k: v for k, v in shared if k in BuiltinData.model_fields}
            changes["data"] = own | {"shape": "messages"} | changes["data"]
        elif "data.train" not in changes:
            rows = rows if rows is not None else [{"messages": chat} for chat in CHATS]
            changes["data.train"] = str(write_rows(tmp_path / "train.jsonl", rows))
        return plan_by_hand(changes)

    return make


@pytest.fixture(scope="session")
def make_mix(tmp_path_factory: pytest.TempPathFactory) -> MakePlan:
    """`make_mix({"a": "a.jsonl"}, weights={"a": 1.0})`: a plan of texts of several files."""
    cache = str(tmp_path_factory.mktemp("mix-cache"))
    shipped = SETTINGS["data"]

    def make(files: dict[str, str], **changes: Any) -> Plan:
        one = {key: value for key, value in shipped.items() if key in JsonlSource.model_fields}
        sources = {name: {**one, "shape": "text", "train": file} for name, file in files.items()}
        rows = {key: value for key, value in shipped.items() if key in MixData.model_fields}
        mix = {"kind": "mix", "shape": "mixed", "sources": sources, "weights": None,
               "exhausted": "first"}  # fmt: skip
        return plan_by_hand(
            {"paths.cache": cache, "collator.kind": "lm", "data": {**rows, **mix, **changes}}
        )

    return make


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def byte_tokenizer(folder: Path, specials: list[str], bos: str | None = None, **named: str) -> Path:
    """A tokenizer as a published checkpoint has one: `specials` first, then bytes and words.

    `bos` is put before every text by the tokenizer itself, as Llama's does. `named` are
    `eos_token=...`, `pad_token=...`, `unk_token=...`, `chat_template=...`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(specials) + 24,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(["user assistant What comes after yes no"] * 3, trainer)
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, specials.index(bos))]
        )
        named["bos_token"] = bos
    template = named.pop("chat_template", None)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One special token for everything, no padding token, no chat template: GPT-2's ways."""
    end = "<|endoftext|>"
    folder = tmp_path_factory.mktemp("gpt2")
    return byte_tokenizer(folder, [end], eos_token=end, unk_token=end)


@pytest.fixture(scope="session")
def llama_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<s>` before every text, `</s>` as end, an unused reserved token: Llama's ways."""
    folder = tmp_path_factory.mktemp("llama")
    specials = ["<unk>", "<s>", "</s>", "<|reserved_0|>"]
    return byte_tokenizer(folder, specials, bos="<s>", eos_token="</s>", unk_token="<unk>")


FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "opt", "gpt2", "gpt_neo", "gpt_neox")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, llama_like: Path) -> Callable[[str], Path]:
    """`checkpoint("qwen2")`: a folder with a tiny random model of the family and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            model = SETTINGS["model"] | {"family": family}
            if family not in ("llama", "mistral", "qwen2", "qwen3", "gemma"):
                model["kv_heads"] = model["heads"]
            # the one section: completing all of them composes every group
            spec = component("model", "scratch").spec.model_validate(completed("model", model))
            tokenizer = AutoTokenizer.from_pretrained(llama_like)
            config = AutoConfig.for_model(**config_of(spec, 288))
            config.bos_token_id, config.eos_token_id = 1, 2
            config.pad_token_id = None if family != "opt" else 3
            torch.manual_seed(0)
            made[family] = tmp_path_factory.mktemp(f"{family}-")
            AutoModelForCausalLM.from_config(config).save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return make


def folder_model(path: Path) -> dict[str, Any]:
    """Settings that train the checkpoint in a folder with its own tokenizer."""
    return {
        "model": {
            "kind": "folder",
            "path": str(path),
            "trust_remote_code": False,
            # the one family without any other
            "attention": "eager" if path.name.startswith("gpt_neo-") else "sdpa",
        },
        "tokenizer.source": "model",
        "collator.max_length": 128,
    }


@pytest.fixture(scope="session", autouse=True)
def quick() -> None:
    """One thread (models this small are slower on two), and the libraries' objects left out of the
    garbage collections that the Trainer asks for, which are most of the time of a short run."""
    import gc

    import torch

    import llmforge.build.load
    import llmforge.stages.evaluate  # noqa: F401 - imported for what they import

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def settings() -> Any:
    """What tests take from this file by name: `settings.LORA`, `settings.folder_model(path)`."""
    import types

    return types.SimpleNamespace(LORA=LORA, CHATS=CHATS, folder_model=folder_model)
