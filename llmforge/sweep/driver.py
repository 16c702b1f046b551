"""The driver of a grid: what is left of it to run, through whatever launches jobs.

In: a definition, its points, and `launch`, a Hydra launcher's. Out: `Swept`: every point with what
came of it. How trials get through a launcher is `running.py`, what comes of them `swept.py`.

The driver keeps nothing in memory that the run folders do not say: killed and started again, it
looks at the folders and goes on. It never raises for a trial.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import islice

from llmforge.sweep.definition import Definition
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.jobs import Launch
from llmforge.sweep.ledger import ledger_of_grid
from llmforge.sweep.preflight import Point, State
from llmforge.sweep.recorder import recorded
from llmforge.sweep.running import EqualFailures, Running
from llmforge.sweep.swept import Swept
from llmforge.sweep.trial import Trial, trial_of


def drive(
    definition: Definition,
    points: list[Point],
    launch: Launch,
    at_once: int = 1,
    tell: Callable[[Trial], None] = lambda _: None,
    one_by_one: bool = False,
) -> Swept:
    """Run what is left of a sweep.

    Args:
        at_once: trials that run side by side, or are handed to `launch` at a time.
        tell: called with each trial when it is done, or its batch.
        one_by_one: call `launch` for each trial, from several threads, and not for batches.

    Raises:
        ConfigRefused: another process drives the sweep (LF714), its folder is another one's
            (LF713), a point is refused that was sound when the sweep was compiled.
    """
    folder = SweepFolder(definition.folder)
    with folder.lock():
        folder.claim(definition)
        folder.write_points([point.to_dict() for point in points])
        for point in points:
            link_finished(folder, point)
        swept = Swept(definition, points, _known(points, folder))
        with recorded(folder.path, swept.warnings) as recorder:
            running = Running(
                swept, folder, launch, tell, recorder.news,
                EqualFailures(definition.spec.equal_failures),
                ledger_of_grid(definition, folder, swept.trials, points),
            )  # fmt: skip
            # a list of its own: a point whose data changed is replaced in the other one
            left = iter([point for point in points if point.runs])
            if one_by_one:
                running.stream(lambda: next(left, None), at_once)
            else:
                while (batch := list(islice(left, at_once))) and running.run(batch):
                    pass
            recorder.interrupted = swept.interrupted
    return swept


def link_finished(folder: SweepFolder, point: Point) -> None:
    """A point that was finished as a run of its own is answered from there: its place in the
    sweep's folder is a link to that run."""
    if point.place is None or point.run_id is None:
        return
    target = folder.path / point.run_id
    if not target.exists():
        target.symlink_to(os.path.relpath(point.place, folder.path), target_is_directory=True)


def _known(points: Iterable[Point], folder: SweepFolder) -> dict[str, Trial]:
    """Trials that were finished before."""
    return {
        point.run_id: trial_of(folder.path / point.run_id)
        for point in points
        if point.run_id and point.state in (State.FINISHED, State.PRUNED)
    }
