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
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llmforge.run.launch import Outcome
    from llmforge.runnable import RunnablePlan

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
    "RunnablePlan",
    "TextMetric",
    "TrainerSpec",
    "__version__",
    "compile",
    "dataset",
    "from_list",
    "fuse",
    "generate",
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
    "RunnablePlan": "llmforge.runnable",
    "TextMetric": "llmforge.build.measures",
    "TrainerSpec": "llmforge.schema.train",
    "dataset": "llmforge.sources.functions",
    "fuse": "llmforge.merging",
    "generate": "llmforge.stages.generate",
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
) -> RunnablePlan:
    """Compose, check and freeze a plan.

    Args:
        overrides: Hydra overrides, as on the command line.
        config_dirs: folders with options of your own.

    Raises:
        llmforge.diagnostics.ConfigRefused: with every finding.
    """
    from llmforge.runnable import RunnablePlan
    from llmforge.sources.sql import forget

    forget()  # a notebook asks its database again
    return RunnablePlan.compiled(overrides, config_dirs)


def load(
    ref: Outcome | str | Path,
    checkpoint: str | int | None = None,
    *,
    dtype: str | None = None,
    quantization: str | None = None,
    merge: bool = False,
    adapters: Mapping[str, Outcome | str | Path] | None = None,
    device: str | None = None,
    tracking: str | None = None,
) -> tuple[Any, Any]:
    """Model and tokenizer of a run, a checkpoint, a folder or a registered version.

    Args:
        ref: what `plan.run()` returned; a run id or the start of one, an MLflow run id, or `last`;
            a run folder, a checkpoint's, one with a model or adapter; `models:/name/3` or
            `name@best`.
        checkpoint: `best`, `last` or a number of steps; None is the run's final model.
        dtype: `float32`, `bfloat16`, `float16` of weights that are not packed; None keeps the
            format they were trained or saved in.
        quantization: an option of the group `quantization` that packs while loading (`4bit`,
            `8bit`, ...), or `none`; None loads an adapter's base as it was trained.
        merge: the base with the adapter's change in its weights, as one plain model.
        adapters: more adapters over the same base by names of your own; the model's own stays
            active until `model.set_adapter(name)`.
        device: as torch names it, or `auto` for a GPU where there is one; None is the CPU.
        tracking: the address of MLflow's registry; None takes `tracking.uri` of the configuration.

    Returns:
        A transformers model (a PEFT model for an adapter) in evaluation mode, and its tokenizer.

    Raises:
        llmforge.diagnostics.ConfigRefused: there is no such model (LF863) or checkpoint (LF864), or
            it cannot be loaded as asked (LF865). It is a `LookupError` and a `ValueError` as well.
    """
    from llmforge.refs import load_model

    return load_model(
        ref,
        checkpoint,
        dtype=dtype,
        quantization=quantization,
        merge=merge,
        adapters=adapters,
        device=device,
        tracking=tracking,
    )
