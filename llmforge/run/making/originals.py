"""The base of an adapter in full precision: found from the adapter's record, and checked.

In: the folder of an adapter, the plan it was trained by where one is known, `fuse.base`. Out:
`Original`: the folder of the base, as it was trained over. A base on the hub is fetched into the
hub's own cache, safetensors only and at the commit of the training. What is wrong is a refusal with
what to do: LF941 for a base that was quantized on disk, LF942 for one that is unknown or gone,
LF943 for another shape, LF944 for other weights than those of the training. No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.digests import file_digest
from llmforge.plan import Plan, canonical_digest
from llmforge.run.making.fitting import other_modules, other_shape
from llmforge.run.making.headers import BadHeader, Header, model_headers, read_headers

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base"
FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""What is fetched of a repository: no pickles, no code."""
HINT = "fuse.base=<folder or hub id>"


@dataclass(frozen=True)
class Original:
    """A base that an adapter can be merged into."""

    folder: Path
    label: str
    """For people and records: the folder, or hub name and commit."""
    digest: str
    """Of config and weights."""
    headers: dict[str, Header]


def read_adapter(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a folder.

    Raises:
        ConfigRefused: LF940 where it holds no adapter, or not a whole one.
    """
    file = folder / CONFIG
    if not file.is_file():
        what = "a full model" if (folder / "config.json").is_file() else "no adapter"
        raise refused("LF940", f"{folder} holds {what}: there is nothing to merge")
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind = found["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise refused("LF940", f"{file} cannot be read: {error}") from error
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        notes = ("adapter_model.bin is pickled: it can run code and is not read",)
        message = f"{folder} holds an adapter's config, but no {WEIGHTS}"
        raise refused("LF940", message, notes if pickled else ())
    if kind in UNMERGED:
        raise refused(
            "LF940",
            f"the adapter in {folder} is {UNMERGED[kind]}: it reads along with the text and is no "
            "change of weights, so it cannot be merged",
            hint=None,
        )
    return found


UNMERGED: dict[str, str] = {
    "PROMPT_TUNING": "prompt tuning",
    "PREFIX_TUNING": "prefix tuning",
    "P_TUNING": "P-tuning",
    "MULTITASK_PROMPT_TUNING": "prompt tuning",
    "CPT": "prompt tuning",
    "ADAPTION_PROMPT": "an adaption prompt",
    "XLORA": "a mixture of adapters",
}
"""PEFT's kinds of adapters that are no change of weights, for people."""


def find_original(adapter: Path, plan: Plan | None, given: str | None, cache: Path) -> Original:
    """The base of the adapter in a folder.

    Args:
        adapter: the adapter's folder.
        plan: the plan it was trained by; None leaves what the adapter itself says of its base.
        given: `fuse.base`: a folder or a name on the hub, with `@revision` or without.
        cache: where digests of large files are remembered.

    Raises:
        ConfigRefused: LF940-LF944.
    """
    # imported late, as all of `run` starts without the compiler
    from llmforge.compiler.facts.quantized import quantized_base

    config = read_adapter(adapter)
    folder, label = _given(given) if given else _named(adapter, config, plan)
    stored = _config(folder)
    if (packed := quantized_base(stored)) is not None:
        raise refused(
            "LF941",
            f"the base {label} is quantized ({packed.name}): merging into rounded weights would "
            "round most of the adapter away",
            ("it does not say what it was packed from; the original must have the same shape",),
            HINT,
            plan,
        )
    try:
        headers = model_headers(folder)
    except (OSError, BadHeader) as error:
        raise refused("LF942", f"the base cannot be read: {error}", hint=HINT, plan=plan) from error
    try:
        parts = read_headers(adapter / WEIGHTS)
    except (OSError, BadHeader) as error:
        raise refused("LF940", f"the adapter cannot be read: {error}") from error
    if fault := other_shape(stored, plan) or other_modules(parts, headers):
        hint = None if given is None else "fuse.base=null"
        raise refused("LF943", f"the base {label} has another shape: {fault}", (), hint, plan)
    digests = _digests(folder, cache)
    if given is None:
        _as_trained_over(label, digests, plan)
    return Original(folder, label, canonical_digest(digests), headers)


def _given(name: str) -> tuple[Path, str]:
    folder = Path(name)
    if folder.is_dir():
        return folder.resolve(), str(folder)
    repository, _, revision = name.partition("@")
    if not _is_repository(repository):
        raise refused("LF942", f"there is no folder {name}", hint=HINT)
    return _fetched(repository, revision or None)


def _named(adapter: Path, config: Mapping[str, Any], plan: Plan | None) -> tuple[Path, str]:
    """The base by the run's own record, else by the adapter's."""
    if (adapter / BASE / "config.json").is_file():
        return (adapter / BASE).resolve(), str(adapter / BASE)
    if plan is not None and plan.settings["model"]["kind"] == "scratch":
        written = plan.run_folder / "model" / BASE
        if (written / "config.json").is_file():
            return written.resolve(), str(written)
        raise refused(
            "LF942",
            f"the base of {adapter} had random weights, and {written} is not there: the run writes "
            "it with its final model",
            hint="llmforge runs",
        )
    known = (plan.facts["identity"].get("model") or {}) if plan is not None else {}
    if plan is not None and plan.settings["model"]["kind"] == "hub":
        model = plan.settings["model"]
        return _fetched(model["id"], known.get("commit") or model["revision"])
    source = config.get("base_model_name_or_path")
    places = [str(plan.lowered["model"]["pretrained_model_name_or_path"])] if plan else []
    places += [source] if isinstance(source, str) and source else []
    for place in places:
        if Path(place).is_dir():
            return Path(place).resolve(), place
    if not places:
        message = f"the adapter in {adapter} does not say what its base is"
        raise refused("LF942", message, hint=HINT)
    if plan is None and _is_repository(places[-1]) and not Path(places[-1]).is_absolute():
        return _fetched(places[-1], config.get("revision"))
    raise refused(
        "LF942", f"the base of {adapter} was {places[0]}, which is gone", hint=HINT, plan=plan
    )


def _is_repository(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not name.startswith(".")


def _fetched(repository: str, revision: str | None) -> tuple[Path, str]:
    return fetch(repository, revision, "LF942", "base", HINT)


def fetch(
    repository: str, revision: str | None, code: str, what: str, hint: str | None
) -> tuple[Path, str]:
    """A repository of the hub in the hub's local cache, and its name with the commit.

    Raises:
        ConfigRefused: `code`, where it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=list(FETCHED))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise refused(
            code, f"the {what} {repository} cannot be had from the hub: {said}", hint=hint
        ) from error
    folder = Path(found)
    return folder, f"{repository} at {folder.name[:12]}"


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refused("LF942", f"the base cannot be read: {error}", hint=HINT) from error
    if not isinstance(found, dict):
        raise refused("LF942", f"{folder / 'config.json'} is not a JSON object", hint=HINT)
    return found


def _digests(folder: Path, cache: Path) -> dict[str, str]:
    files = (folder / "config.json", *sorted(folder.glob("*.safetensors.index.json")),
             *sorted(folder.glob("*.safetensors")))  # fmt: skip
    return {path.name: file_digest(path, cache) for path in files}


def _as_trained_over(label: str, digests: Mapping[str, str], plan: Plan | None) -> None:
    """Raises LF944 where the base is not the one of the training."""
    known = (plan.facts["identity"].get("model") or {}) if plan is not None else {}
    trained = {
        name: digest for name, digest in known.items() if name.endswith((".json", "tensors"))
    }
    changed = sorted(
        name for name in {*trained, *digests} if trained.get(name) != digests.get(name)
    )
    if trained and changed:
        raise refused(
            "LF944",
            f"the base {label} is not the one that was trained over: {changed[0]} has changed",
            (f"`fuse.base={label}` takes it as it is",),
            HINT,
            plan,
        )


def refused(
    code: str,
    message: str,
    notes: tuple[str, ...] = (),
    hint: str | None = None,
    plan: Plan | None = None,
    key: str | None = None,
) -> ConfigRefused:
    """The exception for one finding; `key` defaults to `fuse.base` where a plan is given."""
    at = key or ("fuse.base" if plan is not None else None)
    origins = plan.origins.chain(at) if plan is not None and at else ()
    return ConfigRefused(
        [Diagnostic(code, message, key=at, origins=origins, notes=notes, hint=hint)]
    )
