"""Each argument that the table gives to a key: the key is set, and the argument is lowered so.

The words are the table's own, those of the hint that a user gets who writes the argument under
`trainer.extra`; so the hint is proved to say the same thing.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmforge.build.library_names import RENAMED
from llmforge.compiler.lower.training import training_arguments
from llmforge.schema.training_arguments import ARGUMENTS, FORMER, Open, Owned, Say

H200 = ("hardware=h200",)
EIGHT = ("hardware=h200", "hardware.count=8", "launch=torchrun")
BEST = ("hardware=h200", "checkpoint=best")

EXAMPLES: dict[str, Any] = {
    "per_device_train_batch_size": 4, "per_device_eval_batch_size": 3,
    "gradient_accumulation_steps": 2, "max_steps": 40, "learning_rate": 1e-4, "weight_decay": 0.2,
    "adam_epsilon": 1e-6, "max_grad_norm": 0.5, "optim": "paged_adamw_8bit",
    "lr_scheduler_type": "linear", "warmup_steps": 7, "bf16": True, "fp16": True,
    "label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0, "seed": 7, "data_seed": 7,
    "full_determinism": True, "activation_checkpointing": True, "gradient_checkpointing": True,
    "torch_compile": True, "torch_compile_backend": "aot_eager", "torch_compile_mode":
    "max-autotune", "use_cpu": True, "dataloader_num_workers": 2, "dataloader_prefetch_factor": 3,
    "dataloader_persistent_workers": True, "dataloader_pin_memory": False,
    "train_sampling_strategy": "sequential", "logging_strategy": "no", "logging_steps": 5,
    "eval_strategy": "no", "eval_steps": 20, "eval_delay": 10, "save_strategy": "no",
    "save_steps": 20, "save_total_limit": 5, "load_best_model_at_end": True,
    "metric_for_best_model": "eval_perplexity", "greater_is_better": True,
}  # fmt: skip
"""Argument -> a value that is not the default."""

BESIDE = {
    "bf16": ("hardware=cpu",),
    "metric_for_best_model": BEST,
    "greater_is_better": BEST,
    "use_cpu": (),
}
"""Where the key means something, or is not so already; else one GPU."""

BY_HAND: dict[str, tuple[tuple[Any, ...], Any]] = {
    "adam_beta1": ((*H200, {"optimizer.betas": [0.8, 0.9]}), 0.8),
    "adam_beta2": ((*H200, {"optimizer.betas": [0.8, 0.9]}), 0.9),
    "lr_scheduler_kwargs": (
        (*H200, "schedule=cosine_restarts", {"schedule.cycles": 3}),
        {"num_cycles": 3},
    ),
    "fsdp": ((*EIGHT, "fsdp=full_shard"), True),
    "fsdp_config": ((*EIGHT, "fsdp=full_shard"), {"version": 2}),
    "deepspeed": ((*EIGHT, "deepspeed=stage3"), {"zero_optimization": {"stage": 3}}),
}
"""Arguments that several settings make up, with a part of what they become."""


def words(say: Say, value: Any) -> tuple[Any, ...]:
    """The overrides of a hint, as the fixture takes them: options as text, values as they are."""
    said = say(value)
    assert said, f"nothing is said of {value!r}"
    options = [f"{key}={option}" for key, option in said if "." not in key and key not in SCALARS]
    return (*options, {key: given for key, given in said if "." in key or key in SCALARS})


SCALARS = ("seed", "deterministic")


def found_in(context: Any, name: str) -> Any:
    """The value that was lowered, under the older name where the library has renamed it."""
    lowered = training_arguments(context)
    older = {new: old for old, new in RENAMED.items()}
    assert name in lowered or older.get(name) in lowered, f"`{name}` is not lowered"
    return (lowered[name] if name in lowered else lowered[older[name]])[0]


def test_every_owned_argument_is_tried():
    owned = {name for name, entry in ARGUMENTS.items() if isinstance(entry, Owned)}

    assert {*EXAMPLES, *BY_HAND} == owned


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_key_lowers_to_the_argument(name, solved):
    entry, value = ARGUMENTS[name], EXAMPLES[name]
    assert isinstance(entry, Owned)
    beside = BESIDE.get(name, H200)

    before = solved(*(beside or H200))
    after = solved(*beside, *words(entry.say, value))

    assert training_arguments(before).get(name, (None,))[0] != value
    assert found_in(after, name) == value


@pytest.mark.parametrize("name", BY_HAND)
def test_several_settings_make_up_the_argument(name, solved):
    given, part = BY_HAND[name]
    found = found_in(solved(*given), name)

    assert found == part or part.items() <= found.items() or all(
        inner.items() <= found[key].items() for key, inner in part.items()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "value", "kind"),
    [
        ("optim", "adamw_torch", "adamw"),
        ("optim", "adamw_8bit", "adamw_8bit"),
        ("optim", "paged_adamw_32bit", "adamw_paged"),
        ("optim", "lion_32bit", "lion"),
        ("optim", "adafactor", "adafactor"),
        ("optim", "sgd", "sgd"),
        ("optim", "schedule_free_adamw", "adamw_schedule_free"),
        ("lr_scheduler_type", "cosine", "cosine"),
        ("lr_scheduler_type", "cosine_with_restarts", "cosine_restarts"),
        ("lr_scheduler_type", "constant", "constant"),
        ("lr_scheduler_type", "polynomial", "polynomial"),
        ("lr_scheduler_type", "warmup_stable_decay", "wsd"),
    ],
)
def test_names_of_the_library_are_options_here(argument, value, kind, solved):
    entry = ARGUMENTS[argument]
    assert isinstance(entry, Owned)
    context = solved(*H200, *words(entry.say, value))

    assert getattr(context.spec, entry.key).kind == kind


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("warmup_steps", 0.05, (("schedule.warmup", "5%"),)),
        ("eval_steps", 0.1, (("evaluation.every", "10%"),)),
        ("logging_steps", 5.0, (("trainer.log_every", 5),)),
        ("optim", "galore_adamw", ()),
        ("fp16", False, ()),
        ("bf16", False, (("precision", "float32"),)),
    ],
)
def test_shares_and_names_that_have_no_equal(argument, value, said):
    entry = ARGUMENTS[argument]
    assert isinstance(entry, Owned)

    assert entry.say(value) == said


def test_former_names_say_something_too():
    entry = FORMER["warmup_ratio"]
    assert isinstance(entry, Owned)

    assert entry.say(0.03) == (("schedule.warmup", "3%"),)


@pytest.mark.parametrize("name", [n for n, e in ARGUMENTS.items() if isinstance(e, Open)])
def test_an_open_argument_goes_through_as_it_is(name, solved):
    """Also where llmforge has a value of its own for it."""
    value = {"tf32": False, "debug": "underflow_overflow", "ddp_backend": "gloo"}.get(name, 77)
    context = solved(*H200, {"trainer.extra": {name: value}})

    assert training_arguments(context)[name] == (value, f"trainer.extra.{name}")


def test_compiling_does_not_bring_another_precision(solved):
    """The library switches TF32 on with it, unless it is told not to."""
    compiling = {"trainer.compile": True}

    assert training_arguments(solved(*H200, compiling))["tf32"] == (False, "trainer.compile")
    asked = training_arguments(solved(*H200, compiling, {"trainer.extra": {"tf32": True}}))
    assert asked["tf32"] == (True, "trainer.extra.tf32")


def test_a_backend_alone_does_not_compile(solved):
    """The library takes a backend as the wish to compile."""
    lowered = training_arguments(solved(*H200, {"trainer.compile_backend": "aot_eager"}))

    assert lowered["torch_compile"] == (False, "trainer.compile")
    assert "torch_compile_backend" not in lowered
