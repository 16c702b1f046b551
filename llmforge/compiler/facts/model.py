"""Model facts from a shape, a folder or the hub's local cache; never from weights, no network.

In: a spec. Out: the `config.json` dict, `ModelFacts` by formulas or from a model built on the meta
device, digests of what enters the fingerprint, and diagnostics LF602-LF608. A hub model that is not
in the local cache has the facts of `model.shape`, where that is given.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from llmforge.compiler.facts.families import (
    BadConfig,
    ModelFacts,
    UnknownFamily,
    facts_from_config,
)
from llmforge.compiler.facts.probe import CannotBuild, probe
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
        return _with_facts(config_of(model, vocabulary), {}, {}, "model", cache)
    if isinstance(model, FolderModel):
        return _folder(model, cache)
    if isinstance(model, HubModel):
        return _hub(model, cache)
    return ModelLook()


def _with_facts(
    config: dict[str, Any],
    identity: dict[str, Any],
    tokenizer: dict[str, Any],
    key: str,
    cache: Path,
    own_code: bool = False,
) -> ModelLook:
    """What a config says. `own_code`: the model's repository may bring code that builds it."""
    facts, found = None, None
    try:
        facts = _facts(config, cache, own_code)
    except CannotBuild as error:
        found = Diagnostic(
            "LF603",
            f"nothing is known of model_type `{config.get('model_type')}`: {error}",
            Severity.WARNING,
            key=key,
            notes=("sizes and LoRA targets are checked when the model is built, not now",),
        )
    except BadConfig as error:
        found = Diagnostic("LF605", f"the model's shape cannot be built: {error}", key=key)
    return ModelLook(config, facts, identity, tokenizer, (found,) if found else ())


def _facts(config: dict[str, Any], cache: Path, own_code: bool = False) -> ModelFacts:
    if own_code and config.get("auto_map"):
        raise CannotBuild("its repository's own code builds it")
    try:
        return facts_from_config(config)
    except UnknownFamily:
        return probe(config, cache)


def _folder(model: FolderModel, cache: Path) -> ModelLook:
    folder = Path(model.path)
    config_file = folder / "config.json"
    if not config_file.is_file():
        return ModelLook(diagnostics=(_no_config(folder),))
    config = _read_config(config_file, "model.path")
    if isinstance(config, Diagnostic):
        return ModelLook(diagnostics=(config,))
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        return ModelLook(config=config, diagnostics=(_no_safetensors(folder),))
    index = sorted(folder.glob("*.safetensors.index.json"))
    digests = {p.name: file_digest(p, cache) for p in (config_file, *index, *weights)}
    tokenizer = tokenizer_digests(folder, cache)
    return _with_facts(config, digests, tokenizer, "model.path", cache, model.trust_remote_code)


def _read_config(file: Path, key: str) -> dict[str, Any] | Diagnostic:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return Diagnostic("LF602", f"{file} cannot be read: {error}", key=key)
    if not isinstance(config, dict):
        return Diagnostic("LF602", f"{file} is not a JSON object", key=key)
    return config


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


def _hub(model: HubModel, cache: Path) -> ModelLook:
    """What the local hub cache knows, or else the given shape; plans never use the network."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
    if isinstance(path, str):
        return _cached(model, Path(path), cache)
    identity = {"hub": model.id, "revision": model.revision}
    if model.shape is not None:
        return _with_facts(model.shape, identity, dict(identity), "model.shape", cache)
    found = Diagnostic(
        "LF606",
        f"{model.id} is not in the local hub cache: its facts are not known yet",
        Severity.WARNING,
        key="model.id",
        notes=("plans do not use the network; training will download it",),
        hint=f"hf download {model.id} --revision {model.revision}",
    )
    return ModelLook(identity=identity, tokenizer_identity=dict(identity), diagnostics=(found,))


def _cached(model: HubModel, file: Path, cache: Path) -> ModelLook:
    config = _read_config(file, "model.id")
    if isinstance(config, Diagnostic):
        return ModelLook(diagnostics=(config,))
    identity = {"hub": model.id, "commit": file.parent.name}
    own_code = model.trust_remote_code
    look = _with_facts(config, identity, dict(identity), "model.id", cache, own_code)
    told = _difference(model, look.facts, cache) if model.shape and look.facts else None
    return replace(look, diagnostics=(*look.diagnostics, told)) if told else look


def _difference(model: HubModel, facts: ModelFacts, cache: Path) -> Diagnostic | None:
    """LF606: the cached config.json is not what `model.shape` foretold; the cached one counts."""
    assert model.shape is not None  # noqa: S101 - asked by the caller
    try:
        given = _facts(model.shape, cache)
    except (CannotBuild, BadConfig) as error:
        differing = [f"model.shape cannot be built: {error}"]
    else:
        differing = [
            f"{item.name.replace('_', ' ')}: {getattr(facts, item.name)}, "
            f"model.shape says {getattr(given, item.name)}"
            for item in fields(ModelFacts)
            if item.name != "linear_modules"
            and getattr(facts, item.name) != getattr(given, item.name)
        ]
    if not differing:
        return None
    return Diagnostic(
        "LF606",
        f"{model.id} in the local hub cache has another shape than model.shape; the cached counts",
        Severity.WARNING,
        key="model.shape",
        notes=tuple(differing),
        hint="model.shape=null",
    )
