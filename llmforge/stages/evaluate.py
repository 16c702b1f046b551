"""Evaluate: loss and perplexity on held-out rows, exact match of greedy answers, sample answers.

In: a plan, parts, and the trainer if there is one. Out: a dict of figures. Prompts and reference
answers are read back from the prepared samples: the last run of tokens that carry loss is the
answer, what stands before it the prompt, so what is asked is token for token what was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from llmforge.build.loss import autocast, held_out_loss
from llmforge.build.measures import LogitsMetric, Measures, text_figures
from llmforge.build.parts import Parts
from llmforge.build.prepared import Prepared
from llmforge.build.sample import IGNORED
from llmforge.build.templates import stop_ids
from llmforge.build.trainer import ForgeTrainer
from llmforge.plan import Plan
from llmforge.stages.generate import complete, decode, is_greedy

Pause = Callable[[], None]
"""Called between batches of answers: shows that something happens, and may raise to stop."""


@dataclass(frozen=True)
class _Question:
    ids: list[int]
    reference: list[int]
    shown: str
    set: int = 0
    """Number of the evaluation set."""


def evaluate(plan: Plan, parts: Parts, trainer: ForgeTrainer | None = None) -> dict[str, Any]:
    """Figures on the held-out rows; empty when there are none.

    Every process of a distributed run must call this, and each gets the same figures.

    Returns:
        `eval_loss`, `eval_perplexity`, `eval_tokens`, of several evaluation sets over all of them
        and as `eval_<set>_loss`, ... of each; `exact_match` (share) and `exact_match_rows`
        when rows could be asked; `eval_<name>` of each metric of the run; `samples`, a list
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
        answers = _answers(plan, parts, model, _pause(trainer))
    prefixes = ("eval", *(f"eval_{name}" for name in parts.sets if len(parts.sets) > 1))
    own = [name for name, metric in parts.metrics.items() if isinstance(metric, LogitsMetric)]
    kinds = (*plan.spec.trainer.METRICS, *own)
    figures = {name: metrics[name] for prefix in prefixes for kind in kinds
               if (name := f"{prefix}_{kind}")}  # fmt: skip
    return figures | answers


def answers_during(
    plan: Plan, parts: Parts, trainer: ForgeTrainer
) -> Callable[[], dict[str, float]] | None:
    """What a trainer calls at each evaluation for the figures of answers; None asks for none.

    The rows that are asked are chosen once, and the same every time: `eval_exact_match` and
    `eval_<name>` of the metrics on text, so that they can decide which model is the best.
    """
    evaluation = plan.spec.evaluation
    if evaluation.answers != "always" or parts.evaluation is None:
        return None
    questions = _questions(parts, plan.spec.seed, evaluation.exact_match_rows)
    return partial(_during, plan, parts, trainer, questions) if questions else None


def _during(
    plan: Plan, parts: Parts, trainer: ForgeTrainer, questions: list[_Question]
) -> dict[str, float]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    with autocast(model, str(plan.spec.precision.compute)):
        asked = _ask(plan, model, parts.tokenizer, questions, _greedy(plan), _pause(trainer))
    found = _figures(parts, questions, asked)
    return {"eval_exact_match": found.pop("exact_match")} | {
        key: value for key, value in found.items() if key != "exact_match_rows"
    }


def _greedy(plan: Plan) -> dict[str, Any]:
    return {"max_new_tokens": plan.spec.generation.max_new_tokens}


def _pause(trainer: ForgeTrainer | None) -> Pause:
    """As between batches of the loss: the display is told, and a stop that was asked for acts."""
    if trainer is None:
        return lambda: None
    handler = trainer.callback_handler
    return lambda: handler.on_prediction_step(trainer.args, trainer.state, trainer.control)


def _answers(plan: Plan, parts: Parts, model: Any, pause: Pause) -> dict[str, Any]:
    """Exact match and samples, as far as the plan asks for them."""
    spec = plan.spec
    figures: dict[str, Any] = {}
    questions = _questions(parts, spec.seed, spec.evaluation.exact_match_rows)
    asked = _ask(plan, model, parts.tokenizer, questions, _greedy(plan), pause)
    if questions:
        figures |= _figures(parts, questions, asked)
    if spec.evaluation.samples:
        figures["samples"] = _samples(plan, parts, model, asked, pause)
    return figures


def _figures(
    parts: Parts, questions: Sequence[_Question], asked: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Exact match and metrics on text: over all rows that were asked, and of each of several sets
    of which some were."""
    found = {
        "exact_match": sum(one["match"] for one in asked) / len(asked),
        "exact_match_rows": len(asked),
        **text_figures(parts.metrics, asked),
    }
    for number, name in enumerate(parts.sets if len(parts.sets) > 1 else ()):
        of_set = [one for q, one in zip(questions, asked, strict=True) if q.set == number]
        if of_set:
            matches = sum(one["match"] for one in of_set)
            found[f"eval_{name}_exact_match"] = matches / len(of_set)
            found |= text_figures(parts.metrics, of_set, f"eval_{name}")
    return found


def _samples(
    plan: Plan, parts: Parts, model: Any, asked: list[dict[str, Any]], pause: Pause
) -> list[dict[str, Any]]:
    """Answers to show, generated as the `generation` section says."""
    wanted, seed = plan.spec.evaluation.samples, plan.spec.seed
    generation = plan.spec.generation.settings()
    if is_greedy(generation) and len(asked) >= wanted:
        return asked[:wanted]
    if generation["seed"] is None:
        generation["seed"] = seed
    questions = _questions(parts, seed, wanted) or _openings(parts, seed, wanted)
    return _ask(plan, model, parts.tokenizer, questions, generation, pause)


def _ask(
    plan: Plan,
    model: Any,
    tokenizer: Any,
    questions: list[_Question],
    generation: Mapping[str, Any],
    pause: Pause,
) -> list[dict[str, Any]]:
    """Answers beside their references, `evaluation.answers_at_once` generated at a time."""
    at_once = int(plan.spec.evaluation.answers_at_once)
    # those of like length together, so that little is padded
    order = sorted(range(len(questions)), key=lambda n: len(questions[n].ids), reverse=True)
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), at_once):
        chosen = order[start : start + at_once]
        ids = [questions[number].ids for number in chosen]
        given = complete(model, tokenizer, ids, generation, batch=at_once)
        answers |= dict(zip(chosen, given, strict=True))
        pause()
    stops = list(generation.get("stop", ()))
    found = []
    for number, question in enumerate(questions):
        text = decode(tokenizer, answers[number], stops)
        found.append(_beside(question, text, decode(tokenizer, question.reference)))
    return found


def _beside(question: _Question, answer: str, reference: str) -> dict[str, Any]:
    return {
        "prompt": question.shown,
        "answer": answer,
        "reference": reference,
        "match": answer == reference,
    }


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
        number = int(sample.get("set", 0))
        found.append(_Question(ids[:begin], ids[begin:end], sample["prompt"], number))
    return found


def questions_to_show(plan: Plan, prepared: Prepared, tokenizer: Any) -> list[_Question]:
    """The questions of the run's samples, without a model: `ids`, `reference`, `shown`."""
    parts = Parts(tokenizer, None, lambda _: {}, None, prepared.evaluation, [])
    if parts.evaluation is None:
        return []
    seed, wanted = plan.spec.seed, plan.spec.evaluation.samples
    return _questions(parts, seed, wanted) or _openings(parts, seed, wanted)


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
