"""Digests are of the content, and remembered only for files that take time."""

from __future__ import annotations

import os
from hashlib import sha256

from llmforge.compiler.facts import digests
from llmforge.compiler.facts.digests import file_digest, remember, remembered


def test_digest_is_sha256_of_the_bytes(work):
    (work / "small").write_bytes(b"abc")

    assert file_digest(work / "small", work / "cache") == sha256(b"abc").hexdigest()
    assert not (work / "cache").exists()


def test_large_files_are_remembered_until_they_change(work, monkeypatch):
    monkeypatch.setattr(digests, "_REMEMBER_FROM", 3)
    path = work / "large"
    path.write_bytes(b"abc")
    first = file_digest(path, work / "cache")
    key = digests.stat_key(path)

    remember(work / "cache", "digests.json", key, "planted")
    assert file_digest(path, work / "cache") == "planted"

    os.utime(path, ns=(0, 0))
    assert file_digest(path, work / "cache") == first


def test_replaced_file_of_the_same_size_and_time_is_another(work):
    (work / "a").write_bytes(b"abc")
    before = digests.stat_key(work / "a")
    (work / "b").write_bytes(b"xyz")
    stat = (work / "a").stat()
    os.utime(work / "b", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (work / "b").replace(work / "a")

    assert digests.stat_key(work / "a") != before


def test_memory_keeps_what_was_there(work):
    remember(work, "memory.json", "one", [1])
    remember(work, "memory.json", "two", {"2": None})

    assert remembered(work, "memory.json", "one") == [1]
    assert remembered(work, "memory.json", "two") == {"2": None}
    assert remembered(work, "memory.json", "three") is None
    assert [p.name for p in work.iterdir()] == ["memory.json"]
