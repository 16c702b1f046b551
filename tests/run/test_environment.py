"""What a worker's environment is set to, and what is written down of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run import environment


def test_nothing_of_hydra_and_no_second_tracker(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = environment.worker_environment(plan, attempt=3)
    assert "HYDRA_FULL_ERROR" not in found
    assert found["MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"] == "false"
    assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert found["TOKENIZERS_PARALLELISM"] == "false"
    assert found["PYTHONHASHSEED"] == "0"
    assert found["HF_HUB_OFFLINE"] == "1"  # the user's
    assert found[environment.ATTEMPT] == "3"


def test_a_local_run_sees_one_device(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert environment.worker_environment(plan, 1)["CUDA_VISIBLE_DEVICES"] == "3"


def test_threads(tiny: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(environment, "cores", lambda: 8)

    def threads(*overrides: str) -> str | None:
        found = environment.worker_environment(tiny("tracking=none", *overrides), 1)
        return found.get("OMP_NUM_THREADS")

    assert threads("launch.threads=3") == "3"
    assert threads("launch.threads=0") == "8"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads("launch.threads=0") == "5"  # the user said so
    assert threads("launch.threads=3") == "3"  # the plan says more


def test_secrets_are_names(tiny: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny("tracking.token=env:MY_TOKEN", "hub=push", "hub.repository=me/model")
    assert environment.secret_names(plan) == ["HF_TOKEN", "MY_TOKEN"]
    monkeypatch.setenv("MY_TOKEN", "canary-123")
    assert environment.secret("env:MY_TOKEN") == "canary-123"
    assert environment.secret(None) is None
    assert environment.scrub("got canary-123 back", plan) == "got <MY_TOKEN> back"
    text = json.dumps(environment.describe(plan))
    assert "canary-123" not in text
    assert '"MY_TOKEN": true' in text


def test_a_file_of_secrets_gives_those_that_the_plan_names_and_no_others(
    tiny: Callable[..., Plan], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MY_TOKEN", "OTHER", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    file = work / "tokens"
    file.write_text("# mine\nexport MY_TOKEN='canary-9 ${HOME} $(id)'\nOTHER=x\n", encoding="utf-8")
    plan = tiny("tracking.token=env:MY_TOKEN", f"paths.env_file={file}")

    told = "canary-9 ${HOME} $(id)"  # nothing in it is expanded or run
    assert environment.secret("env:MY_TOKEN", plan) == told
    found = environment.worker_environment(plan, 1)
    assert found["MY_TOKEN"] == told
    assert "OTHER" not in found
    assert "MY_TOKEN" not in os.environ
    assert environment.scrub(f"got {told}", plan) == "got <MY_TOKEN>"

    monkeypatch.setenv("MY_TOKEN", "of the environment")
    assert environment.worker_environment(plan, 1)["MY_TOKEN"] == "of the environment"


def test_a_file_of_secrets_may_be_missing(
    tiny: Callable[..., Plan], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    plan = tiny("tracking.token=env:MY_TOKEN", f"paths.env_file={work / 'none'}")
    assert environment.secret("env:MY_TOKEN", plan) is None


def test_a_working_copy_tells_its_commit(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@x")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    assert environment.git(tmp_path / "..") is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    found = environment.git(tmp_path)
    assert found
    assert len(found["commit"]) == 40
    assert found["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert environment.git(tmp_path) == {"commit": found["commit"], "dirty": True}


def test_deepspeed_alone_gets_a_process_group_of_one(compiled, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    plain = environment.worker_environment(compiled(), 1)
    sharded = environment.worker_environment(compiled("deepspeed=stage2"), 1)

    assert "RANK" not in plain
    assert (sharded["RANK"], sharded["WORLD_SIZE"]) == ("0", "1")
    assert sharded["MASTER_ADDR"] == "127.0.0.1"
    assert 0 < int(sharded["MASTER_PORT"]) < 65536
