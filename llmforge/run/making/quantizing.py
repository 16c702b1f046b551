"""Before a model is quantized: which model, on which calibration rows, and is there room?

In: what `llmforge quantize` was asked. Out: the `Order` for the worker, or a refusal within seconds
(LF960-LF973) where the worker would fail after minutes. Of a run that trained an adapter the fused
model is taken. Calibration rows of another source get a plan of their own, beside the record. Heads
of files are read; no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.diagnostics import ConfigRefused, Diagnostic, refuse_on_error
from llmforge.plan import Plan, canonical_digest
from llmforge.run.folder import RunFolder
from llmforge.run.making import order as making
from llmforge.run.making.clearance import check_disk, check_memory, check_target
from llmforge.run.making.headers import BYTES, BadHeader, Header, model_headers, size_in
from llmforge.run.making.order import Order, source_digest
from llmforge.run.making.originals import CONFIG

if TYPE_CHECKING:
    from llmforge.refs.models import Place

_LIBRARIES = 2**30
"""Bytes of a worker with its libraries, before any weight."""
_OVERHEAD = 1.15
"""Scales, zero points and indices beside packed weights, as a factor."""
_MANY_ROWS = 8
"""Rows that are prepared for each calibration sample that is wanted, at most."""


def quantize_order(
    plan: Plan, run: RunFolder, place: Place, step: int, config_dirs: Sequence[str] = ()
) -> Order:
    """The order to quantize the model at a place.

    Args:
        plan: says how.
        run: in whose folder the record is kept.
        place: full weights, or the adapter of a run whose fused model is meant.
        step: optimizer steps behind it.
        config_dirs: the user's own option folders, for calibration rows.

    Raises:
        ConfigRefused: LF960, LF961, LF965, LF968, LF969, LF971-LF973, and what compiling the
            calibration rows finds.
    """
    settings = plan.settings["quantize"]
    if settings["kind"] == "none":
        message = "`quantize.kind` is none: it is not said how the model is to be quantized"
        raise refused(plan, "LF960", message, "quantize.kind", "quantize=gptq")
    source = full_model(place, run, plan)
    headers = _headers(source.folder, plan)
    trained = place.plan is not None
    calibration = settings.get("calibration")
    other = _calibration_plan(plan, source, calibration, config_dirs)
    if calibration is not None and calibration["source"] == "run" and not trained:
        raise refused(
            plan, "LF965",
            f"{place.label} was not trained by llmforge, so there are no rows of its run to "
            "calibrate on",
            "quantize.calibration.source",
            'quantize.calibration.source=data "quantize.calibration.data=[data=jsonl,data.train='
            '<file>]"',
        )  # fmt: skip
    rows = plan.facts["data"].get("rows") or {}
    held = sum(count for side, count in rows.items() if side != "train")
    if settings["max_perplexity_growth"] is not None and trained and not held and other is None:
        raise refused(
            plan, "LF971",
            "the growth of perplexity is bounded, and there are no held-out rows to measure it on",
            "quantize.max_perplexity_growth", "quantize.max_perplexity_growth=null",
        )  # fmt: skip
    assert source.folder is not None  # noqa: S101 - `full_model` gives one that has
    made = making.order(plan, run, "quantize", source.folder, source.label, step)
    used = other or plan
    what = [made.fingerprint, used.stages["prepare"], plan.settings["seed"], trained]
    made = replace(made, fingerprint=canonical_digest(what), trained=trained)
    if other is not None:
        # named by its rows: another order, given meanwhile, has a file of its own
        made = replace(made, rows=f"quantize.rows-{other.stages['prepare'][:10]}.plan.json")
    check_target(Path(made.target), "quantize", "LF969", plan, (source.folder,))
    if making.finished(run, made) is None:
        _check_room(plan, made, headers)
        if other is not None:
            other.save(run.path / made.rows)
    return made


def full_model(place: Place, run: RunFolder, plan: Plan) -> Place:
    """The place itself, or the fused model of the adapter there.

    Raises:
        ConfigRefused: LF972 where that adapter was not merged.
    """
    from llmforge.refs.models import ModelRefused, find_model

    folder = place.folder
    assert folder is not None  # noqa: S101 - what is found has one
    if not (folder / CONFIG).is_file():
        return place
    checkpoint = f" --checkpoint {place.step}" if place.step is not None else ""
    command = f"llmforge fuse --run {run.run_id}{checkpoint}"
    try:
        fused = find_model(run.path, weights="fused")
    except ModelRefused as missing:
        message = f"{place.label} is an adapter, and was not merged into its base yet"
        raise refused(plan, "LF972", message, "lora.kind", command) from missing
    known = making.record(run, "fuse") or {}
    if known.get("source_digest") != source_digest(folder):
        raise refused(
            plan, "LF972",
            f"the fused model of run {run.run_id} was made of {known.get('label')}, and not of "
            f"{place.label}",
            "lora.kind", command,
        )  # fmt: skip
    return fused


def _headers(folder: Path | None, plan: Plan) -> dict[str, Header]:
    """Tensors of the model; refuses one that is packed already, or cannot be read."""
    from llmforge.compiler.facts.quantized import quantized_base

    assert folder is not None  # noqa: S101 - what is found has one
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        headers = model_headers(folder)
    except (OSError, ValueError, BadHeader) as error:
        message = f"the model in {folder} cannot be read: {error}"
        raise refused(plan, "LF961", message, "quantize.kind", None) from error
    if (packed := quantized_base(config)) is not None:
        raise refused(
            plan, "LF961",
            f"the model in {folder} is quantized already ({packed.name})",
            "quantize.kind", None, ("quantize what it was made of",),
        )  # fmt: skip
    return headers


def _calibration_plan(
    plan: Plan, source: Place, settings: dict[str, Any] | None, config_dirs: Sequence[str]
) -> Plan | None:
    """A plan that prepares the rows of `quantize.calibration.data` with the model's tokenizer."""
    if settings is None or settings["source"] != "data" or source.folder is None:
        return None
    from llmforge.compiler.again import measuring
    from llmforge.compiler.passes import freeze

    limit = f"data.max_train_rows={_MANY_ROWS * settings['samples']}"
    given = any(text.lstrip("+~").startswith("data.max_train_rows") for text in settings["data"])
    overrides = [*settings["data"], *([] if given else [limit])]
    checked = measuring(plan, source.folder, overrides, config_dirs)
    # that nothing is held out only matters where it would be measured
    found = [one for one in checked.diagnostics if one.code != "LF228"]
    refuse_on_error(found)
    assert checked.context is not None  # noqa: S101 - no error means every pass ran
    return freeze(checked.context, checked.origins, found, overrides)


def _check_room(plan: Plan, order: Order, headers: dict[str, Header]) -> None:
    settings = plan.settings["quantize"]
    dtype = None if settings["dtype"] == "auto" else str(settings["dtype"])
    if dtype is None and settings["kind"] == "gptq":
        dtype = "bfloat16"
    full = size_in(headers, dtype)
    check_disk(_packed(plan, full, settings["bits"]), Path(order.target), "quantize", "LF968", plan)
    rows = max((one.shape[0] for one in headers.values() if len(one.shape) == 2), default=0)
    widths = [max(one.shape) for one in headers.values() if len(one.shape) == 2]
    hidden = min(widths, default=0)
    logits = settings["compare_tokens"] * rows * BYTES["F32"]
    layer = 3 * max((one.elements for one in headers.values()), default=0) * BYTES["F32"]
    calibration = settings.get("calibration") or {"samples": 0, "length": 0}
    # inputs and outputs of a block, of all samples
    activations = 2 * calibration["samples"] * calibration["length"] * hidden * BYTES["F32"]
    parts = (
        f"weights {full / 2**30:.2f} GiB, the layer at hand {layer / 2**30:.2f} GiB, "
        f"calibration {activations / 2**30:.2f} GiB, kept logits {logits / 2**30:.2f} GiB"
    )
    hardware = plan.settings["hardware"]
    if hardware["device"] == "cuda":
        needed, has = full + layer + activations, int(hardware["memory_gib"] * 2**30)
        if needed > has:
            raise refused(
                plan, "LF973",
                f"about {needed / 2**30:.1f} GiB of the GPU are needed, it has "
                f"{has / 2**30:.1f} GiB",
                "quantize", "hardware=cpu", (parts,),
            )  # fmt: skip
        return
    check_memory(full + layer + activations + logits + _LIBRARIES, parts, "quantize", "LF973", plan)


def _packed(plan: Plan, full: int, bits: int) -> int:
    """Bytes of the result; of an unknown model as many as it has."""
    facts = plan.facts.get("model") or {}
    total, embedding = facts.get("parameters"), facts.get("embedding_parameters")
    if not total or not embedding:
        return full
    left = embedding * (1 if facts.get("tied_embeddings") else 2)
    share = left / total
    return min(full, int(full * share + (total - left) * bits / 8 * _OVERHEAD))


def refused(
    plan: Plan,
    code: str,
    message: str,
    key: str,
    hint: str | None,
    notes: tuple[str, ...] = (),
) -> ConfigRefused:
    """The exception for one finding."""
    origins = plan.origins.chain(key)
    found = Diagnostic(code, message, key=key, origins=origins, notes=notes, hint=hint)
    return ConfigRefused([found])
