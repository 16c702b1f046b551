"""The Trainer: Hugging Face's own, with an exact evaluation loss and a stop at the first NaN.

In: a plan, parts and callbacks. Out: `ForgeTrainer`. The training loss is Hugging Face's: causal
cross-entropy over labels, normalised by the tokens of the whole accumulated batch
(`num_items_in_batch`), so that accumulation does not change the gradient; by
`trainer.loss_kernel` the same without whole logits (`loss_kernels.py`).

This module does not decide intervals, keep checkpoints or track: `training_arguments` are the
compiler's, callbacks are `run/`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    TrainerCallback,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput

from llmforge import registry
from llmforge.build.allocation import adapter_callbacks
from llmforge.build.arguments import training_arguments
from llmforge.build.errors import NonFiniteLoss, building
from llmforge.build.experiment import active
from llmforge.build.extending import load_class, own_callbacks, own_fields
from llmforge.build.finite import FiniteSteps, is_finite
from llmforge.build.groups import parameter_groups
from llmforge.build.loss import HeldOut, measured, set_numbers
from llmforge.build.loss_kernels import LeanLoss
from llmforge.build.measures import Measures, held_out_figures, measured_too
from llmforge.build.optimizer import optimizer_choice
from llmforge.build.parts import Parts
from llmforge.build.schedules import MakeSchedule, OwnRate, schedule_choice, sets_its_own_rate
from llmforge.build.sharding import announce
from llmforge.plan import Plan

__all__ = ["ForgeTrainer", "NonFiniteLoss", "build_trainer"]

SKIPPED_STEPS_ALLOWED = 30
"""float16: loss scaling starts at 2**16 and halves at each overflow; after 30 the scale is
not the reason."""


class ForgeTrainer(FiniteSteps):
    """Builder of `trainer.kind=lm`.

    Metrics of an evaluation are `eval_loss`, `eval_perplexity` and `eval_tokens`, weighted by token
    and the same for every batch size and number of processes; of several evaluation sets over all,
    and as `eval_<set>_loss`, ... of each. Raises `NonFiniteLoss` before the
    optimizer step when loss or gradient norm is not finite.
    """

    OWN_LOSS = False
    """The class computes its loss itself, by no kernel of `trainer.loss_kernel`."""

    optimizer_cls_and_kwargs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._skipped = 0
        self._held_out = HeldOut(())
        self.sets: list[str] = []
        """Names of the evaluation sets."""
        self.measures = Measures({})
        """Metrics on logits."""
        self.answers: Callable[[], Mapping[str, float]] | None = None
        """Gives figures of generated answers at every evaluation during training; None asks for
        none then."""
        self.first_batch: Callable[[Any, dict[str, Any]], None] | None = None
        """Called once with the wrapped model and the first training batch."""
        self.groups: Mapping[str, Any] | None = None
        """What distinguishes parameter groups; see `build/groups.py`."""
        self.clip_value: float | None = None
        """Largest element of a gradient."""
        self.lean: LeanLoss | None = None
        """Computes the loss without whole logits; None leaves it to the model."""
        self.schedule: MakeSchedule | None = None
        """Makes the scheduler; None leaves it to the training arguments."""

    @classmethod
    def arguments_for(cls, plan: Plan, output_dir: Path) -> Any:
        """The training arguments of a plan, in the class that this trainer takes."""
        return training_arguments(plan.lowered["training_arguments"], output_dir)

    @classmethod
    def keywords_for(cls, plan: Plan, parts: Parts) -> dict[str, Any]:
        """What this trainer is made of besides the parts that every one gets."""
        del plan, parts
        return {}

    # evaluation

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,  # noqa: ARG002 - logits are never handed on
        ignore_keys: list[str] | None = None,  # noqa: ARG002 - as above
    ) -> tuple[torch.Tensor, None, None]:
        """Loss of one batch; the exact sums are kept for the end of the loop."""
        return self._measure(model, self._prepare_inputs(inputs)), None, None

    def _new_sums(self) -> HeldOut:
        """Where the sums of an evaluation are kept; they say which figures it gives."""
        return HeldOut(self.sets)

    def _measure(self, model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        which = set_numbers(inputs, len(labels)).to(self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            if self.measures:
                with self._as_computed(model):
                    per_sample, numbers = measured_too(model, inputs, labels, self.measures)
                numbers = numbers.to(self.args.device)
                self.measures.add(*self.accelerator.gather_for_metrics((numbers, which)))
            else:
                per_sample = measured(model, inputs, labels, self.lean)
            per_sample = per_sample.to(self.args.device)
        # drops the samples that accelerate repeats to fill the last batch of several processes
        gathered = self.accelerator.gather_for_metrics((per_sample, which))
        self._held_out.add(*gathered)
        nll, tokens = per_sample.sum(dim=0)
        return (nll / tokens.clamp(min=1)).float()

    @contextlib.contextmanager
    def _as_computed(self, model: Any) -> Iterator[None]:
        """Inside, logits come in the compute format: accelerate's wrapper copies all to float32."""
        inner = self.accelerator.unwrap_model(model)
        own = vars(inner)
        if "_original_forward" not in own:
            yield
            return
        wrapped, own["forward"] = own["forward"], own["_original_forward"]
        try:
            with self.accelerator.autocast():
                yield
        finally:
            own["forward"] = wrapped

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """Hugging Face's loop, its mean of batch means replaced by the exact loss."""
        self._held_out = self._new_sums()
        self.measures.reset()
        if self.is_in_train or self._is_wrapped():
            output = super().evaluation_loop(
                dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
            )
        else:
            output = self._evaluate_untouched(dataloader)
        output.metrics.update(held_out_figures(self._held_out, self.measures, metric_key_prefix))
        if self.is_in_train and self.answers is not None:
            output.metrics.update(self.answers())
        return output

    def _is_wrapped(self) -> bool:
        """Was the model prepared for several processes, or for training, before?"""
        return bool(self.accelerator._models)  # noqa: SLF001 - no public way to ask

    def _evaluate_untouched(self, dataloader: Any) -> EvalLoopOutput:
        """The same before training, without wrapping the model.

        The library's loop prepares a model for evaluation and marks it as prepared. Training finds
        the mark and does not wrap the model again, so each process of a distributed run would
        train a model of its own, without a word.
        """
        model = self.model
        # a model that is to be sharded is still on the CPU, and whole it may fit nowhere else; one
        # whose parts were placed stays as it is
        placed = getattr(model, "hf_device_map", None) is not None
        if not (placed or self.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
            model.to(self.args.device)
        devices = (weight.device for weight in model.parameters())
        device = next(device for device in devices if device.type != "meta")
        was_training = model.training
        model.eval()
        with self.accelerator.autocast():
            for inputs in dataloader:
                self._measure(model, {name: values.to(device) for name, values in inputs.items()})
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        model.train(was_training)
        return EvalLoopOutput(None, None, {}, self.num_examples(dataloader))

    # a step that must not be taken

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's loss. Under DeepSpeed, whose backward pass also steps, checked here."""
        with contextlib.nullcontext() if self.lean is None else self.lean.in_force():
            found = super().compute_loss(model, *args, **kwargs)
        if self.is_deepspeed_enabled and model.training:
            self._check_finite("loss", found[0] if isinstance(found, tuple) else found)
        return found

    def training_step(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """One forward and backward pass; the loss is looked at once per optimizer step."""
        if self.first_batch is not None:
            look, self.first_batch = self.first_batch, None
            with self.compute_loss_context_manager():
                look(model, self._prepare_inputs(inputs))
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        self._losses.append(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once per optimizer step, before it: the one place to wait for the device."""
        norm = super()._get_grad_norm(model, grad_norm)
        losses, self._losses = self._losses, []
        if losses and self._anywhere(not is_finite(torch.stack(losses).sum())):
            self._refuse_step("loss", losses)
        if norm is None or is_finite(norm):
            self._skipped = 0
        elif self.accelerator.scaler is None or self._skipped >= SKIPPED_STEPS_ALLOWED:
            self._refuse_step("gradient norm", losses, norm)
        else:
            self._skipped += 1  # the loss scaler lowers its scale and skips this step by itself
        if self.clip_value is not None:
            # the norm above asked for unscaled gradients, so here they are in their own unit
            torch.nn.utils.clip_grad_value_(model.parameters(), self.clip_value)
        return norm

    # samplers

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = _with_lengths(super()._get_train_sampler(train_dataset))
        if isinstance(sampler, LengthGroupedSampler):
            # the library groups by the batch of one process; by the global one the order is the
            # same for every number of processes
            sampler.batch_size *= self.args.world_size
        return sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return _with_lengths(super()._get_eval_sampler(eval_dataset))

    # what TrainingArguments cannot carry

    def create_optimizer(self, model: Any = None) -> Any:
        """The plan's optimizer over the plan's parameter groups."""
        if self.optimizer is None and self.groups is not None:
            target = self.model if model is None else model
            chosen = self.optimizer_cls_and_kwargs
            kind, keywords = chosen or self.get_optimizer_cls_and_kwargs(self.args, target)
            decaying = set(self.get_decay_parameter_names(target))
            groups = parameter_groups(target, decaying, self.groups)
            # the library takes groups of one's own under the name `params`
            self.optimizer_cls_and_kwargs = kind, {**keywords, "params": groups}
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The plan's schedule; an optimizer that sets its own rate gets none."""
        target = optimizer or self.optimizer
        if getattr(self, "lr_scheduler", None) is None:
            make = OwnRate if sets_its_own_rate(target) else self.schedule
            if make is not None:
                self.lr_scheduler = make(target)
                self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # an optimizer with two sets of weights: one to train with, one to keep

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's loop; afterwards the model holds the weights to keep."""
        output = super().train(*args, **kwargs)
        self._show_kept_weights()
        return output

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._show_kept_weights()  # the next training step takes up the others again
        super()._save_checkpoint(*args, **kwargs)

    def _load_best_model(self) -> None:
        self._show_kept_weights()  # else a later evaluation would average the loaded weights
        super()._load_best_model()

    def _show_kept_weights(self) -> None:
        """Schedule-free optimizers evaluate and save averages; others have no such method."""
        show = getattr(self.optimizer, "eval", None)
        if callable(show):
            show()


def build_trainer(
    plan: Plan, parts: Parts, output_dir: Path, callbacks: list[TrainerCallback]
) -> ForgeTrainer:
    """The trainer that the plan names, with the plan's training arguments and nothing else.

    The tokenizer goes along as `processing_class`, so that it stands beside every checkpoint.

    Raises:
        BuildError: arguments or trainer were refused by the library.
    """
    hooks = active(plan)
    with building("trainer", plan):
        announce(plan)
        arguments = hooks.build("training_arguments", lambda: _arguments(plan, output_dir))
        watching = [*callbacks, *adapter_callbacks(plan), *own_callbacks(plan)]
        if hooks.experiment.trainer is not None:
            _check_ready(hooks.experiment.trainer)
            for callback in watching:
                hooks.experiment.trainer.add_callback(callback)
        trainer: ForgeTrainer = hooks.build(
            "trainer", lambda: _make(plan, parts, arguments, watching)
        )
        _check_ready(trainer)
        _take_loss_over(plan, trainer)
    trainer.use_formats(plan.lowered.get("fsdp"))
    trainer.sets = parts.sets
    trainer.measures = Measures(parts.metrics, parts.sets)
    trainer.groups = plan.lowered["parameter_groups"]
    trainer.clip_value = plan.lowered["clipping"]["value"]
    trainer.schedule = schedule_choice(plan)
    trainer.remove_callback(PrinterCallback)  # what is shown of a run is `run/`'s affair
    return trainer


def _arguments(plan: Plan, output_dir: Path) -> Any:
    builder = registry.component("trainer", plan.spec.trainer.kind).load_builder()
    # a builder that is no trainer is refused when the trainer is made
    make = getattr(builder, "arguments_for", ForgeTrainer.arguments_for)
    return make(plan, output_dir)


def _make(plan: Plan, parts: Parts, arguments: Any, callbacks: list[TrainerCallback]) -> Any:
    """The trainer of the plan's kind; one of the user's own gets its fields as keywords too."""
    component = registry.component("trainer", plan.spec.trainer.kind)
    more: dict[str, Any] = {}
    if component.is_own:
        build = load_class(component, ForgeTrainer)
        more |= own_fields(plan.spec.trainer, "trainer")
    else:
        build = component.load_builder()
    more |= build.keywords_for(plan, parts)
    more |= active(plan).keywords("trainer")
    return build(
        model=parts.model,
        args=arguments,
        data_collator=parts.collator,
        train_dataset=parts.train,
        eval_dataset=parts.evaluation,
        processing_class=parts.tokenizer,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=optimizer_choice(plan),
        **more,
    )


def _check_ready(trainer: Any) -> None:
    """Raises `TypeError` for a trainer that could not evaluate, stop and save as runs do."""
    if not isinstance(trainer, ForgeTrainer):
        name = type(trainer).__name__
        raise TypeError(f"{name} does not inherit from llmforge.build.trainer.ForgeTrainer")


def _take_loss_over(plan: Plan, trainer: ForgeTrainer) -> None:
    """`trainer.loss_kernel`, smoothing included: the library's smoother wants whole logits."""
    kernel = getattr(plan.spec.trainer, "loss_kernel", "full")
    if trainer.OWN_LOSS:
        return
    if kernel in ("chunked", "liger"):
        smoothing = float(trainer.args.label_smoothing_factor)
        trainer.lean = LeanLoss(trainer.model, kernel, smoothing)
        trainer.label_smoother = None


def _with_lengths(sampler: Any) -> Any:
    """Lengths as a list: sorting through the lazy column takes 40 s for a million rows."""
    if isinstance(sampler, LengthGroupedSampler):
        sampler.lengths = list(sampler.lengths[:])
    return sampler
