"""Experiments, callbacks and metrics of one's own, in a small run in this process."""

from __future__ import annotations

import importlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmforge
from llmforge import plugins, registry
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder

torch = pytest.importorskip("torch")

from llmforge.build import experiment  # noqa: E402 - needs torch
from llmforge.build.experiment import PARTS, Experiment, HookFailed, Hooks, active  # noqa: E402

TINY = (
    *("name=tiny", "tracking=none", "hardware=cpu", "launch.threads=1", "data.rows=200"),
    *("model.layers=1", "model.hidden=16", "model.intermediate=32", "model.heads=2"),
    *("model.kv_heads=2", "model.context=128", "tokenizer.vocabulary=300"),
    *("data.max_cut_tokens=null", "data.max_train_rows=24", "data.max_eval_rows=7"),
    *("trainer.epochs=null", "trainer.max_steps=2", "trainer.global_batch=4"),
    *("trainer.micro_batch=4", "evaluation.exact_match_rows=3", "evaluation.samples=0"),
    *("evaluation.every=null", "checkpoint.every=null", "generation.max_new_tokens=4"),
)

SPECS = """
import llmforge

@llmforge.register("experiment", "{name}", "{name}_parts:Mine")
class MineSpec(llmforge.ExperimentSpec):
    {fields}

@llmforge.register("callback", "{name}", "{name}_parts:Count")
class CountSpec(llmforge.CallbackSpec):
    limit: int

@llmforge.register("metric", "{name}_on_logits", "{name}_parts:Right")
class RightSpec(llmforge.MetricSpec):
    pass

@llmforge.register("metric", "{name}_on_text", "{name}_parts:Asked")
class AskedSpec(llmforge.MetricSpec):
    on = "text"
"""

PARTS_OF = """
import torch
from transformers import TrainerCallback
import llmforge

called = []

class Count(TrainerCallback):
    def __init__(self, limit):
        self.limit = limit

    def on_step_end(self, args, state, control, **kwargs):
        called.append(("step", state.global_step, self.limit))

class Right(llmforge.LogitsMetric):
    def measure(self, logits, labels):
        trained = labels != -100
        likely = logits.topk(100, dim=-1).indices
        right = (likely == labels.unsqueeze(-1)).any(dim=-1) & trained
        return torch.stack([right.sum(dim=1), trained.sum(dim=1)], dim=1)

    def compute(self, sums):
        return sums[0] / sums[1]

class Asked(llmforge.TextMetric):
    def measure(self, prompt, answer, reference):
        return [1.0, float(bool(prompt) and bool(reference))]

    def compute(self, sums):
        return sums[1]

class Mine(llmforge.Experiment):
    pass
"""


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {section: dict(found) for section, found in registry._components.items()}
    monkeypatch.setattr(registry, "_components", known)
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))


@pytest.fixture
def project(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """`project(more, fields)`: a plugin and its parts, in the work folder; returns their name."""
    made: list[str] = []

    def write(more: str = "", fields: str = "pass") -> str:
        name = f"own_{uuid.uuid4().hex[:8]}"
        (work / f"{name}.py").write_text(SPECS.format(name=name, fields=fields), "utf-8")
        (work / f"{name}_parts.py").write_text(PARTS_OF + more, "utf-8")
        made.append(name)
        return name

    yield write
    for name in made:
        for module in (name, f"{name}_parts"):
            sys.modules.pop(module, None)


def compiled(name: str, *more: str) -> Plan:
    return llmforge.compile([*TINY, f"plugins=[{name}]", *more])


def hooks_of(name: str) -> str:
    return f"hooks={{kind: {name}}}"


def parts(name: str) -> Any:
    return sys.modules[f"{name}_parts"]


NOTING = """
class Mine(llmforge.Experiment):
    def __getattribute__(self, name):
        if name.startswith(("before_", "after_", "at_", "build_")):
            called.append(name)
        return super().__getattribute__(name)

    def after_train(self):
        self.fuse_lora()
"""


def test_there_are_33_hooks() -> None:
    hooks = [name for name in vars(Experiment) if name.startswith(("before_", "after_", "at_"))]
    builders = [name for name in vars(Experiment) if name.endswith("_additional_kwargs")]
    assert (len(hooks), len(builders)) == (29, 4)


def test_every_hook_is_called_in_order(project: Callable[..., str]) -> None:
    name = project(NOTING)
    plan = compiled(name, hooks_of(name), "lora=small")
    outcome = llmforge.train_here(plan)
    assert outcome.diagnostic is None
    assert parts(name).called == [
        "at_beginning",
        *("before_checks", "after_checks"),
        *("before_tokenizer_build", "after_tokenizer_build"),
        "before_model_build",
        *("before_stabilize_training", "after_stabilize_training"),
        "after_model_build",
        *("before_lora_apply", "after_lora_apply"),
        *("before_collator_build", "after_collator_build"),
        *("before_train_dataset_build", "after_train_dataset_build"),
        *("before_eval_dataset_build", "after_eval_dataset_build"),
        *("before_training_arguments_build", "after_training_arguments_build"),
        *("before_trainer_build", "build_trainer_additional_kwargs", "after_trainer_build"),
        *("before_train", "after_train", "after_fuse"),
        "at_end",
    ]
    # what was fused is written whole
    model = RunFolder(outcome.folder).model
    assert (model / "model.safetensors").is_file()
    assert not (model / "adapter_config.json").exists()


def test_the_hooks_of_a_quantized_checkpoint(
    project: Callable[..., str], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the calls of the build alone: this machine quantizes nothing."""
    from llmforge.build import model as models

    name = project(NOTING)
    plan = compiled(name, hooks_of(name))
    monkeypatch.setattr(models, "load_keywords", lambda *_: {"device_map": {"": "cpu"}})
    with experiment.activated(plan):
        assert models._quantization_at_load(plan, None) == {"device_map": {"": "cpu"}}
    assert parts(name).called == [
        "before_quantization_config_build",
        "after_quantization_config_build",
    ]
    with experiment.activated(plan, {"quantization_config": "ready"}):
        assert models._quantization_at_load(plan, None) == {"quantization_config": "ready"}


def test_a_hook_that_raises_fails_the_run_by_its_name(project: Callable[..., str]) -> None:
    name = project(
        "\nclass Mine(llmforge.Experiment):\n"
        "    def after_model_build(self):\n        raise ValueError('no such layer')\n"
    )
    outcome = compiled(name, hooks_of(name)).run(quiet=True)
    assert outcome.exit_code == 1
    assert outcome.diagnostic is not None
    assert outcome.diagnostic.code == "LF831"
    assert outcome.diagnostic.message.startswith(
        f"after_model_build of {name}_parts.Mine raised ValueError: no such layer ({name}_parts.py:"
    )
    assert outcome.diagnostic.key == "hooks"


def test_what_an_after_hook_puts_there_is_used(project: Callable[..., str]) -> None:
    name = project(
        "\nclass Mine(llmforge.Experiment):\n"
        "    def __init__(self, rows):\n        self.rows = rows\n"
        "    def after_train_dataset_build(self):\n"
        "        self.train_dataset = self.train_dataset.select(range(self.rows))\n"
        "    def before_collator_build(self):\n"
        "        from llmforge.build.parts import data_collator\n"
        "        made = data_collator(self.plan, self.tokenizer)\n"
        "        self.collator = lambda samples: called.append(len(samples)) or made(samples)\n",
        "rows: int",
    )
    plan = compiled(name, f"hooks={{kind: {name}, rows: 5}}", "evaluation.at_start=false")
    outcome = llmforge.train_here(plan)
    assert outcome.diagnostic is None
    assert max(parts(name).called) == 7  # all held-out rows in one batch
    assert outcome.result["epoch"] == pytest.approx(1.0)  # five rows: a batch of 4 and one of 1


def test_a_ready_model_is_trained_and_not_built(project: Callable[..., str]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    name = project(NOTING)
    plan = compiled(name, hooks_of(name), "hooks.kind=none")
    config = AutoConfig.for_model(**plan.lowered["model"]["config"])
    model = AutoModelForCausalLM.from_config(config)
    before = model.lm_head.weight.detach().clone()
    outcome = llmforge.train_here(plan, model=model)
    assert outcome.exit_code == 0
    assert not torch.equal(model.lm_head.weight, before)
    # never taken for the plan's own run
    assert outcome.folder != plan.run_folder.absolute()
    assert "-here-" in outcome.folder.name
    assert not plan.run_folder.exists()


def test_ready_parts_that_do_not_fit(project: Callable[..., str]) -> None:
    from transformers import AutoTokenizer

    name = project()
    plan = compiled(name)
    with pytest.raises(TypeError, match="there is no part `modell`; parts are training_arguments"):
        llmforge.train_here(plan, modell=None)
    first = llmforge.train_here(plan)
    other = AutoTokenizer.from_pretrained(RunFolder(first.folder).model)
    other.add_tokens(["<never seen>"])
    with pytest.raises(ValueError, match="a tokenizer of another vocabulary"):
        llmforge.train_here(plan, tokenizer=other)
    outcome = llmforge.train_here(plan, trainer=object())
    assert outcome.diagnostic is not None
    assert "does not inherit from llmforge.build.trainer.ForgeTrainer" in outcome.diagnostic.message
    with pytest.warns(UserWarning, match="a ready-made trainer is taken as it is: collator are"):
        llmforge.train_here(plan, trainer=object(), collator=print)


def test_several_processes_are_not_trained_here(project: Callable[..., str]) -> None:
    plan = compiled(project(), "launch=torchrun", "launch.processes=2", "trainer.micro_batch=2")
    with pytest.raises(ValueError, match="for 2 processes"):
        llmforge.train_here(plan)


def test_callbacks_and_metrics_by_name(project: Callable[..., str]) -> None:
    name = project()
    more = (
        f"callbacks={{mine: {{kind: {name}, limit: 3}}}}",
        f"metrics={{right: {{kind: {name}_on_logits}}, asked: {{kind: {name}_on_text}}}}",
    )
    figures = []
    for micro in (2, 7):
        plan = compiled(name, *more, f"evaluation.micro_batch={micro}", "callbacks.mine.limit=9")
        outcome = llmforge.train_here(plan)
        assert outcome.diagnostic is None
        figures.append(outcome.result)
    assert parts(name).called == [("step", 1, 9), ("step", 2, 9)] * 2
    assert figures[0]["eval_right"] == figures[1]["eval_right"] > 0
    assert figures[0]["eval_loss"] == pytest.approx(figures[1]["eval_loss"])
    assert figures[0]["eval_asked"] == 3
    assert "eval_right" in figures[0]["baseline"]


def test_metrics_do_not_change_the_loss(project: Callable[..., str]) -> None:
    name = project()
    plain = llmforge.train_here(compiled(name)).result
    told = llmforge.train_here(
        compiled(name, f"metrics={{right: {{kind: {name}_on_logits}}}}")
    ).result
    assert told["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-9)
    assert told["train_loss"] == plain["train_loss"]


def test_code_of_ones_own_is_part_of_the_fingerprint(
    project: Callable[..., str], work: Path
) -> None:
    name = project()
    none, hooked = compiled(name), compiled(name, hooks_of(name))
    called = compiled(name, f"callbacks={{mine: {{kind: {name}, limit: 3}}}}")
    source = work / f"{name}_parts.py"
    source.write_text(source.read_text("utf-8") + "\n# mended\n", "utf-8")
    again = compiled(name, hooks_of(name))
    assert llmforge.compile(TINY).stages == none.stages  # a plugin that is not used
    assert compiled(name).stages == none.stages
    assert hooked.stages != none.stages
    assert again.stages["train"] != hooked.stages["train"]
    assert again.stages["prepare"] != hooked.stages["prepare"]  # it gives keywords to collators
    # a callback never sees a row
    assert called.stages["prepare"] == none.stages["prepare"]
    assert called.stages["train"] != none.stages["train"]


def test_a_field_of_an_experiment_may_change_the_samples(project: Callable[..., str]) -> None:
    name = project(fields="mark: str")
    first, second = (compiled(name, f"hooks={{kind: {name}, mark: {mark}}}") for mark in "ab")
    assert first.stages["prepare"] != second.stages["prepare"]


def test_a_metric_changes_the_scores_only(project: Callable[..., str]) -> None:
    name = project()
    told = compiled(name, f"metrics={{right: {{kind: {name}_on_logits}}}}")
    assert json.loads(told.to_json())["settings"]["metrics"]["right"] == {
        "kind": f"{name}_on_logits"
    }
    assert told.stages["evaluate"] != compiled(name).stages["evaluate"]


def test_what_a_worker_refuses(project: Callable[..., str]) -> None:
    """A base that could not be seen in the source is seen when the class is there."""
    name = project("\nBase = type('Base', (), {})\nclass Mine(Base):\n    pass\n")
    plan = compiled(name, hooks_of(name))
    with pytest.raises(Exception, match="must be a class that inherits from llmforge") as raised:
        active(plan)
    assert raised.value.section == "hooks"


def test_keywords_must_be_a_dict() -> None:
    class Mine(Experiment):
        def build_trainer_additional_kwargs(self) -> Any:
            return ["shout"]

    with pytest.raises(HookFailed, match=r"build_trainer_additional_kwargs .* must return a dict"):
        Hooks(Mine()).keywords("trainer")


def test_keywords_of_held_out_rows_are_those_of_training_rows() -> None:
    class Mine(Experiment):
        def build_train_dataset_additional_kwargs(self) -> dict[str, Any]:
            return {"a": 1}

    assert Hooks(Mine()).keywords("eval_dataset") == {"a": 1}


def test_nothing_to_fuse() -> None:
    mine = Experiment()
    mine.model = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match="Linear has no adapter to merge"):
        mine.fuse_lora()


def test_every_part_has_its_hooks_or_its_step() -> None:
    built = {p for p in PARTS if hasattr(Experiment, f"before_{p}_build")}
    assert set(PARTS) - built == {"lora_config"}  # it is used by `lora_apply`


def test_importing_it_needs_no_torch() -> None:
    import subprocess

    code = (
        "import llmforge, sys; llmforge.Experiment; llmforge.CallbackSpec; llmforge.register; "
        "assert 'torch' not in sys.modules"
    )
    root = str(Path(importlib.import_module("llmforge").__file__ or "").parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
