"""Where Hydra finds llmforge's sweeper.

In: what Hydra hands a sweeper. Out: `LlmforgeSweeper`. Hydra 1.3 only makes sweepers whose class
lives in the `hydra_plugins` namespace, and imports every module of it whenever it is set up, so
this one holds no more than the class; the sweep itself is `llmforge/sweep/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="llmforge",
    node={"_target_": "hydra_plugins.llmforge_sweeper.LlmforgeSweeper"},
    provider="llmforge",
)


class LlmforgeSweeper(Sweeper):  # type: ignore[misc]
    """Compiles every point of a sweep, then hands what is left to the chosen launcher."""

    def __init__(self) -> None:
        self.launcher: Launcher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher that `hydra/launcher` names."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep; `arguments` are the overrides of the command line but for Hydra's own."""
        from llmforge.sweep.session import sweep_under_hydra

        launcher = self.launcher

        def launch(jobs: list[list[str]], first: int) -> Sequence[JobReturn]:
            assert launcher is not None  # noqa: S101 - Hydra calls `setup` first
            return launcher.launch(jobs, initial_job_idx=first)

        return sweep_under_hydra(arguments, launch, self.config)
