"""The upload uses the token it was given, and its failure is a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.diagnostics import Severity
from llmforge.plan import Plan
from llmforge.run.hub import push


@pytest.fixture
def plan(tiny: Callable[..., Plan]) -> Plan:
    hub = ("checkpoint.hub_push=true", "checkpoint.hub_repository=me/model")
    return tiny(*hub, "checkpoint.hub_token=env:MY_TOKEN")


def test_what_is_uploaded_and_as_whom(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    class Api:
        def __init__(self, token: str) -> None:
            calls.append(("token", token))

        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            calls.append(("create", (name, private, exist_ok)))

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", (options["repo_id"], options["folder_path"])))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setenv("MY_TOKEN", "canary-1")
    assert push(plan, tmp_path) is None
    assert calls == [
        ("token", "canary-1"),
        ("create", ("me/model", True, True)),
        ("upload", ("me/model", str(tmp_path))),
    ]


def test_a_failure_is_a_warning_without_the_token(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Api:
        def __init__(self, token: str) -> None:
            raise RuntimeError(f"401 for {token}")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setenv("MY_TOKEN", "canary-1")
    found = push(plan, tmp_path)
    assert found
    assert (found.code, found.severity) == ("LF901", Severity.WARNING)
    assert "401 for <MY_TOKEN>" in found.message


def test_without_a_token_nothing_is_asked_of_the_hub(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    found = push(plan, tmp_path)
    assert found
    assert "the variable MY_TOKEN is not set" in found.message
