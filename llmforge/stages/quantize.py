"""Quantize: a full model with fewer bits, measured before and after, and only then put in place.

In: a plan, the run, the order (source, target). Out: the quantized folder with its model card and
label, and the figures for the record. Everything is made in a folder beside the target, which is
renamed when it was read back, measured and found within the bound: whatever fails or is killed
before that leaves what was in the target as it was.

How weights are rounded is the business of `build/quantizing/`.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge import registry
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.making.holding import workplace
from llmforge.run.making.labels import write_label
from llmforge.run.making.order import Order
from llmforge.run.terminal import Screen
from llmforge.schema.quantize import CalibrationSpec, QuantizeGptq

if TYPE_CHECKING:
    from llmforge.build.quantizing.figures import Measured, Rows
    from llmforge.build.quantizing.work import Work, Written

_LONGEST = 256
"""Tokens of a stored text that are measured."""


def quantize(plan: Plan, run: RunFolder, order: Order, screen: Screen) -> dict[str, Any]:
    """Measure, round, read back, measure, seal.

    Args:
        plan: settings of the section `quantize`.
        run: whose model it is; only its plan and journal are read.
        order: folders of source and target.
        screen: told what is being done.

    Returns:
        Perplexity before and after, agreement of logits, sizes, speed, seconds, peak memory, errors
        of layers, and `summary`, for the record.

    Raises:
        NotQuantized: the model or its calibration does not allow it, or perplexity grew by more
            than `quantize.max_perplexity_growth`; nothing was kept.
        PlaceBusy: another process makes something in the same place.
    """
    from llmforge.build.load import flush_tree, swap
    from llmforge.build.quantizing.work import Work, free_memory, open_result, tokenizer_of
    from llmforge.run.making.quantized_card import write_quantized_card

    begun = time.monotonic()
    source, target = Path(order.source), Path(order.target)
    with workplace(target, "quantize.folder") as place:
        work = Work(plan, source, place / target.name, tokenizer_of(source), say=screen.say)
        other = Plan.load(run.path / order.rows) if order.rows else None
        rows = _rows(work, order, other)
        if isinstance(work.spec, QuantizeGptq):
            work.samples = calibration_samples(work, work.spec.calibration, other, order.trained)
        screen.say(f"measuring {order.label} on {rows.what}")
        before = _measured(source, work, rows)
        free_memory()
        rounded, seconds, peak = _rounded(work, screen)
        free_memory()
        screen.say("measuring what was written")
        after = _measured_of(open_result(work.staged, plan), work, rows)
        figures = _figures(work, before, after, rounded) | {
            "measured_on": rows.what,
            "quantizing_seconds": seconds,
            "peak_memory_bytes": peak,
            "seconds": round(time.monotonic() - begun, 3),
        }
        _within_bound(work, figures)
        figures["summary"] = _summary(figures)
        write_quantized_card(plan, run, order, figures, work.staged)
        write_label(work.staged, plan, order, run.run_id, figures)
        flush_tree(work.staged)
        swap(work.staged, target)
        return figures


def calibration_samples(
    work: Work, asked: CalibrationSpec, other: Plan | None, trained: bool
) -> list[list[int]]:
    """Token ids of the calibration samples: of the run's own training, of other rows, or of texts.

    Args:
        work: the plan and the model's tokenizer.
        asked: which.
        other: what other rows are prepared by, for `source=data`.
        trained: is the plan the one that the model was trained by?
    """
    from llmforge.build.quantizing.calibration import calibration
    from llmforge.stages.prepare import prepare

    plan = other if asked.source == "data" and other is not None else work.plan
    rows = None if asked.source == "texts" else prepare(plan).train
    seed = work.plan.spec.seed
    return calibration(asked, rows, seed, work.tokenizer, work.source, trained)


def _rows(work: Work, order: Order, other: Plan | None) -> Rows:
    """What is measured on: held-out rows of the run, else of the calibration data, else texts."""
    from llmforge.build.collate import Collator
    from llmforge.build.quantizing.calibration import context_of
    from llmforge.build.quantizing.figures import Rows, chosen, labelled
    from llmforge.stages.prepare import prepare

    spec, plan = work.spec, work.plan
    collator = Collator(pad_id=work.tokenizer.pad_token_id or 0)
    batch = int(plan.spec.evaluation.micro_batch)
    named = (
        (plan if order.trained else None, "held-out rows of the run"),
        (other, "held-out rows of the calibration data"),
    )
    for one, what in named:
        held = prepare(one).evaluation if one is not None else None
        if held is not None and len(held):
            samples = chosen(held, spec.evaluation_rows, plan.spec.seed)
            return Rows(samples, collator, batch, f"{len(samples):,} {what}")
    from llmforge.build.fusing.parity_look import stored_probes

    longest = min(_LONGEST, context_of(work.source) or _LONGEST)
    samples = labelled([probe.ids(work.tokenizer, longest) for probe in stored_probes()])
    return Rows(samples, collator, batch, f"{len(samples):,} stored texts")


def _measured(folder: Path, work: Work, rows: Rows) -> Measured:
    from llmforge.build.load import load_weights
    from llmforge.build.quantizing.work import device_of, dtype_for

    # in the format of what will not be packed: that change is not the rounding's
    dtype = dtype_for(work.spec, folder)
    return _measured_of(
        load_weights(folder, dtype, device_map={"": device_of(work.plan)}), work, rows
    )


def _measured_of(model: Any, work: Work, rows: Rows) -> Measured:
    from llmforge.build.quantizing.figures import measure

    return measure(model, rows, work.spec.compare_tokens, work.spec.speed_tokens)


def _rounded(work: Work, screen: Screen) -> tuple[Written, float, int]:
    """What was packed, in how many seconds, and the peak of memory meanwhile in bytes: of the GPU
    where there is one, else of this process since it was started."""
    import torch

    spec = work.spec
    screen.say(
        f"quantizing by {spec.kind}"
        + (f" on {len(work.samples):,} samples" if work.samples else "")
    )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    written: Written = registry.component("quantize", spec.kind).load_builder()(work)
    seconds = round(time.monotonic() - began, 3)
    if cuda:
        return written, seconds, int(torch.cuda.max_memory_allocated())
    return written, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _figures(work: Work, before: Measured, after: Measured, rounded: Written) -> dict[str, Any]:
    from llmforge.build.quantizing.figures import compare, size_on_disk, worst_layers

    figures = compare(before, after)
    was, now = size_on_disk(work.source), size_on_disk(work.staged)
    figures |= {"bytes_before": was, "bytes_after": now, "size_ratio": now / was}
    figures |= {"layers": rounded.modules, "weights": rounded.weights}
    if work.samples:
        tokens = sum(map(len, work.samples))
        figures["calibration"] = {"samples": len(work.samples), "tokens": tokens}
    if rounded.errors:
        values = list(rounded.errors.values())
        worst = worst_layers(rounded.errors)
        mean = sum(values) / len(values)
        figures["layer_errors"] = {"mean": mean, "max": max(values), "worst": worst}
    if rounded.fell_back:
        figures["not_calibrated"] = list(rounded.fell_back)
    return figures


def _within_bound(work: Work, figures: dict[str, Any]) -> None:
    """Raises `NotQuantized` (LF970) where perplexity grew too much, or is no number."""
    from llmforge.build.quantizing.work import NotQuantized

    bound, growth = work.spec.max_perplexity_growth, figures["perplexity_growth"]
    if bound is None or growth <= bound:
        return
    before, after = figures["perplexity_before"], figures["perplexity_after"]
    raise NotQuantized(
        "LF970",
        f"perplexity grew from {before:.4g} to {after:.4g}, by {growth:.1%}; {bound:.1%} is let "
        "pass",
        "quantize.max_perplexity_growth",
        "quantize=gptq_8bit" if work.spec.kind == "gptq" else "quantize=int8",
        ("nothing of it was kept",),
    )


def _summary(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"{figures['bytes_before'] / 2**20:,.1f} MiB -> {figures['bytes_after'] / 2**20:,.1f} MiB, "
        f"{figures['layers']:,} layers in {figures['quantizing_seconds']:.1f} s",
        f"perplexity {figures['perplexity_before']:.4g} -> {figures['perplexity_after']:.4g} on "
        f"{figures['measured_on']}",
    ]
    if "mean_kl" in figures:
        lines.append(
            f"logits: mean KL {figures['mean_kl']:.3g} nats, the same likeliest token at "
            f"{figures['agreement']:.1%} of {figures['tokens_compared']:,} positions"
        )
    if "tokens_per_second_after" in figures:
        lines.append(
            f"greedy generation {figures['tokens_per_second_before']:,.1f} -> "
            f"{figures['tokens_per_second_after']:,.1f} tokens/s on this machine"
        )
    return lines
