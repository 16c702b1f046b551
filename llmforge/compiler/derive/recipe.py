"""How far and how fast weights move when nobody says so: learning rate and length of the run.

In: a spec whose `optimizer.lr` or `trainer.epochs` is `auto`. Out: both, solved by what is trained:
random weights, a pretrained model, or an adapter over one. A rate that is right from scratch ruins
a pretrained model within a few steps, so one default cannot serve both. The numbers stand in
`conf/optimizer` and `conf/trainer`; a rate that somebody wrote stays as it is (`LF235` says when it
looks like one from scratch).
"""

from __future__ import annotations

from llmforge.compiler.context import Context, Derived, Step
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.model import CheckpointModel


def derive_recipe(context: Context) -> Step:
    """Solve `optimizer.lr` and `trainer.epochs` where they are `auto`."""
    spec, found = context.spec, []
    key, why = usual_rate(context)
    if spec.optimizer.lr == "auto" and getattr(spec.optimizer, "relative_step", False):
        why = "`relative_step` sets its own rate"
        found.append(Derived("optimizer.lr", None, why, ("optimizer.relative_step",)))
    elif spec.optimizer.lr == "auto":
        value = getattr(spec.optimizer, key.partition(".")[2])
        found.append(Derived("optimizer.lr", value, why, (key, "model.kind", "lora.kind")))
    if spec.trainer.epochs == "auto":
        found.append(_passes(context))
    return Step(tuple(found))


def usual_rate(context: Context) -> tuple[str, str]:
    """The key of the rate for what is trained here, and why it is that one."""
    if not pretrained(context):
        return "optimizer.lr_scratch", "the weights start from nothing"
    if isinstance(context.spec.lora, NoAdapter):
        return "optimizer.lr_finetune", "all weights of a pretrained model are trained"
    return "optimizer.lr_adapter", "an adapter over pretrained weights is trained"


def pretrained(context: Context) -> bool:
    """Does training start from somebody's weights?"""
    return isinstance(context.spec.model, CheckpointModel)


def _passes(context: Context) -> Derived:
    trainer = context.spec.trainer
    if trainer.max_steps is not None:
        why = "the length is given in steps"
        return Derived("trainer.epochs", None, why, ("trainer.max_steps",))
    name = "epochs_finetune" if pretrained(context) else "epochs_scratch"
    why = (
        "weights that are pretrained" if pretrained(context) else "weights that start from nothing"
    )
    return Derived("trainer.epochs", getattr(trainer, name), why, (f"trainer.{name}", "model.kind"))
