"""The driver's side of a Slurm job: `python -m llmforge.run.starting.slurm FOLDER --stage train`.

In: a run folder with a plan whose launch is `slurm`. Out: a job, submitted by submitit, and with
`launch.wait` its end: 0 done, 1 failed, 130 stopped. Its number stands in `slurm.json`, its script
and submitit's own files in `slurm/`, all in the run folder, which the nodes must share. What the
job does on its nodes is in `slurm_job.py`.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.endings import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from llmforge.run.folder import RunFolder
from llmforge.run.starting import commands, shielding, slurm_queue
from llmforge.run.starting.slurm_job import CANCELLED, SCREEN, Job
from llmforge.run.status import Status

FOLDER = "slurm"
RECORD = "slurm.json"
_LOOKING = 1.0
"""Seconds between two looks at the job's files."""

_ASKING = 15.0
"""Seconds between two questions to Slurm, whose controller serves everybody."""


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
    local = launch["executor"] == "local"
    return _wait(LocalJob(job) if local else ClusterJob(job, run), run)


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
    return str(record["job"]) if slurm_queue.in_queue(str(record["job"])) else None


class LocalJob:
    """A job that submitit runs on this machine."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def over(self) -> bool:
        return bool(self._job.done(force_check=True))

    def ask_to_end(self) -> None:
        self._job._process.send_signal(signal.SIGTERM)  # noqa: SLF001 - `cancel` gives it one second

    def code(self) -> int:
        """Exit code of the job; what went wrong goes to stderr."""
        return _code_of(self._job)


class ClusterJob:
    """A job of Slurm's, with a task on each node.

    submitit's own way to watch it asks `sacct`, and takes a job for running where that has no
    answer.
    """

    def __init__(self, job: Any, run: RunFolder) -> None:
        self._tasks = [job.task(number) for number in range(job.num_tasks)]
        self._number, self._run = str(job.job_id), run
        self._asked, self._gone, self._every = time.monotonic(), 0, _ASKING

    def over(self) -> bool:
        """Has each task left its result, or is the job out of the queue?

        A run that was interrupted may be queued again by Slurm, after its tasks have ended.
        """
        results = all(map(_has_result, self._tasks))
        if results and self._run.status() is not Status.INTERRUPTED:
            return True
        if time.monotonic() - self._asked > (_LOOKING if results else self._every):
            self._asked = time.monotonic()
            # results may arrive late on a shared disk: two looks without the job
            self._gone = self._gone + 1 if slurm_queue.in_queue(self._number) is False else 0
        return self._gone > 1

    def ask_to_end(self) -> None:
        slurm_queue.ask_to_end(self._number)
        self._every = _LOOKING  # somebody waits for it now

    def code(self) -> int:
        """Exit code of the first task that has not done its work, or 0."""
        codes = [_code_of(task) for task in self._tasks if _has_result(task)]
        if len(codes) < len(self._tasks):
            how, where = slurm_queue.state(self._number), self._tasks[0].paths.stderr
            print(f"job {self._number} left no result: {how}; see {where}", file=sys.stderr)
            codes.append(EXIT_FAILED)
        return next((code for code in codes if code), EXIT_DONE)


def _has_result(task: Any) -> bool:
    return bool(task.paths.result_pickle.exists())


def _code_of(job: Any) -> int:
    failed = job.exception()
    if failed is not None:
        print(f"job {job.job_id}: {failed}", file=sys.stderr)
        return EXIT_FAILED
    return int(job.result())


def _wait(job: LocalJob | ClusterJob, run: RunFolder) -> int:
    """Show what the job says until it is over; a stop makes it save and end."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    shown = dict.fromkeys(SCREEN, 0)
    told = False
    while True:
        over = job.over()
        for name, stream in zip(SCREEN, (sys.stdout, sys.stderr), strict=True):
            shown[name] = _show(run.path / name, shown[name], stream)
        if over:
            break
        if stopped and not told:
            (run.path / CANCELLED).touch()
            job.ask_to_end()
            told = True
        time.sleep(_LOOKING)
    if run.status() is Status.INTERRUPTED or stopped:
        return EXIT_STOPPED
    return job.code()


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
