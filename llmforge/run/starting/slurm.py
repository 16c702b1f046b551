"""The driver's side of a Slurm job: `python -m llmforge.run.starting.slurm FOLDER --stage train`.

In: a run folder with a plan whose launch is `slurm`. Out: a job, submitted by submitit, and with
`launch.wait` its end: 0 done, 1 failed, 130 stopped. Its number stands in `slurm.json`, its script
and submitit's own files in `slurm/`, all in the run folder, which the nodes must share. What the
job does on its nodes is in `slurm_job.py`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.endings import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from llmforge.run.folder import RunFolder
from llmforge.run.starting import commands, shielding
from llmforge.run.starting.slurm_job import CANCELLED, SCREEN, Job
from llmforge.run.status import Status

FOLDER = "slurm"
RECORD = "slurm.json"
_LOOKING = 1.0
"""Seconds between two looks at the job."""


class JobRefused(RuntimeError):
    """Slurm did not take the job, or is not here."""


def main(argv: list[str]) -> int:
    """See the module."""
    return shielding.main("llmforge.run.starting.slurm", argv, drive)


def drive(run: RunFolder, stage: str) -> int:
    """Submit the job, and wait for it where the plan says so."""
    plan = run.plan()
    for left in (CANCELLED, *SCREEN):
        (run.path / left).unlink(missing_ok=True)
    executor = executor_of(plan, run.path)
    job = executor.submit(Job(str(run.path), stage))
    launch = plan.settings["launch"]
    run.write_json(RECORD, {"job": job.job_id, "executor": launch["executor"]})
    print(f"job {job.job_id} is queued; its files are in {run.path / FOLDER}", file=sys.stderr)
    if not commands.waits(plan):
        return EXIT_DONE
    return _wait(job, run, launch["executor"] == "local")


def executor_of(plan: Plan, folder: Path) -> Any:
    """submitit's executor with the plan's parameters.

    Raises:
        RuntimeError: Slurm's programs are not here.
    """
    import submitit

    launch = plan.settings["launch"]
    place, again = folder / FOLDER, int(launch["requeues"])
    if launch["executor"] == "local":
        executor: Any = submitit.LocalExecutor(place, max_num_timeout=again)
        executor.update_parameters(
            timeout_min=launch["minutes"],
            signal_delay_s=launch["warning"],
            tasks_per_node=1,
            setup=launch["setup"],
        )
        return executor
    executor = submitit.SlurmExecutor(place, max_num_timeout=again)
    executor.update_parameters(**parameters(plan))
    return executor


def parameters(plan: Plan) -> dict[str, Any]:
    """What submitit writes as `#SBATCH` lines: one task per node, which starts the processes."""
    launch, machine = plan.settings["launch"], plan.settings["hardware"]
    each = int(launch["processes"]) // int(launch["nodes"])
    asked = {
        "job_name": plan.name,
        "nodes": launch["nodes"],
        "ntasks_per_node": 1,
        "cpus_per_task": launch["cpus"],
        "gpus_per_node": each if machine["device"] == "cuda" else None,
        "mem": launch["memory"],
        "time": launch["minutes"],
        "signal_delay_s": launch["warning"],
        "setup": launch["setup"] or None,
        # where a cluster does not queue jobs again by default, it would refuse to
        "additional_parameters": {"requeue": True, **launch["parameters"]},
        **{name: launch[name] for name in ("partition", "account", "qos", "constraint")},
    }
    return {name: value for name, value in asked.items() if value is not None}


def script(plan: Plan) -> str:
    """The job script as it will be submitted, but for submitit's numbers."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = (plan.run_folder / FOLDER).absolute()
    command = f"{sys.executable} -u -m submitit.core._submit {folder}"
    text: str = _make_sbatch_string(command=command, folder=folder, **parameters(plan))
    return text


def queued(run: RunFolder) -> str | None:
    """The number of a job of this run that Slurm still has; None if there is none, or no Slurm."""
    record = run.read_json(RECORD)
    if not record or record["executor"] != "slurm":
        return None
    try:
        told = subprocess.run(
            ["squeue", "--noheader", "--jobs", str(record["job"])],  # noqa: S607 - Slurm's own
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return str(record["job"]) if told.returncode == 0 and told.stdout.strip() else None


def _wait(job: Any, run: RunFolder, local: bool) -> int:
    """Show what the job says until it is over; a stop makes it save and end."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    shown = dict.fromkeys(SCREEN, 0)
    told = False
    while True:
        over = job.done(force_check=local)
        for name, stream in zip(SCREEN, (sys.stdout, sys.stderr), strict=True):
            shown[name] = _show(run.path / name, shown[name], stream)
        if over:
            break
        if stopped and not told:
            (run.path / CANCELLED).touch()
            _ask_to_end(job, local)
            told = True
        time.sleep(_LOOKING)
    if run.status() is Status.INTERRUPTED or stopped:
        return EXIT_STOPPED
    failed = job.exception()
    if failed is not None:
        print(f"job {job.job_id}: {failed}", file=sys.stderr)
        return EXIT_FAILED
    return int(job.result())


def _ask_to_end(job: Any, local: bool) -> None:
    if local:
        job._process.send_signal(signal.SIGTERM)  # noqa: SLF001 - `cancel` gives it one second
    else:
        subprocess.run(
            ["scancel", "--signal=TERM", str(job.job_id)],  # noqa: S607 - Slurm's own
            check=False,
            timeout=60,
        )


def _show(path: Path, seen: int, stream: Any) -> int:
    """Copy what was added to a file; returns how far it was read."""
    if not path.is_file():
        return seen
    with path.open("rb") as file:
        file.seek(seen)
        text = file.read()
    stream.write(text.decode(errors="replace"))
    stream.flush()
    return seen + len(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
