"""LF205, LF220-LF223: the metric that counts, early stopping, the first evaluation, answers.

The metric that counts is `checkpoint.best`: it picks the final model, and early stopping looks at
it. `reported` is the one list of what an evaluation during training reports.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity, did_you_mean, near
from llmforge.schema.extension import MetricSpec

EXACT_MATCH = "exact_match"

_BETTER: dict[str, str | None] = {
    "loss": "minimize",
    "perplexity": "minimize",
    "rewards_accuracy": "maximize",
    "rewards_margin": "maximize",
}
"""Which direction is the better one of what trainers report; where none is, only the user knows."""

_COUNTS = ("tokens", "pairs")
"""What says how much was measured, and not how well."""


def reported(context: Context) -> dict[str, str | None]:
    """Metrics that an evaluation during training reports -> which direction is better; None where
    only the user can know."""
    spec = context.spec
    found = {name: _BETTER.get(name) for name in spec.trainer.METRICS if name not in _COUNTS}
    found |= {name: metric.better for name, metric in spec.metrics.items() if metric.on == "logits"}
    sets = list(context.facts.data.sets) if context.facts.data else []
    prefixes = ["eval", *(f"eval_{name}" for name in sets if len(sets) > 1)]
    names = {f"{prefix}_{kind}": way for prefix in prefixes for kind, way in found.items()}
    if spec.evaluation.answers == "always" and spec.evaluation.exact_match_rows:
        names |= _on_answers(context)
    return names


def measured(context: Context) -> dict[str, str | None]:
    """As `reported`, with what is measured at the end of the run only."""
    asked = _on_answers(context) if context.spec.evaluation.exact_match_rows else {}
    return reported(context) | asked


def _on_answers(context: Context) -> dict[str, str | None]:
    """Metrics that are measured on answers, whether or not any are asked."""
    return {EXACT_MATCH: "maximize"} | {
        f"eval_{name}": metric.better for name, metric in _text_metrics(context)
    }


def _text_metrics(context: Context) -> list[tuple[str, MetricSpec]]:
    return [(name, one) for name, one in context.spec.metrics.items() if one.on == "text"]


@rule("LF205", "best checkpoint without evaluation")
def best_without_evaluation(context: Context) -> Iterator[Diagnostic]:
    """The best checkpoint is chosen by a metric of the evaluations during training.

    That needs evaluation during training, saves that fall on evaluations, and a metric that they
    report: `eval_loss`, `eval_perplexity`, `eval_<name>` of each metric on logits in `metrics`, of
    several evaluation sets `eval_<set>_loss` and so on; `exact_match` and metrics on text with
    `evaluation.answers=always`.
    """
    spec = context.spec
    best, every, save = spec.checkpoint.best, spec.evaluation.every, spec.checkpoint.every
    if best is None:
        return
    if every is None:
        yield Diagnostic(
            "LF205",
            f"the best checkpoint by `{best}` cannot be chosen without evaluation",
            key="checkpoint.best",
            hint="evaluation.every=25% checkpoint.every=25%",
        )
    elif save is None:
        yield Diagnostic(
            "LF205",
            f"the best checkpoint by `{best}` cannot be chosen when none is saved",
            key="checkpoint.best",
            hint="checkpoint.every=25%",
        )
    elif isinstance(every, int) and isinstance(save, int) and save % every:
        yield Diagnostic(
            "LF205",
            f"checkpoints every {save} steps do not fall on evaluations every {every}",
            key="checkpoint.best",
            hint=f"checkpoint.every={every}",
        )
    if best not in reported(context):
        yield _not_reported(context, best)


def _not_reported(context: Context, best: str) -> Diagnostic:
    """Measured at the end only, or not at all."""
    names, evaluation = list(reported(context)), context.spec.evaluation
    if best in _on_answers(context):
        rows = "" if evaluation.exact_match_rows else " evaluation.exact_match_rows=50"
        return Diagnostic(
            "LF205",
            f"`{best}` is measured on answers, and no answers are asked for during training",
            key="checkpoint.best",
            notes=(f"reported: {', '.join(names)}",),
            hint=f"evaluation.answers=always{rows}",
        )
    close = near(best, [*names, *_on_answers(context)], 1)
    return Diagnostic(
        "LF205",
        f"no evaluation reports a metric `{best}`",
        key="checkpoint.best",
        notes=(*did_you_mean(best, names), f"reported: {', '.join(names)}"),
        hint=f"checkpoint.best={close[0] if close and close[0] in names else 'eval_loss'}",
    )


@rule("LF220", "best checkpoint by the wrong direction")
def wrong_direction(context: Context) -> Iterator[Diagnostic]:
    """A loss is the better the smaller it is, an accuracy the larger.

    With the other direction the worst checkpoint would become the final model, and early stopping
    would end the run as soon as it gets better. Metrics of your own may have either direction,
    unless their spec class says which (`better`).
    """
    checkpoint = context.spec.checkpoint
    better = reported(context).get(checkpoint.best or "")
    if better is None or better == checkpoint.best_direction:
        return
    least = "smallest" if checkpoint.best_direction == "minimize" else "largest"
    yield Diagnostic(
        "LF220",
        f"the {least} `{checkpoint.best}` is the worst one",
        key="checkpoint.best_direction",
        hint=f"checkpoint.best_direction={better}",
    )


@rule("LF221", "early stopping that cannot work")
def early_stopping_cannot_work(context: Context) -> Iterator[Diagnostic]:
    """Early stopping (`evaluation.patience`) ends a run whose metric has not improved for so many
    evaluations; the metric is that of `checkpoint.best`, and the best checkpoint the final model.

    It needs that metric. More patience than there are evaluations stops no run (a warning).
    """
    spec = context.spec
    patience, every = spec.evaluation.patience, spec.evaluation.every
    if patience is None:
        if spec.evaluation.min_improvement:
            yield Diagnostic(
                "LF221",
                "`evaluation.min_improvement` is for early stopping, which is off",
                Severity.WARNING,
                key="evaluation.min_improvement",
                hint="evaluation.patience=3",
            )
        return
    if spec.checkpoint.best is None:
        save, intervals = spec.checkpoint.every, ""
        if every is None:
            intervals = " evaluation.every=5% checkpoint.every=5%"
        elif not (isinstance(save, int) and isinstance(every, int) and save % every == 0):
            intervals = f" checkpoint.every={context.facts.asked.get('evaluation.every', every)}"
        yield Diagnostic(
            "LF221",
            "early stopping has no metric to go by",
            key="evaluation.patience",
            notes=("it looks at `checkpoint.best`, which is null",),
            hint=f"checkpoint.best=eval_loss{intervals}",
        )
        return
    steps, delay = context.facts.steps, spec.evaluation.delay
    if not isinstance(every, int) or not isinstance(delay, int) or not steps:
        return
    times = steps // every - max(0, delay - 1) // every
    if patience >= times > 0:
        yield Diagnostic(
            "LF221",
            f"a patience of {patience} evaluations in a run that has {times}",
            Severity.WARNING,
            key="evaluation.patience",
            notes=("the first evaluation is never without improvement, so nothing would stop it",),
            hint=f"evaluation.patience={max(1, times // 4)}",
        )


@rule("LF222", "first evaluation after the end")
def first_evaluation_after_the_end(context: Context) -> Iterator[Diagnostic]:
    """`evaluation.delay` leaves out the evaluations of so many first steps. When these are all
    there are, none takes place during training, and no best checkpoint is found.

    Give it as a share of the run (`10%`).
    """
    evaluation, samples = context.spec.evaluation, context.facts.samples
    steps, delay = context.facts.steps, evaluation.delay
    guessed = context.spec.trainer.max_steps is None and samples is not None and not samples.exact
    if evaluation.every is None or steps is None or guessed or not isinstance(delay, int):
        return
    if delay > steps:
        yield Diagnostic(
            "LF222",
            f"the first evaluation may be after {delay} steps, the run has {steps}",
            key="evaluation.delay",
            hint="evaluation.delay=10%",
        )


@rule("LF223", "answers that nobody asks for")
def answers_that_nobody_asks_for(context: Context) -> Iterator[Diagnostic]:
    """Exact match and metrics on text are measured on answers to `evaluation.exact_match_rows`
    held-out rows. With 0 rows there is nothing to measure: a metric on text would be missing from
    every result, and `evaluation.answers=always` would do nothing.
    """
    evaluation = context.spec.evaluation
    if evaluation.exact_match_rows:
        return
    for name, _ in _text_metrics(context):
        yield Diagnostic(
            "LF223",
            f"metric `{name}` is measured on answers, and no row is asked",
            key=f"metrics.{name}.kind",
            hint="evaluation.exact_match_rows=50",
        )
    if evaluation.answers == "always":
        yield Diagnostic(
            "LF223",
            "answers at every evaluation, to no rows",
            key="evaluation.answers",
            notes=("`evaluation.exact_match_rows` is 0",),
            hint="evaluation.exact_match_rows=50",
        )
