"""`docs/sweeps.md`: its commands are run, and what it shows of their output is there."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmforge import installed
from llmforge.compose import config_root
from llmforge.sweep.launchers import ENGINES, faults

PAGE = Path(__file__).parents[1] / "docs" / "sweeps.md"
TEXT = PAGE.read_text(encoding="utf-8")
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BASH = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
UPDATE = bool(os.environ.get("LLMFORGE_UPDATE_DOCS"))


def test_every_command_of_the_page(work: Path, llmforge: Callable[[str], Any]) -> None:
    del work  # the folder the commands run in
    text, ran = TEXT, 0
    for body in CONSOLE.findall(TEXT):
        (command,) = re.findall(r"^\$ llmforge (.*)$", body, flags=re.MULTILINE)
        told = llmforge(command)
        ran += 1
        assert told.code == 0, f"{command}\n{told.err}"
        printed = "\n".join(line.rstrip() for line in (told.out + told.err).splitlines())
        shown = f"$ llmforge {command}\n{printed}\n"
        if UPDATE:
            text = text.replace(body, shown)
        else:
            assert body == shown
    if UPDATE:
        PAGE.write_text(text, encoding="utf-8")
    assert ran == 3


def test_commands_in_passing_are_dry_run(work: Path, llmforge: Callable[[str], Any]) -> None:
    del work
    ran = 0
    for body in BASH.findall(TEXT):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if words[:2] != ["llmforge", "sweep"]:
                continue
            kept = [word for word in words[2:] if not word.startswith("hydra")]
            if "sweep=search" in " ".join(kept) and installed.installed_version("optuna") is None:
                continue
            dry = [] if "--dry-run" in kept else ["--dry-run"]
            told = llmforge(shlex.join(["sweep", *kept, *dry]))
            ran += 1
            assert told.code == 0, f"{line}\n{told.err}"
    assert ran >= 3


def test_the_file_that_is_shown_is_the_one_that_is_shipped() -> None:
    (shown,) = re.findall(r"```yaml\n# conf/sweep/lora_lr.yaml\n(.*?)```", TEXT, re.DOTALL)
    shipped = (config_root() / "sweep" / "lora_lr.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(shown) == yaml.safe_load(shipped)


def test_every_launcher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "installed_version", lambda _: "1.0")
    rows = re.findall(r"^\| `(\w+)` \| (?:one|side|jobs|tasks)", TEXT, re.MULTILINE)
    assert rows == list(ENGINES)
    assert [faults([f"hydra/launcher={name}"], ()) for name in rows] == [[]] * len(rows)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_grid_with_refusals_and_a_duplicate_is_run(
    work: Path, llmforge: Callable[[str], Any]
) -> None:
    shown = r"^\$ llmforge (sweep trainer.global_batch=16.*) --dry-run$"
    (command,) = re.findall(shown, TEXT, re.MULTILINE)
    few = "trainer.max_steps=3 evaluation.samples=0 evaluation.exact_match_rows=0 tracking=none"
    told = llmforge(f"{command} {few} sweep.name=twelve")

    assert told.code == 0, told.err
    assert "12 points · 1 duplicate · 2 refused (LF204) · 9 to run" in told.out
    rows = [json.loads(line) for line in
            (work / "multirun/twelve/points.jsonl").read_text("utf-8").splitlines()]  # fmt: skip
    states = [row["state"] for row in rows]
    assert (len(rows), states.count("refused"), states.count("duplicate")) == (12, 2, 1)
    ran = {row["run_id"] for row in rows if row["state"] == "new"}
    folders = {path.parent.name for path in (work / "multirun/twelve").glob("*/result.json")}
    assert folders == ran
    assert len(ran) == 9
    (double,) = (row["run_id"] for row in rows if row["state"] == "duplicate")
    assert double in ran
    board = told.out.partition("trial 9/9")[2]
    assert board.count("FINISHED") >= 9
    assert (
        "12 points · 9 finished before · 1 duplicate · 2 refused (LF204) · 0 to run"
        in llmforge(f"{command} {few} sweep.name=twelve --dry-run").out
    )


@pytest.mark.slow
def test_a_sweep_as_the_page_says(work: Path, llmforge: Callable[[str], Any]) -> None:
    small = (
        "data.rows=200 data.max_train_rows=40 data.max_eval_rows=8 trainer.epochs=null "
        "trainer.max_steps=3 evaluation=end evaluation.samples=0 tracking=none hardware=cpu"
    )
    assert llmforge(f"train {small} seed=1").code == 0
    told = llmforge(f"sweep {small} seed=1,2 sweep.name=mine")
    assert told.code == 0, told.err
    assert "2 points · 1 finished before, in runs/ 1 · 1 to run" in told.out
    folder = work / "multirun" / "mine"
    names = {path.name for path in folder.iterdir()}
    assert {"sweep.json", "points.jsonl"} < names
    assert sum(path.is_symlink() for path in folder.iterdir()) == 1
