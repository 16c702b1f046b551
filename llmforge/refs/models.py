"""Models by reference: a run, a checkpoint, a folder, or a version of MLflow's registry.

In: a text, as on the command line: a run's id or the start of one, `last`, an MLflow run id, a run
folder, a checkpoint's folder, a folder with a model or adapter, `models:/name/3`, `name@best`; and
which checkpoint is meant. Out: `Place`, or model and tokenizer. What is missed is a diagnostic with
near names and what there is (LF863-LF865), raised as `ModelRefused`.

Weights are read in `build/loading.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan, PlanUnreadable
from llmforge.refs.plans import RUNS
from llmforge.stage_order import FOLDERS

if TYPE_CHECKING:
    from llmforge.run.checkpoints import Checkpoint
    from llmforge.run.folder import RunFolder
    from llmforge.run.launch import Outcome
    from llmforge.track.versions import Registry

Say = Callable[[str], None]
Weights = Literal["model", "fused", "quantized"]

_NAMED = re.compile(r"(?:models:/)?(?P<name>[^/@]+)@(?P<selector>[\w-]+)|"
                    r"models:/(?P<model>[^/@]+)(?:/(?P<version>[\w-]+))?")  # fmt: skip
_WEIGHTS = ("adapter_config.json", "config.json")


class ModelRefused(ConfigRefused, LookupError, ValueError):
    """There is no such model, or it cannot be loaded as asked; holds the diagnostic."""


@dataclass(frozen=True)
class Place:
    """Where a model lies, and what is known of it."""

    folder: Path | None
    """Weights or adapter with their tokenizer; None for the untrained model of a plan."""
    label: str
    """For people: `demo-0123456789, step 50`."""
    run: RunFolder | None = field(default=None, compare=False)
    plan: Plan | None = field(default=None, compare=False)
    """The plan that it was trained by, if one is known."""
    step: int | None = None
    """Optimizer steps behind a checkpoint; None for a final model."""


def find_model(
    ref: str | Path,
    checkpoint: str | int | None = None,
    runs: str | Path = RUNS,
    tracking: Mapping[str, Any] | None = None,
    cache: str | Path = ".llmforge",
    say: Say | None = None,
    weights: Weights = "model",
) -> Place:
    """The place that a reference names.

    Args:
        ref: see the module.
        checkpoint: `best`, `last` or a step of the run; None is its final model.
        runs: where run folders lie.
        tracking: settings of the section `tracking`, for names of the registry; None takes those
            that stand in the configuration.
        cache: where weights are put that only MLflow has.
        say: told what is passed over.
        weights: of a run: those it trained, or what was made of them.

    Raises:
        ModelRefused: LF863 for what does not exist, LF864 for a checkpoint that cannot be had.
    """
    text = str(ref)
    folder = Path(ref)
    if weights != "model":
        return _made(ref, checkpoint, runs, weights)
    if folder.is_dir():
        return _of_folder(folder, checkpoint, say)
    if named := _NAMED.fullmatch(text):
        return _of_registry(named, checkpoint, tracking, Path(cache), say)
    from llmforge.run.ledger import find_run

    try:
        run = find_run(text, Path(runs))
    except LookupError as error:
        looks_like_a_folder = "/" in text or text.startswith(".")
        message = f"there is no folder {text}" if looks_like_a_folder else str(error.args[0])
        notes = () if looks_like_a_folder else ("a registered model is named `name@best`",)
        raise refused("LF863", message, notes, hint="llmforge runs") from error
    return _of_run(run, checkpoint, say)


def _made(ref: str | Path, checkpoint: str | int | None, runs: str | Path, weights: str) -> Place:
    """What was made of a run's model; see `run/making/order.py`."""
    from llmforge.refs.plans import run_of
    from llmforge.run.making.labels import fault_of, read_label
    from llmforge.run.making.order import record

    run = run_of(str(ref), str(runs))
    stage = next(stage for stage, folder in FOLDERS.items() if folder == weights)
    command = f"llmforge {stage} --run {run.run_id}"
    if checkpoint is not None:
        raise refused(
            "LF864", f"the {weights} model of run {run.run_id} is one, and has no checkpoints",
            hint=f"{command} --checkpoint {checkpoint}",
        )  # fmt: skip
    found = record(run, stage)
    if found is None:
        raise refused("LF863", f"run {run.run_id} has no {weights} model", hint=command)
    folder = Path(found["target"])
    fault = fault_of(folder, (read_label(folder) or found)["files"])
    if fault is not None:
        raise refused("LF863", f"the {weights} model in {folder} is broken: {fault}", hint=command)
    return Place(folder, f"{run.run_id}, {weights}", run, _plan(run.plan_file))


def base_place(plan: Plan) -> Place:
    """The untrained model that a plan starts from.

    Raises:
        ModelRefused: it has random weights.
    """
    if plan.settings["model"]["kind"] == "scratch":
        raise refused(
            "LF863",
            "a model with random weights has nothing to say before it is trained",
            hint="model=folder model.path=<folder>",
        )
    model = plan.settings["model"]
    trained = plan.base_plan.run_id if plan.base_plan is not None else None
    return Place(None, str(trained or model.get("path") or model.get("id")), plan=plan)


def load_model(
    ref: Outcome | Place | str | Path,
    checkpoint: str | int | None = None,
    *,
    dtype: str | None = None,
    quantization: str | None = None,
    merge: bool = False,
    adapters: Mapping[str, Outcome | Place | str | Path] | None = None,
    device: str | None = None,
    tracking: str | Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """See `llmforge.load`."""
    settings = {"kind": "mlflow", "uri": tracking} if isinstance(tracking, str) else tracking

    def place_of(one: Any, which: str | int | None = None) -> Place:
        if isinstance(one, Place):
            return one
        if isinstance(one, str | Path):
            return find_model(one, which, tracking=settings)
        return find_model(one.folder, which)

    place = place_of(ref, checkpoint)
    more = {name: place_of(one) for name, one in (adapters or {}).items()}
    keywords = _quantized(quantization)
    from llmforge.build.loading import load_place
    from llmforge.build.places import NotLoadable

    try:
        return load_place(place, dtype, keywords, merge, more, device)
    except NotLoadable as error:
        raise refused("LF865", str(error), error.notes, hint=error.hint) from error
    except FileNotFoundError as error:
        raise refused("LF865", " ".join(str(error).split())) from error


def registry_of(tracking: Mapping[str, Any] | None = None) -> Registry:
    """The registry of a `tracking` section; None takes the one that stands in the configuration.

    Raises:
        ModelRefused: nothing is tracked, or MLflow does not answer (LF912).
    """
    from llmforge.run.environment import secret
    from llmforge.track.address import public
    from llmforge.track.versions import Registry

    if tracking is None:
        from llmforge.compiler.generation import ask

        tracking = ask(()).draft.values["tracking"]
    if tracking["kind"] != "mlflow":
        raise refused(
            "LF912", "names and versions stand in MLflow, and nothing is tracked",
            hint="tracking=mlflow",
        )  # fmt: skip
    uri = str(tracking["uri"])
    try:
        return Registry(uri, secret(tracking.get("token")))
    except Exception as error:  # whatever MLflow, its database driver or the network raises
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise refused(
            "LF912",
            f"MLflow at {public(uri)} cannot be asked: {said}",
            hint="tracking.uri=sqlite:///mlflow.db",
        ) from error


def refused(
    code: str, message: str, notes: Sequence[str] = (), hint: str | None = None
) -> ModelRefused:
    """The exception for one finding about a model."""
    return ModelRefused([Diagnostic(code, message, notes=tuple(notes), hint=hint)])


def _of_folder(folder: Path, checkpoint: str | int | None, say: Say | None) -> Place:
    from llmforge.run import sealing
    from llmforge.run.folder import RunFolder
    from llmforge.run.making.labels import read_label

    folder = folder.absolute()
    if (folder / "plan.json").is_file() and (folder / "status.json").is_file():
        return _of_run(RunFolder.open(folder), checkpoint, say)
    if checkpoint is not None:
        raise refused(
            "LF864", f"{folder} is no run folder, so it has no checkpoints to choose from",
            hint="llmforge runs",
        )  # fmt: skip
    if (folder / sealing.MANIFEST).is_file():
        return _of_sealed(folder)
    parent = folder.parent
    if folder.name == "model" and (parent / "plan.json").is_file():
        return _of_run(RunFolder.open(parent), None, say)
    if (label := read_label(folder)) is not None:
        return _labelled(folder, label)
    if any((folder / name).is_file() for name in _WEIGHTS):
        # weights that were fetched from MLflow have their plan beside them
        own = folder / "plan.json"
        return Place(folder, str(folder), plan=_plan(own) if own.is_file() else None)
    inside = sorted(path.name for path in folder.iterdir())[:5]
    notes = [f"it holds {', '.join(inside) or 'nothing'}"]
    raise refused("LF863", f"{folder} holds neither a model nor a run", notes, "llmforge runs")


def _labelled(folder: Path, label: Mapping[str, Any]) -> Place:
    """What llmforge made of a model, wherever it lies now."""
    from llmforge.run.folder import RunFolder
    from llmforge.run.making.labels import fault_of, labelled_plan

    if fault := fault_of(folder, label["files"]):
        raise refused("LF863", f"the {label['stage']} result in {folder} is broken: {fault}")
    run = RunFolder(folder.parent)
    at_home = run.plan_file.is_file() and run.run_id == label.get("run_id")
    plan = _plan(run.plan_file) if at_home else labelled_plan(label)
    return Place(folder, f"{label['run_id']}, {folder.name}", run if at_home else None, plan)


def _of_sealed(folder: Path) -> Place:
    """A checkpoint's own folder."""
    from llmforge.run import checkpoints, sealing
    from llmforge.run.checkpoints import Checkpoint
    from llmforge.run.folder import RunFolder

    try:
        step = int(sealing.facts(folder)["step"])
    except sealing.BrokenSeal as error:
        raise refused("LF864", f"the checkpoint {folder} is broken: {error}") from error
    found = Checkpoint(folder, step)
    if fault := checkpoints.verify(found):
        raise refused("LF864", f"the checkpoint {folder} is broken: {fault}")
    run = RunFolder(folder.parent.parent)
    return _of_checkpoint(found, run if run.plan_file.is_file() else None)


def _of_checkpoint(found: Checkpoint, run: RunFolder | None) -> Place:
    from llmforge.run import checkpoints

    # the plan beside the weights: the run's own may have been written anew since
    plan = _plan(found.path / checkpoints.PLAN)
    return Place(found.path, f"{plan.run_id}, step {found.step}", run, plan, found.step)


def _of_run(run: RunFolder, checkpoint: str | int | None, say: Say | None) -> Place:
    from llmforge.run.choice import NoCheckpoint, choose_checkpoint

    if checkpoint is not None:
        try:
            return _of_checkpoint(choose_checkpoint(run, checkpoint, say), run)
        except NoCheckpoint as error:
            hint = f"--{error.hint.replace('=', ' ')}" if error.hint else None
            raise refused("LF864", str(error), error.notes, hint) from error
    if not run.manifest.is_file():
        steps = [str(one.step) for one in run.checkpoints()]
        notes = [f"there are checkpoints of steps {', '.join(reversed(steps))}"] if steps else []
        raise refused(
            "LF863",
            f"run {run.run_id} is {run.status().value}: it has no final model yet",
            notes,
            "--checkpoint last" if steps else "llmforge runs",
        )
    if fault := _final_fault(run):
        raise refused("LF863", f"the final model of run {run.run_id} is broken: {fault}")
    return Place(run.model, run.run_id, run, _plan(run.plan_file))


def _final_fault(run: RunFolder) -> str | None:
    """What of a final model is missing or cut short, by the sizes of its manifest."""
    files = (run.read_json(run.manifest.name) or {}).get("files", {})
    for name, entry in files.items():
        path = run.model / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != int(entry["bytes"]):
            return f"{name} has {path.stat().st_size:,} bytes, not {int(entry['bytes']):,}"
    return None


def _plan(path: Path) -> Plan:
    try:
        plan = Plan.load(path)
        plan.spec  # noqa: B018 - typed here, so that a plan of another version is refused now
    except (PlanUnreadable, OSError) as error:
        raise refused("LF863", f"{path} cannot be used: {error}") from error
    return plan


def _of_registry(
    named: re.Match[str],
    checkpoint: str | int | None,
    tracking: Mapping[str, Any] | None,
    cache: Path,
    say: Say | None,
) -> Place:
    from llmforge.track.versions import UnknownModel

    name = named["name"] or named["model"]
    selector = named["selector"] or named["version"]
    if checkpoint is not None:
        raise refused(
            "LF864",
            f"`{named[0]}` is one version, and `checkpoint={checkpoint}` would be another",
            hint=f"{name}@{checkpoint}" if str(checkpoint) in ("best", "last") else None,
        )
    registry = registry_of(tracking)
    try:
        version = registry.find(name, selector)
        folder = registry.fetch(version, cache)
    except UnknownModel as error:
        raise refused("LF863", str(error), error.notes, error.hint) from error
    place = _of_folder(folder, None, say)
    return Place(place.folder, version.reference, place.run, place.plan, place.step)


def _quantized(option: str | None) -> dict[str, Any] | None:
    """Settings of an option of the group `quantization`; None for as the model was trained.

    Raises:
        ModelRefused: LF865 for no such option, or one that packs nothing while loading.
    """
    if option is None:
        return None
    from llmforge.compose import compose, options

    known = [one.name for one in options("quantization")]
    values = compose([f"quantization={option}"]).values["quantization"] if option in known else {}
    if values.get("kind") not in ("bitsandbytes", "none"):
        raise refused(
            "LF865", f"`{option}` is no way to pack weights while they are loaded",
            [f"options are {', '.join(name for name in known if name != 'gptq')}"],
        )  # fmt: skip
    return dict(values)
