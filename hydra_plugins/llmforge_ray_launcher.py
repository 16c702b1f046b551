"""A launcher over Ray's public API: each job of a sweep is a task of a Ray cluster.

In: what Hydra hands a launcher. Out: the launcher that `hydra/launcher=llmforge_ray` makes.
Hydra's published Ray plugin wants a cloudpickle before version 3, which joblib's and MLflow's no
longer are. Hydra imports this module whenever it is set up, so Ray is imported when jobs start.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

ConfigStore.instance().store(
    group="hydra/launcher",
    name="llmforge_ray",
    node={
        "_target_": "hydra_plugins.llmforge_ray_launcher.LlmforgeRayLauncher",
        "address": None,  # of a running cluster; without one, Ray is started on this machine
        "num_cpus": 1,  # that each trial claims
        "num_gpus": 0,
        "init": {},  # more arguments of `ray.init`
    },
    provider="llmforge",
)

_STARTING = threading.Lock()
"""A sweep calls the launcher from several threads."""


class LlmforgeRayLauncher(Launcher):
    """Runs jobs as Ray tasks and waits for all of them."""

    def __init__(
        self, address: str | None, num_cpus: float, num_gpus: float, init: dict[str, Any]
    ) -> None:
        self._address, self._cpus, self._gpus, self._init = address, num_cpus, num_gpus, init
        self._job: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what a job needs."""
        self._job = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; returns in their order. A task that Ray loses raises a Ray error."""
        import ray

        assert self._job is not None  # noqa: S101 - Hydra calls `setup` first
        hydra_logging = self._job[2].hydra
        setup_globals()
        configure_log(hydra_logging.hydra_logging, hydra_logging.verbose)
        with _STARTING:
            if not ray.is_initialized():
                _in_lasting_thread(partial(ray.init, **self._arguments()))
        # a task that died is not started again by Ray: the sweep decides what becomes of it
        task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(_run)
        job, state = ray.put(self._job), Singleton.get_state()
        waiting = [
            task.remote(job, list(overrides), initial_job_idx + number, state, str(Path.cwd()))
            for number, overrides in enumerate(job_overrides)
        ]
        return list(ray.get(waiting))

    def _arguments(self) -> dict[str, Any]:
        """Of `ray.init`; the tasks import what this process imports."""
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            quiet |= {"include_dashboard": False}
            paths = os.pathsep.join(dict.fromkeys(path for path in sys.path if path))
            quiet |= {"runtime_env": {"env_vars": {"PYTHONPATH": paths}}}
        return {"address": self._address, **quiet, **self._init}


def _in_lasting_thread(start: Callable[[], object]) -> None:
    """Do it in a thread that ends with this process, and wait until it is done.

    Linux kills the servers of a local Ray when the thread that started them ends, and a minute
    later Ray ends the process that misses them. The threads that call a launcher may end long
    before the sweep does.
    """
    done: Future[None] = Future()

    def work() -> None:
        try:
            start()
        except BaseException as error:  # handed to who waits
            done.set_exception(error)
        else:
            done.set_result(None)
            threading.Event().wait()

    threading.Thread(target=work, name="ray-servers", daemon=True).start()
    done.result()


def _run(
    job: tuple[HydraContext, TaskFunction, DictConfig],
    overrides: list[str],
    number: int,
    state: dict[Any, Any],
    folder: str,
) -> JobReturn:
    """One job, in a process of Ray's."""
    context, function, config = job
    if Path(folder).is_dir():
        os.chdir(folder)  # relative paths of a plan are the driver's
    setup_globals()
    Singleton.set_state(state)
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = f"{composed.hydra.job.name}_{number}"
        composed.hydra.job.num = number
    HydraConfig.instance().set_config(composed)
    return run_job(
        hydra_context=context,
        task_function=function,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
