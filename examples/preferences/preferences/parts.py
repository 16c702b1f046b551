"""The classes that `components.py` names: imported in the worker, so torch is at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

import llmforge
from llmforge.build.trainer import ForgeTrainer


class LastPart(llmforge.BaseCollator):
    """Token ids of all parts, one behind the other; loss on the last and the end token."""

    def __init__(self, separator: str, skip_tokens: int, mark: str = "") -> None:
        """`mark` comes from the experiment: it goes before the last part."""
        self.separator, self.skip_tokens, self.mark = separator, skip_tokens, mark

    def sample(self, row: Mapping[str, Any]) -> Any:
        """See the class."""
        *asked, answer = row["text_parts"]
        if not answer.strip():
            return "empty answer"
        before = self._ids(self.separator.join([*asked, ""]) + self.mark)
        last = [*self._ids(answer), self.tokenizer.eos_token_id]
        trained = [-100] * self.skip_tokens + last[self.skip_tokens :]
        return before + last, [-100] * len(before) + trained[: len(last)]

    def prompt(self, row: Mapping[str, Any]) -> str:
        """What was said before the answer."""
        return str(self.separator.join(row["text_parts"][:-1]))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)


class CountingTrainer(ForgeTrainer):
    """Says how many forward passes there were."""

    def __init__(self, *args: Any, report_every: int, shout: bool = False, **kwargs: Any) -> None:
        """`shout` comes from the experiment."""
        super().__init__(*args, **kwargs)
        self.report_every, self.shout, self.passes = report_every, shout, 0

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as it is; the count is what is new."""
        self.passes += 1
        if self.passes % self.report_every == 0:
            line = f"{self.passes} forward passes"
            print(line.upper() if self.shout else line)
        return super().compute_loss(model, *args, **kwargs)


class SignedMomentum(torch.optim.Optimizer):
    """Steps of one size in the direction of a running mean."""

    def __init__(self, params: Iterable[Any], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, decay first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                weight.mul_(1 - group["lr"] * group.get("weight_decay", 0.0))
                weight.add_(mean.sign(), alpha=-group["lr"])
        return loss


class Diary(TrainerCallback):
    """Writes one line at each evaluation."""

    def __init__(self, file: str) -> None:
        self.path = Path(file)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step and every figure."""
        del args, control
        metrics = kwargs["metrics"]
        told = ", ".join(f"{name} {metrics[name]:.3f}" for name in sorted(metrics))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"step {state.global_step}: {told}\n")


class TokenAccuracy(llmforge.LogitsMetric):
    """Right tokens over trained tokens, of all held-out rows."""

    def measure(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """[batch, 2]: right and trained tokens of each sample."""
        trained = labels != -100
        right = (logits.argmax(dim=-1) == labels) & trained
        return torch.stack([right.sum(dim=1), trained.sum(dim=1)], dim=1)

    def compute(self, sums: Sequence[float]) -> float:
        """The share."""
        return sums[0] / max(sums[1], 1)


class LengthRatio(llmforge.TextMetric):
    """Mean of the answers' lengths over those of their references."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def measure(self, prompt: str, answer: str, reference: str) -> Sequence[float]:
        """The ratio of one answer, and a one to count it."""
        del prompt
        return min(len(answer) / max(len(reference), 1), self.limit), 1.0

    def compute(self, sums: Sequence[float]) -> float:
        """The mean."""
        return sums[0] / sums[1]


class Watched(llmforge.Experiment):
    """Freezes the embeddings, gives keywords to the other parts, and checks the trainer."""

    def __init__(self, greeting: str, freeze_embeddings: bool) -> None:
        self.greeting, self.freeze_embeddings = greeting, freeze_embeddings

    def build_train_dataset_additional_kwargs(self) -> dict[str, Any]:
        """Held-out dialogues get the same, since nothing else is said of them."""
        return {"greeting": self.greeting}

    def build_collator_additional_kwargs(self) -> dict[str, Any]:
        """For `LastPart`."""
        return {"mark": "> "}

    def build_trainer_additional_kwargs(self) -> dict[str, Any]:
        """For `CountingTrainer`."""
        return {"shout": True}

    def after_model_build(self) -> None:
        """Freeze what is not to be learnt."""
        if self.freeze_embeddings:
            self.model.get_input_embeddings().requires_grad_(False)

    def after_trainer_build(self) -> None:
        """What hooks raise ends the run, by the hook's name."""
        if not isinstance(self.trainer, CountingTrainer):
            raise TypeError("this experiment counts forward passes: trainer.kind=counting")

    def after_train(self) -> None:
        """What the trainer counted."""
        print(f"trained with {self.trainer.passes} forward passes")

    def at_end(self) -> None:
        """A file of its own, beside the run."""
        if self.is_main:
            steps = self.trainer.state.global_step
            Path("watched.txt").write_text(f"{steps} steps\n", encoding="utf-8")
