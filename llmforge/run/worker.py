"""The worker: `python -m llmforge.run.worker FOLDER --stage train|evaluate|prepare`.

In: a run folder with a `plan.json`; nothing else is read. Out: the stage's files in the folder, its
status, and an exit code: 0 done, 1 failed, 130 stopped on request. Several ranks may run this; rank
0 writes, the others log to files of their own.

The heavy imports happen inside the stages, after the log is in place, so that a library that
cannot be imported is a failure like any other.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from typing import Any

from llmforge import plugins, registry
from llmforge.plan import Plan
from llmforge.run import environment, terminal
from llmforge.run.endings import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from llmforge.run.failures import diagnose, leaves_process_sound
from llmforge.run.folder import RunFolder
from llmforge.run.pruning import RunPruned
from llmforge.run.records import keep_records
from llmforge.run.signals import StopFlag, StopRequested, stop_with
from llmforge.run.starting import ranks
from llmforge.run.starting.agreement import agree, end, leave
from llmforge.run.status import Status, timestamp
from llmforge.track.protocol import NullTracker, Tracker


def main(argv: list[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="llmforge.run.worker")
    parser.add_argument("folder")
    parser.add_argument(
        "--stage",
        choices=("train", "evaluate", "prepare", "fuse", "quantize", "answers", "probe"),
        default="train",
    )
    parser.add_argument("--plan", help="a node's own, where it is not that of the folder")
    arguments = parser.parse_args(argv)

    stop = StopFlag()
    stop.listen()
    if driver := os.environ.get(environment.DRIVER_PID):
        stop_with(int(driver))
    # node 0 makes the folder's own plan; another node has brought one
    own = Plan.load(arguments.plan) if arguments.plan else None
    run = RunFolder(arguments.folder) if own else RunFolder.open(arguments.folder)
    return Worker(run, arguments.stage, stop, own).attend()


class Worker:
    """One process of one attempt, or in a resident process (`resident.py`) one of its trials."""

    def __init__(
        self, run: RunFolder, stage: str, stop: StopFlag, plan: Plan | None = None
    ) -> None:
        self.run, self.stage, self.stop = run, stage, stop
        self.rank = int(os.environ.get("RANK", "0"))
        self.main = self.rank == 0
        self.tracker: Tracker = NullTracker()
        quiet = bool(os.environ.get(environment.QUIET)) or not self.main
        self.screen = terminal.take_over(run.log(self.rank), quiet)
        self.plan = plan or run.plan()
        self.apart = bool(os.environ.get(environment.APART))
        """Nodes have run folders of their own."""
        self._preview = int(os.environ.get(environment.PREVIEW, "0"))
        """Samples to show after `prepare`."""
        self.spoilt: str | None = None
        """Why the process must not be used for another run."""

    def attend(self) -> int:
        """Run the stage, whatever comes; returns the exit code."""
        try:
            return self.work()
        except StopRequested as request:
            self.spoilt = "the trial was stopped where it stood"
            return self.stopped(str(request))
        except RunPruned as found:
            return self.pruned(str(found))
        except BaseException as error:  # the attempt ends here, whatever it was
            if not leaves_process_sound(error):
                self.spoilt = f"the trial ended by {type(error).__name__}"
            return self.failed(error)

    def work(self) -> int:
        """Run the stage."""
        attempt = int(os.environ.get(environment.ATTEMPT, "1")) + ranks.restarts()
        self.run.failure(self.rank).unlink(missing_ok=True)  # of the processes before these
        print(f"==== attempt {attempt}, {self.stage}, {timestamp()}, pid {os.getpid()}", flush=True)
        with self.stop.immediate():
            if self.main:
                if self.stage != "probe":
                    self.screen.say(terminal.header(self.plan, attempt))
                if self.stage == "train":
                    self.run.set_running(self.stage, attempt)
            quieten()
            if self.stage not in ("prepare", "probe"):
                agree(self.plan, self.run, self.apart)
            plugins.load_or_fail(self.plan.settings["plugins"])
            if self.main:
                found = devices()
                self.run.write_json("environment.json", environment.describe(self.plan, found))
                self.tracker = start_tracker(self.plan, self.run)
        getattr(self, f"_{self.stage}")()
        leave()
        return EXIT_DONE

    def _train(self) -> None:
        from llmforge.stages.train import train

        result = train(self.plan, self.run, self.tracker, self.stop, self.screen)
        if self.main:
            ended = (result.get("stopped_early") or {}).get("words")
            self.run.set_status(Status.FINISHED, pid=None, reason=ended)
            warned = self.run.record().warnings
            self.screen.tell(terminal.closing(self.plan, self.run, result, warned))
            self.tracker.finish(Status.FINISHED, result)
            for late in self.run.record().warnings[len(warned) :]:
                self.screen.say(f"warning[{late['code']}]: {late['message']}")

    def _prepare(self) -> None:
        from llmforge.stages.prepare import prepare

        with self.stop.immediate():
            prepare(self.plan, self._report if self.main else None)
        if self.main:
            self.tracker.finish(self.run.status(), None)

    def _probe(self) -> None:
        from llmforge.stages.probe import probe

        probe(self.plan, self.run)

    def _report(self, prepared: Any) -> None:
        from llmforge.stages import report

        shown = report.keep(self.plan, self.run, prepared, self._preview)
        self.screen.tell(report.tell(self.run.read_json("prepare.json") or prepared.report))
        if self._preview:
            self.screen.tell(report.draw(shown))
        self.screen.say(f"{'found' if prepared.reused else 'prepared'} in {prepared.folder}")
        self.screen.say(f"as a page: {self.run.path / report.PAGE}")

    def _evaluate(self) -> None:
        from llmforge.run.again import evaluate_again
        from llmforge.run.measure import Request

        if request := Request.received():
            self._measure(request)
            return
        with self.stop.immediate():
            figures = evaluate_again(self.plan, self.run)
        if self.main:
            path = self.run.write_json("evaluation.json", figures)
            self.screen.tell(terminal.figures(figures))
            self.tracker.artifact(path, path.name)
            self.tracker.finish(self.run.status(), figures)

    def _measure(self, request: Any) -> None:
        """Another evaluation than the run's own: its plan lies beside the run."""
        from llmforge.run import measure
        from llmforge.run.again import evaluate_again

        plan = Plan.load(measure.plan_file(self.run, request.name))
        with self.stop.immediate():
            plugins.load_or_fail(plan.settings["plugins"])
            figures = evaluate_again(plan, self.run, request)
        if self.main:
            found = measure.keep_figures(self.run, plan, request, figures)
            self.screen.tell(terminal.figures(dict(measure.flat(found))))
            path = measure.results_file(self.run, request.name)
            self.screen.say(f"everything is in {path}")
            self.tracker.artifact(path, f"{measure.FOLDER}/{path.name}")
            self.tracker.finish(self.run.status(), figures)

    def _answers(self) -> None:
        """Ask the run's model, and what was made of it, the same questions."""
        from llmforge.run.chain import answering, telling
        from llmforge.stages.answers import answer_all

        with self.stop.immediate():
            found = answer_all(self.plan, self.run, answering.Request.received(), self.screen.say)
        if self.main:
            self.screen.tell(telling.side_by_side(found))
            self.tracker.artifact(self.run.path / answering.FILE, answering.FILE)
            self.tracker.finish(self.run.status(), None)

    def _fuse(self) -> None:
        from llmforge.stages.fuse import fuse

        self._make(fuse)

    def _quantize(self) -> None:
        from llmforge.stages.quantize import quantize

        self._make(quantize)

    def _make(self, stage: Any) -> None:
        """Make something of the run's model; the run's plan, status and result stay."""
        from llmforge.run.making import order as making

        order = making.Order.received()
        assert order is not None  # noqa: S101 - the driver sends one with these stages
        plan = making.plan_of(self.run, order)
        with self.stop.immediate():
            plugins.load_or_fail(plan.settings["plugins"])
            figures = stage(plan, self.run, order, self.screen)
        if self.main:
            found = making.keep_record(self.run, plan, order, figures)
            self.screen.tell(terminal.made(found))
            path = making.record_file(self.run, order.stage)
            self.tracker.artifact(path, path.name)
            self.tracker.finish(self.run.status(), making.numbers(found))

    def stopped(self, reason: str) -> int:
        """Asked to stop: the stage has saved what there was."""
        if self.main and self.stage == "train":
            newest = next(iter(self.run.checkpoints()), None)
            kept = f"state saved at step {newest.step}" if newest else "no step was done"
            self.run.set_status(Status.INTERRUPTED, pid=None, reason=f"{reason}; {kept}")
            self.screen.say(f"stopped ({reason}); {kept}; the same command goes on")
        self._close()
        return EXIT_STOPPED

    def pruned(self, reason: str) -> int:
        """Ended by its sweep: a trial that is over, without a result."""
        if self.main:
            newest = next(iter(self.run.checkpoints()), None)
            kept = f"state saved at step {newest.step}" if newest else "no state saved"
            self.run.set_status(Status.PRUNED, pid=None, reason=f"{reason}; {kept}")
            self.screen.say(f"{reason}; {kept}")
        self._close()
        return EXIT_DONE

    def failed(self, error: BaseException) -> int:
        """Anything else: traceback to the log, reason to the folder."""
        print(environment.scrub(traceback.format_exc(), self.plan), file=sys.stderr, flush=True)
        found = diagnose(error, self.plan).to_dict()
        many = ranks.world_size() > 1
        if many:
            ranks.keep_failure(self.run, self.plan, self.rank, found, error)
        if self.main and self.stage == "train":
            self.run.set_status(
                Status.FAILED,
                pid=None,
                code=found["code"],
                reason=found["message"],
                diagnostic=found,
            )
        elif not many:
            self.run.write_json(self.run.failure(self.rank).name, found)
        self._close()
        return EXIT_FAILED

    def _close(self) -> None:
        """Complete the record; what goes wrong here must not hide what went wrong before."""
        if self.main and self.stage == "train":
            keep_records(self.plan, self.run)
        self.tracker.finish(self.run.status(), None)


def quieten() -> None:
    """Import the big libraries, their banners and bars off."""
    # they warn of missing kernels at every import, whether or not anything is quantized
    for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_warning()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def devices() -> dict[str, Any]:
    """What the machine has, as torch sees it."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(count)],
        "gpu_memory_bytes": [
            torch.cuda.get_device_properties(index).total_memory for index in range(count)
        ],
    }


def start_tracker(plan: Plan, run: RunFolder) -> Tracker:
    """The tracker that the plan names, started."""
    build = registry.component("tracking", plan.spec.tracking.kind).load_builder()
    tracker: Tracker = build()
    tracker.start(plan, run)
    return tracker


if __name__ == "__main__":
    end(main(sys.argv[1:]))
