"""Optimizers and schedules as keywords: each bound to what is installed, each course followed."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.optimization import Adafactor

from llmforge.build.optimizer import MuonWithAdamW
from llmforge.build.schedules import multistep
from llmforge.compose import options
from llmforge.registry import component

CPU = "hardware=cpu"
LENGTH = ("trainer.epochs=null", "trainer.max_steps=110")
OPTIMIZERS = [o.name for o in options("optimizer") if o.name != "file"]


@pytest.mark.parametrize("option", OPTIMIZERS)
def test_every_option_builds_and_moves_a_weight(option, compiled, tmp_path):
    plan = compiled(CPU, f"optimizer={option}")
    weight = torch.nn.Parameter(torch.ones(64, 128))
    if plan.lowered["optimizer"] is None:
        arguments = TrainingArguments(str(tmp_path), **plan.lowered["training_arguments"])
        build, keywords = Trainer.get_optimizer_cls_and_kwargs(arguments)
        inspect.signature(build).bind([weight], **keywords)
    else:
        kind = plan.settings["optimizer"]["kind"]
        build, keywords = component("optimizer", kind).load_builder()(plan.lowered["optimizer"])
    groups = [{"params": [weight], "weight_decay": 0.1}]
    if build is MuonWithAdamW:
        groups[0]["matrix"] = True

    optimizer = build(groups, **keywords)
    getattr(optimizer, "train", lambda: None)()
    for _ in range(2):
        (weight**2).sum().backward()
        optimizer.step()

    assert optimizer.param_groups[0]["lr"] == plan.settings["optimizer"]["lr"]
    assert not torch.equal(weight, torch.ones(64, 128))
    assert torch.isfinite(weight).all()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("optimizer=adamw_paged",), "paged_adamw_32bit"),
        (("optimizer=adamw8bit_s_ns",), "adamw_bnb_8bit"),
        (("optimizer=lion",), "lion_32bit"),
        (("optimizer=lion_8bit",), "lion_8bit"),
        (("optimizer=lion", "optimizer.paged=true"), "paged_lion_32bit"),
        (("optimizer=lion_8bit", "optimizer.paged=true"), "paged_lion_8bit"),
    ],
)
def test_names_that_transformers_knows(overrides, name, compiled):
    plan = compiled("hardware=h200", *overrides)

    assert plan.lowered["training_arguments"]["optim"] == name
    assert plan.lowered["optimizer"] is None


def test_what_muon_does_not_move_has_a_rate_of_its_own(compiled):
    same = compiled(CPU, "optimizer=muon").lowered["optimizer"]
    apart = compiled(CPU, "optimizer=muon", "optimizer.adamw_lr=1e-4").lowered["optimizer"]

    assert same["adamw_lr"] == same["lr"] == 3e-3
    assert (apart["lr"], apart["adamw_lr"]) == (3e-3, 1e-4)


def test_keywords_of_adafactor_are_its_own(compiled):
    lowered = compiled(CPU, "optimizer=adafactor_rs").lowered["optimizer"]

    inspect.signature(Adafactor).bind([], **lowered)
    assert lowered == {
        "lr": None, "clip_threshold": 1.0, "decay_rate": -0.95, "scale_parameter": True,
        "relative_step": True, "warmup_init": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "part", "expected"),
    [
        (("optimizer.clip_value=0.5", "optimizer.clip_norm=null"), "clipping", {"value": 0.5}),
        (("optimizer.decay_norms=true",), "parameter_groups", {"decay_norms": True}),
        (("optimizer.layer_decay=0.9",), "parameter_groups", {"layer_decay": 0.9}),
        (("optimizer.embedding_lr=1e-5",), "parameter_groups", {"embedding_lr": 1e-5}),
        (
            ("lora=small", "optimizer.lora_plus_ratio=16"),
            "parameter_groups",
            {"lora_plus_ratio": 16},
        ),
        (("optimizer=muon",), "parameter_groups", {"matrices_apart": True}),
    ],
)
def test_no_field_is_read_by_nobody(overrides, part, expected, compiled):
    usual = compiled(CPU).lowered[part]
    lowered = compiled(CPU, *overrides).lowered[part]

    changed = {key: value for key, value in lowered.items() if value != usual[key]}
    assert expected.items() <= changed.items()


def course(plan, steps: int = 110) -> list[float]:
    """The rate after each step, the peak being 1."""
    arguments, own = plan.lowered["training_arguments"], plan.lowered["schedule"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if own is not None:
        scheduler = multistep(optimizer, **own)
    else:
        scheduler = get_scheduler(
            arguments["lr_scheduler_type"],
            optimizer,
            num_warmup_steps=arguments["warmup_steps"],
            num_training_steps=steps,
            scheduler_specific_kwargs=arguments.get("lr_scheduler_kwargs"),
        )
    rates = []
    for _ in range(steps + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # the rate after 0, 5, 10 (the end of warm-up), 60 and 110 (the end) steps
        (("schedule=cosine_to_zero",), [0.0, 0.5, 1.0, 0.5, 0.0]),
        (("schedule=cosine_restarts", "schedule.cycles=1"), [0.0, 0.5, 1.0, 0.5, 0.0]),
        (("schedule=cosine_restarts", "schedule.cycles=2"), [0.0, 0.5, 1.0, 1.0, 0.0]),
        (("schedule=polynomial",), [0.0, 0.5, 1.0, 0.25, 0.0]),
        (("schedule=polynomial", "schedule.power=1", "schedule.floor=0.1", "optimizer.lr=1.0"),
         [0.0, 0.5, 1.0, 0.55, 0.1]),
        (("schedule=inverse_sqrt", "schedule.timescale=50"), [0.0, 0.5, 1.0, 0.7071, 0.5774]),
        (("schedule=inverse_sqrt",), [0.0, 0.5, 1.0, 0.4082, 0.3015]),
        (("schedule=wsd", "schedule.decay=20"), [0.0, 0.5, 1.0, 1.0, 0.0]),
        (("schedule=wsd", "schedule.decay=100", "schedule.shape=linear"),
         [0.0, 0.5, 1.0, 0.5, 0.0]),
        (("schedule=wsd", "schedule.decay=100", "schedule.shape=cosine", "schedule.floor=0.1"),
         [0.1, 0.55, 1.0, 0.55, 0.1]),
        (("schedule=multistep", "schedule.unit=steps", "schedule.milestones=[20,100]"),
         [0.0, 0.5, 1.0, 0.5, 0.25]),
    ],
)  # fmt: skip
def test_schedules_run_their_course(schedule, rates, compiled):
    found = course(compiled(CPU, *LENGTH, *schedule, "schedule.warmup=10"))

    assert [found[step] for step in (0, 5, 10, 60, 110)] == pytest.approx(rates, abs=1e-3)


def test_fixed_is_at_its_peak_from_the_first_step(compiled):
    assert set(course(compiled(CPU, *LENGTH, "schedule=fixed"))) == {1.0}


def test_void_trainers_steps_count_batches(compiled):
    """Of 4 micro batches a step, batches 4, 8 and 12 end the steps 1, 2 and 3."""
    one = compiled(CPU, *LENGTH, "optimizer=adamw_ms_1", "trainer.accumulation=1")
    four = compiled(CPU, *LENGTH, "optimizer=adamw_ms_1", "trainer.accumulation=4")
    eight = compiled(CPU, *LENGTH, "optimizer=adamw_ms_1", "trainer.accumulation=8")

    assert course(one)[:14] == [1.0] * 4 + [0.5] * 4 + [0.25] * 4 + [0.125] * 2
    assert course(four)[:5] == [1.0, 0.5, 0.25, 0.125, 0.125]
    assert eight.lowered["schedule"]["milestones"] == [1, 1, 2]


def test_milestones_in_epochs(compiled):
    plan = compiled(CPU, "trainer.epochs=3", "schedule=multistep", "schedule.warmup=0")

    per_epoch = plan.estimate["steps_per_epoch"]
    assert plan.lowered["schedule"]["milestones"] == [per_epoch, 2 * per_epoch]


def test_a_fall_given_as_a_share_is_counted_out(compiled):
    lowered = compiled(CPU, *LENGTH, "schedule=wsd").lowered["training_arguments"]

    assert lowered["lr_scheduler_kwargs"] == {
        "num_decay_steps": 11, "decay_type": "1-sqrt", "min_lr_ratio": 0.0
    }  # fmt: skip
    inspect.signature(TrainingArguments).bind(output_dir="here", **lowered)


def test_a_multistep_schedule_is_not_named_to_transformers(compiled):
    lowered = compiled(CPU, *LENGTH, "schedule=multistep").lowered

    assert "lr_scheduler_type" not in lowered["training_arguments"]
    assert set(lowered["schedule"]) == set(inspect.signature(multistep).parameters) - {"optimizer"}
