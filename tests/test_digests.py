"""Digests are of the content, and remembered only for files that take time."""

from __future__ import annotations

import os
from hashlib import sha256

from llmforge import digests
from llmforge.digests import file_digest, remember, remembered


def test_digest_is_sha256_of_the_bytes(tmp_path):
    (tmp_path / "small").write_bytes(b"abc")

    assert file_digest(tmp_path / "small", tmp_path / "cache") == sha256(b"abc").hexdigest()
    assert not (tmp_path / "cache").exists()


def test_large_files_are_remembered_until_they_change(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_REMEMBER_FROM", 3)
    path = tmp_path / "large"
    path.write_bytes(b"abc")
    first = file_digest(path, tmp_path / "cache")
    key = digests.stat_key(path)

    remember(tmp_path / "cache", "digests.json", key, "planted")
    assert file_digest(path, tmp_path / "cache") == "planted"

    os.utime(path, ns=(0, 0))
    assert file_digest(path, tmp_path / "cache") == first


def test_replaced_file_of_the_same_size_and_time_is_another(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    before = digests.stat_key(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"xyz")
    stat = (tmp_path / "a").stat()
    os.utime(tmp_path / "b", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "b").replace(tmp_path / "a")

    assert digests.stat_key(tmp_path / "a") != before


def test_memory_keeps_what_was_there(tmp_path):
    remember(tmp_path, "memory.json", "one", [1])
    remember(tmp_path, "memory.json", "two", {"2": None})

    assert remembered(tmp_path, "memory.json", "one") == [1]
    assert remembered(tmp_path, "memory.json", "two") == {"2": None}
    assert remembered(tmp_path, "memory.json", "three") is None
    assert [p.name for p in tmp_path.iterdir()] == ["memory.json"]
