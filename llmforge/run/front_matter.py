"""The head of a model card: what programs read of it, and what settings say of it.

In: the plan. Out: YAML front matter as the hub knows it, the name of the base model, the user's own
text. The rest of the card, which tells people what ran, is `card.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from llmforge.plan import Plan
from llmforge.run.publishing import last_part

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def base_model(plan: Plan) -> str | None:
    """What others call the model that was trained on; None for one that began from nothing.

    `hub.base_model` if it is given, the name on the hub, or the last part of a folder's path.
    """
    model, hub = plan.settings["model"], plan.settings["hub"]
    if model["kind"] == "scratch":
        return None
    named = hub.get("base_model") or model.get("id")
    if not named and plan.base_plan is not None:
        return plan.base_plan.run_id
    return str(named) if named else last_part(str(model["path"]))


def own_text(plan: Plan) -> str | None:
    """The user's own text, as it stands in the file of `card.text`.

    Raises:
        OSError: it cannot be read (any more).
    """
    own = plan.settings["card"]["text"]
    return Path(own).read_text(encoding="utf-8").strip() if own else None


def front_matter(plan: Plan, adapter: bool) -> str:
    """The card's YAML, between its marks; what nobody said is left out."""
    settings = plan.settings
    base, data = base_model(plan), settings["data"]
    from huggingface_hub import ModelCardData

    found = ModelCardData(
        license=settings["card"]["license"],
        language=settings["card"]["language"],
        base_model=base if base and _REPOSITORY.fullmatch(base) else None,
        datasets=[data["id"]] if data["kind"] == "hub" and is_repository(data["id"]) else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["llmforge", *settings["card"]["tags"]],
    )
    return f"---\n{found.to_yaml().strip()}\n---"


def is_repository(name: str) -> bool:
    """Is it a name on the hub, and no folder here?"""
    return bool(_REPOSITORY.fullmatch(name)) and not Path(name).exists()
