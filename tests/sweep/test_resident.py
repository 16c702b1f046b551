"""Trials in a resident worker: the same numbers as alone, and nothing of one in the next."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge import compile as compile_plan
from llmforge.diagnostics import ConfigRefused
from llmforge.plan import Plan
from llmforge.run import residents
from llmforge.run.folder import RunFolder
from llmforge.run.launch import run_plan
from llmforge.run.residency import own_process
from llmforge.run.status import Status
from llmforge.sweep import warm
from llmforge.sweep.definition import define
from llmforge.sweep.preflight import examine, grid

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["user assistant what is the answer"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        "llama", num_hidden_layers=2, hidden_size=32, intermediate_size=64, vocab_size=320,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        eos_token_id=2, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def planned(base: Path, work: Path) -> Callable[..., Plan]:
    """`planned("alone", "lora.r=4")`: a plan of four steps whose folder lies in `alone/`."""

    def make(folder: str, *overrides: str) -> Plan:
        return compile_plan(
            ["model=folder", f"model.path={base}", "lora=small", "hardware=cpu", "tracking=none",
             "data.rows=200", "data.max_train_rows=40", "data.max_eval_rows=8",
             "data.max_cut_tokens=null", "collator.max_length=128", "trainer.epochs=null",
             "trainer.max_steps=4", "trainer.global_batch=4", "trainer.micro_batch=4",
             "trainer.log_every=1", "evaluation=end", "evaluation.samples=0",
             "launch.threads=1", f"paths.runs={work / folder}", *overrides]
        )  # fmt: skip

    return make


def measured(plan: Plan) -> list[dict[str, Any]]:
    """Losses, gradient norms and held-out figures of a run, in their order."""
    keep = ("train_loss", "grad_norm", "eval_loss", "eval_perplexity", "learning_rate")
    lines = (plan.run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    values = [json.loads(line).get("values", {}) for line in lines]
    found = [{name: one[name] for name in keep if name in one} for one in values]
    assert sum("train_loss" in one and "grad_norm" in one for one in found) == 4
    assert any("eval_loss" in one for one in found)
    return found


def adapter(plan: Plan) -> bytes:
    return (plan.run_folder / "model" / "adapter_model.safetensors").read_bytes()


def pid_of(plan: Plan) -> int:
    """The process that the first attempt's log names."""
    first = (plan.run_folder / "log.txt").read_text(encoding="utf-8").splitlines()[0]
    return int(first.rpartition("pid ")[2])


def signalled_while_training(plan: Plan, number: signal.Signals) -> threading.Thread:
    """Send the worker a signal as soon as it has taken a step."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        run = RunFolder(plan.run_folder)
        while time.monotonic() < deadline:
            if run.journal.is_file() and '"train_loss"' in run.journal.read_text(encoding="utf-8"):
                os.kill(pid_of(plan), number)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
def test_trials_are_bit_equal_to_isolated_runs_whatever_happens_between(planned):
    trials = [
        ("lora.r=4", "optimizer.lr=1e-3"),
        ("lora.r=8", "optimizer.lr=3e-3", "lora.dropout=0.1", "seed=7"),
        ("lora.r=8", "lora.dora=true", "trainer.gradient_checkpointing=true"),
    ]
    alone = [planned("alone", *trial) for trial in trials]
    for plan in alone:
        assert run_plan(plan, quiet=True).status is Status.FINISHED

    first, second, third = (planned("shared", *trial) for trial in trials)
    bursting = planned("shared", "lora.r=2", f"lora.alpha={10**36}", "trainer.max_steps=12")
    killed = planned("shared", "lora.r=3", "trainer.max_steps=2000")
    stopped = planned("shared", "lora.r=5", "trainer.max_steps=2000")
    with residents.kept() as pool:
        assert run_plan(third, quiet=True).status is Status.FINISHED
        outcome = run_plan(bursting, quiet=True)
        assert outcome.status is Status.FAILED
        assert outcome.diagnostic is not None
        assert outcome.diagnostic.code == "LF802"
        assert run_plan(first, quiet=True).status is Status.FINISHED
        assert pool.started == 1

        watch = signalled_while_training(killed, signal.SIGKILL)
        outcome = run_plan(killed, quiet=True)
        watch.join()
        assert outcome.status is Status.FAILED
        assert outcome.diagnostic is not None
        assert outcome.diagnostic.code == "LF804"

        assert run_plan(second, quiet=True).status is Status.FINISHED
        assert pool.started == 2

        watch = signalled_while_training(stopped, signal.SIGTERM)
        outcome = run_plan(stopped, quiet=True)
        watch.join()
        assert outcome.exit_code == 130
        assert RunFolder(stopped.run_folder).checkpoints()
        last = pid_of(second)

    assert pid_of(third) == pid_of(bursting) == pid_of(first) == pid_of(killed)
    assert last == pid_of(stopped) != pid_of(first)
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)
    for one, other in zip(alone, (first, second, third), strict=True):
        assert measured(one) == measured(other)
        assert adapter(one) == adapter(other)
        mine, theirs = ((p.run_folder / "log.txt").read_text("utf-8") for p in (one, other))
        assert mine.count("====") == theirs.count("====") == 1  # each log is one trial's


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("lora=small",), None),
        (("lora=dora",), None),
        (("lora=rslora",), None),
        (("lora=ia3",), None),
        (("lora=vera",), None),
        (("lora=none",), "all weights"),
        (("lora=pissa",), "lora.init=pissa"),
        (("lora=olora",), "lora.init=olora"),
        (("lora=small", "lora.bias=all"), "lora.bias"),
        (("lora=small", "lora.modules_to_save=[lm_head]"), "modules_to_save"),
        (("lora=small", "trainer.compile=true"), "trainer.compile"),
    ],
)
def test_which_runs_may_share_a_process(compiled, overrides, reason):
    found = own_process(compiled("model=folder", "model.path=tiny", "hardware=cpu", *overrides))

    assert found is None if reason is None else found is not None and reason in found


def test_on_is_refused_where_it_cannot_work(work):
    definition = define(["hardware=cpu", "tracking=none", "lora=small,none", "sweep.resident=on"])
    points = examine(definition, grid(definition))

    with pytest.raises(ConfigRefused) as refusal:
        warm.check_asked(definition, points, ["hydra/launcher=joblib"])

    assert [found.code for found in refusal.value.diagnostics] == ["LF745", "LF746"]
    assert "all weights are trained" in refusal.value.diagnostics[1].message


def test_auto_and_off_are_never_refused(work):
    for word in ("auto", "off"):
        definition = define(["hardware=cpu", "tracking=none", "lora=small,none",
                             f"sweep.resident={word}"])  # fmt: skip
        warm.check_asked(definition, examine(definition, grid(definition)), ["hydra/launcher=ray"])


class TestTheShelf:
    """Copies of one base over the same weights."""

    @pytest.fixture
    def model(self, base: Path) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(base)

    def test_a_copy_shares_memory_and_nothing_else(self, model):
        from llmforge.build.bases import shared_copy

        made, _ = shared_copy(model)
        made.config.use_cache = False
        made.gradient_checkpointing_enable()
        made.requires_grad_(False)

        assert made.model.embed_tokens.weight.data_ptr() == model.lm_head.weight.data_ptr()
        assert made.model.embed_tokens.weight is made.lm_head.weight  # still tied
        assert model.config.use_cache is not False
        assert not model.is_gradient_checkpointing
        assert all(weight.requires_grad for weight in model.parameters())

    @pytest.mark.parametrize("how", ["in place", "behind torch's back"])
    def test_a_write_into_the_base_is_seen(self, base, planned, how):
        import torch

        from llmforge.build.bases import Shelf

        plan = planned("alone")
        shelf = Shelf()
        made = _taken(shelf, plan, base)
        assert shelf.fault() is None
        weight = made.model.layers[1].mlp.down_proj.weight
        with torch.no_grad():
            if how == "in place":
                weight[0, 0] = weight[0, 0]
            else:
                weight.data[0, 0] += 1.0

        assert shelf.fault() is not None

    @pytest.mark.parametrize("bits", [4, 8])
    def test_copies_of_a_quantized_base_learn_what_the_base_would(self, base, bits):
        pytest.importorskip("bitsandbytes")
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        from llmforge.build.bases import shared_copy
        from llmforge.build.quantized import keep_layout

        quantized = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)

        def load() -> Any:
            found = AutoModelForCausalLM.from_pretrained(
                base, quantization_config=quantized, device_map={"": "cpu"}, dtype=torch.float32
            )
            keep_layout(found)
            return found

        def losses(model: Any) -> list[float]:
            torch.manual_seed(1)
            wrapped = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
            trained = [weight for weight in wrapped.parameters() if weight.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=1e-2)
            tokens, found = torch.arange(24).reshape(2, 12), []
            for _ in range(3):
                loss = wrapped(input_ids=tokens, labels=tokens).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                found.append(loss.item())
            return found

        alone, kept = losses(load()), load()
        assert losses(shared_copy(kept)[0]) == alone
        assert losses(shared_copy(kept)[0]) == alone  # nothing of the first is in the second
        assert len(set(alone)) == 3

    def test_another_seed_shares_a_checkpoint_but_no_random_base(self, base, planned):
        import torch

        from llmforge.build.bases import Shelf

        shelf = Shelf()
        drawn = []
        for seed in (1, 2, 1):
            _taken(shelf, planned("alone", f"seed={seed}"), base)
            drawn.append(torch.rand(1).item())
            plan = planned("alone", f"seed={seed}")
            _built(plan, base)
            assert torch.rand(1).item() == drawn[-1]
        assert shelf.loads == 1
        assert drawn[0] == drawn[2] != drawn[1]

        shelf = Shelf()
        scratch = ("hardware=cpu", "tracking=none", "lora=small", "tokenizer=train")
        for seed in (1, 1, 2):
            plan = compile_plan([*scratch[:3], f"seed={seed}", "model.layers=1"])
            _taken(shelf, plan, base, check=False)
        assert shelf.loads == 2


def _built(plan: Plan, base: Path) -> Any:
    from llmforge import registry
    from llmforge.build.tokenizer import open_tokenizer

    build = registry.component("model", plan.spec.model.kind).load_builder()
    return build(plan, open_tokenizer(base))


def _taken(shelf: Any, plan: Plan, base: Path, check: bool = True) -> Any:
    from llmforge.build.tokenizer import open_tokenizer

    made = shelf.take(plan, open_tokenizer(base), lambda: _built(plan, base))
    if check:
        assert made is not shelf.base.model
    return made


def test_settings_of_torch_are_put_back(monkeypatch, tmp_path):
    import torch

    from llmforge.build.bases import Shelf
    from llmforge.build.clearing import Slate, settings

    before = settings()
    slate = Slate(Shelf())
    torch.set_default_dtype(torch.bfloat16)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not before["cudnn benchmark"]
    torch.set_grad_enabled(False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")

    assert slate.clear() is None

    assert settings() == before
    assert "ACCELERATE_MIXED_PRECISION" not in os.environ
    assert Path.cwd() != tmp_path
