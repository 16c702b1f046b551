"""The plan: what will run. Frozen, JSON, fingerprinted; the only hand-over to the worker.

In: what the compiler produced, or a saved `plan.json`. Out: `Plan` and the fingerprints of its
stages. A plan is self-sufficient: reading one needs no conf folder, no Hydra and no torch.

This module does not decide values; the compiler does. It starts nothing; the runner does, and for
Python users `runnable.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from llmforge import plugins
from llmforge.origins import Origins, leaves
from llmforge.schema import Effect, RunSpec, Spec
from llmforge.schema.typed import typed
from llmforge.stage_order import STAGES, Stage, left_out

PLAN_SCHEMA = 1
"""Version of the plan file's layout; a reader refuses one it does not know."""

CODE_VERSION = 3
"""Bumped by hand when the same settings would give other results (other masks, other kernels):
it enters every fingerprint, so stale prepared data and stale runs are never reused."""

STAGE_EFFECTS: dict[str, tuple[Effect, ...]] = {
    "prepare": (Effect.DATA,),
    "train": (Effect.DATA, Effect.NUMERICS),
    "evaluate": (Effect.DATA, Effect.NUMERICS, Effect.EVALUATION),
    "fuse": (Effect.DATA, Effect.NUMERICS, Effect.FUSE),
    "quantize": (Effect.DATA, Effect.NUMERICS, Effect.FUSE, Effect.QUANTIZE),
}
"""Which effects a stage's result depends on, in the order the stages run."""


class PlanUnreadable(ValueError):
    """A plan file that is not JSON, not a plan, or of another version."""


@dataclass(frozen=True)
class Plan:
    """One compiled run."""

    settings: dict[str, Any]
    """Every section, all values solved; `RunSpec` as nested dicts."""
    facts: dict[str, Any]
    """What was looked up: `model`, `data`, `hardware`, `versions`."""
    lowered: dict[str, Any]
    """Keywords for the libraries: `training_arguments`, `model`, `lora_config`,
    `quantization_config`."""
    estimate: dict[str, Any]
    """What is foretold: optimizer steps, samples, evaluations, checkpoints."""
    origins: Origins
    """Chain of every leaf of the four parts; settings keys stand without a prefix."""
    stages: dict[str, str]
    """Fingerprint of each stage (SHA-256, hex)."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    """Warnings and notes the compiler gave."""
    overrides: list[str] = field(default_factory=list)
    """The command-line overrides it was composed from, for the reader; nothing reads them."""
    llmforge: str = ""
    """Version that compiled it."""
    plan_schema: int = PLAN_SCHEMA
    base: dict[str, Any] | None = None
    """The plan of the run that trains the model, of `model=trained`; left out of the file where
    there is none."""

    @property
    def name(self) -> str:
        return str(self.settings["name"])

    @property
    def settled(self) -> bool:
        """Is its length exact? Packs are counted when the data are prepared; before that the plan
        foretells its steps, and `llmforge train` prepares first."""
        samples = self.facts["data"].get("samples")
        needed = samples is not None and self.settings["trainer"]["max_steps"] is None
        return not needed or bool(samples["exact"])

    @property
    def fingerprint(self) -> str:
        """The run's: that of its training and measuring. What is made of its model later, fused or
        quantized, lies in its folder under fingerprints of its own."""
        return self.stages["evaluate"]

    @property
    def asked_stages(self) -> tuple[Stage, ...]:
        """The stages that the plan asks for, in their order; `llmforge run` does all of them."""
        return tuple(stage for stage in STAGES if self.left_out(stage) is None)

    def left_out(self, stage: Stage) -> str | None:
        """Why the plan does not ask for a stage; None where it does."""
        rows = self.facts["data"].get("rows") or {}
        return left_out(stage, self.settings, bool(rows.get("evaluation")))

    @property
    def run_id(self) -> str:
        """Name of the run's folder: the run's name and ten digits of the fingerprint."""
        return f"{self.name}-{self.fingerprint[:10]}"

    @property
    def run_folder(self) -> Path:
        return Path(self.settings["paths"]["runs"]) / self.run_id

    def weights_folder(self, weights: str = "model") -> Path:
        """Where the run leaves its weights: `model`, as it was trained, or `fused`."""
        folder = self.settings["fuse"]["folder"] if weights == "fused" else None
        return Path(folder) if folder else self.run_folder / weights

    @cached_property
    def base_plan(self) -> Plan | None:
        """The plan of the run that trains the model; None where no other run does.

        Raises:
            PlanUnreadable: it is of another version.
        """
        return Plan.from_dict(self.base) if self.base is not None else None

    @cached_property
    def spec(self) -> RunSpec:
        """The settings, typed.

        Raises:
            PlanUnreadable: they do not fit this version's schema, or a plugin cannot be imported.
        """
        try:
            # a plan that was read from a file may choose what only its plugins know
            plugins.load_or_fail(self.settings.get("plugins", []))
            return typed(self.settings)
        except ImportError as error:
            raise PlanUnreadable(f"a plugin of the plan is not here: {error}") from error
        except ValueError as error:
            raise PlanUnreadable(f"the plan's settings do not fit this version: {error}") from error

    def data_parts(self) -> Iterator[dict[str, Any]]:
        """The data files of the plan: `name`, `file`, `sha256`, `bytes`, `rows`."""
        for source in self.facts["data"]["sources"].values():
            yield from source["train"]
            for parts in source["evaluation"].values():
                yield from parts

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every leaf with the key its origin stands under."""
        yield from leaves(self.settings)
        for part in ("facts", "lowered", "estimate"):
            yield from leaves(getattr(self, part), part)

    def to_dict(self) -> dict[str, Any]:
        apart = ("origins", *(() if self.base is not None else ("base",)))
        out = {f.name: getattr(self, f.name) for f in fields(Plan) if f.name not in apart}
        return {
            "plan_schema": out.pop("plan_schema"),
            "llmforge": out.pop("llmforge"),
            "name": self.name,
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            **out,
            "origins": self.origins.to_dict(),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write the plan; the file appears whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        staged.write_text(self.to_json(), encoding="utf-8")
        staged.replace(target)
        return target

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises `PlanUnreadable` for another layout version or a missing part."""
        version = data.get("plan_schema")
        if version != PLAN_SCHEMA:
            raise PlanUnreadable(
                f"plan_schema is {version!r}; this llmforge reads version {PLAN_SCHEMA}"
            )
        try:
            return cls(
                settings=dict(data["settings"]),
                facts=dict(data["facts"]),
                lowered=dict(data["lowered"]),
                estimate=dict(data["estimate"]),
                origins=Origins.from_dict(data["origins"]),
                stages=dict(data["stages"]),
                findings=list(data.get("findings", [])),
                overrides=list(data.get("overrides", [])),
                llmforge=str(data.get("llmforge", "")),
                base=data.get("base"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanUnreadable(f"not a plan: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises `PlanUnreadable`, or `FileNotFoundError`."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise PlanUnreadable(f"{path} is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise PlanUnreadable(f"{path} is not a plan")
        try:
            return cls.from_dict(data)
        except PlanUnreadable as error:
            raise PlanUnreadable(f"{path}: {error}") from error


def canonical_digest(value: Any) -> str:
    """SHA-256 of canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stage_fingerprints(
    spec: RunSpec, identity: Mapping[str, Any], asked: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Fingerprint of each stage, from the settings that reach it and the content behind paths.

    Args:
        spec: settings with every `auto` solved.
        identity: what stands behind paths and names: digests of data and model files, revisions.
            `data` entries reach every stage, `model` entries reach `prepare` only through the
            tokenizer (key `tokenizer`), `components` only the collator's and the experiment's.
        asked: settings that follow from the number of samples, as they were asked for: `25%` and
            not 120 steps. The number itself follows from the identity and the other settings, and
            may not be known before the samples are prepared.
    """
    found: dict[str, str] = {}
    for stage, effects in STAGE_EFFECTS.items():
        parts = dict(identity) if stage != "prepare" else _of_the_samples(identity)
        chosen = dict(_chosen(spec, effects))
        asked = asked or {}
        settings = {key: asked.get(key, value) for key, value in chosen.items()}
        if stage != "prepare" and spec.checkpoint.best is not None:
            # when the best state is looked for decides which one is found
            for key, value in _deciding(spec):
                settings[key] = asked.get(key, value)
        if stage != "prepare" and spec.data.streaming and spec.trainer.workers > 1:
            # the processes take turns, one batch of all ranks each: how many there are and how
            # much a turn is decides the order of the samples
            turn = (spec.trainer.micro_batch, spec.launch.processes)
            settings |= {"trainer.workers": spec.trainer.workers, "stream.turn": turn}
        if stage != "prepare" and spec.launch.processes != 1 and spec.trainer.group_by_length:
            # since processes share the batches that one would see; before, each sorted its own
            settings["trainer.group_by_length"] = "over all processes"
        found[stage] = canonical_digest(
            {"code": CODE_VERSION, "identity": parts, "settings": settings}
        )
    return found


def _deciding(spec: RunSpec) -> Iterator[tuple[str, Any]]:
    """What decides which state is the best one, beside the data and the weights."""
    yield "evaluation.every", spec.evaluation.every
    yield "checkpoint.every", spec.checkpoint.every
    yield "evaluation.delay", spec.evaluation.delay
    best = str(spec.checkpoint.best).removeprefix("eval_")
    metric = spec.metrics.get(best)
    if metric is not None:
        yield f"metrics.{best}", metric.settings()
    if best == "exact_match" or (metric is not None and type(metric).on == "text"):
        yield "evaluation.exact_match_rows", spec.evaluation.exact_match_rows
        yield "generation.max_new_tokens", spec.generation.max_new_tokens


def _of_the_samples(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of the identity decides the samples: not the model, nor code that never sees a row.

    An experiment gives keywords to collators and data set classes, so its code counts.
    """
    found = {key: value for key, value in identity.items() if key not in ("model", "components")}
    code = identity.get("components", {})
    makers = {place: code[place] for place in ("collator", "hooks") if place in code}
    return {**found, "components": makers} if makers else found


def _chosen(spec: Spec, effects: tuple[Effect, ...], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted key, value)` of the fields whose effect is among `effects`."""
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Spec):
            yield from _chosen(value, effects, f"{prefix}{name}.")
        elif isinstance(value, dict) and any(isinstance(inner, Spec) for inner in value.values()):
            for key, inner in value.items():
                yield from _chosen(inner, effects, f"{prefix}{name}.{key}.")
        elif name in type(spec).by_name:
            for key, inner in value.items():
                if type(spec).effect_within(name, key) in effects:
                    yield f"{prefix}{name}.{key}", inner
        elif type(spec).effect_of(name) in effects:
            yield f"{prefix}{name}", value
