"""What stops a run although its data could be prepared: limits on losses of rows and tokens.

In: a report of prepared data and the limits of section `data`. Out: `DataRefused` that says what is
over which limit and how to let it pass. Checked every time, also when the samples were found: the
limits are no part of what is prepared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmforge.build.errors import DataRefused
from llmforge.plan import Plan
from llmforge.schema.base import allowed

UNTRAINED = ("no_trained_token", "empty")
"""Reasons of rows that were whole, but have nothing to learn."""


def check_thresholds(plan: Plan, report: Mapping[str, Any]) -> None:
    """Raise `DataRefused` with everything that is over its limit."""
    found = list(_over(plan, report))
    if found:
        raise DataRefused("; ".join(found))


def _over(plan: Plan, report: Mapping[str, Any]) -> Iterator[str]:
    data, train = plan.spec.data, report["train"]
    if train["used"] == 0:
        reasons = ", ".join(f"{n} {reason}" for reason, n in train["rejected"].items())
        yield f"no training row is left of {train['rows']}: {reasons or 'there were none'}"
        return
    for name, side in (report.get("evaluation") or {"sets": {}})["sets"].items():
        if side["used"] == 0:
            yield f"no row of evaluation set `{name}` is left of {side['rows']}: {side['rejected']}"
    broken = train["rejected"].get("template", 0)
    if broken > allowed(data.max_bad_rows, train["rows"]):
        what = "training rows are refused by the chat template"
        yield _line(broken, what, data, "max_bad_rows", _first(train, "template"))
    untrained = sum(train["rejected"].get(reason, 0) for reason in UNTRAINED)
    if untrained > allowed(data.max_untrained_rows, train["rows"]):
        what = "training rows have no token to learn"
        yield _line(untrained, what, data, "max_untrained_rows", _first(train, *UNTRAINED))
    if data.require_end_token and not train["ends_trained"] and _should_end(plan):
        yield (
            "no end token carries loss anywhere, so the model would never learn to stop; "
            "hint: collator.truncation=split, a larger collator.max_length, or "
            "data.require_end_token=false"
        )
    whole = train["tokens"] + train["tokens_cut"]
    if train["tokens_cut"] > allowed(data.max_cut_tokens, whole):
        share = train["tokens_cut"] / whole
        yield (
            f"{train['tokens_cut']:,} of {whole:,} tokens ({share:.1%}) are cut; "
            f"data.max_cut_tokens is {data.max_cut_tokens}; "
            "hint: collator.truncation=split, or a larger collator.max_length"
        )
    evaluation = report.get("evaluation")
    if evaluation and evaluation["overlap"] > allowed(data.max_overlap, evaluation["samples"]):
        yield (
            f"{evaluation['overlap']:,} of {evaluation['samples']:,} evaluation rows stand in the "
            f"training set as well; data.max_overlap is {data.max_overlap}; "
            "hint: take them out, or data.max_overlap=null"
        )


def _should_end(plan: Plan) -> bool:
    return bool(getattr(plan.spec.collator, "train_end_of_turn", True))


def _first(side: Mapping[str, Any], *reasons: str) -> str:
    places = [place for reason in reasons for place in side["first_rejected"].get(reason, ())]
    return ", ".join(places[:3])


def _line(count: int, what: str, data: Any, limit: str, first: str) -> str:
    return (
        f"{count:,} {what} (data.{limit} is {getattr(data, limit)}), the first {first}; the "
        f"receipt lists each; hint: data.{limit}={count}"
    )
