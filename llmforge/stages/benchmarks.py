"""Benchmarks: tasks of lm-eval on a model that is built already.

In: parts, the trainer that holds the model, names of tasks or folders with task files. Out: the
figures of each task. Data of lm-eval's own tasks come from the hub or its cache; a folder's tasks
may read local files. Imported in the worker only: lm-eval is the extra `benchmarks`.

Unless the user trusts the tasks' code, templates of task files are rendered in a sandbox and no
metric is downloaded; functions that task files name were refused before (`compose/benchmarks.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from llmforge.build.loss import autocast
from llmforge.build.parts import Parts
from llmforge.build.trainer import ForgeTrainer
from llmforge.diagnostics import did_you_mean
from llmforge.plan import Plan

_RESAMPLES = 1000
"""Of the rows, for standard errors that have no formula."""


class NoSuchTask(LookupError):
    """lm-eval does not know the task."""


def run_tasks(
    plan: Plan,
    parts: Parts,
    trainer: ForgeTrainer,
    tasks: Sequence[str],
    folders: Sequence[str],
    trusted: bool,
) -> dict[str, Any]:
    """Figures of each task: `{"tasks": {name: {metric: value}}}`.

    `tasks` are names, of lm-eval's own tasks or of those in the files of `folders`. A metric
    behind another filter than `none` is named `metric:filter`.

    Raises:
        NoSuchTask: a name is neither lm-eval's nor a folder's.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # reading lm-eval's own thousands of files takes many seconds
    manager = TaskManager(include_path=list(folders) or None, include_defaults=False)
    if any(name not in manager.all_tasks for name in tasks):
        manager = TaskManager(include_path=list(folders) or None)
    for name in tasks:
        if name not in manager.all_tasks:
            near = " ".join(did_you_mean(name, manager.all_tasks))
            raise NoSuchTask(f"lm-eval has no task `{name}`; {near}".rstrip("; "))
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.eval()
    wrapped = HFLM(
        pretrained=model,
        tokenizer=parts.tokenizer,
        batch_size=int(plan.spec.evaluation.micro_batch),
    )
    with autocast(model, str(plan.spec.precision.compute)), _guarded(trusted):
        results = simple_evaluate(
            wrapped,
            tasks=list(tasks),
            task_manager=manager,
            bootstrap_iters=_RESAMPLES,
            log_samples=False,
            random_seed=plan.spec.seed,
            numpy_random_seed=plan.spec.seed,
            torch_random_seed=plan.spec.seed,
            fewshot_random_seed=plan.spec.seed,
            confirm_run_unsafe_code=trusted,
        )
    return {"tasks": {name: _figures(found) for name, found in results["results"].items()}}


def _figures(found: dict[str, Any]) -> dict[str, float]:
    figures = {}
    for key, value in found.items():
        name, _, kind = key.partition(",")
        if isinstance(value, int | float) and not isinstance(value, bool):
            figures[name if kind in ("", "none") else f"{name}:{kind}"] = float(value)
    return figures


@contextlib.contextmanager
def _guarded(trusted: bool) -> Iterator[None]:
    """Inside, templates cannot reach Python and no metric is loaded from anywhere."""
    if trusted:
        yield
        return
    import evaluate
    import lm_eval.utils
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    plain, load = lm_eval.utils.env, evaluate.load
    closed = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    closed.filters |= plain.filters
    lm_eval.utils.env, evaluate.load = closed, _no_download
    try:
        yield
    finally:
        lm_eval.utils.env, evaluate.load = plain, load


def _no_download(name: str, *_: Any, **__: Any) -> Any:
    raise PermissionError(
        f"metric `{name}` is none of lm-eval's and would be loaded with its code; "
        "--trust-task-code allows it"
    )
