"""The study of a sweep in optuna-dashboard, and in PostgreSQL: real servers, asked over HTTP."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep import searching
from llmforge.sweep.definition import define
from llmforge.sweep.jobs import trial_folder
from llmforge.sweep.search import search
from llmforge.sweep.swept import Swept

optuna = pytest.importorskip("optuna")

RATE = "optimizer.lr=tag(log,interval(1e-5,1e-2))"
DASHBOARD = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent))
LONGEST = 60.0
"""Seconds until a server answers."""


def _load(path: Path) -> Any:
    """A helper beside other tests: folders of tests are no packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


postgres = _load(Path(__file__).parents[1] / "sources" / "postgres.py")


def finish(jobs: list[list[str]], first: int) -> list[None]:
    """Runs no worker: a trial's loss is its rate, and the third one is ended early."""
    for job in jobs:
        run = RunFolder.open(trial_folder(job) or "")
        if first == 2:
            run.set_status(Status.PRUNED, reason="weak")
            continue
        run.write_json("result.json", {"eval_loss": run.plan().settings["optimizer"]["lr"]})
        run.set_status(Status.FINISHED)
    return []


def searched(*overrides: str) -> Swept:
    definition = define(
        ["hardware=cpu", "tracking=none", "sweep=search", "sweep.name=seen", RATE,
         "lora=none,small", *overrides]
    )  # fmt: skip
    space, _ = searching.prepare(definition)
    return search(definition, space, finish)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(address: str) -> Any:
    deadline = time.monotonic() + LONGEST
    while True:
        try:
            with urlopen(address, timeout=10) as answer:  # noqa: S310 - on the loopback
                return json.load(answer)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.skipif(DASHBOARD is None, reason="pip install optuna-dashboard")
@pytest.mark.parametrize("storage", ["auto", "sqlite:///studies.db"])
def test_the_dashboard_shows_the_study(work, port, storage):
    found = searched("sweep.trials=4", f"sweep.storage={storage}")
    given = str(found.definition.folder / "study.journal") if storage == "auto" else storage
    command = [str(DASHBOARD), given, "--port", str(port), "--host", "127.0.0.1", "--quiet"]
    server = subprocess.Popen(command, cwd=work)
    try:
        (study,) = asked(f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
        assert study["study_name"] == "seen"
        assert study["directions"] == ["minimize"]
        shown = asked(f"http://127.0.0.1:{port}/api/studies/{study['study_id']}")
    finally:
        server.terminate()
        server.wait()

    states = [trial["state"] for trial in shown["trials"]]
    assert sorted(states) == ["Complete"] * 3 + ["Pruned"]
    runs = {attr["value"].strip('"') for trial in shown["trials"] for attr in trial["user_attrs"]
            if attr["key"] == "run_id"}  # fmt: skip
    assert runs == set(found.trials)
    assert shown["objective_names"] == ["eval_loss"]
    assert {axis["name"] for axis in shown["union_search_space"]} == {"optimizer.lr", "lora"}


@pytest.fixture
def cluster() -> Iterator[Any]:
    if reason := postgres.why_not():
        pytest.skip(reason)
    with postgres.cluster() as running:
        yield running


@pytest.mark.slow
def test_a_study_in_postgresql(work, cluster, monkeypatch):
    from urllib.parse import quote

    address = cluster.tcp_url(quote(postgres.PASSWORD, safe=""))
    with pytest.raises(ConfigRefused) as refused:
        searched("sweep.trials=2", f"sweep.storage='{address}'")
    assert refused.value.diagnostics[0].code == "LF726"
    assert postgres.PASSWORD not in str(refused.value)

    monkeypatch.setenv("STUDY_URL", address)
    searched("sweep.trials=2", "sweep.storage=env:STUDY_URL")
    found = searched("sweep.trials=4", "sweep.storage=env:STUDY_URL")

    study = optuna.load_study(study_name="seen", storage=address)
    assert len(study.trials) == 4
    assert study.best_value == min(t.figures["eval_loss"] for t in found.trials.values()
                                   if t.is_finished)  # fmt: skip
    # the secret stands nowhere in the folder
    for file in (work / "multirun").rglob("*"):
        if file.is_file():
            text = file.read_bytes()
            assert quote(postgres.PASSWORD, safe="").encode() not in text
            assert postgres.PASSWORD.encode() not in text
