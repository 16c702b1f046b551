"""What is known of prepared samples without opening them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmforge.store import MANIFEST, REPORT, prepared_folder, read_report

FINGERPRINT = "0123456789abcdef" * 4
TOLD = {"train": {"samples": 3}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = prepared_folder(tmp_path, FINGERPRINT)
    made.mkdir(parents=True)
    (made / REPORT).write_text(json.dumps(TOLD))
    (made / MANIFEST).write_text(json.dumps({"fingerprint": FINGERPRINT, "files": {}}))
    return made


def test_the_folder_is_named_by_the_fingerprint(tmp_path):
    assert prepared_folder(tmp_path, FINGERPRINT) == tmp_path / "prepared" / FINGERPRINT[:16]


def test_the_report_of_what_was_prepared(folder, tmp_path):
    assert read_report(tmp_path, FINGERPRINT) == TOLD
    assert read_report(str(tmp_path), FINGERPRINT) == TOLD


def test_nothing_was_prepared(tmp_path):
    assert read_report(tmp_path, FINGERPRINT) is None


@pytest.mark.parametrize("name", [MANIFEST, REPORT])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "null"])
def test_what_is_not_whole_is_not_there(folder, tmp_path, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)

    assert read_report(tmp_path, FINGERPRINT) is None


def test_a_folder_of_another_fingerprint_that_begins_alike(folder, tmp_path):
    assert read_report(tmp_path, FINGERPRINT[:16] + "f" * 48) is None
