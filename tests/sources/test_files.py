"""Paths to files, in an order that is the same each time; damage told whenever it shows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources.base import Unusable
from llmforge.sources.files import expand, opened, override

SUFFIXES = (".jsonl",)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("rows/b.jsonl", "rows/a.jsonl.gz", "rows/.hidden.jsonl", "rows/notes.md",
                 "rows/deep/c.JSONL", "rows/.git/d.jsonl", "train.jsonl"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}\n")
    return tmp_path


def names(paths: str | list[str]) -> list[str]:
    found = expand(paths, SUFFIXES, "data.train")
    assert all(path.is_file() for _, path in found)
    return [name for name, _ in found]


def refusal(paths: str | list[str]) -> Unusable:
    with pytest.raises(Unusable) as caught:
        expand(paths, SUFFIXES, "data.train")
    assert caught.value.fault.code == "LF501"
    return caught.value


def test_a_file_is_taken_whatever_its_suffix() -> None:
    assert names("rows/notes.md") == ["rows/notes.md"]


def test_a_folder_gives_its_files_sorted_without_hidden_ones() -> None:
    assert names("rows") == ["rows/a.jsonl.gz", "rows/b.jsonl", "rows/deep/c.JSONL"]
    assert names("rows/") == names("rows")


def test_a_glob_is_sorted() -> None:
    assert names("rows/*l*") == ["rows/a.jsonl.gz", "rows/b.jsonl"]
    assert names("**/b.jsonl") == ["rows/b.jsonl"]


def test_a_list_keeps_its_order() -> None:
    assert names(["train.jsonl", "rows/b.jsonl"]) == ["train.jsonl", "rows/b.jsonl"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(folder: Path) -> None:
    (folder / "a[1].jsonl").write_text("{}\n", encoding="utf-8")
    assert names("a[1].jsonl") == ["a[1].jsonl"]


def test_a_near_name_is_a_hint() -> None:
    problem = refusal("trian.jsonl")
    assert str(problem) == "data file trian.jsonl does not exist"
    assert problem.fault.hint == "data.train=train.jsonl"
    assert problem.fault.notes == (f"looked from {Path.cwd()}",)
    assert refusal("gone/train.jsonl").fault.notes == ("there is no folder gone",)


@pytest.mark.parametrize("name", ["", "a\0b", "train.jsonl/x", "x" * 300])
def test_impossible_names_are_told(name: str) -> None:
    refusal(name)


def test_a_folder_of_other_files_names_the_kind_that_reads_them(folder: Path) -> None:
    (folder / "tables").mkdir()
    (folder / "tables" / "a.csv").write_text("a\n", encoding="utf-8")
    problem = refusal("tables")
    assert str(problem) == "tables is a folder without .jsonl files"
    assert problem.fault.hint == "data=csv data.train=tables"


def test_a_glob_without_a_match_is_told() -> None:
    problem = refusal("rows/*.json")
    assert str(problem) == "rows/*.json matches no file"
    assert problem.fault.hint == "data.train=rows/*.jsonl"


def test_packed_files_are_unpacked(folder: Path) -> None:
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        path = folder / f"packed.jsonl{suffix}"
        path.write_bytes(pack(b"one\ntwo\n"))
        with opened(path) as stream:
            assert stream.read() == b"one\ntwo\n"
        path.write_bytes(b"")
        with opened(path) as stream:
            assert stream.read() == b"", "an empty file is no broken archive"


@pytest.mark.parametrize("pack", [(".gz", gzip.compress), (".bz2", bz2.compress),
                                  (".xz", lzma.compress)])  # fmt: skip
def test_damage_in_the_middle_is_told_while_reading(folder: Path, pack: tuple) -> None:
    suffix, compress = pack
    sound = compress(os.urandom(4_000_000))
    path = folder / f"cut{suffix}"
    path.write_bytes(sound[: len(sound) // 2])
    with opened(path, "shown") as stream:
        assert len(stream.read(1_000)) == 1_000
        with pytest.raises(Unusable, match="shown is cut short") as caught:
            stream.read()
    assert caught.value.fault.code == "LF501"


def test_folders_and_pipes_are_no_files(folder: Path) -> None:
    with pytest.raises(Unusable, match="is a folder, not a file"):
        opened(folder / "rows")
    os.mkfifo(folder / "pipe")
    with pytest.raises(Unusable, match="is a pipe or a device"):
        opened(folder / "pipe")
    with pytest.raises(Unusable, match="cannot be read: No such file"):
        opened(folder / "gone")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_rights_is_told(folder: Path) -> None:
    (folder / "train.jsonl").chmod(0)
    with pytest.raises(Unusable, match="cannot be read: Permission denied") as caught:
        opened(folder / "train.jsonl", "train.jsonl")
    assert caught.value.fault.hint == "chmod u+r train.jsonl"


def test_files_of_other_kinds_are_named(folder: Path) -> None:
    (folder / "x.jsonl").write_bytes(b"PAR1\x15\x04")
    with pytest.raises(Unusable, match="is a Parquet file") as caught:
        opened(folder / "x.jsonl")
    assert (caught.value.fault.code, caught.value.fault.hint) == ("LF504", "data=parquet")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1))
@settings(max_examples=50)
def test_an_override_means_its_value_to_the_shell_and_to_hydra(value: str) -> None:
    pasted = shlex.split(override("data.train", value))
    assert len(pasted) == 1
    assert str(OverridesParser.create().parse_override(pasted[0]).value()) == value
