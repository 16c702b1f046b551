"""LF240-LF248: preference tuning where its data, loss, reference or surroundings do not fit.

In: a solved context. Out: findings. What a row of pairs must hold is told when the data are read
(`sources/pairs.py`); that it fits the device is LF209's affair.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.facts.targets import hit_modules
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema.adapter import Ia3, Lora, NoAdapter, TargetedAdapter, Vera
from llmforge.schema.collate import PreferenceCollator
from llmforge.schema.data import MixData
from llmforge.schema.distributed import Fsdp2, Zero
from llmforge.schema.model import ScratchModel
from llmforge.schema.preference import SMOOTHED, DpoSpec


@rule("LF240", "preference tuning without TRL")
def trl_missing(context: Context) -> Iterator[Diagnostic]:
    """Preference tuning stands on the package trl, which comes with the extra `preference`."""
    if isinstance(context.spec.trainer, DpoSpec) and not context.facts.has("trl"):
        fields = getattr(context.spec.data, "fields", None)
        better = f" data.fields.completion={fields.chosen}" if fields else ""
        yield Diagnostic(
            "LF240",
            "trl is needed but not installed",
            key="trainer.kind",
            notes=(
                "install it: pip install 'llmforge[preference]'",
                "without it, the better answers alone can be learnt",
            ),
            hint=f"trainer=default{better}",
        )


@rule("LF241", "trainer and data of different objectives")
def pairs_and_trainer(context: Context) -> Iterator[Diagnostic]:
    """A preference trainer learns from two answers to one prompt, any other from one text.

    Rows with `chosen` and `rejected` are pairs (`collator=preference`); other columns are named
    with `data.fields.chosen` and `data.fields.rejected`. A row that has other columns too is taken
    as pairs with `data.shape=preference`. To fine-tune on the better answers alone, name their
    column: `data.fields.completion=chosen data.shape=prompt_completion`.
    """
    spec, facts = context.spec, context.facts.data
    pairs = isinstance(spec.collator, PreferenceCollator)
    if isinstance(spec.trainer, DpoSpec) and not pairs and facts is not None:
        several = isinstance(spec.data, MixData) or not hasattr(spec.data, "fields")
        yield Diagnostic(
            "LF241",
            f"trainer `dpo` learns from pairs of answers; the rows are of shape `{facts.shape}`",
            key="trainer.kind",
            notes=("a pair has the columns of data.fields.chosen and data.fields.rejected",),
            hint="trainer=default" if several else "data.shape=preference collator=auto",
        )
    elif pairs and not isinstance(spec.trainer, DpoSpec):
        yield Diagnostic(
            "LF241",
            f"pairs of answers for trainer `{spec.trainer.kind}`, which learns from one",
            key="trainer.kind",
            hint="trainer=dpo",
        )


@rule("LF242", "setting that pairs cannot have")
def not_for_pairs(context: Context) -> Iterator[Diagnostic]:
    """Two answers are compared, prompt and all: they cannot be packed with others, cut into
    several samples, or made while training from a stream.

    An answer that is too long loses its end (`right`), its beginning (`left`), or the pair is left
    out (`drop`).
    """
    spec = context.spec
    if not isinstance(spec.collator, PreferenceCollator):
        return
    if spec.collator.packing != "none":
        yield Diagnostic(
            "LF242",
            "pairs of answers packed into one row",
            key="collator.packing",
            hint="collator.packing=none",
        )
    if spec.collator.truncation == "split":
        yield Diagnostic(
            "LF242",
            "pairs of answers split into several samples",
            key="collator.truncation",
            hint="collator.truncation=right",
        )
    if spec.data.streaming:
        yield Diagnostic(
            "LF242",
            "pairs of answers from a stream",
            key="data.streaming",
            hint="data.streaming=false",
        )


@rule("LF243", "noise or compiling between policy and reference")
def between_policy_and_reference(context: Context) -> Iterator[Diagnostic]:
    """NEFTune's noise on the embeddings is drawn anew for each pass, so policy and reference would
    differ before anything is learnt. `torch.compile` takes the place of the model's own call, which
    gives log-probabilities instead of logits here.
    """
    trainer = context.spec.trainer
    if not isinstance(trainer, DpoSpec):
        return
    if trainer.neftune_alpha is not None:
        yield Diagnostic(
            "LF243",
            f"NEFTune noise of {trainer.neftune_alpha:g} where log-probabilities are compared",
            key="trainer.neftune_alpha",
            hint="trainer.neftune_alpha=null",
        )
    if trainer.compile:
        yield Diagnostic(
            "LF243",
            "preference tuning of a compiled model, which nobody has tried",
            key="trainer.compile",
            hint="trainer.compile=false",
        )


@rule("LF244", "label smoothing that the loss has no use for")
def smoothing_of_pairs(context: Context) -> Iterator[Diagnostic]:
    """Label smoothing takes a share of the pairs to be the wrong way round. `robust` corrects for
    that share, `exo_pair` needs one above 0; TRL's other losses leave it out without a word.
    """
    trainer = context.spec.trainer
    if not isinstance(trainer, DpoSpec):
        return
    share = trainer.label_smoothing
    if share and trainer.loss not in SMOOTHED:
        yield Diagnostic(
            "LF244",
            f"label smoothing of {share:g} under loss `{trainer.loss}`, which leaves it out",
            key="trainer.label_smoothing",
            notes=("trainer.loss=robust expects that share of flipped pairs",),
            hint="trainer.label_smoothing=0.0",
        )
    elif not share and trainer.loss == "exo_pair":
        yield Diagnostic(
            "LF244",
            "loss `exo_pair` takes the logarithm of a label smoothing of 0",
            key="trainer.label_smoothing",
            hint="trainer.label_smoothing=0.001",
        )


@rule("LF245", "reference that the adapter does not give")
def adapter_without_reference(context: Context) -> Iterator[Diagnostic]:
    """The reference is the model before training. Without its adapter the model is that, if the
    adapter began as no change.

    PiSSA, OLoRA and LoftQ change the base when they begin, virtual tokens say something from the
    first step on, and AdaLoRA adds a term to its loss that pairs do not have. An adapter on the
    output head is passed over by log-probabilities in chunks. A `copy` of a whole model is for
    training all weights; there is nothing to switch off then.
    """
    spec, trainer = context.spec, context.spec.trainer
    if not isinstance(trainer, DpoSpec):
        return
    if isinstance(spec.lora, NoAdapter):
        if trainer.reference == "adapter_off":
            yield Diagnostic(
                "LF245",
                "the reference is to be the model without its adapter, and there is none",
                key="trainer.reference",
                hint="trainer.reference=auto",
            )
        return
    if trainer.reference == "copy":
        yield Diagnostic(
            "LF245",
            "a second model as reference, where the adapter switched off is the same for nothing",
            key="trainer.reference",
            hint="trainer.reference=auto",
        )
    kept = isinstance(spec.lora, Lora) and spec.lora.init in ("pissa", "olora", "loftq")
    if kept or not isinstance(spec.lora, Lora | Vera | Ia3):
        name = getattr(spec.lora, "init", None) if kept else spec.lora.kind
        yield Diagnostic(
            "LF245",
            f"adapter `{name}` switched off is not the model that training began with",
            key="lora.init" if kept else "lora.kind",
            hint="lora.init=default" if kept else "lora=medium",
        )
    model = context.facts.model
    if model is not None and isinstance(spec.lora, TargetedAdapter):
        heads = [m.name for m in hit_modules(model, spec.lora) if m.role == "head"]
        if heads:
            yield Diagnostic(
                "LF245",
                f"an adapter on the output head `{heads[0]}`, which would never be trained",
                key="lora.targets",
                hint="lora.targets=all-linear",
            )


@rule("LF246", "metric on logits of pairs")
def logits_of_pairs(context: Context) -> Iterator[Diagnostic]:
    """An evaluation of pairs computes log-probabilities in chunks and never holds logits.

    Metrics on text are measured on the better answers.
    """
    if not isinstance(context.spec.trainer, DpoSpec):
        return
    for name, metric in context.spec.metrics.items():
        if type(metric).on == "logits":
            yield Diagnostic(
                "LF246",
                f"metric `{name}` looks at logits, which an evaluation of pairs does not have",
                key=f"metrics.{name}.kind",
                hint="metrics={}",
            )


@rule("LF247", "preferences before anything was learnt")
def preferences_from_scratch(context: Context) -> Iterator[Diagnostic]:
    """Preference tuning moves a model between answers that it could give; random weights give
    none. Train on answers first, then start from that run's folder.
    """
    if isinstance(context.spec.trainer, DpoSpec) and isinstance(context.spec.model, ScratchModel):
        yield Diagnostic(
            "LF247",
            "preference tuning of random weights",
            Severity.WARNING,
            key="model.kind",
            hint="model=folder model.path=<folder>",
        )


@rule("LF248", "preference tuning where it was not tried")
def surroundings(context: Context) -> Iterator[Diagnostic]:
    """Dropout would make policy and reference differ by noise, so `trainer.disable_dropout`
    switches it off in the adapter too, whatever `lora.dropout` says. Engines that shard weights
    shard the reference as well; TRL provides for it, and no run here has tried it. Warnings.
    """
    spec = context.spec
    if not isinstance(spec.trainer, DpoSpec):
        return
    dropout = getattr(spec.lora, "dropout", 0.0)
    if spec.trainer.disable_dropout and dropout:
        yield Diagnostic(
            "LF248",
            f"the adapter's dropout of {dropout:g} is switched off",
            Severity.WARNING,
            key="lora.dropout",
            hint="lora.dropout=0.0",
        )
    for section in (spec.deepspeed, spec.fsdp):
        if isinstance(section, Zero | Fsdp2):
            name = "deepspeed" if isinstance(section, Zero) else "fsdp"
            yield Diagnostic(
                "LF248",
                f"preference tuning under `{name}`, which nobody has tried here",
                Severity.WARNING,
                key=f"{name}.kind",
                hint=f"{name}=none",
            )
