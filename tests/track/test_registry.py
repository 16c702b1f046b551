"""Checkpoints and final models as versions: made once, pruned, pointed at, fetched elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.refs import ModelRefused, find_model, models_table
from llmforge.run import checkpoints, outcome
from llmforge.run.checkpoints import Keeper
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal
from llmforge.run.status import Status
from llmforge.track.mlflow import MlflowTracker
from llmforge.track.registry import register_run
from llmforge.track.versions import Registry, UnknownModel

MakeRun = Callable[[Plan], RunFolder]


@pytest.fixture
def named(tiny: Callable[..., Plan], work: Path, empty_database: Path) -> Callable[..., Plan]:
    """`named("checkpoint=best")`: a plan that registers its model as `bot`."""
    shutil.copy(empty_database, work / "mlflow.db")

    def make(*overrides: str) -> Plan:
        return tiny(
            f"tracking.uri=sqlite:///{work}/mlflow.db", "tracking.registered_model=bot", *overrides
        )

    return make


def save(plan: Plan, run: RunFolder, step: int, loss: float, best: int | None = None) -> None:
    """What a trainer leaves after a step: a figure, and a sealed checkpoint."""
    Journal(run.journal).append({"eval_loss": loss}, step)
    keeper = Keeper(run.checkpoint_folder, plan)
    keeper.begin(step)
    folder = keeper.staging(step) / keeper.final(step).name
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(step))
    (folder / "optimizer.pt").write_bytes(bytes(100))
    keeper.finish(step, best)


def finish(run: RunFolder, steps: int, loss: float) -> None:
    run.model.mkdir()
    (run.model / "config.json").write_text("{}", encoding="utf-8")
    (run.model / "model.safetensors").write_bytes(bytes(9))
    outcome.write_manifest(run)
    run.write_json("result.json", {"steps": steps, "eval_loss": loss})
    run.set_status(Status.FINISHED)


def steps(registry: Registry, name: str = "bot") -> dict[int, tuple[str, ...]]:
    """Step -> aliases, of the checkpoints; the final model stands under 0."""
    return {
        0 if one.tags["llmforge.kind"] == "final" else int(one.tags["llmforge.step"]): one.aliases
        for one in registry.versions(name)
    }


def track(plan: Plan, run: RunFolder, ending: Status = Status.FINISHED) -> None:
    """One attempt's tracker, from beginning to end."""
    tracker = MlflowTracker()
    tracker.start(plan, run)
    tracker.finish(ending, {})
    assert run.record().warnings == ()


def test_versions_follow_the_checkpoints(named, make_run: MakeRun) -> None:
    plan = named("checkpoint=best", "checkpoint.keep=2")
    run = make_run(plan)
    save(plan, run, 4, 2.0, best=4)
    save(plan, run, 8, 3.0, best=4)
    track(plan, run, Status.INTERRUPTED)
    registry = Registry(plan.settings["tracking"]["uri"])
    assert steps(registry) == {4: ("best",), 8: ("last",)}

    # resumed: the best is kept by name, a pruned one's version goes, and nothing is made twice
    save(plan, run, 12, 4.0, best=4)
    save(plan, run, 16, 4.0, best=4)
    assert {one.step for one in checkpoints.scan(run.checkpoint_folder)} == {4, 12, 16}
    finish(run, 16, 2.0)
    track(plan, run)
    assert steps(registry) == {4: (), 12: (), 16: (), 0: ("best", "last")}
    track(plan, run)
    assert len(registry.versions("bot")) == 4

    best = registry.find("bot", "best")
    assert best.folder == run.model
    assert best.metrics == {"eval_loss": 2.0}
    four = next(one for one in registry.versions("bot") if one.tags["llmforge.step"] == "4")
    assert four.metrics == {"eval_loss": 2.0, "train_loss": 6.0}
    assert four.to_dict()["weights"] == "full"


def test_an_alias_of_ones_own_keeps_a_pruned_version(named, make_run: MakeRun) -> None:
    plan = named("checkpoint.keep=1")
    run = make_run(plan)
    save(plan, run, 4, 2.0)
    track(plan, run, Status.INTERRUPTED)
    registry = Registry(plan.settings["tracking"]["uri"])
    registry.client.set_registered_model_alias("bot", "shown", "1")
    save(plan, run, 8, 2.0)
    track(plan, run, Status.INTERRUPTED)
    assert steps(registry) == {4: ("shown",), 8: ("last",)}
    assert registry.find("bot", "shown").tags["llmforge.state"] == "pruned"


def test_the_better_of_two_runs_keeps_the_alias(named, make_run: MakeRun) -> None:
    good, bad = named("checkpoint=best"), named("checkpoint=best", "optimizer.lr=0.5")
    for plan, loss in ((good, 1.0), (bad, 2.0)):
        run = make_run(plan)
        save(plan, run, 4, loss, best=4)
        track(plan, run, Status.INTERRUPTED)
    registry = Registry(good.settings["tracking"]["uri"])
    assert registry.find("bot", "best").tags["llmforge.run"] == good.run_id
    assert registry.find("bot", "last").tags["llmforge.run"] == bad.run_id


def test_references(named, make_run: MakeRun, llmforge) -> None:
    plan = named("checkpoint=best")
    run = make_run(plan)
    save(plan, run, 4, 2.0, best=4)
    save(plan, run, 8, 3.0, best=4)
    track(plan, run, Status.INTERRUPTED)
    tracking = plan.settings["tracking"]

    for ref in ("bot@best", "models:/bot@best", "models:/bot/1"):
        place = find_model(ref, tracking=tracking)
        assert (place.step, place.folder) == (4, run.checkpoint_folder / "checkpoint-4")
        assert place.plan is not None
        assert place.plan.fingerprint == plan.fingerprint
    assert find_model("bot@last", tracking=tracking).step == 8

    for ref, note in (("bit@best", "did you mean `bot`?"), ("bot@bets", "did you mean `best`?")):
        with pytest.raises(ModelRefused) as caught:
            find_model(ref, tracking=tracking)
        (found,) = caught.value.diagnostics
        assert found.code == "LF863"
        assert note in found.notes

    table = models_table(Registry(tracking["uri"]), "bot", as_json=False)
    assert [line.split()[0] for line in table.splitlines()] == ["version", "2", "1"]
    assert llmforge("models nobody").code == 2
    assert "bot" in llmforge("models").out


def test_a_registry_that_is_away_ends_nothing(named, make_run: MakeRun, monkeypatch) -> None:
    plan = named()
    run = make_run(plan)
    save(plan, run, 4, 2.0)

    def broken(*_: object, **__: object) -> None:
        raise OSError("the registry is on fire")

    monkeypatch.setattr(Registry, "versions", broken)
    tracker = MlflowTracker(patience=0.5)
    tracker.start(plan, run)
    tracker.finish(Status.INTERRUPTED, {})
    (warning,) = run.record().warnings
    assert warning["code"] == "LF910"
    assert warning["hint"] == f"llmforge register {run.run_id} bot"


def test_registered_after_the_fact(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    finish(run, 10, 1.5)
    track(plan, run)
    registry = Registry(plan.settings["tracking"]["uri"])
    assert registry.names() == []
    assert register_run(registry, run, "later") == [1]
    assert register_run(registry, run, "later") == [1]
    assert steps(registry, "later") == {0: ("last",)}
    with pytest.raises(UnknownModel, match="no version or alias `best`"):
        registry.find("later", "best")


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[str]:
    """A real server on loopback, which keeps artifacts for its clients."""
    shutil.copy(empty_database, tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--serve-artifacts",
        "--artifacts-destination", str(tmp_path / "kept"), "--workers", "1",
    ]  # fmt: skip
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers, too
        process.wait(20)
        log.close()


def test_a_server_keeps_uploaded_weights_for_others(
    server: str, tiny: Callable[..., Plan], work: Path, make_run: MakeRun
) -> None:
    plan = tiny(
        f"tracking.uri={server}", "tracking.registered_model=bot", "tracking.upload=checkpoints",
        "tracking.experiment=uploads",
    )  # fmt: skip
    run = make_run(plan)
    save(plan, run, 4, 2.0)
    finish(run, 4, 2.0)
    tracker = MlflowTracker(patience=60)
    tracker.start(plan, run)
    tracker.finish(Status.FINISHED, {})
    assert run.record().warnings == ()
    registry = Registry(server)
    assert steps(registry) == {4: (), 0: ("last",)}
    assert registry.find("bot", "last").source.startswith("runs:/")

    # another machine: the run folder is not there
    shutil.rmtree(run.path)
    for version in registry.versions("bot"):
        place = find_model(
            version.reference, tracking=plan.settings["tracking"], cache=work / ".llmforge"
        )
        assert place.folder is not None
        names = {path.name for path in place.folder.iterdir()}
        assert {"config.json", "model.safetensors", "plan.json"} <= names
        assert "optimizer.pt" not in names
        assert place.plan is not None
        assert place.plan.run_id == plan.run_id
