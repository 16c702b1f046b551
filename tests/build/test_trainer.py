"""Gradients, evaluation loss and the stop before a broken step."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from llmforge.build import arguments, loss_kernels
from llmforge.build import trainer as module
from llmforge.build.errors import BuildError, NonFiniteLoss
from llmforge.build.loss import loss_metrics, token_nll
from llmforge.build.parts import build_parts
from llmforge.build.trainer import ForgeTrainer, build_trainer
from llmforge.stages.prepare import prepare

UNEVEN = [
    {
        "messages": [
            {"role": "user", "content": f"{number}?"},
            {"role": "assistant", "content": "yes " * (1 + number % 5 * 2)},
        ]
    }
    for number in range(12)
]
"""Answers of one to nine words: means of batch means go wrong on these."""


@pytest.fixture
def trainer_for(make_plan, tmp_path: Path):
    """`trainer_for({...})`: a trainer over UNEVEN, and the model it trains."""

    def make(changes: dict[str, Any] | None = None, callbacks: Any = ()) -> ForgeTrainer:
        plan = make_plan({"optimizer.lr": 1.0, **(changes or {})}, rows=UNEVEN)
        parts = build_parts(plan, prepare(plan))
        return build_trainer(plan, parts, tmp_path / "out", list(callbacks))

    return make


def weights(trainer: ForgeTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


SGD = {
    "optimizer": {
        "kind": "sgd",
        "lr": 1.0,
        "weight_decay": 0.0,
        "clip_norm": None,
        "momentum": 0.0,
    },
    "trainer.max_steps": 1,
    "data.eval_fraction": 0.0,
}


def test_metrics_see_logits_in_the_compute_format_while_training(trainer_for):
    """accelerate's wrapper would hand on a float32 copy of all of them."""
    trainer = trainer_for(
        {
            "metrics.accuracy": {"kind": "token_accuracy"},
            "precision.compute": "bfloat16",
            "evaluation.every": 1,
            "trainer.max_steps": 1,
        }
    )
    seen = []
    of_batch = trainer.measures.of_batch
    trainer.measures.of_batch = lambda logits, labels: (
        seen.append(logits.dtype) or of_batch(logits, labels)
    )
    trainer.train()
    figures = trainer.evaluate()
    assert set(seen) == {torch.bfloat16}
    assert math.isfinite(figures["eval_loss"])
    assert 0 <= figures["eval_accuracy"] <= 1


class TestGradient:
    def step(self, trainer_for, micro_batch: int, accumulation: int, **more) -> dict[str, Any]:
        """With SGD at rate 1 the step is the gradient."""
        changes = {"trainer.micro_batch": micro_batch, "trainer.accumulation": accumulation}
        trainer = trainer_for(SGD | changes | more)
        before = weights(trainer)
        trainer.train()
        return {name: before[name] - after for name, after in weights(trainer).items()}

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_four_times_two_is_eight(self, trainer_for, smoothing):
        more = {"trainer.label_smoothing": smoothing}
        whole = self.step(trainer_for, 8, 1, **more)
        pieces = self.step(trainer_for, 2, 4, **more)
        assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3
        for name, gradient in whole.items():
            assert torch.allclose(gradient, pieces[name], atol=1e-5), name

    def test_it_is_the_gradient_of_the_mean_over_tokens(self, trainer_for):
        stepped = self.step(trainer_for, 8, 1)
        trainer = trainer_for(SGD)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        labels = batch.pop("labels")
        logits = trainer.model(**batch).logits[:, :-1]
        targets = labels[:, 1:]
        log_p = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
        (-log_p[targets != -100].sum() / (targets != -100).sum()).backward()
        for name, weight in trainer.model.named_parameters():
            assert torch.allclose(stepped[name], weight.grad, atol=1e-5), name

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_checkpointing_changes_no_gradient_of_an_adapter(
        self, trainer_for, settings, monkeypatch, reentrant
    ):
        lora = {"lora": settings.LORA}
        plain = self.step(trainer_for, 8, 1, **lora)
        names = arguments.current_names

        def with_kind(accepts: Any, given: dict[str, Any]) -> dict[str, Any]:
            kind = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
            return names(accepts, given | kind)

        monkeypatch.setattr(arguments, "current_names", with_kind)
        saving = self.step(trainer_for, 8, 1, **lora, **{"trainer.gradient_checkpointing": True})
        assert any(gradient.abs().max() > 0 for gradient in plain.values())
        for name, gradient in plain.items():
            assert torch.allclose(gradient, saving[name], atol=1e-6), name

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("more", ["plain", "accumulated", "packed", "lora", "checkpointed"])
    def test_loss_by_chunks_is_the_same_gradient(
        self, trainer_for, settings, monkeypatch, more, smoothing
    ):
        monkeypatch.setattr(loss_kernels, "LEAST_TOKENS", 1)
        monkeypatch.setattr(loss_kernels, "CHUNK_BYTES", 5 * 4 * 300)
        micro, passes, changes = {
            "plain": (8, 1, {}),
            "accumulated": (2, 4, {}),
            "packed": (2, 1, {"collator.packing": "best_fit"}),
            "lora": (4, 2, {"lora": settings.LORA}),
            "checkpointed": (8, 1, {"trainer.gradient_checkpointing": True}),
        }[more]
        changes["trainer.label_smoothing"] = smoothing
        full = self.step(trainer_for, micro, passes, **changes, **{"trainer.loss_kernel": "full"})
        lean = self.step(
            trainer_for, micro, passes, **changes, **{"trainer.loss_kernel": "chunked"}
        )
        assert max(gradient.abs().max() for gradient in full.values()) > 1e-3
        for name, gradient in full.items():
            assert torch.allclose(gradient, lean[name], atol=1e-5), name


class TestLossKernel:
    def test_it_is_at_work_in_training_and_in_evaluation(self, trainer_for, monkeypatch):
        trainer = trainer_for({"trainer.loss_kernel": "chunked", "trainer.label_smoothing": 0.1})
        calls = {"loss": 0, "rows": 0}

        def counted(name: str, method: Any) -> Any:
            def call(*args: Any) -> Any:
                calls[name] += 1
                return method(*args)

            return call

        monkeypatch.setattr(trainer.lean, "_sum", counted("loss", trainer.lean._sum))
        monkeypatch.setattr(trainer.lean, "_row", counted("rows", trainer.lean._row))
        trainer.train()
        assert calls == {"loss": 2, "rows": 0}
        trainer.evaluate()
        assert calls == {"loss": 2, "rows": len(trainer.eval_dataset)}

    def test_evaluation_has_the_same_figures(self, trainer_for):
        whole = trainer_for({"trainer.loss_kernel": "full"}).evaluate()
        chunks = trainer_for({"trainer.loss_kernel": "chunked"}).evaluate()
        assert chunks["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-6)
        assert chunks["eval_tokens"] == whole["eval_tokens"]

    def test_a_trained_model_still_generates(self, trainer_for):
        trainer = trainer_for({"trainer.loss_kernel": "chunked"})
        trainer.train()
        trainer.evaluate()
        found = trainer.model.generate(
            torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4
        )
        assert found.shape == (1, 7)

    def test_liger_that_is_not_installed_says_so(self, make_plan, tmp_path: Path):
        if importlib.util.find_spec("liger_kernel"):
            pytest.skip("liger-kernel is installed here")
        plan = make_plan({"trainer.loss_kernel": "liger"})
        parts = build_parts(plan, prepare(plan))
        with pytest.raises(BuildError, match=r"`trainer` .*liger_kernel"):
            build_trainer(plan, parts, tmp_path, [])

    def test_a_compiled_model_takes_the_same_steps(self, make_plan, tmp_path: Path):
        def losses(compiles: bool) -> list[float]:
            plan = make_plan({"trainer.loss_kernel": "chunked"}, rows=UNEVEN)
            arguments = plan.lowered["training_arguments"]
            arguments |= {"torch_compile": compiles, "torch_compile_backend": None}
            # the default backend compiles C++ for minutes; this one traces and runs the same graph
            if compiles:
                arguments["torch_compile_backend"] = "aot_eager"
            trainer = build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path, [])
            trainer.train()
            assert hasattr(trainer.model_wrapped, "_orig_mod") is compiles
            return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

        assert losses(True) == pytest.approx(losses(False), rel=1e-5)


class TestEvaluation:
    @pytest.mark.parametrize("batch", [1, 2, 3, 5, 12])
    def test_loss_does_not_depend_on_the_batch(self, trainer_for, batch):
        trainer = trainer_for({"evaluation.micro_batch": batch, "data.eval_fraction": 0.5})
        found = trainer.evaluate()
        nll = tokens = 0.0
        for sample in trainer.eval_dataset:
            ids = torch.tensor([sample["input_ids"]])
            with torch.no_grad():
                log_p = trainer.model(ids).logits[0, :-1].log_softmax(-1)
            for place, label in enumerate(sample["labels"][1:]):
                if label != -100:
                    nll -= log_p[place, label].item()
                    tokens += 1
        assert found["eval_tokens"] == tokens
        assert found["eval_loss"] == pytest.approx(nll / tokens, abs=1e-5)
        assert found["eval_perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)

    def test_the_librarys_mean_of_means_would_differ(self, trainer_for, monkeypatch):
        changes = {"evaluation.micro_batch": 3, "data.eval_fraction": 0.5}
        trainer = trainer_for(changes)
        trainer.train()
        exact = trainer.evaluate()["eval_loss"]
        monkeypatch.setattr(module.HeldOut, "metrics", lambda *_: {})
        assert abs(trainer.evaluate()["eval_loss"] - exact) > 1e-4

    def test_smoothing_is_for_training_only(self, trainer_for):
        plain, smooth = trainer_for(), trainer_for({"trainer.label_smoothing": 0.3})
        assert smooth.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])

    def test_logits_are_not_kept(self, trainer_for, monkeypatch):
        trainer = trainer_for()
        seen = []
        step = trainer.prediction_step
        monkeypatch.setattr(
            trainer, "prediction_step", lambda *a, **k: seen.append(step(*a, **k)) or seen[-1]
        )
        trainer.evaluate()
        assert all(kept[1:] == (None, None) and kept[0].numel() == 1 for kept in seen)

    def test_during_training_as_well(self, trainer_for):
        trainer = trainer_for()
        trainer.args.eval_strategy = IntervalStrategy.STEPS
        trainer.state.eval_steps = trainer.args.eval_steps = 1
        trainer.train()
        told = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
        assert [entry["step"] for entry in told] == [1, 2]
        for entry in told:
            assert entry["eval_perplexity"] == pytest.approx(math.exp(entry["eval_loss"]))

    def test_before_training_it_leaves_no_mark_on_the_model(self, trainer_for):
        # a model marked as prepared is not wrapped for training: see test_distributed.py
        trainer = trainer_for()
        trainer.evaluate()
        assert not trainer.accelerator._models
        assert not getattr(trainer.model, "_is_accelerate_prepared", False)

    def test_a_sample_without_labels_counts_nothing(self):
        found = token_nll(torch.zeros(2, 3, 4), torch.tensor([[1, 2, -100], [-100, -100, -100]]))
        assert found.tolist() == [[pytest.approx(math.log(4)), 1.0], [0.0, 0.0]]

    def test_hopeless_losses_have_figures_too(self):
        assert loss_metrics(9000.0, 10)["eval_perplexity"] == math.inf
        assert math.isnan(loss_metrics(math.nan, 10)["eval_perplexity"])
        assert math.isnan(loss_metrics(0.0, 0)["eval_loss"])


class Poison(TrainerCallback):
    """Spoils the model before the second step."""

    def __init__(self, spoil: Any) -> None:
        self.spoil = spoil
        self.before: dict[str, torch.Tensor] = {}

    def on_step_begin(self, _args, state, _control, model=None, **_):
        if state.global_step == 1:
            self.spoil(model)
            self.before = {name: w.detach().clone() for name, w in model.named_parameters()}


def spoil_weight(model: Any) -> None:
    next(model.parameters()).data[5] = float("nan")


def spoil_gradient(model: Any) -> None:
    next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))


class TestNonFinite:
    @pytest.mark.parametrize(
        ("spoil", "what"), [(spoil_weight, "loss is nan"), (spoil_gradient, "gradient norm is inf")]
    )
    @pytest.mark.parametrize("clip", [None, 1.0])
    def test_the_run_stops_before_the_step(self, trainer_for, spoil, what, clip):
        poison = Poison(spoil)
        changes = {"trainer.max_steps": 5, "optimizer.clip_norm": clip}
        trainer = trainer_for(changes, [poison])
        with pytest.raises(NonFiniteLoss, match=f"{what} at optimizer step 2") as caught:
            trainer.train()
        assert (caught.value.step, caught.value.what) == (2, what)
        for name, weight in weights(trainer).items():
            assert torch.equal(weight.nan_to_num(), poison.before[name].nan_to_num()), name
        assert trainer.state.global_step == 1

    def test_found_in_any_micro_batch(self, trainer_for):
        changes = {"trainer.micro_batch": 1, "trainer.accumulation": 4, "trainer.max_steps": 3}
        with pytest.raises(NonFiniteLoss, match="loss is nan at optimizer step 2"):
            trainer_for(changes, [Poison(spoil_weight)]).train()

    def test_loss_scaling_may_overflow_for_a_while(self, trainer_for, monkeypatch):
        trainer = trainer_for()
        trainer.accelerator.scaler = object()
        monkeypatch.setattr(
            transformers.Trainer, "_get_grad_norm", lambda *_: torch.tensor(math.inf)
        )
        for _ in range(30):
            trainer._get_grad_norm(trainer.model)
        with pytest.raises(NonFiniteLoss, match="gradient norm is inf"):
            trainer._get_grad_norm(trainer.model)


class TestBuilding:
    def test_the_tokenizer_stands_beside_a_checkpoint(self, trainer_for, tmp_path: Path):
        trainer_for().save_model(str(tmp_path / "saved"))
        names = {path.name for path in (tmp_path / "saved").iterdir()}
        assert {"tokenizer.json", "chat_template.jinja", "model.safetensors"} <= names

    def test_refused_arguments_name_the_section(self, make_plan, tmp_path: Path):
        plan = make_plan()
        plan.lowered["training_arguments"]["nonsense"] = 1
        parts = build_parts(plan, prepare(plan))
        with pytest.raises(BuildError, match=r"`trainer` \(conf/trainer.*nonsense"):
            build_trainer(plan, parts, tmp_path, [])

    def test_a_relative_step_needs_no_rate(self, trainer_for):
        own = {
            "kind": "adafactor",
            "lr": None,
            "weight_decay": 0.0,
            "clip_norm": None,
            "clip_threshold": 1.0,
            "decay_rate": -0.8,
            "scale_parameter": True,
            "relative_step": True,
            "warmup_init": False,
        }
        trainer = trainer_for({"optimizer": own})
        before = weights(trainer)
        trainer.train()
        assert trainer.optimizer.optimizer.defaults["relative_step"]
        assert any(not torch.equal(before[n], w) for n, w in weights(trainer).items())
        assert all(torch.isfinite(w).all() for w in weights(trainer).values())

    def test_group_by_length_uses_the_prepared_lengths(self, trainer_for):
        trainer = trainer_for({"trainer.group_by_length": True, "trainer.micro_batch": 3})
        sampler = trainer._get_train_sampler()
        assert sampler.lengths == trainer.train_dataset["length"][:]
        order = list(sampler)
        assert sorted(order) == list(range(len(trainer.train_dataset)))
        trainer.train()

    def test_nothing_is_printed(self, trainer_for, capsys):
        trainer_for().train()
        assert capsys.readouterr().out == ""
