"""Answers of several models to the same questions: of an adapter, and of what was made of it.

In: a plan, its run folder, which models. Out: `answers.json`: held-out questions as training saw
them, the answer that was expected, and what each model says; and how many are right of each. One
model is held at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmforge.build.loading import load_place
from llmforge.build.places import Folder
from llmforge.build.tokenizer import open_tokenizer
from llmforge.plan import Plan
from llmforge.run.chain.answering import FILE, Request
from llmforge.run.folder import RunFolder
from llmforge.stages.evaluate import questions_to_show
from llmforge.stages.generate import complete, decode
from llmforge.stages.prepare import prepare


def answer_all(
    plan: Plan, run: RunFolder, asked: Request, say: Callable[[str], None]
) -> dict[str, Any]:
    """Ask every model, and write the answers.

    Args:
        plan: says which questions, how many, and how answers are generated.
        run: whose `answers.json` it is.
        asked: which models.
        say: told which model is asked.
    """
    prepared = prepare(plan)
    tokenizer = open_tokenizer(run.model)
    questions = questions_to_show(plan, prepared, tokenizer)
    generation = plan.spec.generation.settings()
    if generation["seed"] is None:
        generation["seed"] = plan.spec.seed
    stops = list(generation["stop"])
    rows: list[dict[str, Any]] = [
        {"prompt": one.shown, "reference": decode(tokenizer, one.reference), "answers": {}}
        for one in questions
    ]
    right = {}
    for name, folder in asked.models.items():
        say(f"asking the {name} model" if name != "adapter" else "asking base and adapter")
        model, own = load_place(Folder(Path(folder)), device="auto")
        ids = [one.ids for one in questions]
        given = complete(model, own, ids, generation, batch=max(1, len(ids)))
        for row, answer in zip(rows, given, strict=True):
            row["answers"][name] = decode(own, answer, stops)
        right[name] = sum(row["answers"][name] == row["reference"] for row in rows)
        del model
        gc.collect()
    found = {"fingerprint": asked.fingerprint, "right": right, "rows": rows}
    run.write_json(FILE, found)
    return found
