"""What can go wrong while objects are built or trained, told in the user's terms.

In: an exception out of a library, and the section that was being built. Out: `BuildError`, which
names the section, where its setting came from, and the original type and message. The data's own
faults (`DataChanged`, `DataRefused`), a run gone numerically wrong (`NonFiniteLoss`) and a metric
that no evaluation reports (`MetricMissing`) speak for themselves and are never wrapped.

This module does not classify failures of a run: `run/` does, by type and through `__cause__`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmforge.plan import Plan

if TYPE_CHECKING:
    from llmforge.build.culprits import Culprit


class DataChanged(Exception):
    """A data file is no longer the one the plan was made for."""


class DataRefused(Exception):
    """A row that cannot become a sample; the message names `file:line` and the way out."""


class NonFiniteLoss(RuntimeError):
    """Loss or gradient norm is NaN or infinite; raised before the optimizer step.

    The weights are still those of the last good step.
    """

    def __init__(self, step: int, what: str, culprits: Sequence[Culprit] = ()) -> None:
        super().__init__(
            f"{what} at optimizer step {step}; the step was not taken, so the weights are still "
            f"those of step {step - 1}"
        )
        self.step = step
        """The optimizer step that was about to be taken, counted from 1."""
        self.what = what
        """`loss is nan`, `gradient norm is inf`, ..."""
        self.culprits = tuple(culprits)
        """Micro batches that are to blame, of all processes."""
        self.told: tuple[str, ...] = ()
        """The same for people, with files and lines; see `stages/culprits.py`."""


class MetricMissing(RuntimeError):
    """An evaluation did not report the metric by which the best checkpoint is chosen."""

    def __init__(self, metric: str, reported: Mapping[str, Any]) -> None:
        apart = ("_runtime", "_per_second", "_preparation_time")
        names = ", ".join(name for name in reported if not name.endswith(apart))
        super().__init__(f"the evaluation did not report `{metric}`; it reported {names}")
        self.metric = metric
        """The setting `checkpoint.best`."""


class BuildError(RuntimeError):
    """Building one section failed; the library's own exception is `__cause__`."""

    def __init__(self, section: str, place: str, error: BaseException) -> None:
        where = f" ({place})" if place else ""
        super().__init__(
            f"while building `{section}`{where}: {type(error).__name__}: {error}".rstrip(": ")
        )
        self.section = section
        """The config section: `model`, `lora`, ..."""
        self.place = place
        """Where the choice was made: `conf/lora/small.yaml:4 chosen by lora=small`."""


_SPEAKS_FOR_ITSELF = (BuildError, DataChanged, DataRefused, MetricMissing, NonFiniteLoss)


@contextmanager
def building(section: str, plan: Plan) -> Iterator[None]:
    """Turn whatever a builder raises into a `BuildError` that names the section and its origin.

    Out of memory (`MemoryError`, `torch.OutOfMemoryError`) is wrapped like the rest and stays
    reachable as `__cause__`; `KeyboardInterrupt` and `SystemExit` pass through.
    """
    try:
        yield
    except _SPEAKS_FOR_ITSELF:
        raise
    except Exception as error:
        raise BuildError(section, place_of(section, plan), error) from error


def place_of(section: str, plan: Plan) -> str:
    """Where the section's choice was made, or nothing when the plan does not know."""
    for key in (f"{section}.kind", section):
        chain = plan.origins.chains.get(key)
        if chain:
            break
    else:
        # a section of one shape has no `kind`: its first key tells as well
        below = (c for k, c in sorted(plan.origins.chains.items()) if k.startswith(f"{section}."))
        chain = next(below, None)
    if not chain:
        return ""
    last = chain[-1]
    if last.kind != "file" or not last.reason:
        return last.place
    reason = last.reason if last.reason.startswith("chosen") else f"chosen by {last.reason}"
    return f"{last.place} {reason}"
