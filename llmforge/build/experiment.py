"""Experiments: methods of the user's own, called while a run is built, trained and closed.

In: a plan, whose section `hooks` names a class. Out: `Experiment`, which that class inherits from,
and `Hooks`, by which the stages call it. Hooks are called on every rank, in this order:

    at_beginning
    before_checks, after_checks                  data files, samples and limits (`prepare`)
    before_ / after_tokenizer_build
    before_ / after_model_build                  within it, where they apply:
        before_ / after_quantization_config_build
        before_ / after_quantized_base           packing after the build
        before_ / after_stabilize_training       norms and embeddings to their formats
    before_ / after_lora_apply
    before_ / after_collator_build               build_collator_additional_kwargs
    before_ / after_train_dataset_build
    before_ / after_eval_dataset_build
    before_ / after_training_arguments_build
    before_ / after_trainer_build                build_trainer_additional_kwargs
    before_train, after_train
    after_fuse                                   when the experiment calls `fuse_lora`
    at_end                                       the final model is written and measured

`build_train_dataset_additional_kwargs` and `build_eval_dataset_additional_kwargs` are asked while
the plan is made, when a data set class is read (`data=class`), in a process of its own.

Those who come from X-LLM find every hook under its name, but for one pair:

    before_bnb_quantization, after_bnb_quantization  ->  before_quantized_base, after_quantized_base

since quantization is not bitsandbytes' alone, and happens while weights are loaded: what is left
to be done afterwards is what the pair surrounds. Checks were of the configuration; that is checked
before a worker starts, so here they are those of the data.

This module does not build anything, and does not import torch when it is imported.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from llmforge import plugins, registry
from llmforge.plan import Plan

P = ParamSpec("P")
R = TypeVar("R")

PARTS = (
    *("training_arguments", "train_dataset", "eval_dataset", "tokenizer", "collator"),
    *("quantization_config", "model", "lora_config", "trainer"),
)
"""What may be given ready-made (`llmforge.train_here`), and what hooks find on the experiment."""


class HookFailed(RuntimeError):
    """A hook raised; the exception is `__cause__`."""

    def __init__(self, hook: str, experiment: object, error: BaseException) -> None:
        name = f"{type(experiment).__module__}.{type(experiment).__qualname__}"
        super().__init__(f"{hook} of {name} raised {plugins.raised_at(error)}")
        self.hook = hook


class Experiment:
    """What an experiment inherits from; every method may be overridden, none must be.

        class Freeze(llmforge.Experiment):
            def after_model_build(self):
                for weight in self.model.get_input_embeddings().parameters():
                    weight.requires_grad_(False)

    Its fields in the settings are the keywords that it is made with. A part is None before it is
    built. What a `before` hook puts there is used as it is and nothing is built; what an `after`
    hook puts there takes the place of what was built.
    """

    plan: Plan
    """Settings, facts and lowered keywords of the run."""
    training_arguments: Any = None
    """`transformers.TrainingArguments`."""
    train_dataset: Any = None
    """Prepared samples: `input_ids`, `labels`, `length`."""
    eval_dataset: Any = None
    """The same of all evaluation sets; None without held-out rows."""
    tokenizer: Any = None
    collator: Any = None
    """Samples to padded batches."""
    quantization_config: Any = None
    """As transformers takes it; None where nothing is quantized at load."""
    model: Any = None
    """`PreTrainedModel`; after `lora_apply` a `PeftModel` around it."""
    lora_config: Any = None
    """A `peft.PeftConfig` to wrap the model by, in the place of the section `lora`."""
    trainer: Any = None
    """`llmforge.build.trainer.ForgeTrainer`."""

    @property
    def is_main(self) -> bool:
        """Is this the process that writes? Hooks are called in all."""
        return int(os.environ.get("RANK", "0")) == 0

    # when

    def at_beginning(self) -> None:
        """First of all; nothing is there but the plan."""

    def before_checks(self) -> None:
        """Before data files are compared with the plan, samples made and limits looked at."""

    def after_checks(self) -> None:
        """The samples are there."""

    def before_tokenizer_build(self) -> None:
        """Before the tokenizer that the samples were made with is opened."""

    def after_tokenizer_build(self) -> None:
        """`self.tokenizer` is there."""

    def before_model_build(self) -> None:
        """Before weights are drawn or loaded."""

    def after_model_build(self) -> None:
        """`self.model` is there, without adapter."""

    def before_quantization_config_build(self) -> None:
        """Before the quantization at load is decided; of checkpoints alone."""

    def after_quantization_config_build(self) -> None:
        """`self.quantization_config` is there, or None."""

    def before_quantized_base(self) -> None:
        """Quantized runs only: `self.model` is loaded, but not ready to be trained on."""

    def after_quantized_base(self) -> None:
        """Quantized runs only: `self.model` holds quantized weights."""

    def before_stabilize_training(self) -> None:
        """Before norms and embeddings take the formats of section `precision`."""

    def after_stabilize_training(self) -> None:
        """They have them."""

    def before_lora_apply(self) -> None:
        """Runs with an adapter only: `self.model` is the base."""

    def after_lora_apply(self) -> None:
        """Runs with an adapter only: `self.model` is wrapped."""

    def before_collator_build(self) -> None:
        """Before the collator of batches is made."""

    def after_collator_build(self) -> None:
        """`self.collator` is there."""

    def before_train_dataset_build(self) -> None:
        """Before the prepared training samples are opened."""

    def after_train_dataset_build(self) -> None:
        """`self.train_dataset` is there."""

    def before_eval_dataset_build(self) -> None:
        """Before the prepared held-out samples are opened."""

    def after_eval_dataset_build(self) -> None:
        """`self.eval_dataset` is there, or None."""

    def before_training_arguments_build(self) -> None:
        """Before the plan's keywords become `TrainingArguments`."""

    def after_training_arguments_build(self) -> None:
        """`self.training_arguments` is there."""

    def before_trainer_build(self) -> None:
        """All parts are there but the trainer."""

    def after_trainer_build(self) -> None:
        """`self.trainer` is there."""

    def before_train(self) -> None:
        """Before the first step of an attempt; a resumed run has its state still on the disk."""

    def after_train(self) -> None:
        """The last step was taken; the final evaluation and the final model come after."""

    def after_fuse(self) -> None:
        """`fuse_lora` has merged the adapter: `self.model` is the merged model."""

    def at_end(self) -> None:
        """The final model is written and the result measured."""

    # with what

    def build_train_dataset_additional_kwargs(self) -> dict[str, Any]:
        """Keywords for the data set class (`data=class`) of the training items."""
        return {}

    def build_eval_dataset_additional_kwargs(self) -> dict[str, Any]:
        """The same for the held-out items; those of the training items if not overridden."""
        return self.build_train_dataset_additional_kwargs()

    def build_collator_additional_kwargs(self) -> dict[str, Any]:
        """Keywords for a collator of one's own. Also asked where samples are made, in other
        processes, so they must not depend on what was built."""
        return {}

    def build_trainer_additional_kwargs(self) -> dict[str, Any]:
        """Keywords for the trainer."""
        return {}

    # by itself

    def fuse_lora(self) -> Any:
        """Merge the adapter into the model, so that whole weights are evaluated and written.

        To be called from `after_train`. Then `after_fuse` is called.

        Returns:
            The merged model, which is `self.model` too.

        Raises:
            TypeError: the model has no adapter.
            ValueError: its base is quantized or sharded, and cannot be merged here.
        """
        from peft import PeftModel

        trainer = self.trainer
        model = self.model if trainer is None else trainer.accelerator.unwrap_model(trainer.model)
        if not isinstance(model, PeftModel):
            raise TypeError(f"{type(model).__name__} has no adapter to merge")
        if getattr(model.get_base_model(), "is_quantized", False):
            raise ValueError("the base is quantized: merging into it would round the adapter away")
        if trainer is not None and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
            raise ValueError("the base is sharded over processes and cannot be merged here")
        self.model = model.merge_and_unload()
        if trainer is not None:
            trainer.model = trainer.model_wrapped = self.model
            trainer.accelerator._models.clear()  # noqa: SLF001 - else the old model is taken for prepared
        Hooks(self).call("after_fuse")
        return self.model


class Hooks:
    """The side of an experiment that the stages see."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def call(self, hook: str) -> Any:
        """Call one hook.

        Raises:
            HookFailed: it raised; a request to stop goes through as it is.
        """
        try:
            return getattr(self.experiment, hook)()
        except HookFailed:
            raise
        except Exception as error:
            raise HookFailed(hook, self.experiment, error) from error

    @contextmanager
    def around(self, step: str) -> Iterator[None]:
        """`before_<step>`, what is done inside, `after_<step>`."""
        self.call(f"before_{step}")
        yield
        self.call(f"after_{step}")

    def build(self, part: str, make: Callable[[], Any]) -> Any:
        """A part: the one that was given, else what `make` makes, between its two hooks."""
        given = getattr(self.experiment, part)
        if given is not None:
            return given
        with self.around(f"{part}_build"):
            if getattr(self.experiment, part) is None:
                setattr(self.experiment, part, make())
        return getattr(self.experiment, part)

    def change(self, step: str, model: Any, change: Callable[[Any], Any]) -> Any:
        """A step on the model, which stands on the experiment before and after it."""
        self.experiment.model = model
        with self.around(step):
            self.experiment.model = change(self.experiment.model)
        return self.experiment.model

    def keywords(self, of: str) -> dict[str, Any]:
        """What `build_<of>_additional_kwargs` gives.

        Raises:
            HookFailed: it raised, or gave no mapping of names.
        """
        hook = f"build_{of}_additional_kwargs"
        found = self.call(hook)
        if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
            error = TypeError(f"it must return a dict, not {type(found).__name__}")
            raise HookFailed(hook, self.experiment, error)
        return dict(found)


_active: list[tuple[Plan, Hooks]] = []
"""The experiments of the runs that this process is in the middle of, the innermost last."""


def make_experiment(plan: Plan) -> Experiment:
    """A new instance of the class that the plan's `hooks` name; the base class for none.

    Raises:
        BuildError: it cannot be imported or made, or is no `Experiment`.
    """
    from llmforge.build.errors import building
    from llmforge.build.extending import load_class, own_fields

    chosen = plan.spec.hooks
    made = Experiment()
    if chosen.kind != "none":
        with building("hooks", plan):
            found = load_class(registry.component("hooks", chosen.kind), Experiment)
            made = found(**own_fields(chosen, "hooks"))
    made.plan = plan
    return made


def active(plan: Plan) -> Hooks:
    """The hooks of the run that goes on; of a plan that is not running, a new experiment's."""
    for known, hooks in reversed(_active):
        if known is plan:
            return hooks
    return Hooks(make_experiment(plan))


@contextmanager
def activated(plan: Plan, given: Mapping[str, Any] | None = None) -> Iterator[Hooks]:
    """Make the plan's experiment the active one, with parts that are given ready-made.

    Raises:
        TypeError: there is no part of a name that is given.
    """
    hooks = active(plan)
    for part, made in (given or {}).items():
        if part not in PARTS:
            raise TypeError(f"there is no part `{part}`; parts are {', '.join(PARTS)}")
        setattr(hooks.experiment, part, made)
    if given:
        _warn_of_what_is_not_used(plan, given)
    _active.append((plan, hooks))
    try:
        yield hooks
    finally:
        _active.pop()


def under_hooks(
    stage: Callable[Concatenate[Plan, P], R],
) -> Callable[Concatenate[Plan, P], R]:
    """Decorator of a stage: its first argument's experiment is active, from beginning to end."""

    @functools.wraps(stage)
    def run(plan: Plan, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with activated(plan) as hooks:
            hooks.call("at_beginning")
            found = stage(plan, *args, **kwargs)
            hooks.call("at_end")
            return found

    return run


def _warn_of_what_is_not_used(plan: Plan, given: Mapping[str, Any]) -> None:
    """Ready-made parts that make settings, or each other, mean nothing."""
    there = {part for part, made in given.items() if made is not None}
    if "model" in there and plan.spec.quantization.kind != "none":
        warnings.warn("a ready-made model is taken as it is: `quantization` changes nothing",
                      stacklevel=4)  # fmt: skip
    if "model" in there and "quantization_config" in there:
        warnings.warn("a ready-made model is taken as it is: `quantization_config` is not used",
                      stacklevel=4)  # fmt: skip
    own = getattr(given.get("collator"), "tokenizer", None)
    if own is not None and "tokenizer" in there and own is not given["tokenizer"]:
        warnings.warn("the ready-made collator has another tokenizer than the one given",
                      stacklevel=4)  # fmt: skip
    idle = sorted(there - {"trainer", "tokenizer", "model"})
    if "trainer" in there and idle:
        warnings.warn(f"a ready-made trainer is taken as it is: {', '.join(idle)} are not used",
                      stacklevel=4)  # fmt: skip
