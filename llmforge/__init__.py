"""llmforge: compile first, then train.

    plan = llmforge.compile(["lora=small"])
    run = plan.run()
    model, tokenizer = llmforge.load(run)

Importing this package imports nothing heavy: Hydra comes with `compile`, torch with `load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmforge.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmforge.plan import Plan
    from llmforge.run.launch import Outcome

__all__ = [
    "BaseCollator",
    "BaseDataset",
    "CallbackSpec",
    "CollatorSpec",
    "Experiment",
    "ExperimentSpec",
    "LogitsMetric",
    "MetricSpec",
    "OptimizerSpec",
    "TextMetric",
    "TrainerSpec",
    "__version__",
    "compile",
    "dataset",
    "from_list",
    "load",
    "register",
    "train_here",
    "transform",
]

_LATER = {
    "BaseDataset": "llmforge.sources.functions",
    "BaseCollator": "llmforge.build.extending",
    "CallbackSpec": "llmforge.schema.extension",
    "CollatorSpec": "llmforge.schema.collate",
    "Experiment": "llmforge.build.experiment",
    "ExperimentSpec": "llmforge.schema.experiment",
    "LogitsMetric": "llmforge.build.measures",
    "MetricSpec": "llmforge.schema.extension",
    "OptimizerSpec": "llmforge.schema.optim",
    "TextMetric": "llmforge.build.measures",
    "TrainerSpec": "llmforge.schema.train",
    "dataset": "llmforge.sources.functions",
    "register": "llmforge.registry",
    "train_here": "llmforge.stages.here",
    "transform": "llmforge.sources.functions",
    "from_list": "llmforge.sources.snapshot",
}
"""Names for people's own code and data, imported when somebody asks for them."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module `llmforge` has no `{name}`")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)


def compile(  # noqa: A001 - the word of the field; `llmforge.compile` is how it is used
    overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()
) -> Plan:
    """Compose, check and freeze a plan.

    Args:
        overrides: Hydra overrides, as on the command line.
        config_dirs: folders with options of your own.

    Raises:
        llmforge.diagnostics.ConfigRefused: with every finding.
    """
    from llmforge.compiler.passes import compile_plan
    from llmforge.sources.sql import forget

    forget()  # a notebook asks its database again
    return compile_plan(overrides, config_dirs)


def load(run: Outcome | str | Path, dtype: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer of a finished run.

    Args:
        run: what `Plan.run` returned, a run id, a unique part of one, a run folder, or `last`.
        dtype: `float32`, `bfloat16`, `float16`; None keeps the format it was saved in.

    Returns:
        A transformers model (a PEFT model for an adapter) in evaluation mode, and its tokenizer.

    Raises:
        LookupError: there is no such run, or it has not finished.
    """
    from llmforge.refs import load_run

    return load_run(run, dtype)
