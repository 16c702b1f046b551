"""A training that pushes as it goes, as a user starts it; and what is pushed by hand afterwards."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import ModelCard

from llmforge.plan import Plan
from llmforge.run import sealing
from llmforge.run.folder import RunFolder

if TYPE_CHECKING:
    from stand_in_hub import StandIn

PUSH = ("tracking=none", "hub=push", "hub.repository=me/model", "hub.wait=0.05", "hub.timeout=5.0")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmforge", *words],
        capture_output=True, text=True, timeout=280, check=False, env=dict(os.environ),
    )  # fmt: skip


def train(plan: Plan, work: Path) -> subprocess.CompletedProcess[str]:
    plan.save(work / "plan.json")
    return run("train", "--plan", str(work / "plan.json"))


@pytest.mark.slow
def test_each_save_and_the_end_are_pushed_and_again_nothing(
    tiny: Callable[..., Plan], work: Path, hub: StandIn, tmp_path: Path
) -> None:
    words = ("hub.when=every_save", "hub.what=checkpoint", "checkpoint.keep=1", "lora=small")
    plan = tiny(*PUSH, *words)

    done = train(plan, work)

    assert done.returncode == 0, done.stderr
    folder = RunFolder.open(plan.run_folder)
    pushes = json.loads((folder.path / "push.json").read_text(encoding="utf-8"))["pushes"]
    assert [push["error"] for push in pushes] == [None] * len(pushes)
    assert pushes[-1]["source"] == "model"
    assert {push["source"] for push in pushes[:-1]} <= {f"checkpoint-{n}" for n in (4, 8, 12)}
    assert len(hub.messages("me/model")) == len(pushes) >= 2

    arrived = hub.checkout("me/model", tmp_path / "arrived")
    assert sealing.fault(arrived / "checkpoint", thorough=True) is None
    assert sealing.facts(arrived / "checkpoint")["step"] == 12
    for name in ("adapter_model.safetensors", "base/model.safetensors"):
        assert (arrived / name).read_bytes() == (folder.model / name).read_bytes()
    texts = b"".join(
        content for name, content in hub.files("me/model").items()
        if not name.endswith((".safetensors", ".pt", ".pth", "tokenizer.json"))
    )  # fmt: skip
    for private in (str(work), str(Path.home()), "token-of-me"):
        assert private.encode() not in texts
    assert not (folder.path / ".push").exists() or not list((folder.path / ".push").iterdir())
    loads_as_the_card_says(arrived)
    records_stand_in(folder, plan)

    received = hub.received
    again = run("push", plan.run_id, "--what", "checkpoint")
    assert again.returncode == 0, again.stderr
    assert "model was there already" in again.stdout
    assert hub.received == received


def loads_as_the_card_says(arrived: Path) -> None:
    """The card's own lines, with the download in the place of the repository."""
    text = ModelCard((arrived / "README.md").read_text(encoding="utf-8")).text
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "PeftModel" in code
    prompt = "print(model(**tokenizer('a', return_tensors='pt')).logits.shape)"
    lines = code.replace('snapshot_download("me/model")', repr(str(arrived)))
    done = subprocess.run(
        [sys.executable, "-c", f"{lines}\n{prompt}"],
        capture_output=True, text=True, timeout=200, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert "torch.Size" in done.stdout, done.stderr


def records_stand_in(folder: RunFolder, plan: Plan) -> None:
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    assert plan.fingerprint in card
    assert "after 12 of 12 optimizer steps" in card
    assert "eval\\_loss" in card
    assert 'folder = "model"' in card
    assert (folder.model / "README.md").is_file()
    assert "README.md" in json.loads(folder.manifest.read_text(encoding="utf-8"))["files"]
    with (folder.path / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in table] == [0, 1, 2, 4, 6, 8, 10, 12]
    assert float(table[-1]["epoch"]) > 0
    assert float(table[-1]["seconds"]) > 0
    assert (folder.path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_a_hub_that_fails_never_fails_the_training(
    tiny: Callable[..., Plan], work: Path, hub: StandIn
) -> None:
    plan = tiny(*PUSH, "hub.attempts=2", "hub.when=every_save", "evaluation.at_start=false")
    hub.trouble("POST", "/api/repos/create", 500, times=99)

    done = train(plan, work)

    assert done.returncode == 0, done.stderr
    folder = RunFolder.open(plan.run_folder)
    warned = [warning["code"] for warning in (folder.result() or {})["warnings"]]
    assert warned == ["LF901"]
    assert "warning[LF901]: the upload to me/model failed" in done.stdout
    hub.troubles.clear()

    again = run("push", "last")
    assert again.returncode == 0, again.stderr
    assert "model is on the hub" in again.stdout
    assert "model.safetensors" in hub.files("me/model")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"HF_TOKEN": ""}, "LF920"),
        ({"HF_TOKEN": "wrong"}, "LF920"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "LF924"),
    ],
)
def test_what_would_be_refused_is_refused_before_anything_is_trained(
    change, code, tiny, work: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    plan = tiny(*PUSH)

    done = train(plan, work)

    assert done.returncode == 2
    assert f"error[{code}]" in done.stderr
    assert not plan.run_folder.exists()
    assert hub.repositories == {}
