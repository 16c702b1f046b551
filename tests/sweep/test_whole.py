"""A grid of twelve points on the built-in example, from the table to MLflow and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

TINY = (
    "name=tiny data.max_cut_tokens=null model.layers=1 model.hidden=16 model.intermediate=32 "
    "model.heads=2 model.kv_heads=2 model.context=128 tokenizer.vocabulary=300 data.rows=200 "
    "data.max_train_rows=80 data.max_eval_rows=8 trainer.epochs=null trainer.max_steps=2 "
    "evaluation=end evaluation.exact_match_rows=0 evaluation.samples=0 hardware=cpu"
)
TWELVE = "trainer.global_batch=16,24,32,40 trainer.micro_batch=auto,4,16 lora=small sweep.name=s"
"""Micro batch 16 does not divide 24 and 40, and is what `auto` comes to beside 16."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twelve_points_with_two_refused_and_one_duplicate(llmforge, work):
    ran = llmforge(f"sweep {TINY} {TWELVE}")

    assert ran.code == 0, ran.err
    assert "sweep s: 12 points · 1 duplicate · 2 refused (LF204) · 9 to run" in ran.out
    folder = work / "multirun" / "s"
    lines = (folder / "points.jsonl").read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    assert points[2]["run_id"] == points[0]["run_id"]
    refused = [point for point in points if point["codes"]]
    assert [point["values"]["trainer.global_batch"] for point in refused] == ["24", "40"]
    runs = [RunFolder(place.parent) for place in folder.glob("*/plan.json")]
    assert {run.run_id for run in runs} == {p["run_id"] for p in points if not p["codes"]}
    assert [(run.status(), run.record().attempts) for run in runs] == [(Status.FINISHED, 1)] * 9

    # the sweep is the parent of nine runs, and says what was left out and why
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    parent = client.get_run(json.loads((folder / "mlflow.json").read_text())["run_id"])
    assert parent.info.status == "FINISHED"
    tags = parent.data.tags
    assert (tags["llmforge.points"], tags["llmforge.refused"]) == ("12", "2")
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    )
    assert [child.info.status for child in children] == ["FINISHED"] * 9
    here = client.download_artifacts(parent.info.run_id, "refused.json", str(work))
    left_out = json.loads(Path(here).read_text(encoding="utf-8"))
    assert [one["codes"] for one in left_out] == [["LF204"]] * 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "LF204" in page
    assert all(run.run_id in page for run in runs)

    # the same command again has nothing to do
    again = llmforge(f"sweep {TINY} {TWELVE}")
    assert again.code == 0
    assert "9 finished before · 1 duplicate · 2 refused (LF204) · 0 to run" in again.out
    assert {run.record().attempts for run in runs} == {1}


@pytest.mark.slow
def test_trials_that_are_fused_after_training(llmforge, work):
    ran = llmforge(f"sweep {TINY} sweep.name=s lora=small seed=1,2 fuse.after_training=true")

    assert ran.code == 0, ran.err
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    runs = [RunFolder(place.parent) for place in (work / "multirun/s").glob("*/plan.json")]
    assert [run.status() for run in runs] == [Status.FINISHED] * 2
    parent = json.loads((work / "multirun/s/mlflow.json").read_text(encoding="utf-8"))["run_id"]
    for run in runs:
        assert (run.path / "fused" / "model.safetensors").is_file()
        child = client.get_run(run.read_json("mlflow.json")["run_id"])
        assert child.data.tags["mlflow.parentRunId"] == parent
        assert "fuse.json" in {one.path for one in client.list_artifacts(child.info.run_id)}
