"""LF330-LF333: kernels of the loss where they cannot run, and smoothing that loses a part of it."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.kernels import (
    dropped_term,
    lean_obstacle,
    liger_obstacle,
    shards_head,
)
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema.train import LmTrainer

_KEY = "trainer.loss_kernel"
_AUTO = f"{_KEY}=auto"


def _kernel(context: Context) -> str | None:
    trainer = context.spec.trainer
    return trainer.loss_kernel if isinstance(trainer, LmTrainer) else None


@rule("LF330", "loss by chunks for a model nobody has tried")
def unknown_way_to_the_loss(context: Context) -> Iterator[Diagnostic]:
    """A loss without whole logits stands in for the model's own, so it must know all that happens
    between the output head and the loss: a soft cap (Gemma), a scale (Granite, Cohere).

    Families for which loss and gradients were seen to be the model's own are accepted; others
    train with `trainer.loss_kernel=full`. A model whose config.json is not here is a warning, and
    the run refuses it before its first step.
    """
    if _kernel(context) not in ("chunked", "liger") or shards_head(context):
        return
    obstacle = lean_obstacle(context)
    if obstacle is not None:
        known = "model_type" in context.facts.model_config
        yield Diagnostic(
            "LF330",
            f"loss kernel `{_kernel(context)}` for a model it was not tried with",
            severity=Severity.ERROR if known else Severity.WARNING,
            key=_KEY,
            notes=(obstacle,),
            hint=_AUTO,
        )


@rule("LF331", "loss by chunks over a sharded output head")
def sharded_head(context: Context) -> Iterator[Diagnostic]:
    """FSDP and ZeRO stage 3 put a layer's weights together while that layer runs, and take them
    apart again. A loss by chunks uses the output head later, chunk by chunk, when only a piece of
    it is there.
    """
    if _kernel(context) in ("chunked", "liger") and shards_head(context):
        yield Diagnostic(
            "LF331",
            f"loss kernel `{_kernel(context)}` with an output head that is held in pieces",
            key=_KEY,
            notes=(str(lean_obstacle(context)),),
            hint=_AUTO,
        )


@rule("LF332", "Liger's loss where it cannot run")
def liger_cannot_run(context: Context) -> Iterator[Diagnostic]:
    """Liger's fused kernel is written for CUDA devices and for an output head that is one plain
    matrix, and it computes gradients in the forward pass, before float16's loss scaling.

    `chunked` needs about as little memory, and has none of these limits.
    """
    if _kernel(context) != "liger" or lean_obstacle(context) is not None:
        return
    obstacle = liger_obstacle(context)
    if obstacle is not None:
        yield Diagnostic(
            "LF332",
            "loss kernel `liger` cannot compute this run's loss",
            key=_KEY,
            notes=(obstacle,),
            hint=f"{_KEY}=chunked",
        )


@rule("LF333", "label smoothing that drops a part of the loss")
def smoothing_drops_a_term(context: Context) -> Iterator[Diagnostic]:
    """Over whole logits, label smoothing is computed outside the model, from its logits alone.

    What a model of experts adds to its loss, so that all of them are used, or AdaLoRA, so that its
    matrices stay orthogonal, is then left out without a word. By chunks the smoothed loss is the
    model's own, and the term stays.
    """
    term = dropped_term(context)
    if term is None or _kernel(context) != "full":
        return
    yield Diagnostic(
        "LF333",
        f"label smoothing over whole logits leaves out {term}",
        key="trainer.label_smoothing",
        hint="trainer.label_smoothing=0.0" if lean_obstacle(context) else f"{_KEY}=chunked",
    )
