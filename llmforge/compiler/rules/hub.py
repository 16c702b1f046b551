"""LF701, LF704, LF921-LF928: what is uploaded, where to, and what others can do with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmforge.compiler.context import Context
from llmforge.compiler.parse import override
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema.hub import PushHub
from llmforge.schema.model import FolderModel, TrainedModel

_USUAL_ENV_FILE = ".env"
"""The file that people have or have not; any other name was chosen, so it should be there."""


@rule("LF701", "hub push without a repository")
def push_without_repository(context: Context) -> Iterator[Diagnostic]:
    """Uploading needs to know where to: `owner/name`.

    The upload comes last, so without a name it would fail when the training is paid for.
    """
    hub = context.spec.hub
    if isinstance(hub, PushHub) and not hub.repository:
        yield Diagnostic(
            "LF701",
            "hub push is on, but no repository is given",
            key="hub.repository",
            hint=f"hub.repository=<owner>/{context.spec.name}",
        )


@rule("LF704", "repository that nothing is pushed to")
def repository_without_push(context: Context) -> Iterator[Diagnostic]:
    """A repository is named, but `hub` is `none`: nothing would be uploaded.

    A warning, since the name may stand in a file that other runs push with.
    """
    hub = context.spec.hub
    if hub.repository and not isinstance(hub, PushHub):
        yield Diagnostic(
            "LF704",
            f"nothing is pushed to {hub.repository}: hub push is off",
            Severity.WARNING,
            key="hub.repository",
            hint="hub=push",
        )


@rule("LF921", "upload of an adapter that the run does not have")
def adapter_without_adapter(context: Context) -> Iterator[Diagnostic]:
    """`hub.what=adapter` uploads the adapter alone; a run with `lora=none` trains all weights.

    `hub.what=model` uploads what the run trains, whichever it is.
    """
    hub = context.spec.hub
    if isinstance(hub, PushHub) and hub.what == "adapter" and context.spec.lora.kind == "none":
        yield Diagnostic(
            "LF921",
            "the adapter is to be uploaded, but the run trains none",
            key="hub.what",
            hint="hub.what=model",
        )


@rule("LF923", "name that the hub does not allow")
def name_not_allowed(context: Context) -> Iterator[Diagnostic]:
    """A repository is called `owner/name`: letters, digits, `-`, `_` and `.`, no `--` or `..`, no
    `-` or `.` at an end of a part, no `.git` at the end, at most 96 characters.

    The hub would refuse another name when the training is paid for.
    """
    name = context.spec.hub.repository
    fault = repository_fault(name) if name else None
    if fault is not None:
        yield Diagnostic(
            "LF923",
            f"`{name}` cannot be the name of a repository: {fault}",
            key="hub.repository",
            hint=f"hub.repository=<owner>/{context.spec.name}",
        )


def repository_fault(name: str) -> str | None:
    """Why the hub would not take a name as `owner/name`; None when it would."""
    # the library's own rule; 0.1 s, which only plans that name a repository pay
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return " ".join(str(error).split()).partition(": '")[0].rstrip(".")
    return None if "/" in name else "it has no owner"


@rule("LF925", "adapter whose base others cannot find")
def base_out_of_reach(context: Context) -> Iterator[Diagnostic]:
    """An adapter is of use only with its base model. Of a base that lies in a folder of this
    machine, its name would tell nobody where to get it, so the folder's own name is written.

    `hub.base_model` says what the base is called on the hub. A warning: the people who are to load
    the adapter may know.
    """
    hub, model = context.spec.hub, context.spec.model
    if (
        isinstance(hub, PushHub)
        and isinstance(model, FolderModel | TrainedModel)
        and context.spec.lora.kind != "none"
        and hub.base_model is None
    ):
        yield Diagnostic(
            "LF925",
            f"the adapter's base is {_own_base(context)}, which others do not have",
            Severity.WARNING,
            key="hub.base_model",
            hint="hub.base_model=<owner>/<name of the base model>",
        )


def _own_base(context: Context) -> str:
    base, model = context.facts.base, context.spec.model
    if isinstance(model, FolderModel):
        return f"the folder {model.path}"
    return f"the model of run {base.run_id}" if base is not None else "another run's model"


@rule("LF926", "upload of each checkpoint where there is none")
def push_without_saves(context: Context) -> Iterator[Diagnostic]:
    """`hub.when=every_save` uploads checkpoints as they come, and `hub.what=checkpoint` the newest
    of them; with `checkpoint.every=null` the run writes none, so only the final model goes out.
    """
    hub = context.spec.hub
    if not isinstance(hub, PushHub) or context.spec.checkpoint.every is not None:
        return
    if hub.when == "every_save" or hub.what == "checkpoint":
        yield Diagnostic(
            "LF926",
            "checkpoints are to be uploaded, but the run writes none",
            Severity.WARNING,
            key="hub.when" if hub.when == "every_save" else "hub.what",
            hint=override("checkpoint.every", "25%"),
        )


@rule("LF927", "file of secrets that is not there")
def env_file_missing(context: Context) -> Iterator[Diagnostic]:
    """`paths.env_file` names a file in which `env:NAME` is looked up. That there is no `.env` is
    usual; a file that was named and is missing is most often misspelt.

    A warning: the variables may be in the environment of the machine that runs the plan.
    """
    name = context.spec.paths.env_file
    if name not in (None, _USUAL_ENV_FILE) and not Path(name).is_file():
        yield Diagnostic(
            "LF927",
            f"there is no file {name} to look up `env:NAME` in",
            Severity.WARNING,
            key="paths.env_file",
            hint=override("paths.env_file", _USUAL_ENV_FILE),
        )


@rule("LF928", "text of a card that cannot be read")
def card_text_unreadable(context: Context) -> Iterator[Diagnostic]:
    """`card.text` names a file of UTF-8 text (Markdown) that stands in the model card as it is.

    It is read when the card is written, so it must be there by then; refused now, since the card
    goes to the hub with the model.
    """
    name = context.spec.card.text
    fault = text_fault(Path(name)) if name is not None else None
    if fault is not None:
        yield Diagnostic(
            "LF928",
            f"the card's text {name} {fault}",
            key="card.text",
            hint="card.text=null",
        )


def text_fault(path: Path) -> str | None:
    """Why a file is no text; None when it is."""
    try:
        path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "does not exist"
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None
