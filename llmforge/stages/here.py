"""Train in this process, with parts made in Python: `llmforge.train_here`.

In: a plan and ready-made parts. Out: an `Outcome`, and a run folder of its own. What is given from
Python does not stand in the plan, so such a run never answers for the plan's own, is never gone on
with, and is named for the moment that it began.

`plan.run()` is the way for everything that a plan can say: it survives crashes, resumes and is
found again.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from llmforge import plugins
from llmforge.build.experiment import activated
from llmforge.plan import Plan
from llmforge.run import checkpoints
from llmforge.run.failures import diagnose
from llmforge.run.folder import RunFolder
from llmforge.run.launch import Outcome
from llmforge.run.signals import StopFlag
from llmforge.run.status import Status
from llmforge.run.worker import start_tracker
from llmforge.stages.train import train

_NAME_LENGTH = 30
"""Of the run's name, before the time: the schema allows 64 characters in all."""


def train_here(plan: Plan, **parts: Any) -> Outcome:
    """Train a plan in this process.

    Args:
        plan: for one process (`launch=local`).
        parts: any of `tokenizer`, `model`, `lora_config`, `quantization_config`, `collator`,
            `train_dataset`, `eval_dataset`, `training_arguments`, `trainer`. What is given is used
            as it is, and neither built nor surrounded by hooks; a model is wrapped by the plan's
            adapter unless it is a `PeftModel` already. Parts that make others mean nothing bring a
            warning. Data sets hold prepared samples: `input_ids`, `labels`, `length`.

    Returns:
        What came of it. A failed run is an outcome with a diagnostic, not an exception; its
        traceback stands in the run's log.

    Raises:
        ValueError: the plan is for several processes, several GPUs would share its batch, or a
            tokenizer is given that the prepared samples were not made with.
        TypeError: there is no part of a name that is given.
        ImportError: a plugin of the plan cannot be imported.
    """
    plugins.load_or_fail(plan.settings["plugins"])
    _check_alone(plan)
    ours = _renamed(plan)
    with activated(ours, parts):
        if parts.get("tokenizer") is not None and parts.get("train_dataset") is None:
            _check_tokenizer(ours, parts["tokenizer"])
        return _train(ours)


def _train(plan: Plan) -> Outcome:
    run = RunFolder.create(plan)
    with run.lock():
        for old in run.checkpoints():
            checkpoints.remove(old)  # of a run that began in the same microsecond
        run.set_running("train")
        tracker = start_tracker(plan, run)
        try:
            result = train(plan, run, tracker, StopFlag())
        except Exception as error:
            found = diagnose(error, plan)
            run.log().write_text(traceback.format_exc(), encoding="utf-8")
            run.set_status(Status.FAILED, pid=None, code=found.code, reason=found.message,
                           diagnostic=found.to_dict())  # fmt: skip
            tracker.finish(Status.FAILED, None)
            return Outcome(Status.FAILED, 1, run.path, diagnostic=found)
        except BaseException as stopped:
            run.set_status(Status.INTERRUPTED, pid=None, reason=type(stopped).__name__)
            tracker.finish(Status.INTERRUPTED, None)
            raise
        run.set_status(Status.FINISHED, pid=None)
        tracker.finish(Status.FINISHED, result)
        return Outcome(Status.FINISHED, 0, run.path, result)


def _check_alone(plan: Plan) -> None:
    import torch

    if plan.settings["launch"]["processes"] != 1:
        raise ValueError(
            f"the plan is for {plan.settings['launch']['processes']} processes, and here is one; "
            "compile it with launch=local"
        )
    if plan.settings["hardware"]["device"] == "cuda" and torch.cuda.device_count() > 1:
        raise ValueError(
            f"{torch.cuda.device_count()} GPUs are seen, which would share each batch; set "
            "CUDA_VISIBLE_DEVICES to one before torch is imported"
        )


def _renamed(plan: Plan) -> Plan:
    """The same plan under a name of this moment."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    name = f"{plan.name[:_NAME_LENGTH]}-here-{now}"
    return replace(plan, settings={**plan.settings, "name": name})


def _check_tokenizer(plan: Plan, tokenizer: Any) -> None:
    """Raises `ValueError` where the plan's samples are tokens of another vocabulary."""
    from llmforge.build.tokenizer import open_tokenizer
    from llmforge.stages.prepare import prepare

    own = open_tokenizer(prepare(plan).tokenizer_folder)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            "the plan's samples were made with a tokenizer of another vocabulary; give "
            "train_dataset and eval_dataset too, or let the plan choose it (tokenizer.source=...)"
        )
