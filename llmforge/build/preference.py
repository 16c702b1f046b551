"""Trainers for preference pairs: TRL's, with every promise of a `ForgeTrainer`.

In: a plan, parts whose samples are pairs, callbacks. Out: `DpoTrainer`. What a step learns is
TRL's `DPOTrainer`: forward passes, log-probabilities in chunks, the loss. What surrounds it is
`ForgeTrainer`'s: sealed checkpoints, the stop before a step that is not finite, groups, schedule.
Figures of an evaluation are summed pair by pair (`preference_losses.py`) and never averaged over
batches; in a step every pair counts the same (`pair_shares.py`).

Of TRL's own doings these are left out: tokenising (`pairs.py` did), the card, its telemetry, the
copy of an adapter as reference, and rounding a quantized base's adapter to bfloat16.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from llmforge import registry
from llmforge.build.arguments import training_arguments
from llmforge.build.collate import REFERENCE_LOGPS
from llmforge.build.loss import HeldOut
from llmforge.build.pair_shares import Share, shares
from llmforge.build.parts import Parts
from llmforge.build.preference_losses import PairSums, Ratios, blank_loss, pair_numbers
from llmforge.build.sample import IGNORED
from llmforge.build.trainer import ForgeTrainer
from llmforge.plan import Plan

_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")

NAMES = {
    "rewards/chosen": "rewards_chosen",
    "rewards/rejected": "rewards_rejected",
    "rewards/accuracies": "rewards_accuracy",
    "rewards/margins": "rewards_margin",
    "logps/chosen": "logps_chosen",
    "logps/rejected": "logps_rejected",
    "entropy": "entropy",
    "mean_token_accuracy": "token_accuracy",
    "aux_loss": "aux_loss",
}
"""TRL's names of training figures -> ours; others are not kept."""


class DpoTrainer(ForgeTrainer, DPOTrainer):
    """Builder of `trainer.kind=dpo`.

    Figures of an evaluation are `eval_loss`, `eval_rewards_chosen`, `eval_rewards_rejected`,
    `eval_rewards_accuracy`, `eval_rewards_margin` (means over pairs) and `eval_pairs`, of several
    sets also `eval_<set>_loss`, ...; the same for every batch size and number of processes.
    """

    OWN_LOSS = True

    def __init__(self, *, optimizer_cls_and_kwargs: Any = None, **kwargs: Any) -> None:
        model = kwargs["model"]
        trained = {n: weight.data for n, weight in model.named_parameters() if weight.requires_grad}
        super().__init__(**kwargs)
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self._blank = blank_loss(self.loss_types[0], self.beta, self.label_smoothing)
        self._shares: Iterator[Share] = iter(())
        self._share: Share | None = None
        if isinstance(model, PeftModel) and "ref" in model.peft_config:
            # the adapters that are allowed here begin as no change, so that switching them off
            # gives the reference; a second one would be trained, saved and loaded with the first
            model.delete_adapter("ref")
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in trained)
            if name in trained:
                weight.data = trained[name]

    @classmethod
    def arguments_for(cls, plan: Plan, output_dir: Path) -> Any:
        """TRL's arguments: those of every run, and the keywords of `lowered.trl`."""
        lowered = plan.lowered
        return training_arguments(
            lowered["training_arguments"], output_dir, DPOConfig, **lowered["trl"]
        )

    @classmethod
    def keywords_for(cls, plan: Plan, parts: Parts) -> dict[str, Any]:
        """The reference, where it is a model of its own."""
        if plan.settings["trainer"]["reference"] != "copy":
            return {}
        if is_deepspeed_zero3_enabled():  # the weights lie in pieces and cannot be copied
            build = registry.component("model", plan.spec.model.kind).load_builder()
            reference = build(plan, parts.tokenizer)
        else:
            reference = copy.deepcopy(parts.model)
        return {"ref_model": reference.requires_grad_(False).eval()}

    # a step

    def _can_fill(self) -> bool:
        """A pair without loss is taken out again by its step's shares."""
        return True

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro batches of a step, and what each of them counts."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        device = self.args.device
        found = shares(batches, lambda counts: self.accelerator.gather(counts.to(device)))
        self._shares = iter(found)
        return batches, items

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass, of the next micro batch of the step."""
        self._share = next(self._shares, None)
        return super().training_step(*args, **kwargs)

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, the mean over the pairs of a batch; in a step, the batch's part of the mean
        over all its pairs."""
        share, self._share = self._share, None
        if share is None or share.is_plain:
            return super().compute_loss(model, trl_batch(inputs), *args, **kwargs)
        coefficient = self.router_aux_loss_coef
        self.router_aux_loss_coef = (coefficient or 0.0) * share.of_experts
        try:
            found = super().compute_loss(model, trl_batch(inputs), *args, **kwargs)
        finally:
            self.router_aux_loss_coef = coefficient
        share.mend(self._metrics["train"])
        return share.of(found, self._blank)

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """Log-probabilities of both answers under the reference: two tensors, [pairs]."""
        batch = trl_batch(inputs)
        batch = {name: values.to(self.args.device) for name, values in batch.items()}
        return super().compute_ref_log_probs(model, batch)  # type: ignore[no-untyped-call]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step's figures under names that a metric can have everywhere."""
        figures = self._metrics["train"]
        if self.model.training:
            logs |= {
                ours: sum(figures[theirs]) / len(figures[theirs])
                for theirs, ours in NAMES.items()
                if figures.get(theirs)
            }
            figures.clear()
        super(DPOTrainer, self).log(logs, start_time)

    # evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Hugging Face's evaluation; pairs are prepared, and have their reference figures."""
        known: Any = self.eval_dataset
        if (
            eval_dataset is not None
            and known is not None
            and REFERENCE_LOGPS[0] in known.column_names
        ):
            eval_dataset = known
        found: dict[str, float] = super(DPOTrainer, self).evaluate(
            eval_dataset, ignore_keys, metric_key_prefix
        )
        return found

    def _new_sums(self) -> HeldOut:
        return PairSums(self.sets)

    def _is_wrapped(self) -> bool:
        """The reference is prepared when the trainer is made, the model when it is trained."""
        models = self.accelerator._models  # noqa: SLF001 - no public way to ask
        return any(model is not self.ref_model for model in models)

    def _measure(self, model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
        batch = trl_batch(inputs)
        pairs = len(batch["input_ids"]) // 2
        which = inputs.get("set", torch.zeros(pairs, dtype=torch.int64)).to(self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            numbers = self._pair_numbers(model, batch).to(self.args.device)
        # drops the pairs that accelerate repeats to fill the last batch of several processes
        self._held_out.add(*self.accelerator.gather_for_metrics((numbers, which)))
        return numbers[:, 0].mean().float()

    def _pair_numbers(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """[pairs, 6]; see `preference_losses.pair_numbers`."""
        mask = batch["completion_mask"]
        labels = batch["input_ids"].masked_fill(mask == 0, IGNORED)
        given = {name: batch[name] for name in _MODEL_INPUTS if name in batch}
        outputs = model(**given, labels=labels, use_cache=False, fused_lm_head=True)
        chosen, rejected = outputs.log_probs.sum(dim=1).chunk(2)
        if REFERENCE_LOGPS[0] in batch:
            before = batch[REFERENCE_LOGPS[0]], batch[REFERENCE_LOGPS[1]]
        else:
            before = self.compute_ref_log_probs(self.ref_model or model, batch)
        tokens = mask.sum(dim=1).chunk(2)
        ratios = Ratios(chosen - before[0], rejected - before[1], *tokens)
        return pair_numbers(ratios, self.loss_types[0], self.beta, self.label_smoothing)

    # what TRL does besides

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return dataset

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: TRL would write one into the folder of checkpoints at every save."""
        del args, kwargs

    def _send_telemetry(self) -> None:
        """Nothing: no run tells anybody that it runs."""


def trl_batch(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as TRL wants it: [2 * pairs, time] with `completion_mask` in the place of labels."""
    batch = {name: inputs[name] for name in (*_MODEL_INPUTS, *REFERENCE_LOGPS) if name in inputs}
    mask = inputs.get("completion_mask")
    batch["completion_mask"] = (inputs["labels"] != IGNORED).long() if mask is None else mask
    return batch
