"""Train: from a plan to a trained model in a run folder. Read `train` top to bottom.

In: a plan, its run folder, a tracker, a stop flag. Out: the result, and in the folder: journal,
checkpoints, final model with manifest, samples, `result.json`. Every process of a distributed run
calls this; rank 0 alone writes.

Objects are built in `build/`, signals and statuses are `run/`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.build.errors import NonFiniteLoss
from llmforge.build.experiment import active, under_hooks
from llmforge.build.prepared import Prepared
from llmforge.plan import Plan
from llmforge.run import checkpoints, outcome, resharding, resume, room, terminal
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal
from llmforge.run.pruning import RunPruned, judge_of
from llmforge.run.signals import StopFlag, StopRequested
from llmforge.stages.peaks import ALLOCATED, beside, peaks
from llmforge.track.protocol import Tracker

if TYPE_CHECKING:
    from llmforge.build.early_stopping import Stalled
    from llmforge.build.pruning import PruningCallback


def is_main() -> bool:
    """Is this the process that writes?"""
    return int(os.environ.get("RANK", "0")) == 0


class Recorder:
    """Numbers to the journal and the tracker; silent on the other ranks."""

    def __init__(self, run: RunFolder, tracker: Tracker) -> None:
        self._journal = Journal(run.journal) if is_main() else None
        self._tracker = tracker
        self._quiet = False

    def __call__(self, values: Mapping[str, float], step: int) -> None:
        """On the step path: one short write, one wake-up."""
        if self._journal and not self._quiet:
            self._journal.append(values, step)
            self._tracker.metrics(values, step)

    def attempt(self, number: int, from_step: int) -> None:
        """A new attempt goes on after `from_step`."""
        if self._journal:
            self._journal.attempt(number, from_step)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Inside, nothing is recorded: the untrained model is not a point of the curve."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False


@under_hooks
def train(
    plan: Plan,
    run: RunFolder,
    tracker: Tracker,
    stop: StopFlag,
    screen: terminal.Screen | None = None,
) -> dict[str, Any]:
    """Run the plan, or go on where an earlier attempt stopped.

    Raises:
        StopRequested: a stop was asked for; the state is saved if any training was done.
        RunPruned: the run is a trial, and its sweep ended it; the state is saved.
        BuildError, DataChanged, DataRefused, NonFiniteLoss: see `build.errors`.
        HookFailed: a hook of the experiment raised.
    """
    from transformers import set_seed

    from llmforge.build.adapter import trainable_share
    from llmforge.build.callbacks import (
        EpochOrder,
        EvaluationApart,
        LastStepCallback,
        ProgressCallback,
        StopCallback,
        TrackerCallback,
    )
    from llmforge.build.clock import saves_by_clock
    from llmforge.build.early_stopping import early_stopping
    from llmforge.build.parts import build_parts
    from llmforge.build.progress import Pace
    from llmforge.build.pruning import PruningCallback
    from llmforge.build.rehearsal import Rehearsal
    from llmforge.build.trainer import build_trainer
    from llmforge.stages.culprits import forget_culprits, tell_culprits
    from llmforge.stages.evaluate import answers_during
    from llmforge.stages.prepare import prepare
    from llmforge.stages.publish import Publishing

    screen = screen or terminal.Screen()
    with stop.immediate():
        hooks = active(plan)
        with hooks.around("checks"):
            prepared = prepare(plan, partial(_keep_report, plan, run) if is_main() else None)
        parts = build_parts(plan, prepared)
        weights = trainable_share(parts.model)
        screen.say(terminal.model_line(weights["trainable"], weights["total"]))

        recorder = Recorder(run, tracker)
        pace = Pace(tokens_per_step(plan, prepared.report))
        progress, apart = ProgressCallback(screen, pace), EvaluationApart()
        watching: list[Any] = [progress, TrackerCallback(recorder, pace)] if is_main() else []
        publishing = Publishing(plan, run, screen) if is_main() else None
        watching += [publishing.callback()] if publishing else []
        rehearsal = Rehearsal(plan, run.path / ".rehearsal", run.model, screen.say)
        stopping, judge = early_stopping(plan), judge_of(run)
        pruning = [PruningCallback(judge, is_main())] if judge else []
        callbacks = [LastStepCallback(), *watching, EpochOrder(), apart, *stopping, *pruning]
        callbacks += [*saves_by_clock(plan), StopCallback(stop)]
        trainer = build_trainer(plan, parts, run.checkpoint_folder, [rehearsal, *callbacks])
        trainer.keep_with(checkpoints.Keeper(run.checkpoint_folder, plan))
        if is_main():
            tell_repeated(plan, run, screen, trainer)
        if prepared.packed:
            trainer.first_batch = partial(prove_isolation, run, screen)
        apart.trainer = rehearsal.trainer = trainer
        trainer.answers = answers_during(plan, parts, trainer)

        checkpoint = resume_point(plan, run, screen, trainer)
        if is_main():
            forget_culprits(run)
        recorder.attempt(run.record().attempts, checkpoint.step if checkpoint else 0)
        untrained = measure_untrained(plan, run, parts, trainer, recorder)

    hooks.call("before_train")
    # what was measured so far must not decide what is learnt
    set_seed(int(plan.settings["seed"]))
    try:
        take_steps(trainer, checkpoint)
        if trainer.state.global_step < trainer.args.max_steps:
            stop.check()
        leave_if_pruned(pruning)
        hooks.call("after_train")
        ended = next((callback.found for callback in stopping if callback.found), None)
        if ended is not None:
            screen.say(str(ended))
        with stop.immediate():
            trainer.publishing = publishing
            return finish(plan, run, parts, trainer, recorder, screen, untrained, ended)
    except StopRequested:
        progress.close()
        apart.end()
        keep_state(trainer, run)
        raise
    except NonFiniteLoss as fault:
        progress.close()
        if is_main():
            tell_culprits(plan, prepared, run, fault)
        raise
    except BaseException:
        progress.close()
        raise


def finish(
    plan: Plan,
    run: RunFolder,
    parts: Any,
    trainer: Any,
    recorder: Recorder,
    screen: terminal.Screen,
    untrained: Mapping[str, float],
    ended: Stalled | None = None,
) -> dict[str, Any]:
    """Measure and keep the final model; `ended` says why, where the run stopped early."""
    from llmforge.build.adapter import trainable_share
    from llmforge.build.load import save_final
    from llmforge.run.records import keep_model_card, keep_records
    from llmforge.stages.evaluate import evaluate

    steps = trainer.state.global_step
    figures = evaluate(plan, parts, trainer)
    recorder({k: v for k, v in figures.items() if k != "samples"}, steps)
    save_final(plan, trainer, run.model)
    held, seen = peaks(), trainer.tokens_seen()
    if not is_main():
        return {}
    keep_model_card(plan, run)
    outcome.write_manifest(run)
    run.write_json("samples.json", figures.get("samples", []))

    weights = trainable_share(parts.model)
    trainable, total = weights["trainable"], weights["total"]
    found = outcome.surprises(plan, None if ended else steps, trainable, seen)
    found += trainer.publishing.finish()
    for warning in found:
        run.warn(warning.to_dict())
    most = max(held, key=lambda peak: peak.measured_bytes)
    memory = outcome.memory(plan, most.measured_bytes if most.kind == ALLOCATED else None)
    if memory:
        recorder({f"memory_{name}": amount for name, amount in memory.items()}, steps)
        screen.say(terminal.memory_line(memory))
    if len(held) > 1:
        recorder({f"memory_rank{one.rank}_bytes": one.measured_bytes for one in held}, steps)
    keep_records(plan, run)
    facts = {
        "steps": steps,
        "epoch": trainer.state.epoch,
        "best": best_of(trainer),
        "stopped_early": {**asdict(ended), "words": str(ended)} if ended else None,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "peak_memory_bytes": memory.get("measured_bytes"),
        "memory": memory or None,
        "memory_by_rank": beside(plan, held),
        "tokens": outcome.tokens(plan, seen) or None,
        "disk": outcome.disk(plan, run) or None,
        "warnings": [warning.to_dict() for warning in found],
    }
    result = outcome.compose_result(plan, run, figures, untrained, facts)
    run.write_json("result.json", result)
    return result


def measure_untrained(
    plan: Plan, run: RunFolder, parts: Any, trainer: Any, recorder: Recorder
) -> dict[str, float]:
    """The baseline: measured once, then read from the journal."""
    from llmforge.stages.evaluate import evaluate

    if not plan.settings["evaluation"]["at_start"] or parts.evaluation is None:
        return {}
    if known := outcome.baseline(run):
        return known
    with recorder.quiet():
        figures = evaluate(plan, parts, trainer)
    figures.pop("samples", None)
    recorder({f"baseline_{key}": value for key, value in figures.items()}, 0)
    return figures


def _keep_report(plan: Plan, run: RunFolder, prepared: Prepared) -> None:
    from llmforge.stages.report import keep

    keep(plan, run, prepared)


def tell_repeated(plan: Plan, run: RunFolder, screen: terminal.Screen, trainer: Any) -> None:
    """Warn of rows that the processes train on twice; see `build/filling.py`."""
    again = trainer.repeated_rows()
    for warning in outcome.repeated(plan, again, len(trainer.train_dataset) if again else 0):
        run.warn(warning.to_dict())
        screen.say(f"warning[{warning.code}]: {warning.message}")


def prove_isolation(run: RunFolder, screen: terminal.Screen, model: Any, batch: Any) -> None:
    """Before the first step of an attempt: packed samples do not see each other.

    Raises:
        PackingLeak: they do.
    """
    from llmforge.build.canary import check_isolation

    found = check_isolation(model, batch)
    if is_main():
        run.write_json("isolation.json", asdict(found))
        screen.say(
            "packed samples do not see each other: changing one moved the others by "
            f"{found.difference:.2g} standard deviations, itself by {found.moved:.2g}"
        )


def resume_point(
    plan: Plan, run: RunFolder, screen: terminal.Screen, trainer: Any
) -> Checkpoint | None:
    """The checkpoint to go on from, the same on all ranks; see `run/resume.py`.

    Raises:
        ResumeRefused: the newest checkpoint is another run's.
        NoRoom: the disk is too small for what the run will write.
    """
    import torch

    chosen = None
    if is_main():
        chosen = resume.choose(plan, run, screen.say)
        if chosen is None and (line := resharding.offer(plan)):
            screen.say(line)
        room.check_room(plan, run)
    if trainer.args.world_size > 1:
        # one rank looks, since it also clears away
        step = torch.tensor(chosen.step if chosen else -1, device=trainer.args.device)
        torch.distributed.broadcast(step, src=0)
        folder = run.checkpoint_folder / f"{checkpoints.PREFIX}{int(step)}"
        chosen = Checkpoint(folder, int(step)) if int(step) >= 0 else None
    return chosen


def take_steps(trainer: Any, checkpoint: Checkpoint | None) -> None:
    """Train, or go on; nothing is left to do after the last step, or where patience ended."""
    from llmforge.build.early_stopping import StoppedEarly

    if checkpoint and checkpoint.step >= trainer.args.max_steps:
        restore(trainer, checkpoint.path)
        return
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    except StoppedEarly:
        assert checkpoint is not None  # noqa: S101 - a fresh run has no evaluations to judge
        trainer.is_in_train = False
        restore(trainer, checkpoint.path)


def leave_if_pruned(callbacks: Iterable[PruningCallback]) -> None:
    """Raises `RunPruned` where the run's sweep has ended it; the loop has saved its state."""
    for callback in callbacks:
        if callback.found is not None:
            raise RunPruned(callback.found)


def best_of(trainer: Any) -> dict[str, Any] | None:
    """The metric that counts, its best value and step; None where no best model is looked for."""
    state = trainer.state
    if not trainer.args.load_best_model_at_end or not state.best_global_step:
        return None
    metric = trainer.args.metric_for_best_model
    return {"metric": metric, "value": state.best_metric, "step": state.best_global_step}


def restore(trainer: Any, folder: Path) -> None:
    """Take over a checkpoint of the last step, where nothing is left to train.

    The Trainer would take one step more: it looks at `max_steps` only after a step.
    """
    from transformers import TrainerState

    trainer._load_from_checkpoint(str(folder))  # noqa: SLF001 - what `train` does before its loop
    trainer.state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
        trainer._load_best_model()  # noqa: SLF001 - what `train` does after its loop


def keep_state(trainer: Any, run: RunFolder) -> None:
    """Save a checkpoint of this step if there is none; a run before its first step has no state."""
    step = trainer.state.global_step
    if step and all(known.step != step for known in run.checkpoints()):
        trainer._save_checkpoint(trainer.model, trial=None)  # noqa: SLF001 - as the Trainer's own saving on a signal does


def tokens_per_step(plan: Plan, report: Mapping[str, Any]) -> float:
    """Tokens of an average optimizer step, padding not counted."""
    items = report["packing"]["packs"] if report["packing"] else report["train"]["samples"]
    return float(report["train"]["tokens"] / items * plan.settings["trainer"]["global_batch"])
