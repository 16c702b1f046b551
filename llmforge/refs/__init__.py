"""What a reference on the command line names: a plan file, a run, a model, a set of overrides.

In: a text. Out: a `Plan` or run folder (`plans.py`), a model's place or the loaded model
(`models.py`), tables of what there is (`tables.py`). Findings are diagnostics (LF116, LF809,
LF862-LF865). The heavy parts are imported where they are needed.
"""

from __future__ import annotations

from llmforge.refs.models import (
    ModelRefused,
    Place,
    base_place,
    find_model,
    load_model,
    registry_of,
)
from llmforge.refs.plans import RUNS, load_plan, plan_of, plan_to_run, run_of
from llmforge.refs.tables import models_table

__all__ = [
    "RUNS",
    "ModelRefused",
    "Place",
    "base_place",
    "find_model",
    "load_model",
    "load_plan",
    "models_table",
    "plan_of",
    "plan_to_run",
    "registry_of",
    "run_of",
]
