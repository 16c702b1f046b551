"""Model facts from a shape, a folder or the hub's local cache; never from weights, no network.

In: a spec. Out: the `config.json` dict, `ModelFacts` where the family is known, digests of what
enters the fingerprint, and diagnostics LF602-LF608.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.compiler.facts.families import (
    BadConfig,
    ModelFacts,
    UnknownFamily,
    facts_from_config,
)
from llmforge.compiler.facts.shapes import config_of, shape_faults
from llmforge.diagnostics import Diagnostic, Severity, near
from llmforge.digests import file_digest
from llmforge.schema.model import FolderModel, HubModel, ModelSpec, ScratchModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "special_tokens_map.json",
)

VOCABULARY_FILES = frozenset(("tokenizer.json", "vocab.json", "tokenizer.model"))
"""One of these makes a tokenizer; the others say how it is used."""


@dataclass(frozen=True)
class ModelLook:
    """What was found behind a model section."""

    config: dict[str, Any] = field(default_factory=dict)
    facts: ModelFacts | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    """Digests of config and weights, or the hub's commit."""
    tokenizer_identity: dict[str, Any] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()


def look_at_model(model: ModelSpec, vocabulary: int | None, cache: Path) -> ModelLook:
    """Facts of a model section.

    Args:
        model: the section.
        vocabulary: embedding rows of a from-scratch model.
        cache: folder where digests of large files are remembered.
    """
    if isinstance(model, ScratchModel):
        assert vocabulary is not None  # noqa: S101 - derive_vocabulary runs before
        if faults := shape_faults(model):
            return ModelLook(diagnostics=tuple(faults))
        return _with_facts(config_of(model, vocabulary), {}, {}, "model")
    if isinstance(model, FolderModel):
        return _folder(Path(model.path), cache)
    if isinstance(model, HubModel):
        return _hub(model)
    return ModelLook()


def _with_facts(
    config: dict[str, Any], identity: dict[str, Any], tokenizer: dict[str, Any], key: str
) -> ModelLook:
    try:
        return ModelLook(config, facts_from_config(config), identity, tokenizer)
    except UnknownFamily as error:
        found = Diagnostic(
            "LF603",
            str(error),
            Severity.WARNING,
            key=key,
            notes=("sizes and LoRA targets are checked when the model is built, not now",),
        )
    except BadConfig as error:
        found = Diagnostic("LF605", f"the model's shape cannot be built: {error}", key=key)
    return ModelLook(config, None, identity, tokenizer, (found,))


def _folder(folder: Path, cache: Path) -> ModelLook:
    config_file = folder / "config.json"
    if not config_file.is_file():
        return ModelLook(diagnostics=(_no_config(folder),))
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return _bad_config(f"{config_file} cannot be read: {error}")
    if not isinstance(config, dict):
        return _bad_config(f"{config_file} is not a JSON object")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        return ModelLook(config=config, diagnostics=(_no_safetensors(folder),))
    index = sorted(folder.glob("*.safetensors.index.json"))
    digests = {p.name: file_digest(p, cache) for p in (config_file, *index, *weights)}
    return _with_facts(config, digests, tokenizer_digests(folder, cache), "model.path")


def _bad_config(message: str) -> ModelLook:
    return ModelLook(diagnostics=(Diagnostic("LF602", message, key="model.path"),))


def tokenizer_digests(folder: Path, cache: Path) -> dict[str, str]:
    """Digests of the tokenizer files that a folder has."""
    return {
        name: file_digest(folder / name, cache)
        for name in TOKENIZER_FILES
        if (folder / name).is_file()
    }


def _no_config(folder: Path) -> Diagnostic:
    if not folder.is_dir():
        parent = folder.parent
        guess = near(folder.name, [p.name for p in parent.iterdir()]) if parent.is_dir() else []
        looks_remote = not parent.is_dir() and folder.as_posix().count("/") == 1
        return Diagnostic(
            "LF602",
            f"model folder {folder} does not exist",
            key="model.path",
            notes=("a hub repository is chosen with model=hub",) if looks_remote else (),
            hint=f"model.path={parent / guess[0]}"
            if guess
            else (f"model=hub model.id={folder.as_posix()}" if looks_remote else None),
        )
    if (folder / "adapter_config.json").is_file():
        return Diagnostic(
            "LF602",
            f"{folder} holds an adapter, not a model",
            key="model.path",
            notes=(
                "training continues from whole models; the adapter's base is named in its "
                "adapter_config.json",
            ),
            hint=_base_hint(folder / "adapter_config.json"),
        )
    inside = [p.parent for p in folder.glob("*/config.json")]
    return Diagnostic(
        "LF602",
        f"{folder} holds no config.json",
        key="model.path",
        hint=f"model.path={inside[0]}" if inside else None,
    )


def _base_hint(adapter_config: Path) -> str | None:
    try:
        base = json.loads(adapter_config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        return None
    return f"model.path={base}" if base else None


def _no_safetensors(folder: Path) -> Diagnostic:
    pickled = sorted(p.name for p in folder.glob("*.bin"))
    return Diagnostic(
        "LF608",
        f"{folder} holds no safetensors weights",
        key="model.path",
        notes=(
            f"found {', '.join(pickled)}: pickled weights can run code and are not read",
            "if you trust them, the hint converts them once, in that folder",
        )
        if pickled
        else (),
        hint=f'python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}')\""
        if pickled
        else None,
    )


def _hub(model: HubModel) -> ModelLook:
    """What the local hub cache knows; plans never use the network."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
    if not isinstance(path, str):
        return ModelLook(
            identity={"hub": model.id, "revision": model.revision},
            tokenizer_identity={"hub": model.id, "revision": model.revision},
            diagnostics=(
                Diagnostic(
                    "LF606",
                    f"{model.id} is not in the local hub cache: its facts are not known yet",
                    Severity.WARNING,
                    key="model.id",
                    notes=("plans do not use the network; training will download it",),
                    hint=f"hf download {model.id} --revision {model.revision}",
                ),
            ),
        )
    commit = Path(path).parent.name
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    identity = {"hub": model.id, "commit": commit}
    return _with_facts(config, identity, dict(identity), "model.id")
