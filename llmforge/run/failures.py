"""What an exception means: from what a worker raised to a diagnostic.

In: an exception and the plan. Out: `Diagnostic` of family LF8, with the key and the origins of the
setting to change where one is to blame. The full traceback stands in the log; here is its last
line and what to do.

Exceptions are told by the names of their classes, so that no library is imported for it.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from llmforge.diagnostics import Diagnostic
from llmforge.plan import Plan
from llmforge.render import size_text
from llmforge.run.environment import scrub

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def diagnose(error: BaseException, plan: Plan) -> Diagnostic:
    """The diagnostic of a failed run."""
    causes = list(_chain(error))
    names = {cls.__name__: cause for cause in causes for cls in type(cause).__mro__}
    if any(_is_memory(cause) for cause in causes):
        return _out_of_memory(error, plan)
    for name, tell in _TOLD.items():
        if name in names:
            return tell(names[name], plan)
    if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in causes):
        return Diagnostic(
            "LF801",
            f"the disk is full: {_line(error, plan)}",
            key="paths.runs",
            origins=plan.origins.chain("paths.runs"),
            notes=("free some space, then the same command goes on",),
            hint="checkpoint.keep=1",
        )
    return Diagnostic("LF801", f"{type(error).__name__}: {_line(error, plan)}")


def leaves_process_sound(error: BaseException) -> bool:
    """May the process that raised it run something else?

    Only after faults that are looked for, or of plain Python: after any other, and after running
    out of memory, a device or a library may be in a state that nobody knows.
    """
    return all(type(cause).__name__ in _SOUND for cause in _chain(error))


_SOUND = frozenset(
    (
        *("NonFiniteLoss", "PackingLeak", "MetricMissing", "NoSuchTask", "DataChanged"),
        *("DataRefused", "ResumeRefused", "NoRoom", "BuildError"),
        *("ValueError", "TypeError", "KeyError", "FileNotFoundError"),
    )
)
"""Classes of such faults."""


def _packing_leak(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF811", error, plan, "collator.packing", "collator.packing=none")


def _metric_missing(error: BaseException, plan: Plan) -> Diagnostic:
    found = _about("LF840", error, plan, "checkpoint.best", "checkpoint.best=eval_loss")
    note = "metrics on answers need held-out rows with a question and a whole reference answer"
    return replace(found, notes=(note,))


def _no_task(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF841", error, plan, None)


def _data_changed(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF806", error, plan, "data.train", "llmforge plan ...")


def _hook_failed(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF831", error, plan, "hooks")


def _data_refused(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF805", error, plan, "data")


def _not_built(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF805", error, plan, str(getattr(error, "section", "")) or None)


def _resume_refused(error: BaseException, plan: Plan) -> Diagnostic:
    key = getattr(error, "key", None)
    found = _about("LF821", error, plan, key, "checkpoint.resume=false")
    return replace(found, notes=tuple(getattr(error, "notes", ())))


def _nodes_differ(error: BaseException, plan: Plan) -> Diagnostic:
    found = _about("LF463", error, plan, "launch", "llmforge doctor --launch ...")
    return replace(found, notes=tuple(getattr(error, "notes", ())))


def _never_met(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF464", error, plan, "launch", "llmforge doctor --launch ...")


def _not_shared(error: BaseException, plan: Plan) -> Diagnostic:
    found = _about("LF466", error, plan, "paths.runs", "paths.runs=<a folder that nodes share>")
    if plan.settings["launch"]["kind"] == "ray":
        found = replace(found, notes=("or `launch.storage`, which Ray brings it to and from",))
    return found


def _no_room(error: BaseException, plan: Plan) -> Diagnostic:
    hint = "checkpoint.keep=1" if plan.settings["checkpoint"]["keep"] > 1 else None
    return _about("LF820", error, plan, "paths.runs", hint)


def _not_saved(error: BaseException, plan: Plan) -> Diagnostic:
    found = replace(_about("LF822", error, plan, "paths.runs"), notes=(*_free(plan), *_wants(plan)))
    full = any(
        getattr(cause, "errno", None) == errno.ENOSPC or "No space left" in str(cause)
        for cause in _chain(error)
    )
    if full and plan.settings["checkpoint"]["keep"] > 1:
        return replace(found, hint="checkpoint.keep=1")
    return found


def _proof_failed(error: BaseException, plan: Plan) -> Diagnostic:
    found = _about("LF950", error, plan, "fuse", getattr(error, "hint", None))
    return replace(found, notes=tuple(getattr(error, "notes", ())))


def _not_fusable(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF951", error, plan, "fuse")


def _not_finite_merged(error: BaseException, plan: Plan) -> Diagnostic:
    return _about("LF951", error, plan, "fuse.dtype", "fuse.dtype=bfloat16")


def _as_it_says(error: BaseException, plan: Plan) -> Diagnostic:
    code, key = str(getattr(error, "code", "LF801")), getattr(error, "key", None)
    found = _about(code, error, plan, key, getattr(error, "hint", None))
    return replace(found, notes=tuple(getattr(error, "notes", ())))


def _free(plan: Plan) -> tuple[str, ...]:
    """What the file system of the run folder has to say: libraries drop the cause of a failure."""
    try:
        free = shutil.disk_usage(plan.run_folder).free
    except OSError as error:
        return (f"the run folder cannot be looked at: {error}",)
    return (f"{size_text(free)} are free on the file system of the run folder",)


def _wants(plan: Plan) -> tuple[str, ...]:
    """Room for one more checkpoint, where its size is foretold."""
    size = (plan.estimate.get("disk") or {}).get("checkpoint_bytes")
    if not size:
        return ()
    return (f"a checkpoint takes about {size_text(int(size))}; the ones before it are whole",)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and what caused it, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _MEMORY)


def _out_of_memory(error: BaseException, plan: Plan) -> Diagnostic:
    trainer = plan.settings["trainer"]
    micro, accumulation = trainer["micro_batch"], trainer["accumulation"]
    if isinstance(micro, int) and micro > 1 and micro % 2 == 0:
        hint = f"trainer.micro_batch={micro // 2} trainer.accumulation={accumulation * 2}"
        key = "trainer.micro_batch"
    elif not trainer["gradient_checkpointing"]:
        hint, key = "trainer.gradient_checkpointing=true", "trainer.gradient_checkpointing"
    else:
        length = plan.settings["collator"]["max_length"]
        hint, key = f"collator.max_length={max(8, int(length) // 2)}", "collator.max_length"
    return Diagnostic(
        "LF803",
        f"out of memory: {_line(error, plan)}",
        key=key,
        origins=plan.origins.chain(key),
        hint=hint,
    )


def _not_finite(error: BaseException, plan: Plan) -> Diagnostic:
    rate = plan.settings["optimizer"]["lr"]
    return Diagnostic(
        "LF802",
        _line(error, plan),
        key="optimizer.lr",
        origins=plan.origins.chain("optimizer.lr"),
        notes=(
            *getattr(error, "told", ()),
            "usual causes: too high a rate, float16 overflow, a sample without labels",
        ),
        hint=f"optimizer.lr={rate / 10:g}" if rate else None,
    )


def _about(
    code: str, error: BaseException, plan: Plan, key: str | None, hint: str | None = None
) -> Diagnostic:
    origins: Any = plan.origins.chain(f"{key}.kind") or plan.origins.chain(key) if key else ()
    return Diagnostic(code, _line(error, plan), key=key, origins=origins, hint=hint)


def _line(error: BaseException, plan: Plan, limit: int = 600) -> str:
    """The message in one line, without secrets."""
    text = " ".join(scrub(str(error), plan).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


_TOLD: dict[str, Callable[[BaseException, Plan], Diagnostic]] = {
    "HookFailed": _hook_failed,
    "NonFiniteLoss": _not_finite,
    "PackingLeak": _packing_leak,
    "MetricMissing": _metric_missing,
    "NoSuchTask": _no_task,
    "DataChanged": _data_changed,
    "DataRefused": _data_refused,
    "ResumeRefused": _resume_refused,
    "NoRoom": _no_room,
    "NodesDiffer": _nodes_differ,
    "NeverMet": _never_met,
    "FolderNotShared": _not_shared,
    "SaveFailed": _not_saved,
    "BuildError": _not_built,
    "ProofFailed": _proof_failed,
    "NotFinite": _not_finite_merged,
    "NotFusable": _not_fusable,
    "NotQuantized": _as_it_says,
    "PlaceBusy": _as_it_says,
}
"""What is told of an exception, by the name of its class; the first that is found counts."""
