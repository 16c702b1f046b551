"""The driver's side of Ray Train: `python -m llmforge.run.starting.ray_driver FOLDER`.

In: a run folder with a plan whose launch is `ray`. Out: the run, done by Ray workers that each
start our ordinary worker (`ray_worker.py`), and its exit code: 0 done, 1 failed, 130 stopped. What
rank 0 says is shown here; with `launch.storage`, what it left comes back into the run folder.

Two processes: the outer one takes the driver's signals, the inner one, in a session of its own,
talks to Ray. Ray started for the run lives in the inner one's session, where a Ctrl-C does not end
it before the workers have saved; it ends with the inner one, however that ends.

`DataParallelTrainer` is what `TorchTrainer` is made of. The latter would join a process group in
Ray's own worker, on the port and the GPU that our worker needs.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from llmforge.plan import Plan
from llmforge.run import environment
from llmforge.run.endings import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from llmforge.run.folder import RunFolder
from llmforge.run.starting import shielding
from llmforge.run.starting.ray_storage import fetch, is_uri
from llmforge.run.status import Status

_LISTENING = 0.5
"""Seconds between two looks at what rank 0 said."""


def main(argv: list[str]) -> int:
    """See the module."""
    return shielding.main("llmforge.run.starting.ray_driver", argv, drive)


def drive(run: RunFolder, stage: str) -> int:
    """Run the plan's workers on Ray and wait for them."""
    import ray

    plan = run.plan()
    launch = plan.settings["launch"]
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ |= patience(launch)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(**connection(plan))
    try:
        return _fit(plan, run, stage, launch)
    finally:
        ray.shutdown()


def connection(plan: Plan) -> dict[str, Any]:
    """Arguments of `ray.init`: a cluster's address, or one started here."""
    address = plan.settings["launch"]["address"]
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        return {"address": address, **quiet}
    paths = os.pathsep.join(dict.fromkeys(path for path in sys.path if path))
    launch, many = plan.settings["launch"], int(plan.settings["launch"]["processes"])
    return {
        **quiet,
        "address": "local",  # not the one that RAY_ADDRESS names
        "include_dashboard": False,
        # one core more, for Ray's own bookkeeping; they are counted, not taken
        "num_cpus": many * int(launch["cpus"]) + 1,
        "num_gpus": many * int(launch["gpus"]),
        "resources": {name: amount * many for name, amount in launch["resources"].items()},
        "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
    }


def _fit(plan: Plan, run: RunFolder, stage: str, launch: dict[str, Any]) -> int:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from llmforge.run.starting import ray_worker

    link = ray.remote(num_cpus=0)(ray_worker.Link).remote()
    token = f".seen-{secrets.token_hex(8)}"
    (run.path / token).touch()
    trainer = DataParallelTrainer(
        ray_worker.train_loop,
        train_loop_config={
            "plan": plan.to_json(),
            "folder": str(run.path),
            "stage": stage,
            "token": token,
            "cwd": str(Path.cwd()),
            "environment": variables(plan, launch),
            "storage": launch["storage"],
            "link": link,
        },
        backend_config=ray_worker.shared_devices(),
        scaling_config=ScalingConfig(**scaling(launch)),
        run_config=RunConfig(
            name=f"{plan.run_id}-{stage}",
            storage_path=storage_of(run, launch),
            failure_config=FailureConfig(**failures(launch)),
        ),
    )
    try:
        with _linked(link) as stopped:
            trainer.fit()
    except TrainingFailedError as failed:
        _tell(run, failed)
        code = EXIT_STOPPED if stopped else EXIT_FAILED
    else:
        code = EXIT_DONE
    finally:
        (run.path / token).unlink(missing_ok=True)
    if launch["storage"] is not None:
        fetch(launch["storage"], f"{plan.run_id}-{stage}", run)
    return EXIT_STOPPED if run.status() is Status.INTERRUPTED else code


def patience(launch: Mapping[str, Any]) -> dict[str, str]:
    """How long workers may take to find their places, as Ray reads it; seconds."""
    return {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(launch["wait"])}


def failures(launch: Mapping[str, Any]) -> dict[str, int]:
    """Arguments of Ray's `FailureConfig`; workers that find no place are told, not tried on."""
    return {"max_failures": int(launch["max_failures"]), "controller_failure_limit": 0}


def scaling(launch: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of Ray's `ScalingConfig`: how many workers, and what each needs."""
    return {
        "num_workers": int(launch["processes"]),
        "use_gpu": int(launch["gpus"]) > 0,
        "resources_per_worker": {
            "CPU": launch["cpus"],
            **({"GPU": launch["gpus"]} if launch["gpus"] else {}),
            **launch["resources"],
        },
        "placement_strategy": launch["placement"],
    }


def storage_of(run: RunFolder, launch: Mapping[str, Any]) -> str:
    """Where Ray keeps its records and checkpoints."""
    storage = launch["storage"]
    if storage is None:
        return str(run.path / "ray")
    return str(storage) if is_uri(storage) else str(Path(storage).absolute())


def variables(plan: Plan, launch: dict[str, Any]) -> dict[str, str]:
    """What the workers get of this process's environment; on a cluster, what llmforge set.

    Secrets that the plan names travel in memory with the task, and are written nowhere.
    """
    if launch["address"] is None:
        return dict(os.environ)
    own = set(environment.forwarded(plan))
    return {name: value for name, value in os.environ.items() if name in own}


@contextmanager
def _linked(link: Any) -> Iterator[list[str]]:
    """Show what rank 0 says and pass a stop on while the workers run."""
    import ray

    stopped: list[str] = []
    over = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(signal.Signals(number).name)

    def listen() -> None:
        told = False
        while True:
            last = over.wait(_LISTENING)
            if stopped and not told:
                link.stop.remote(stopped[0])
                told = True
            for stream, text in ray.get(link.take.remote()):
                target = sys.stderr if stream == "err" else sys.stdout
                target.write(text)
                target.flush()
            if last:
                return

    signal.signal(signal.SIGTERM, stop)
    listener = threading.Thread(target=listen, name="rank-0", daemon=True)
    listener.start()
    try:
        yield stopped
    finally:
        over.set()
        listener.join(10)


def _tell(run: RunFolder, failed: BaseException) -> None:
    """What Ray knows of a failure, where no rank could say it itself."""
    if any(run.path.glob("failure-rank*.json")):
        return
    lines = str(failed).strip().splitlines()
    line = next((line for line in lines if "NoRunFolder: " in line), None)
    told: dict[str, Any] = {"time": time.time(), "traceback": str(failed)}
    if line:
        told |= {"code": "LF466", "message": line.partition("NoRunFolder: ")[2]}
    else:
        last = lines[-1] if lines else type(failed).__name__
        told |= {"code": "LF801", "message": f"Ray ended the workers: {last.strip()}"}
    run.write_json(run.failure(0).name, told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
