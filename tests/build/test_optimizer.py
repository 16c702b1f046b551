"""Optimizers in the real trainer: clipping by value, two kinds of weights, resuming bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llmforge.build.errors import BuildError
from llmforge.build.optimizer import MuonWithAdamW
from llmforge.build.parts import build_parts
from llmforge.build.trainer import ForgeTrainer, build_trainer
from llmforge.compiler.context import Context, Facts
from llmforge.compiler.lower import lower
from llmforge.compose import compose
from llmforge.stages.prepare import prepare

SECTIONS = ("optimizer", "schedule", "parameter_groups", "clipping")


def option(*overrides: str) -> dict[str, Any]:
    """The sections of a composition that decide how weights move."""
    values = compose(["hardware=cpu", *overrides]).values
    if values["optimizer"].get("fused") == "auto":
        values["optimizer"]["fused"] = True
    if values["optimizer"]["lr"] == "auto":
        values["optimizer"]["lr"] = values["optimizer"]["lr_scratch"]
    if values["schedule"]["warmup"] == "3%":
        values["schedule"]["warmup"] = 1
    return {section: values[section] for section in ("optimizer", "schedule")}


@pytest.fixture
def trainer_for(make_plan, tmp_path: Path):
    """`trainer_for(option("optimizer=muon"))`: a trainer with the keywords that lowering gives."""

    def make(
        changes: dict[str, Any], steps: int = 2, save_every: int | None = None, out: str = "a"
    ):
        torch.manual_seed(0)
        plan = make_plan({"trainer.max_steps": steps, "data.eval_fraction": 0.0, **changes})
        context = Context(plan.spec, Facts(steps=steps, steps_per_epoch=steps))
        lowered = {item.key: item.value for item in lower(context)}
        for section in SECTIONS:
            keys = [key for key in lowered if key.startswith(f"{section}.")]
            found = {key.removeprefix(f"{section}."): lowered[key] for key in keys}
            plan.lowered[section] = found or None
        arguments = plan.lowered["training_arguments"]
        for name in (
            "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "max_grad_norm",
            "weight_decay", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs",
        ):  # fmt: skip
            arguments.pop(name, None)
            if (value := lowered.get(f"training_arguments.{name}")) is not None:
                arguments[name] = value
        if save_every:
            arguments |= {"save_strategy": "steps", "save_steps": save_every}
        return build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path / out, [])

    return make


def weights(trainer: ForgeTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def moved(trainer: ForgeTrainer) -> dict[str, torch.Tensor]:
    before = weights(trainer)
    trainer.train()
    return {name: before[name] - after for name, after in weights(trainer).items()}


def gradient(clip_value: float | None) -> dict[str, Any]:
    """SGD at rate 1: its step is the gradient."""
    found = option("optimizer=sgd", "schedule=fixed")
    found["optimizer"] |= {
        "lr": 1.0, "momentum": 0.0, "clip_norm": None, "clip_value": clip_value,
        "decay_norms": False, "weight_decay": 0.0,
    }  # fmt: skip
    return found


LIMIT = 1e-3


class TestClippingByValue:
    def test_each_element_is_cut_and_no_other_is_touched(self, trainer_for):
        whole = moved(trainer_for(gradient(None), steps=1))
        cut = moved(trainer_for(gradient(LIMIT), steps=1))

        assert max(step.abs().max() for step in whole.values()) > 10 * LIMIT
        for name, step in whole.items():
            assert torch.allclose(cut[name], step.clamp(-LIMIT, LIMIT), atol=1e-6), name

    def test_once_per_step_under_accumulation(self, trainer_for):
        one = moved(trainer_for(gradient(LIMIT), steps=1))
        pieces = {"trainer.micro_batch": 1, "trainer.accumulation": 4}
        four = moved(trainer_for(gradient(LIMIT) | pieces, steps=1))

        for name, step in one.items():
            assert torch.allclose(four[name], step, atol=1e-5), name

    def test_after_the_loss_scale_is_taken_out(self, trainer_for):
        """float16's loss scaling, on a CPU: gradients are 1024 times too large until unscaled."""
        plain = moved(trainer_for(gradient(LIMIT), steps=1))
        trainer = trainer_for(gradient(LIMIT), steps=1)
        trainer.accelerator.state._mixed_precision = "fp16"
        trainer.accelerator.native_amp = True
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        seen = []

        class Look(TrainerCallback):
            def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
                seen.append(max(weight.grad.abs().max() for weight in model.parameters()))

        trainer.add_callback(Look())
        try:
            scaled = moved(trainer)
        finally:
            trainer.accelerator.state._mixed_precision = "no"

        assert trainer.accelerator.scaler._get_growth_tracker() == 1  # scaled, and not skipped
        assert seen == [pytest.approx(LIMIT)]
        for name, step in plain.items():
            # autocast rounds the forward pass; an unscaled limit would cut 1024 times more
            assert torch.allclose(scaled[name], step, atol=LIMIT / 10), name

    def test_the_norm_that_is_logged_is_that_before(self, trainer_for):
        cut, whole = (trainer_for(gradient(limit), steps=1) for limit in (LIMIT, None))
        for trainer in (cut, whole):
            trainer.train()
        norms = [trainer.state.log_history[0]["grad_norm"] for trainer in (cut, whole)]
        assert norms[0] == norms[1] > 0


class TestGroups:
    def test_of_the_plan_are_those_of_the_optimizer(self, trainer_for):
        changes = option("optimizer=adamw", "schedule=fixed")
        changes["optimizer"] |= {"lr": 1e-3, "embedding_lr": 1e-4, "layer_decay": 0.5}
        trainer = trainer_for(changes)

        trainer.train()

        rates = {group["lr"] for group in trainer.optimizer.param_groups}
        assert rates == {1e-3, 5e-4, 2.5e-4, 1e-4}
        grouped = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        assert len(grouped) == len(list(trainer.model.parameters()))

    def test_usual_ones_are_those_of_transformers(self, trainer_for):
        """Same groups, same order: a plan without separate rates trains as plain transformers."""
        ours, theirs = (
            trainer_for(option("optimizer=adamw")),
            trainer_for(option("optimizer=adamw")),
        )
        theirs.groups = None

        for trainer in (ours, theirs):
            trainer.create_optimizer()

        shapes = [
            [(g["weight_decay"], g["lr"], [p.shape for p in g["params"]]) for g in groups]
            for groups in (ours.optimizer.param_groups, theirs.optimizer.param_groups)
        ]
        assert shapes[0] == shapes[1]

    def test_trained_with_either_gives_the_same_weights(self, trainer_for):
        ours, theirs = (
            trainer_for(option("optimizer=adamw")),
            trainer_for(option("optimizer=adamw")),
        )
        theirs.groups = None
        for trainer in (ours, theirs):
            trainer.train()
        for name, weight in weights(theirs).items():
            assert torch.equal(weights(ours)[name], weight), name


class TestMuon:
    def test_matrices_and_the_rest(self, trainer_for):
        trainer = trainer_for(option("optimizer=muon", "schedule=fixed"))
        trainer.train()
        inner = trainer.optimizer.optimizer
        assert isinstance(inner, MuonWithAdamW)
        states = {
            group["matrix"]: {key for p in group["params"] for key in inner.state[p]}
            for group in inner.param_groups
        }
        assert states == {
            True: {"momentum_buffer"},
            False: {"step", "exp_avg", "exp_avg_sq"},
        }

    def test_it_steps_as_each_would_alone(self):
        torch.manual_seed(0)
        start = [torch.randn(8, 4), torch.randn(8)]
        ours, alone = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
        groups = [
            {"params": [ours[0]], "matrix": True, "weight_decay": 0.1},
            {"params": [ours[1]], "matrix": False, "weight_decay": 0.0},
        ]
        both = MuonWithAdamW(groups, 0.02, 0.01, [0.9, 0.95], 1e-8, 0.95, True, 5, "original")
        muon = torch.optim.Muon([alone[0]], lr=0.02, weight_decay=0.1, adjust_lr_fn="original")
        adamw = torch.optim.AdamW([alone[1]], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)

        for _ in range(3):
            for mine, other in zip(ours, alone, strict=True):
                mine.grad = torch.sin(mine.detach())
                other.grad = torch.sin(other.detach())
            both.step()
            muon.step()
            adamw.step()

        for mine, other, first in zip(ours, alone, start, strict=True):
            assert torch.equal(mine, other)
            assert not torch.equal(mine, first)

    def test_a_loaded_state_is_the_one_it_goes_on_with(self):
        def make() -> tuple[torch.nn.Parameter, MuonWithAdamW]:
            weight = torch.nn.Parameter(torch.eye(4))
            groups = [{"params": [weight], "matrix": True, "weight_decay": 0.0}]
            return weight, MuonWithAdamW(
                groups, 0.1, 0.1, [0.9, 0.9], 1e-8, 0.9, True, 5, "original"
            )

        weight, optimizer = make()
        for scale in (1.0, -2.0):
            weight.grad = scale * torch.ones(4, 4).triu()
            optimizer.step()
        again, loaded = make()
        again.data = weight.detach().clone()
        loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for w, o in ((weight, optimizer), (again, loaded)):
            w.grad = torch.ones(4, 4)
            o.step()

        assert torch.equal(weight, again)


class TestScheduleFree:
    def test_what_is_kept_are_the_averages(self, trainer_for):
        trainer = trainer_for(option("optimizer=adamw_schedule_free"), steps=4)
        trainer.train()
        inner = trainer.optimizer.optimizer

        kept = weights(trainer)
        assert all(group["train_mode"] is False for group in inner.param_groups)
        inner.train()
        assert any(not torch.equal(kept[n], w) for n, w in weights(trainer).items())

    def test_a_checkpoint_holds_them_too(self, trainer_for, tmp_path: Path):
        from safetensors.torch import load_file

        trainer = trainer_for(option("optimizer=adamw_schedule_free"), steps=3, save_every=3)
        trainer.train()
        saved = load_file(tmp_path / "a/checkpoint-3/model.safetensors")
        kept = weights(trainer)
        assert all(torch.equal(kept[name], weight) for name, weight in saved.items())


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=adamw_ms_1",),
        ("optimizer=muon",),
        ("optimizer=adamw_schedule_free",),
        ("optimizer=lion_8bit",),
        ("optimizer=adam", "schedule=wsd", "schedule.decay=2"),
        ("optimizer=adafactor_rs",),
        ("optimizer=adamw", "optimizer.layer_decay=0.8", "schedule=inverse_sqrt"),
    ],
    ids=" ".join,
)
def test_stopped_and_resumed_it_is_the_same_bit_for_bit(overrides, trainer_for, tmp_path: Path):
    whole = trainer_for(option(*overrides), steps=6, save_every=3, out="whole")
    before = weights(whole)
    whole.train()
    half = tmp_path / "whole/checkpoint-3"

    again = trainer_for(option(*overrides), steps=6, save_every=3, out="again")
    again.train(resume_from_checkpoint=str(half))

    end = weights(whole)
    assert any(not torch.equal(end[name], weight) for name, weight in before.items())
    assert [n for n, weight in weights(again).items() if not torch.equal(end[n], weight)] == []
    rates = [[g["lr"] for g in t.optimizer.param_groups] for t in (whole, again)]
    assert rates[0] == rates[1]


def test_a_rate_for_embeddings_that_an_adapter_freezes(trainer_for, settings):
    changes = option("optimizer=adamw")
    changes["optimizer"]["embedding_lr"] = 1e-4
    trainer = trainer_for(changes | {"lora": settings.LORA})
    with pytest.raises((ValueError, BuildError), match=r"optimizer\.embedding_lr is given"):
        trainer.train()
