"""Folders that the datasets library itself wrote, read without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmforge.sources.base import Unusable
from llmforge.sources.saved import saved_parts

ROWS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "Yes."}]}
    for n in range(7)
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("saved")
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(folder / "one", num_shards=3)
    splits = {"train": rows, "test": rows.select([5, 1])}
    datasets.DatasetDict(splits).save_to_disk(folder / "splits")
    mixed = datasets.Features({"tools": datasets.Json(), "kind": datasets.ClassLabel(2)})
    tools = [{"tools": {"a": 1}, "kind": 1}, {"tools": ["b"], "kind": 0}]
    datasets.Dataset.from_list(tools, features=mixed).save_to_disk(folder / "mixed")
    return folder


@pytest.fixture(autouse=True)
def here(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved)


def rows(path: str, split: str | None) -> list[object]:
    return [raw.values for part in saved_parts(path, split) for raw in part.rows()]


def refusal(path: str, split: str | None) -> Unusable:
    with pytest.raises(Unusable) as caught:
        saved_parts(path, split)
    return caught.value


def test_a_data_set_in_several_files() -> None:
    parts = saved_parts("one", None)
    assert [part.name for part in parts] == [f"one/data-{n:05}-of-00003.arrow" for n in range(3)]
    assert rows("one", None) == ROWS


def test_a_split() -> None:
    assert rows("splits/", "train") == ROWS
    assert rows("splits", "test") == [ROWS[5], ROWS[1]]
    assert saved_parts("splits/", "test")[0].name == "splits/test/data-00000-of-00001.arrow"


def test_columns_of_json_and_of_class_labels() -> None:
    assert rows("mixed", None) == [{"tools": {"a": 1}, "kind": 1}, {"tools": ["b"], "kind": 0}]


def test_it_is_read_without_the_library() -> None:
    code = (
        "import sys; from llmforge.sources.saved import saved_parts;"
        "n = sum(1 for part in saved_parts('one', None) for _ in part.rows());"
        "assert 'datasets' not in sys.modules and 'torch' not in sys.modules; print(n)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "7\n", done.stderr


def test_a_wrong_split_has_a_near_match() -> None:
    problem = refusal("splits", "tets")
    assert str(problem) == "splits has no split `tets`"
    assert problem.fault.hint == "data.train=test"
    assert refusal("splits", None).fault.hint == "data.train=train"
    assert refusal("one", "train").fault.hint == "data.train=null"


def test_what_is_no_such_folder(saved: Path) -> None:
    problem = refusal("splitz", "train")
    assert str(problem) == "saved data set splitz does not exist"
    assert (problem.fault.code, problem.fault.hint) == ("LF501", "data.path=splits")
    assert refusal(".", "train").fault.hint == "data.path=mixed"
    (saved / "tables").mkdir(exist_ok=True)
    (saved / "tables" / "a.parquet").touch()
    assert refusal("tables", "train").fault.hint == "data=parquet data.train=tables"
    file = refusal("one/state.json", "train")
    assert file.fault.what == "is a file, not a folder that datasets.save_to_disk wrote"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "has no sound state.json: "),
        ("[]", "has no sound state.json: it has no list of `_data_files`"),
        ({"_data_files": [{"filename": "../one/state.json"}]}, "has no sound state.json: "),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "lacks gone.arrow"),
        ({"_data_files": [], "_indices_data_files": [{}]}, "was saved by an old version"),
    ],
)
def test_damaged_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    text = state if isinstance(state, str) else json.dumps(state)
    (tmp_path / "rows" / "state.json").write_text(text, encoding="utf-8")
    problem = refusal("rows", None)
    assert str(problem).startswith(f"rows {message}")
    assert problem.fault.hint
