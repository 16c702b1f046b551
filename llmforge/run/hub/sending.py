"""Speaking to the hub: one parcel becomes one commit, or nothing changes.

In: an order, a token, a parcel. Out: `Sent`, or `PushFailed` with a diagnostic. Contents go first
(what the hub has already is not sent again), then one commit names all of them, so that a
connection cut at any moment leaves the repository as it was. Trouble of the hub or the network is
waited out and tried again; a refusal is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from llmforge.diagnostics import Diagnostic
from llmforge.run.hub.order import Order
from llmforge.run.hub.parcel import CHECKPOINT

_WEIGHTS = (
    *("*.safetensors", "*.safetensors.index.json"),
    *("adapter_config.json", "pytorch_model*.bin"),
)
"""Files at the top of a repository that must not outlive the model they belonged to: a loader
would take them for a part of this one."""

_PASSING = (408, 409, 412, 425, 429)
"""Refusals that another attempt may not meet: timeouts, conflicts, too many requests."""


@dataclass(frozen=True)
class Sent:
    """What came of an upload."""

    commit: str
    url: str
    unchanged: bool


class PushFailed(RuntimeError):
    """The hub did not take it."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


def connect(token: str, timeout: float) -> Any:
    """A client of the hub that `HF_ENDPOINT` names, which does not wait for ever."""
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def patient() -> Any:
        client = default_client_factory()
        client.timeout = timeout  # the library's own has none
        return client

    set_client_factory(patient)
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)


def send(order: Order, token: str, parcel: Path, message: str) -> Sent:
    """Upload a parcel.

    Raises:
        PushFailed: refused, or all attempts failed: LF901, LF920, LF922, LF924.
    """
    wait, left = order.wait, order.attempts
    while True:
        try:
            return _send(order, token, parcel, message)
        except Exception as error:  # the library and its network let all kinds through
            left -= 1
            if left <= 0 or not _may_pass(error):
                raise PushFailed(diagnose(error, order)) from error
        time.sleep(wait)
        wait *= 2


def _send(order: Order, token: str, parcel: Path, message: str) -> Sent:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = connect(token, order.timeout)
    api.create_repo(order.repository, private=order.private, exist_ok=True)
    if order.revision != "main":
        api.create_branch(order.repository, branch=order.revision, exist_ok=True)
    before = api.repo_info(order.repository, revision=order.revision)
    files = {path.relative_to(parcel).as_posix(): path for path in sorted(parcel.rglob("*"))
             if path.is_file()}  # fmt: skip
    there = [sibling.rfilename for sibling in before.siblings or ()]
    operations = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
          for name, path in files.items()),
        *(CommitOperationDelete(path_in_repo=name) for name in stale(there, list(files))),
    ]  # fmt: skip
    done = api.create_commit(
        order.repository, operations=operations, commit_message=message, revision=order.revision
    )
    return Sent(done.oid, done.commit_url, unchanged=done.oid == before.sha)


def stale(there: list[str], files: list[str]) -> Iterator[str]:
    """Files of the repository that the new ones replace under other names.

    Weights at the top when weights come, and whatever else is in `checkpoint/` when a checkpoint
    comes; nothing that somebody else put there.
    """
    weights = any(fnmatch(name, "*.safetensors") for name in files if "/" not in name)
    state = any(name.startswith(f"{CHECKPOINT}/") for name in files)
    for name in there:
        if name in files:
            continue
        top = "/" not in name
        of_model = weights and top and any(fnmatch(name, pattern) for pattern in _WEIGHTS)
        if of_model or (state and name.startswith(f"{CHECKPOINT}/")):
            yield name


def diagnose(error: BaseException, order: Order) -> Diagnostic:
    """What an exception of the hub's library means to the user."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    status, said = _status(error), _line(error)
    if status == 401:
        return no_token(order, "the hub does not know the token")
    if status in (403, 404):
        return not_allowed(order, said)
    if any(isinstance(cause, HFValidationError) for cause in _chain(error)):
        return Diagnostic("LF923", said, key="hub.repository", hint="hub.repository=<owner>/<name>")
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in _chain(error)):
        return Diagnostic(
            "LF924",
            "HF_HUB_OFFLINE forbids to ask the hub",
            key="hub.check",
            hint="HF_HUB_OFFLINE=0",
        )
    if status is None and _is_network(error):
        return unreachable(said)
    return Diagnostic("LF901", f"the upload to {order.repository} failed: {said}", key="hub.kind")


def no_token(order: Order, why: str) -> Diagnostic:
    """LF920."""
    name = order.token.removeprefix("env:")
    return Diagnostic("LF920", why, key="hub.token", hint=f"export {name}=<a token that may write>")


def not_allowed(order: Order, why: str) -> Diagnostic:
    """LF922."""
    name = order.repository.partition("/")[2]
    return Diagnostic(
        "LF922",
        f"the token may not write to {order.repository}: {why}",
        key="hub.repository",
        hint=f"hub.repository=<you>/{name}",
    )


def unreachable(why: str) -> Diagnostic:
    """LF924."""
    return Diagnostic(
        "LF924", f"the hub was not reached: {why}", key="hub.check", hint="hub.check=false"
    )


def _may_pass(error: BaseException) -> bool:
    """May another attempt succeed?"""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _PASSING
    return _is_network(error)


def _is_network(error: BaseException) -> bool:
    """Did the connection fail, or an answer come that is none?

    Told by where the class comes from: the HTTP library changes its name with the hub's releases.
    """
    modules = {type(cause).__module__.partition(".")[0] for cause in _chain(error)}
    named = bool(modules & {"httpx", "httpx2", "httpcore", "httpcore2", "hf_xet", "json"})
    broken = (ConnectionError, TimeoutError)
    return named or any(isinstance(cause, broken) for cause in _chain(error))


def _status(error: BaseException) -> int | None:
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            return int(status)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    here: BaseException | None = error
    while here is not None:
        yield here
        here = here.__cause__ or here.__context__


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip(": ")
