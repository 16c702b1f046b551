"""`doctor`: what is there, what is missing, and how to get it."""

from __future__ import annotations

import pytest

from llmforge.doctor import _parsed, examine

GOOD = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "peft": "0.21.2", "accelerate": "1.15.0",
        "datasets": "5.2.0", "mlflow": "3.17.2"}  # fmt: skip


@pytest.fixture
def installed(monkeypatch, work):
    """`installed(torch=None)`: rows of the report by name, and the verdict."""

    def with_versions(**changes):
        versions = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
        monkeypatch.setattr("llmforge.doctor.installed_versions", lambda: versions)
        text, healthy = examine()
        rows = {line.split()[0]: line for line in text.splitlines() if line}
        assert text.endswith("\nready" if healthy else "\nnot ready: see MISSING above")
        return rows, healthy

    return with_versions


def test_a_healthy_machine(installed):
    rows, healthy = installed()

    assert healthy
    assert rows["torch"].split() == ["torch", "2.13.0+cpu"]
    assert "optional: pip install 'llmforge[quantize]'" in rows["bitsandbytes"]


@pytest.mark.parametrize(
    ("version", "healthy"),
    [("2.11.0", True), ("2.11.0rc1", True), ("2.10.9", False), (None, False)],
)
def test_torch_that_is_too_old_or_missing(version, healthy, installed):
    rows, found = installed(torch=version)

    assert found is healthy
    assert ("MISSING: needs torch >= 2.11" in rows["torch"]) is not healthy


def test_mlflow_is_not_a_must(installed):
    rows, healthy = installed(mlflow=None)

    assert healthy
    assert "use tracking=none" in rows["mlflow"]


def test_a_full_disk_is_told(installed, monkeypatch):
    monkeypatch.setattr("llmforge.doctor._FREE_GIB", 10.0**9)

    assert "LOW: checkpoints may not fit" in installed()[0]["disk"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.13.0+cpu", (2, 13, 0)), ("5.23", (5, 23)), ("3.0.0rc1", (3, 0)), ("odd", ())],
)
def test_versions_are_compared_by_their_numbers(text, numbers):
    assert _parsed(text) == numbers
