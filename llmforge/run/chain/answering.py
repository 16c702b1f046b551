"""Answers of a trained model and of what was made of it, side by side: what the worker is asked.

In: a run whose model was fused or quantized. Out: `Request` for the worker's environment, and
whether `answers.json` in the run folder is what it would write. The worker's half is
`stages/answers.py`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from llmforge.plan import CODE_VERSION, Plan, canonical_digest
from llmforge.run.folder import RunFolder
from llmforge.run.making import order as making
from llmforge.stage_order import FOLDERS

FILE = "answers.json"
VARIABLE = "LLMFORGE_ANSWERS"
"""Environment variable that carries the request to the worker."""


@dataclass(frozen=True)
class Request:
    """Which models are asked."""

    models: dict[str, str]
    """Name for people -> folder: `adapter` or `model`, `fused`, `quantized`."""
    fingerprint: str
    """Of the models and of what they are asked."""

    def variables(self) -> dict[str, str]:
        """For the worker's environment."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def received(cls) -> Request:
        """The request of this process.

        Raises:
            KeyError: it has none.
        """
        return cls(**json.loads(os.environ[VARIABLE]))


def request(plan: Plan, run: RunFolder) -> Request:
    """What to ask of a run's models, of those that are there."""
    trained = "model" if plan.settings["lora"]["kind"] == "none" else "adapter"
    models = {trained: str(run.model)}
    prints = [plan.fingerprint]
    for stage, name in FOLDERS.items():
        record = making.record(run, stage) if plan.left_out(stage) is None else None
        if record is not None:
            models[name] = str(record["target"])
            prints.append(str(record["fingerprint"]))
    what = {
        "code": CODE_VERSION,
        "models": models,
        "prints": prints,
        "generation": plan.settings["generation"],
        "samples": plan.settings["evaluation"]["samples"],
    }
    return Request(models, canonical_digest(what))


def finished(run: RunFolder, asked: Request) -> dict[str, Any] | None:
    """`answers.json` where it answers exactly this request."""
    known = run.read_json(FILE)
    return known if known and known.get("fingerprint") == asked.fingerprint else None
