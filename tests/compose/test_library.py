"""Search path, groups and options."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import llmforge
from llmforge.compose import Option, config_root, groups, library, options


def test_config_root_is_the_checkouts_conf() -> None:
    assert Path(llmforge.__file__).parent.parent / "conf" == config_root()


def test_config_root_prefers_the_tree_inside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "llmforge"
    for folder in (package / "conf", package.parent / "conf"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    monkeypatch.setattr(library.llmforge, "__file__", str(package / "__init__.py"))
    assert package / "conf" == config_root()


def test_config_root_names_both_places_when_neither_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(library.llmforge, "__file__", str(tmp_path / "llmforge" / "__init__.py"))
    with pytest.raises(FileNotFoundError) as error:
        config_root()
    assert str(tmp_path / "llmforge" / "conf") in str(error.value)
    assert str(tmp_path / "conf") in str(error.value)


def test_groups_are_the_folders_with_options(conf, write):
    write({"data/tokenizer/bpe.yaml": "kind: bpe", ".hidden/x.yaml": "", "empty/readme.md": ""})
    assert groups(root=conf) == [
        "data/tokenizer",
        "experiment",
        "lora",
        "model",
        "quantization",
        "trainer",
    ]


def test_option_names_file_and_opening_comment(conf):
    tiny = Option("model", "tiny", conf / "model/tiny.yaml", None, "A tiny model.\nFor tests.")
    assert options("model", root=conf)[1] == tiny


def test_option_comment_skips_package_header_and_schema_line(conf):
    assert options("experiment", root=conf)[0].doc == "Medical questions."


def test_option_without_comment_has_no_doc(conf):
    assert options("quantization", root=conf)[0].doc == ""


def test_a_users_option_hides_the_shipped_one(conf, write, tmp_path):
    mine = write({"lora/small.yaml": "kind: mine", "lora/own.yaml": "kind: own"}, tmp_path / "mine")
    found = {option.name: option for option in options("lora", [mine], conf)}
    assert found["small"].path == mine / "lora/small.yaml"
    assert found["small"].shadows == conf / "lora/small.yaml"
    assert found["own"].shadows is None
    assert sorted(found) == ["default", "none", "own", "small", "wide"]


def test_unknown_group_has_no_options(conf):
    assert options("nope", root=conf) == []


def test_nothing_outside_the_search_path_is_an_option(conf, write, tmp_path):
    write({"secret.yaml": "a: 1"}, tmp_path)
    assert options("..", root=conf) == []
    assert library.Library((conf,)).find("model/../../secret") is None
    assert library.Library((conf,)).find(str(tmp_path / "secret")) is None


@pytest.mark.parametrize(
    ("where", "shown"),
    [("shipped/lora/small.yaml", "conf/lora/small.yaml"), ("work/a/b.yaml", "a/b.yaml")],
)
def test_paths_are_shown_as_users_know_them(conf, tmp_path, where, shown):
    assert library.Library((conf,)).show(tmp_path / where) == shown


def test_path_elsewhere_is_shown_whole(conf, tmp_path):
    assert library.Library((conf,)).show(tmp_path / "x.yaml") == str(tmp_path / "x.yaml")


def test_missing_config_dir(draft, only, tmp_path):
    (tmp_path / "work" / "mine").mkdir()
    found = only(draft(config_dirs=("mien",)), "LF115")
    assert found.message == "config dir `mien` does not exist"
    assert found.notes == ("did you mean `mine`?",)
    assert found.hint == "--config-dir mine"


def test_config_dir_that_is_a_file(draft, only, tmp_path):
    (tmp_path / "work" / "mine.yaml").touch()
    assert only(draft(config_dirs=("mine.yaml",)), "LF115").message == (
        "config dir `mine.yaml` is not a directory"
    )


def test_a_missing_config_dir_does_not_hide_other_faults(draft, codes):
    assert codes(draft("trainer.micro_bach=4", config_dirs=("nope",))) == ["LF101", "LF115"]


def test_config_dir_below_the_home_folder(draft, write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write({"model/own.yaml": "kind: own"}, tmp_path / "mine")
    assert draft("model=own", config_dirs=("~/mine",)).values["model"] == {"kind": "own"}


def test_no_config_tree_is_our_fault_not_the_users(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.yaml in"):
        groups(root=tmp_path)


def test_search_path_does_not_depend_on_the_current_directory(conf, tmp_path):
    os.chdir(tmp_path)
    assert options("model", root=Path("shipped"))[0].path == conf / "model/large.yaml"
