"""On a CUDA device: preference tuning and evaluation, and their memory beside the memory foretold.

In: a Llama of the shape of Llama 3.2 1B with random weights, pairs and questions of words, made
here. Out: `llmforge train` and `llmforge evaluate` by the command's own workers, and what they say
in `result.json` and `evaluations/` of the memory they took. Rows are as long as allowed, as the
plan budgets them.

Run with `pytest -m gpu tests/e2e/test_gpu_preference.py -s` to see the figures;
LLMFORGE_GPU_TESTS_ON_CPU=1 rehearses on a CPU, with a tiny model and no figures of memory.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import llmforge
from llmforge.cli import main
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder

CUDA = torch.cuda.is_available()
REHEARSED = os.environ.get("LLMFORGE_GPU_TESTS_ON_CPU") == "1"
GIB = 2**30

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or REHEARSED), reason="no CUDA device"),
]

LENGTH = 1024 if CUDA else 64
ANSWER = 4
"""Words of an answer to a question: its prompt fills the row but for them and the tokens around."""
WITHIN = 0.06
"""Share by which a plan may miss, either way."""

COMMON = (
    *("tracking=none", "data=jsonl", "data.max_cut_tokens=100%", "data.max_overlap=null"),
    *("data.require_end_token=false", f"collator.max_length={LENGTH}", "precision=bfloat16"),
    *("trainer.epochs=null", "trainer.global_batch=auto", "trainer.group_by_length=false"),
    *("trainer.log_every=1", "evaluation=end", "evaluation.samples=0", "checkpoint.every=null"),
    *("schedule=constant", "schedule.warmup=0"),
)
PAIRS = (
    *("trainer=dpo", "data.train=pairs.jsonl", "data.evaluation=held_out_pairs.jsonl"),
    *("trainer.max_steps=6", "trainer.micro_batch=4", "trainer.accumulation=1"),
    "evaluation.micro_batch=4",
)
LORA = ("lora=small", "lora.r=16", "lora.dropout=0", "optimizer.lr=0.0005")
OFF, ON = "trainer.gradient_checkpointing=false", "trainer.gradient_checkpointing=true"
WAYS: dict[str, tuple[str, ...]] = {
    "full, copy": (OFF, "trainer.reference=copy", "optimizer.lr=1e-5"),
    "full, copy, checkpointing": (ON, "trainer.reference=copy", "optimizer.lr=1e-5"),
    "full, precomputed": (OFF, "trainer.reference=precomputed", "optimizer.lr=1e-5"),
    "LoRA, adapter off": (OFF, *LORA, "trainer.reference=adapter_off"),
    "LoRA, adapter off, checkpointing": (ON, *LORA, "trainer.reference=adapter_off"),
    "LoRA, precomputed": (OFF, *LORA, "trainer.reference=precomputed"),
    "LoRA over 4 bits": (OFF, *LORA, "quantization=4bit"),
    "LoRA over 4 bits, accumulated": (ON, *LORA, "quantization=4bit", "trainer.accumulation=2"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    ids = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    ids |= {f"w{number}": 4 + number for number in range(40)}
    splitter = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    splitter.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=splitter, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip
    shape: dict[str, Any] = {
        "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "tie_word_embeddings": True, "max_position_embeddings": 4096,
    }  # fmt: skip
    if not CUDA:
        shape |= {
            "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        }  # fmt: skip
    config = LlamaConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
    torch.manual_seed(0)
    with torch.device("cuda" if CUDA else "cpu"):  # a CPU takes longer to draw them than to train
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    made.save_pretrained(folder)
    del made
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
    return folder


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pairs that are longer than allowed, and questions that fill a row but for a short answer.

    Chosen answers have words of their own, so that there is something to learn.
    """
    chance = random.Random(0)  # noqa: S311 - words of test rows, not a secret

    def words(count: int, first: int = 0, last: int = 40) -> str:
        return " ".join(f"w{chance.randrange(first, last)}" for _ in range(count))

    def write(name: str, rows: list[dict[str, str]]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def pair() -> dict[str, str]:
        sides = {"chosen": f" {words(LENGTH, 0, 20)}", "rejected": f" {words(LENGTH, 20, 40)}"}
        return {"prompt": words(8), **sides}

    def question() -> dict[str, str]:
        # beside it the beginning and the end of the row
        return {"prompt": words(LENGTH - ANSWER - 2), "completion": words(ANSWER)}

    write("pairs.jsonl", [pair() for _ in range(64)])
    write("held_out_pairs.jsonl", [pair() for _ in range(8)])
    write("questions.jsonl", [question() for _ in range(16)])
    write("held_out_questions.jsonl", [question() for _ in range(64)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(model: Path, *overrides: str) -> tuple[Plan, RunFolder, dict[str, Any]]:
    plan = llmforge.compile(["model=folder", f"model.path={model}", *COMMON, *overrides])
    outcome = plan.run(quiet=True)
    assert outcome.exit_code == 0, (outcome.folder / "log.txt").read_text()[-4000:]
    run = RunFolder.open(outcome.folder)
    result = run.result()
    assert result is not None
    return plan, run, result


def agrees(name: str, memory: dict[str, float] | None, plan: Plan, phase: str = "") -> None:
    """Foretold and measured, as a row of a table; on a CPU nothing is measured."""
    if not CUDA:
        return
    assert memory is not None
    estimate = plan.estimate["memory"]
    terms = estimate[phase or estimate["peak_phase"]]
    foretold, measured = memory["foretold_bytes"] / GIB, memory["measured_bytes"] / GIB
    print(f"\n| {name} | {foretold:.2f} | {measured:.2f} | {memory['error']:+.1%} |")
    print({term: round(amount / GIB, 2) for term, amount in terms.items()})
    assert abs(memory["error"]) < WITHIN, memory


# preference tuning


@pytest.mark.parametrize("way", WAYS)
def test_pairs_are_learnt_in_the_memory_foretold(model: Path, way: str) -> None:
    plan, _, result = train(model, *PAIRS, *WAYS[way])

    assert result["eval_loss"] < 0.95 * math.log(2), "below that of a model that learnt nothing"
    assert result["eval_rewards_margin"] > 0
    agrees(way, result.get("memory"), plan)


# evaluation


QUESTIONS = (
    *("collator=completion", "data.train=questions.jsonl", *LORA, ON),
    *("data.evaluation=held_out_questions.jsonl", "trainer.max_steps=1", "trainer.micro_batch=1"),
    *("trainer.loss_kernel=chunked", "generation.max_new_tokens=16"),
)
ROWS = 16 if CUDA else 2
MEASURES: dict[str, tuple[str, ...]] = {
    "whole logits": (
        *("metrics.token_accuracy.kind=token_accuracy", f"evaluation.micro_batch={ROWS}"),
        "evaluation.exact_match_rows=0",
    ),
    "answers": (
        *("evaluation.exact_match_rows=64", f"evaluation.answers_at_once={4 * ROWS}"),
        "evaluation.micro_batch=1",
    ),
}
BASES: dict[str, tuple[str, ...]] = {"16 bits": (), "4 bits": ("quantization=4bit",)}


@pytest.mark.parametrize("base", BASES)
def test_evaluations_take_the_memory_foretold(model: Path, work: Path, base: str) -> None:
    """In the run itself, where evaluation takes more than training, and by itself."""
    first = next(iter(MEASURES))
    plan, run, result = train(model, *QUESTIONS, *BASES[base], *MEASURES[first])
    assert 0 <= result["eval_token_accuracy"] <= 1
    if CUDA:
        assert plan.estimate["memory"]["peak_phase"] == "evaluation"
    agrees(f"in training, {first}, {base}", result.get("memory"), plan)

    found = {}
    for name, asked in MEASURES.items():
        file = name.replace(" ", "_")
        options = ["evaluate", "--run", str(run.path), "--name", file, *asked]
        assert main(options) == 0, name
        figures = json.loads((run.path / "evaluations" / f"{file}.json").read_text())
        assert math.isfinite(figures["eval_loss"]), name
        found[name] = figures.get("memory")
        made = Plan.load(run.path / "evaluations" / f"{file}.plan.json")
        if name == "answers":
            assert figures["exact_match_rows"] == 64
        try:
            agrees(f"alone, {name}, {base}", figures.get("memory"), made, "evaluation")
        except AssertionError as fault:
            found[name] = str(fault)
    assert not [fault for fault in found.values() if isinstance(fault, str)], found
