"""X-LLM's demonstration project as one plugin: a data set, a trainer that counts, an experiment.

`plugins: [demo]` imports this module whenever a plan is made, so its top is light. The trainer and
the experiment inherit from classes that bring torch along, so they are made when a worker asks for
them (see `__getattr__`). The collator that learns the last part of a dialogue is llmforge's own,
`collator=completion`; every number stands in `conf/experiment/demo.yaml`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import llmforge

SPEAKER = re.compile(r"\n\n(Human|Assistant): ")


@llmforge.dataset("transcripts")
class Transcripts(llmforge.BaseDataset):
    """Talks between a human and an assistant, each with a chosen and a rejected end."""

    must_have_keys = ("text_parts",)

    @classmethod
    def get_data(cls, file: str, text_field: str, held_out: int) -> Any:
        """Two lists of talks; the last `held_out` ones are held out."""
        with Path(file).open(encoding="utf-8") as lines:
            talks = [{"talk": json.loads(line)[text_field]} for line in lines]
        return talks[:-held_out], talks[-held_out:]

    def get_sample(self, index: int) -> dict[str, Any]:
        """`Human: ...`, `Assistant: ...` as parts, the assistant's last words last."""
        _, *pieces = SPEAKER.split(self.data[index]["talk"])
        named = zip(pieces[::2], pieces[1::2], strict=True)
        return {"text_parts": [f"{name}: {text}" for name, text in named]}


@llmforge.register("trainer", "steps", "demo:StepTrainer")
class StepTrainerSpec(llmforge.TrainerSpec):
    """Cross-entropy, and the number of forward passes after every so many."""

    kind: Literal["steps"]
    report_every: Annotated[int, Field(ge=1)]
    """Forward passes between two lines."""


@llmforge.register("experiment", "checked", "demo:CheckedExperiment")
class CheckedSpec(llmforge.ExperimentSpec):
    """Hooks that look at what was built, and end the run if it is not what was asked for."""

    kind: Literal["checked"]
    least_rows: Annotated[int, Field(ge=1)]
    """Fewest samples to train on."""


def __getattr__(name: str) -> Any:
    """The classes that need torch, each made once."""
    make = {"StepTrainer": _step_trainer, "CheckedExperiment": _checked_experiment}.get(name)
    if make is None:
        raise AttributeError(f"module `demo` has no `{name}`")
    made = globals()[name] = make()
    return made


def _step_trainer() -> type:
    from llmforge.build.trainer import ForgeTrainer

    class StepTrainer(ForgeTrainer):
        """Says how many forward passes there were."""

        def __init__(self, *args: Any, report_every: int, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.report_every, self.passes = report_every, 0

        def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            """The loss as it is."""
            self.passes += model.training
            if model.training and self.passes % self.report_every == 0:
                print(f"{self.passes} forward passes")
            return super().compute_loss(model, *args, **kwargs)

    return StepTrainer


def _checked_experiment() -> type:
    class CheckedExperiment(llmforge.Experiment):
        """See `CheckedSpec`."""

        def __init__(self, least_rows: int) -> None:
            self.least_rows = least_rows

        def after_train_dataset_build(self) -> None:
            """Enough rows."""
            if len(self.train_dataset) < self.least_rows:
                raise ValueError(f"{len(self.train_dataset)} samples are too few")

        def after_trainer_build(self) -> None:
            """Everything that a run needs is there."""
            for part in ("tokenizer", "collator", "model", "train_dataset", "trainer"):
                if getattr(self, part) is None:
                    raise ValueError(f"no {part} was built")

        def after_train(self) -> None:
            """The trainer counted every pass."""
            done = self.trainer.state.global_step * self.trainer.args.gradient_accumulation_steps
            if self.trainer.passes != done:
                raise ValueError(f"{self.trainer.passes} passes were counted, {done} were made")
            print(f"checked: {done} forward passes")

    return CheckedExperiment
