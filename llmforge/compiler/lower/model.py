"""Keywords of the model: `from_config` or `from_pretrained`.

In: a solved context. Out: keyword -> value and its source.
"""

from __future__ import annotations

from llmforge.compiler.context import Context
from llmforge.compiler.facts.nested import model_folder
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.model import (
    CheckpointModel,
    FolderModel,
    HubModel,
    ScratchModel,
    TrainedModel,
)


def model(context: Context) -> Lowered:
    """Keywords of `from_config` or `from_pretrained`."""
    spec = context.spec
    lowered: Lowered = {
        "dtype": (spec.precision.weights, "precision.weights"),
        "attn_implementation": (spec.model.attention, "model.attention"),
    }
    if isinstance(spec.model, ScratchModel):
        return {"config": (dict(context.facts.model_config), "model"), **lowered}
    if isinstance(spec.model, FolderModel):
        name, revision, source = spec.model.path, None, "model.path"
    elif isinstance(spec.model, HubModel):
        name, revision, source = spec.model.id, spec.model.revision, "model.id"
    elif isinstance(spec.model, TrainedModel):
        name, revision, source = str(model_folder(context)), None, "model.overrides"
    else:
        return lowered
    # what a run of llmforge wrote brings no code
    trusted = not isinstance(spec.model, TrainedModel) and spec.model.trust_remote_code
    trust = source if isinstance(spec.model, TrainedModel) else "model.trust_remote_code"
    return {
        "pretrained_model_name_or_path": (name, source),
        "revision": (revision, "model.revision" if revision else source),
        "trust_remote_code": (trusted, trust),
        "use_safetensors": (True, source),
        **_placing(spec.model),
        **lowered,
    }


def _placing(found: CheckpointModel) -> Lowered:
    """Where the parts lie, if that was asked; otherwise the trainer places the model."""
    return {
        name: (value, f"model.{name}")
        for name in ("device_map", "offload_folder")
        if (value := getattr(found, name)) is not None
    }
