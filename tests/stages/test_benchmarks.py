"""Tasks of lm-eval from a folder of one's own, on a model of this process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.compose.benchmarks import check_tasks, code_of
from llmforge.stages.prepare import prepare

pytest.importorskip("lm_eval")

TASK = """\
task: tiny_sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: "{text}"
doc_to_target: right
doc_to_choice: ["one", "two", "three"]
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = tmp_path / "sums.jsonl"
    rows.write_text(
        "".join(json.dumps({"q": f"{n} and 1?", "right": n % 3}) + "\n" for n in range(9))
    )
    made = tmp_path / "tasks"
    made.mkdir()
    (made / "sums.yaml").write_text(TASK.format(rows=rows, text="{{q}}"))
    return made


@pytest.fixture
def built(make_plan, tmp_path: Path) -> Any:
    plan = make_plan()
    parts = build_parts(plan, prepare(plan))
    return plan, parts, build_trainer(plan, parts, tmp_path / "out", [])


def test_a_task_over_a_local_file(built, folder: Path):
    from llmforge.stages.benchmarks import NoSuchTask, run_tasks

    found = run_tasks(*built, ["tiny_sums"], [str(folder)], trusted=False)
    accuracy = found["tasks"]["tiny_sums"]["acc"]
    # an untrained model gives the same answer to all, and each is right for three of nine rows
    assert accuracy * 9 == pytest.approx(round(accuracy * 9))
    assert found["tasks"]["tiny_sums"]["acc_stderr"] == pytest.approx(
        math.sqrt(accuracy * (1 - accuracy) / 8)
    )
    with pytest.raises(NoSuchTask, match="no task `tiny_sum`; did you mean `tiny_sums`"):
        run_tasks(*built, ["tiny_sum"], [str(folder)], trusted=False)
    (folder / "sums.yaml").write_text("group: [")
    assert [d.code for d in check_tasks([str(folder)], trusted=False)] == ["LF227"]


def test_a_template_cannot_reach_python(built, folder: Path, tmp_path: Path):
    from llmforge.stages.benchmarks import run_tasks

    touched = tmp_path / "touched"
    reach = (
        "{{ cycler.__init__.__globals__.os.system('touch %s') }}" % touched  # noqa: UP031 - braces
    )
    rows = tmp_path / "sums.jsonl"
    (folder / "sums.yaml").write_text(TASK.format(rows=rows, text=reach))
    with pytest.raises(Exception, match=r"unsafe|safely"):
        run_tasks(*built, ["tiny_sums"], [str(folder)], trusted=False)
    assert not touched.exists()


def test_task_files_that_run_code_are_told_with_their_line(folder: Path):
    assert check_tasks([str(folder)], trusted=False) == []
    (folder / "base").write_text("process_docs: !function helpers.filter_rows\n")
    (folder / "more.yaml").write_text("include: base\ntask: more\nmetric_list:\n  - metric: x\n"
                                      "    hf_evaluate: true\n")  # fmt: skip
    found = {(one.file.name, one.line, one.what.partition(",")[0]) for one in code_of(folder)}
    assert found == {
        ("base", 1, "`!function helpers.filter_rows`"),
        ("more.yaml", 5, "`hf_evaluate`"),
    }
    told = check_tasks([str(folder)], trusted=False)
    assert {(d.code, d.hint) for d in told} == {("LF226", "--trust-task-code")}
    assert check_tasks([str(folder)], trusted=True) == []


def test_folders_that_hold_no_task(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    found = check_tasks([str(tmp_path / "empty"), "./missing", "hellaswag"], trusted=False)
    assert [d.code for d in found] == ["LF227", "LF227"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    [found] = check_tasks(["hellaswag"], trusted=False)
    assert (found.code, found.hint) == ("LF225", "pip install 'llmforge[benchmarks]'")
