"""Evaluate: loss and perplexity on held-out rows, exact match of greedy answers, sample answers.

In: a plan, parts, and the trainer if there is one. Out: a dict of figures. Prompts and reference
answers are read back from the prepared samples: the last run of tokens that carry loss is the
answer, what stands before it the prompt, so what is asked is token for token what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from llmforge.build.loss import autocast, held_out_loss
from llmforge.build.measures import LogitsMetric, Measures, text_figures
from llmforge.build.parts import Parts
from llmforge.build.sample import IGNORED
from llmforge.build.templates import stop_ids
from llmforge.build.trainer import ForgeTrainer
from llmforge.plan import Plan
from llmforge.stages.generate import complete, decode

_ANSWERS_AT_ONCE = 64


@dataclass(frozen=True)
class _Question:
    ids: list[int]
    reference: list[int]
    shown: str


def evaluate(plan: Plan, parts: Parts, trainer: ForgeTrainer | None = None) -> dict[str, Any]:
    """Figures on the held-out rows; empty when there are none.

    Every process of a distributed run must call this, and each gets the same figures.

    Returns:
        `eval_loss`, `eval_perplexity`, `eval_tokens`, of several evaluation sets over all of them
        and as `eval_<set>_loss`, ... of each; `exact_match` (share) and `exact_match_rows`
        when rows could be asked; `eval_<name>` of each metric of the user's own; `samples`, a list
        of {prompt, answer, reference, match}. Keys that mean nothing here are left out: plain text
        has no question, so no exact match.
    """
    if parts.evaluation is None:
        return {}
    compute = str(plan.spec.precision.compute)
    if trainer is not None:
        metrics = trainer.evaluate(parts.evaluation)
        model = trainer.accelerator.unwrap_model(trainer.model)
    else:
        batch = int(plan.spec.evaluation.micro_batch)
        model = parts.model
        measures = Measures(parts.metrics, parts.sets)
        metrics = held_out_loss(
            model, parts.evaluation, parts.collator, batch, compute, parts.sets, measures
        )
    # also beside a trainer: it wraps a model's own call, which an adapter's generate() goes round
    with autocast(model, compute):
        answers = _answers(plan, parts, model)
    prefixes = ("eval", *(f"eval_{name}" for name in parts.sets if len(parts.sets) > 1))
    own = [name for name, metric in parts.metrics.items() if isinstance(metric, LogitsMetric)]
    kinds = ("loss", "perplexity", "tokens", *own)
    figures = {name: metrics[name] for prefix in prefixes for kind in kinds
               if (name := f"{prefix}_{kind}")}  # fmt: skip
    return figures | answers


def _answers(plan: Plan, parts: Parts, model: Any) -> dict[str, Any]:
    """Exact match and samples, as far as the plan asks for them."""
    spec = plan.spec
    figures: dict[str, Any] = {}
    questions = _questions(parts, spec.seed, spec.evaluation.exact_match_rows)
    greedy = {"max_new_tokens": spec.generation.max_new_tokens}
    asked = _ask(model, parts.tokenizer, questions, greedy)
    if questions:
        matches = sum(sample["match"] for sample in asked)
        figures |= {"exact_match": matches / len(asked), "exact_match_rows": len(asked)}
        figures |= text_figures(parts.metrics, asked)
    if spec.evaluation.samples:
        figures["samples"] = _samples(plan, parts, model, asked)
    return figures


def _samples(
    plan: Plan, parts: Parts, model: Any, asked: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Answers to show, generated as the `generation` section says."""
    wanted = plan.spec.evaluation.samples
    generation = plan.spec.generation.settings()
    as_asked = not generation["sample"] and generation["repetition_penalty"] == 1.0
    if as_asked and len(asked) >= wanted:
        return asked[:wanted]
    seed = plan.spec.seed
    questions = _questions(parts, seed, wanted) or _openings(parts, seed, wanted)
    return _ask(model, parts.tokenizer, questions, generation)


def _ask(
    model: Any, tokenizer: Any, questions: list[_Question], generation: Mapping[str, Any]
) -> list[dict[str, Any]]:
    answers = complete(
        model, tokenizer, [q.ids for q in questions], generation, batch=_ANSWERS_AT_ONCE
    )
    found = []
    for question, ids in zip(questions, answers, strict=True):
        text, reference = decode(tokenizer, ids), decode(tokenizer, question.reference)
        found.append(
            {
                "prompt": question.shown,
                "answer": text,
                "reference": reference,
                "match": text == reference,
            }
        )
    return found


def _questions(parts: Parts, seed: int, wanted: int) -> list[_Question]:
    """Up to `wanted` held-out samples that have a prompt and a whole answer, chosen by the seed."""
    found: list[_Question] = []
    stops = set(stop_ids(parts.tokenizer))
    for sample in _in_seeded_order(parts, seed):
        if len(found) >= wanted:
            break
        labels = np.asarray(sample["labels"])
        places = np.flatnonzero(labels != IGNORED)
        begin = int(places[0])
        if (gaps := np.flatnonzero(np.diff(places) > 1)).size:
            begin = int(places[gaps[-1] + 1])
        ids, end = list(sample["input_ids"]), int(places[-1])
        if labels[end] not in stops and ids[end + 1 : end + 2] and ids[end + 1] in stops:
            end += 1  # an end of turn that is there, though it is not trained
        # without its end token the answer was cut, and nothing can be compared with it
        if begin == 0 or not sample["prompt"] or ids[end] not in stops:
            continue
        found.append(_Question(ids[:begin], ids[begin:end], sample["prompt"]))
    return found


def _openings(parts: Parts, seed: int, wanted: int) -> list[_Question]:
    """For plain text, which has no question: the first half of a sample, to be continued."""
    found: list[_Question] = []
    for sample in islice(_in_seeded_order(parts, seed), wanted):
        ids = list(sample["input_ids"])
        half = -(-len(ids) // 2)
        found.append(_Question(ids[:half], ids[half:], decode(parts.tokenizer, ids[:half])))
    return found


def _in_seeded_order(parts: Parts, seed: int) -> Any:
    """Held-out samples, shuffled: files are often sorted by subject, and the first rows alike."""
    assert parts.evaluation is not None  # noqa: S101 - callers looked
    # RandomState: its stream is frozen across versions of numpy (NEP 19)
    order = np.random.RandomState(seed % 2**32).permutation(len(parts.evaluation))
    return (parts.evaluation[int(number)] for number in order)
