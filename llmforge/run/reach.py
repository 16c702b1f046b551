"""Before a worker is started: can the model's files be had?

In: a plan. Out: nothing, or a refusal (LF812) within seconds, where a worker would go through the
hub library's retries first. What lies in the hub's local cache is not asked for; of a model that
does not, one small request tells whether the hub answers and lets this user in.

Nothing is downloaded here, and files of data were looked at when the plan was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.environment import scrub
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

SECONDS = 5
"""How long the hub may take to answer one request for a few bytes."""

_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def check_hub(plan: Plan) -> None:
    """Refuse a plan whose model is neither in the hub's local cache nor to be had from the hub.

    A run that is finished is answered from its folder, and needs neither.

    Raises:
        ConfigRefused: LF812.
    """
    model = plan.settings["model"]
    if model["kind"] != "hub" or RunFolder(plan.run_folder).status() is Status.FINISHED:
        return
    own_tokenizer = plan.settings["tokenizer"]["source"] == "model"
    missing = list(_missing(model["id"], model["revision"], own_tokenizer))
    if not missing:
        return
    refusal = _asked(model["id"], model["revision"])
    if refusal is None:
        return
    why, hint = refusal
    more = f" and {len(missing) - 1} more files are" if len(missing) > 1 else " is"
    raise ConfigRefused(
        [
            Diagnostic(
                "LF812",
                f"{model['id']} cannot be loaded: {missing[0]}{more} not in the local hub cache, "
                f"and {scrub(why, plan)}",
                key="model.id",
                origins=plan.origins.chain("model.id"),
                notes=("a copy in a folder needs no hub: model=folder model.path=<folder>",),
                hint=hint,
            )
        ]
    )


def _missing(name: str, revision: str | None, own_tokenizer: bool) -> Iterator[str]:
    """Files that a run needs and the local cache lacks."""
    if _cached(name, "config.json", revision) is None:
        yield "config.json"
    if own_tokenizer and not any(_cached(name, file, revision) for file in _TOKENIZER):
        yield _TOKENIZER[0]
    if _cached(name, _WEIGHTS, revision) is not None:
        return
    index = _cached(name, _INDEX, revision)
    for part in _parts(index) if index is not None else (_WEIGHTS,):
        if _cached(name, part, revision) is None:
            yield part


def _cached(name: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _parts(index: Path) -> list[str]:
    """The files of weights in parts; the index itself where it cannot be read."""
    try:
        return sorted({str(part) for part in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{_INDEX} (readable)"]


def _asked(name: str, revision: str | None) -> tuple[str, str] | None:
    """Why the hub does not give the model's files, and what helps; None where it does."""
    from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    download = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub", f"HF_HUB_OFFLINE=0 {download}"
    try:
        url = hf_hub_url(name, "config.json", revision=revision)
        get_hf_file_metadata(url, token=get_token(), timeout=SECONDS)
    except GatedRepoError:
        return (
            "it is gated: its owner must let you in, and the hub must know you",
            "ask for access on its page, then: export HF_TOKEN=<your token>",
        )
    except RevisionNotFoundError:
        return f"the hub has no revision `{revision}` of it", "model.revision=main"
    except RepositoryNotFoundError:
        return (
            "the hub does not have it, or you may not see it",
            "check model.id; for a private model: export HF_TOKEN=<your token>",
        )
    except EntryNotFoundError:
        return "the hub has no config.json of it", "model.id=<a repository of a model>"
    except Exception as error:  # the network's and the proxy's: the library lets all kinds through
        said = " ".join(str(error).split())[:200]
        return (
            f"the hub was not reached: {type(error).__name__}: {said}",
            f"{download}   # where there is a network",
        )
    return None
