"""On a CUDA device: quantized bases, optimizers, precision, loss kernels and memory, measured.

In: tiny Llamas with random weights and rows of words, made here; no hub. Out: what llmforge builds
from a plan, trained a few steps, beside plain transformers + PEFT, and beside the memory foretold.
Run with `pytest -m gpu tests/e2e/test_gpu_models.py`; LLMFORGE_GPU_TESTS_ON_CPU=1 rehearses on a
CPU what one can do. Packing is in `test_gpu_packing.py`, the example in `test_gpu.py`.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

import llmforge
from llmforge.build.formats import norms
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.compiler.memory.fit import fit
from llmforge.compiler.memory.sheet import CUDA_CONTEXT
from llmforge.compiler.passes import check
from llmforge.diagnostics import ConfigRefused
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.journal import history
from llmforge.stages.prepare import prepare

CUDA = torch.cuda.is_available()
REHEARSED = os.environ.get("LLMFORGE_GPU_TESTS_ON_CPU") == "1"
DEVICE = "cuda" if CUDA else "cpu"
GIB = 2**30

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or REHEARSED), reason="no CUDA device"),
]
on_cuda = pytest.mark.skipif(not CUDA, reason="only a CUDA device can show this")

VOCABULARY = 32_768
WORDS = 40
"""Words that rows are made of: so few that any optimizer soon learns which they are."""

LENGTH = 64
COMMON = (
    "data=jsonl", "data.train=rows.jsonl", "data.evaluation=held_out.jsonl",
    "data.max_cut_tokens=100%", "data.require_end_token=false", "data.max_overlap=null",
    "trainer.epochs=null", "trainer.global_batch=auto", "trainer.group_by_length=false",
    "trainer.log_every=1", "trainer.gradient_checkpointing=false", "evaluation=end",
    "evaluation.micro_batch=1", "evaluation.samples=0", "checkpoint.every=null", "tracking=none",
    "schedule=constant", "schedule.warmup=0", "optimizer.lr=0.001",
)  # fmt: skip
SHORT = (
    f"collator.max_length={LENGTH}", "trainer.micro_batch=4", "trainer.max_steps=12",
    "trainer.loss_kernel=full",
)  # fmt: skip
LORA = ("lora=small", "optimizer.lr=0.01")
FILLED = ("collator.max_length=512", "trainer.loss_kernel=chunked", "trainer.max_steps=2")
METHODS: dict[str, tuple[str, ...]] = {
    "full": (),
    "lora": LORA,
    "4bit": (*LORA, "quantization=4bit"),
}


def make_model(folder: Path, **shape: int) -> Path:
    """A Llama with random weights and a tokenizer of whole words, one token each."""
    words = {f"w{number}": 4 + number for number in range(WORDS)}
    ids = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **words}
    splitter = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    splitter.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=splitter, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, num_attention_heads=shape["hidden_size"] // 64,
        num_key_value_heads=shape["hidden_size"] // 128, **shape,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return make_model(folder, hidden_size=256, intermediate_size=512, num_hidden_layers=2)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for a share of memory to mean something: 168 million parameters."""
    folder = tmp_path_factory.mktemp("larger")
    return make_model(folder, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8)


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with rows longer than any `collator.max_length` here, so that each is cut to it."""
    chance = random.Random(0)  # noqa: S311 - words of test rows, not a secret

    def write(name: str, rows: int) -> None:
        texts = [" ".join(f"w{chance.randrange(WORDS)}" for _ in range(600)) for _ in range(rows)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / name).write_text(lines, encoding="utf-8")

    write("rows.jsonl", 256)
    write("held_out.jsonl", 4)
    monkeypatch.chdir(tmp_path)
    free()
    yield tmp_path
    free()


@pytest.fixture
def exact() -> Iterator[None]:
    """Kernels that add in the same order every time, where there are such."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def free() -> None:
    """Give back what an earlier test held."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def overridden(model: Path, *overrides: str) -> list[str]:
    """bfloat16 arithmetic where nothing else is asked for."""
    asked = any(override.startswith("precision=") for override in overrides)
    formats = () if asked else ("precision=bfloat16",)
    return ["model=folder", f"model.path={model}", *COMMON, *formats, *overrides]


def compiled(model: Path, *overrides: str) -> Plan:
    return llmforge.compile(overridden(model, *overrides))


@dataclass
class Trained:
    """A trainer, and what was seen while it trained."""

    trainer: Any
    losses: list[float] = field(default_factory=list)
    gradients: dict[str, float] = field(default_factory=dict)
    """Norms by name, of the last step."""
    peak: int = 0
    """Highest memory allocated since before the model was built, in bytes; 0 on a CPU."""

    @property
    def model(self) -> Any:
        return self.trainer.model


def watched(trainer: Any) -> Trained:
    """Train, looking at each step's loss and gradients."""
    found = Trained(trainer)
    step = trainer.training_step

    def training_step(*args: Any, **kwargs: Any) -> Any:
        loss = step(*args, **kwargs)
        found.losses.append(loss.item())
        named = trainer.model.named_parameters()
        found.gradients = {n: p.grad.norm().item() for n, p in named if p.grad is not None}
        return loss

    trainer.training_step = training_step
    set_seed(42)
    trainer.train()
    found.peak = torch.cuda.max_memory_allocated() if CUDA else 0
    return found


def built(plan: Plan) -> Any:
    """The plan's trainer over the plan's data, in this process."""
    return build_trainer(plan, build_parts(plan, prepare(plan)), Path("out"), [])


def train(plan: Plan) -> Trained:
    return watched(built(plan))


def falls(losses: list[float], by: float) -> bool:
    lowest = min(losses[-4:])  # at these rates a single step may jump up
    return all(math.isfinite(loss) for loss in losses) and lowest < losses[0] - by


# quantized bases


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_learns_over_weights_packed_on_the_device(tiny: Path, bits: int) -> None:
    import bitsandbytes

    kind = bitsandbytes.nn.Linear4bit if bits == 4 else bitsandbytes.nn.Linear8bitLt
    trainer = built(compiled(tiny, *SHORT, *LORA, f"quantization={bits}bit"))
    packed = {n: m.weight for n, m in trainer.model.named_modules() if isinstance(m, kind)}
    assert len(packed) == 2 * 7, "every linear layer but the head"
    assert {weight.device.type for weight in packed.values()} == {DEVICE}
    dtype = torch.uint8 if bits == 4 else torch.int8
    assert {weight.dtype for weight in packed.values()} == {dtype}
    before = {name: weight.detach().clone() for name, weight in packed.items()}

    found = watched(trainer)

    assert falls(found.losses, 0.5), found.losses
    assert all("lora_" in name for name in found.gradients), "only the adapter is trained"
    assert len(found.gradients) == 2 * len(packed)
    assert all(0 < norm < math.inf for norm in found.gradients.values())
    assert all(torch.equal(packed[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_after_the_build_is_packed_at_load(tiny: Path, bits: int) -> None:
    ids = torch.arange(4, 36, device=DEVICE)[None]
    logits = []
    for when in ("load", "after_build"):
        how = (f"quantization={bits}bit", f"quantization.when={when}")
        model = built(compiled(tiny, *SHORT, *LORA, *how)).model.eval()
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
            logits.append(model(input_ids=ids).logits)
    assert torch.equal(*logits)


# optimizers, noise, formats

RATES = {"adamw_8bit": 2e-3, "adamw_paged": 2e-3, "lion": 5e-4, "adafactor": 5e-3, "muon": 3e-3}


@pytest.mark.parametrize("name", RATES)
def test_an_optimizer_lowers_the_loss(tiny: Path, name: str) -> None:
    if not CUDA and name in ("adamw_8bit", "adamw_paged"):
        pytest.skip("paged states are CUDA's")
    found = train(compiled(tiny, *SHORT, f"optimizer={name}", f"optimizer.lr={RATES[name]}"))

    assert falls(found.losses, 0.5), found.losses
    optimizer = getattr(found.trainer.optimizer, "optimizer", found.trainer.optimizer)
    # bitsandbytes pages large states alone, and the Trainer keeps embeddings' in float32
    state = optimizer.state[found.model.model.layers[0].mlp.up_proj.weight]
    if name.startswith("adamw"):
        assert state["state1"].dtype == (torch.uint8 if name == "adamw_8bit" else torch.float32)
        assert state["state1"].is_paged


def test_neftune_puts_noise_on_the_embeddings_of_training_alone(tiny: Path) -> None:
    few = ("trainer.max_steps=2", "evaluation.every=1")
    trainer = built(compiled(tiny, *SHORT, *LORA, *few, "trainer.neftune_alpha=5"))
    embedding = trainer.model.get_base_model().get_input_embeddings()
    noise: dict[bool, float] = {}

    def look(module: Any, args: Any, output: torch.Tensor) -> None:
        rows = torch.nn.functional.embedding(args[0], module.weight)
        noise[module.training] = (output - rows).abs().max().item()

    step = trainer.training_step

    def training_step(*args: Any, **kwargs: Any) -> Any:
        if not noise:  # behind the noise, which training puts on when it begins
            embedding.register_forward_hook(look)
        return step(*args, **kwargs)

    trainer.training_step = training_step
    noisy = watched(trainer)

    bound = 5 / math.sqrt(LENGTH * 256)
    assert 0.8 * bound < noise[True] < 1.1 * bound, "uniform up to the bound, in bfloat16"
    assert noise[False] == 0.0
    assert noisy.losses[0] != train(compiled(tiny, *SHORT, *LORA, *few)).losses[0]


@pytest.mark.parametrize("adapter", ["lora=none", "lora=small"])
def test_stable_norms_stay_in_float32_under_bfloat16_arithmetic(tiny: Path, adapter: str) -> None:
    formats = ("precision=stable", "precision.compute=bfloat16", "precision.weights=bfloat16")
    trainer = built(compiled(tiny, *SHORT, *formats, adapter))
    base = trainer.model if adapter == "lora=none" else trainer.model.get_base_model()
    seen = set()

    def look(_module: Any, _args: Any, output: torch.Tensor) -> None:
        seen.add(output.dtype)

    base.model.layers[0].mlp.register_forward_hook(look)
    found = watched(trainer)

    assert falls(found.losses, 0.01), found.losses
    assert seen == {torch.bfloat16}
    held = list(norms(base))
    assert len(held) == 2 * 2 + 1
    assert {weight.dtype for weight in held} == {torch.float32}
    assert base.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    moved = any(not torch.equal(weight, torch.ones_like(weight)) for weight in held)
    assert moved == (adapter == "lora=none")


# against the libraries alone


def plain(model_folder: Path, how: str) -> Trained:
    """The same training, written with transformers and PEFT by hand."""
    set_seed(42)
    keywords: dict[str, Any] = {"dtype": torch.float32 if how == "full" else torch.bfloat16}
    if how == "4bit":
        keywords["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        keywords["device_map"] = {"": DEVICE}
    model = AutoModelForCausalLM.from_pretrained(model_folder, **keywords)
    if how == "4bit":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        for module in model.modules():  # else a CPU packs anew; a GPU does not know the word
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    if how != "full":
        adapter = LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear",
            task_type="CAUSAL_LM",
        )  # fmt: skip
        model = get_peft_model(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    rows = [json.loads(line)["text"] for line in Path("rows.jsonl").read_text().splitlines()]
    samples = [{"input_ids": tokenizer(row)["input_ids"][:LENGTH]} for row in rows]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([sample["input_ids"] for sample in batch])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    arguments = TrainingArguments(
        output_dir="plain", max_steps=12, per_device_train_batch_size=4, seed=42, data_seed=42,
        learning_rate=1e-3 if how == "full" else 1e-2, lr_scheduler_type="constant",
        warmup_steps=0, weight_decay=0.01, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8,
        max_grad_norm=1.0, optim="adamw_torch_fused", bf16=True, use_cpu=not CUDA,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    data = {"train_dataset": samples, "data_collator": collate}
    return watched(Trainer(model=model, args=arguments, **data))


@pytest.mark.parametrize("how", ["full", "lora", "4bit"])
def test_losses_are_those_of_plain_transformers_and_peft(tiny: Path, how: str, exact: None) -> None:
    losses = plain(tiny, how).losses
    free()
    ours = train(compiled(tiny, *SHORT, *METHODS[how]))

    assert len(losses) == 12
    assert falls(losses, 0.5), losses
    apart = max(abs(one - other) for one, other in zip(ours.losses, losses, strict=True))
    print(f"{how}: losses at most {apart:.3g} apart over {len(losses)} steps")
    assert ours.losses[0] == losses[0], "the first forward pass, to the last bit"
    assert apart <= 1e-4


# kernels of the loss


@pytest.mark.parametrize(("precision", "within"), [("bfloat16", 5e-3), ("float32", 1e-4)])
def test_kernels_give_one_loss_and_lean_ones_take_less_memory(
    tiny: Path, precision: str, within: float
) -> None:
    found: dict[str, tuple[list[float], int]] = {}
    with_liger = CUDA and find_spec("liger_kernel") is not None
    for kernel in ("full", "chunked", *(("liger",) if with_liger else ())):
        size = ("trainer.micro_batch=16", "collator.max_length=256") if CUDA else SHORT[:2]
        how = (f"precision={precision}", f"trainer.loss_kernel={kernel}")
        run = train(compiled(tiny, *size, *how, "trainer.max_steps=5"))
        found[kernel] = run.losses, run.peak
        del run
        free()

    losses, peak = found.pop("full")
    assert len(losses) == 5
    for kernel, (others, lower) in found.items():
        apart = max(abs(one - other) for one, other in zip(others, losses, strict=True))
        print(f"{kernel} {precision}: {lower / GIB:.2f} GiB of {peak / GIB:.2f}, {apart:.2g} apart")
        assert apart <= within, kernel
        if CUDA:
            assert lower < 0.8 * peak, kernel


# memory


@on_cuda
@pytest.mark.parametrize("how", ["full", "lora", "4bit"])
def test_a_run_tells_foretold_beside_measured_memory(larger: Path, how: str) -> None:
    plan = compiled(larger, *FILLED, "trainer.micro_batch=8", *METHODS[how])

    outcome = plan.run(quiet=True)

    assert outcome.exit_code == 0, (outcome.folder / "log.txt").read_text()[-4000:]
    result = json.loads((outcome.folder / "result.json").read_text(encoding="utf-8"))
    memory = result["memory"]
    print(f"{how}: {memory}")
    assert memory["measured_bytes"] > plan.estimate["total_parameters"] / 2
    assert memory["foretold_bytes"] == plan.estimate["memory"]["peak_bytes"]
    ratio = memory["foretold_bytes"] / memory["measured_bytes"]
    assert memory["error"] == pytest.approx(ratio - 1, abs=1e-4)
    assert abs(memory["error"]) < 0.05
    told = history(RunFolder.open(outcome.folder).journal)
    assert told["memory_measured_bytes"] == {2: memory["measured_bytes"]}
    assert told["memory_foretold_bytes"] == {2: memory["foretold_bytes"]}


SMALL_GIB = 8.0
"""A device on which the activations of `larger` take most of the memory."""


@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_plan_that_fits_trains_and_a_refused_one_runs_out(larger: Path, how: str) -> None:
    small = ("hardware=h200", f"hardware.memory_gib={SMALL_GIB}")
    common = (*FILLED, *METHODS[how])
    checked = check(overridden(larger, *common, *small, "trainer.micro_batch=1"))
    assert checked.context is not None
    answer = fit(checked.context, "trainer.micro_batch", any_global_batch=True)
    fits, bursts = answer.largest, math.ceil(1.3 * answer.largest)
    assert fits > 3, "1.3 times as much is at least one row more"
    plan = compiled(larger, *common, *small, f"trainer.micro_batch={fits}")
    with pytest.raises(ConfigRefused) as refused:
        compiled(larger, *common, *small, f"trainer.micro_batch={bursts}")
    assert "LF209" in {finding.code for finding in refused.value.diagnostics}
    if not CUDA:
        pytest.skip("planned; only a CUDA device can run out of its memory")

    unlimited = compiled(larger, *common, "hardware=h200", f"trainer.micro_batch={bursts}")
    torch.cuda.memory._set_allocator_settings("expandable_segments:True")  # as a worker's
    _, total = torch.cuda.mem_get_info()
    left = torch.cuda.memory_allocated()  # of earlier tests
    limit = SMALL_GIB * GIB - CUDA_CONTEXT + left
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        found = train(plan)
        print(f"{how}: {answer}; measured {found.peak / GIB:.2f} of {limit / GIB:.2f} GiB")
        assert len(found.losses) == 2
        del found
        free()
        with pytest.raises(torch.OutOfMemoryError):
            train(unlimited)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@on_cuda
def test_gradient_checkpointing_lowers_the_peak_over_a_quantized_base(larger: Path) -> None:
    peaks = {}
    for asked in ("false", "true"):
        how = ("trainer.micro_batch=8", f"trainer.gradient_checkpointing={asked}")
        peaks[asked] = train(compiled(larger, *FILLED, *METHODS["4bit"], *how)).peak
        free()
    print(f"peak without {peaks['false'] / GIB:.2f} GiB, with {peaks['true'] / GIB:.2f} GiB")
    assert peaks["true"] < 0.7 * peaks["false"]


@on_cuda
def test_a_base_over_cpu_and_gpu_trains_its_adapter(tiny: Path) -> None:
    places = "{model.embed_tokens: 0, model.rotary_emb: 0, model.layers.0: cpu, "
    places += "model.layers.1: 0, model.norm: 0, lm_head: 0}"
    trainer = built(compiled(tiny, *SHORT, *LORA, f"model.device_map={places}"))
    layers = trainer.model.get_base_model().model.layers
    base = [layer.mlp.up_proj.base_layer.weight.device.type for layer in layers]
    assert base == ["meta", "cuda"], "what lies on the CPU comes to the GPU when it is called"

    found = watched(trainer)

    assert falls(found.losses, 0.5), found.losses
    assert len(found.gradients) == 2 * 2 * 7, "both layers' adapters"
    assert all(0 < norm < math.inf for norm in found.gradients.values())
