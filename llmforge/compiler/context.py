"""What passes and rules see and return.

In: a typed spec and the facts known so far. Out: `Context` (what a pass reads) and `Step` (what
it gives back): derived values with their reasons, new facts, findings. Passes are pure; only
`apply` here changes anything, and it returns a new context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmforge.compiler.facts.arguments import Argument
from llmforge.compiler.facts.data import DataFacts
from llmforge.compiler.facts.families import ModelFacts
from llmforge.compiler.facts.samples import Samples
from llmforge.compiler.facts.space import Space
from llmforge.compiler.facts.tokenizer import TokenizerFacts
from llmforge.compiler.parse import parse_section
from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin, Origins
from llmforge.plan import Plan
from llmforge.schema import RunSpec, Spec
from llmforge.schema.typed import section_spec


@dataclass(frozen=True)
class Facts:
    """What was looked up. None means: not known here, and rules that need it stay silent."""

    model: ModelFacts | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    """The config.json the facts were computed from."""
    tokenizer: TokenizerFacts | None = None
    """Of a tokenizer from a folder of its own; any other is the model's, or made for it."""
    data: DataFacts | None = None
    samples: Samples | None = None
    """Training samples of one epoch: rows, or packs of several."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Digests and revisions of what stands behind paths and names; enters the fingerprints."""
    base: Plan | None = None
    """The plan of the run that trains the model, of `model=trained`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed versions of the packages a run uses; absent ones are left out."""
    arguments: Mapping[str, Argument] | None = None
    """What the installed `TrainingArguments` takes; looked up only for `trainer.extra`."""
    space: Space | None = None
    """Room where runs are kept, of a plan for this machine; it changes by the hour, so no plan
    holds it."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Intervals as they were asked for (`25%`), of those that became steps. They stand for the
    steps in the fingerprints: what the steps are follows from the data, which stand there too."""
    steps_per_epoch: int | None = None
    steps: int | None = None
    """Optimizer steps of the whole run."""

    def has(self, package: str) -> bool:
        """Is the package installed here?"""
        return package in self.versions


@dataclass(frozen=True)
class Derived:
    """One value a pass solved."""

    key: str
    value: Any
    reason: str
    reads: tuple[str, ...] = ()
    probed: bool = False
    """Looked up on the machine or in a file, not computed."""


@dataclass(frozen=True)
class Step:
    """What one pass gives back."""

    values: tuple[Derived, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Facts` to replace."""
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True)
class Surroundings:
    """Where a plan is compiled, for one that holds another plan."""

    config_dirs: tuple[str | Path, ...] = ()
    root: Path | None = None
    within: tuple[tuple[str, ...], ...] = ()
    """Overrides of the runs that this one's model is trained for, the outermost first."""
    base: Plan | None = None
    """The plan of the run that trains the model, as a saved plan has it; None compiles it."""


@dataclass(frozen=True)
class Context:
    """What a pass reads."""

    spec: RunSpec
    facts: Facts
    around: Surroundings = field(default_factory=Surroundings)
    solved: frozenset[str] = frozenset()
    """Keys whose values passes found; the others were given."""

    def apply(self, step: Step, source: str, origins: Origins) -> Context:
        """A new context with the step's values and facts; origins gain one entry per value.

        Raises:
            AssertionError: a pass derived a value its own schema refuses (our bug).
        """
        spec = self.spec
        if step.values:
            spec = _with_values(spec, {item.key: item.value for item in step.values})
            for item in step.values:
                origins.add(
                    item.key,
                    Origin(
                        "probed" if item.probed else "derived",
                        source,
                        item.value,
                        reason=item.reason,
                        reads=item.reads,
                    ),
                )
        facts = replace(self.facts, **step.facts) if step.facts else self.facts
        solved = self.solved.union(item.key for item in step.values)
        return replace(self, spec=spec, facts=facts, solved=solved)


def _with_values(spec: RunSpec, changes: Mapping[str, Any]) -> RunSpec:
    """The spec with these values; only the sections they stand in are typed anew."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, *parents, name = key.split(".")
        here = sections.setdefault(section, getattr(spec, section).settings())
        for part in parents:
            here = here[part]
        here[name] = value
    changed: dict[str, Spec] = {}
    for section, settings in sections.items():
        # a section that changes its kind keeps only the fields its new kind knows
        kind = section_spec(section, settings)
        known = settings if kind is None else {
            k: v for k, v in settings.items() if k in kind.model_fields
        }  # fmt: skip
        found, problems = parse_section(section, known)
        if found is None:
            raise AssertionError(f"a pass derived illegal values: {[d.message for d in problems]}")
        changed[section] = found
    return spec.model_copy(update=changed)
