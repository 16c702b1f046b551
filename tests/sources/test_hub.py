"""Data sets of a hub: a small one on the loopback, spoken to by the real libraries."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from llmforge.schema.data import Fields, HubSource
from llmforge.sources.base import Fault, Unusable
from llmforge.sources.hub import hub_parts

CACHE = Path(".llmforge")
COMMIT = "a" * 40
NEWER = "b" * 40


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


class Hub:
    """What the hub holds: by data set and commit, files by path; branches by data set."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    def put(self, name: str, commit: str, branch: str = "main", **files: bytes) -> None:
        named = {path.replace("__", "/"): content for path, content in files.items()}
        self.files[name, commit] = {
            re.sub(r"_(\w+)$", r".\1", path): content for path, content in named.items()
        }
        self.branches.setdefault(name, {})[branch] = commit


class Answer(BaseHTTPRequestHandler):
    """The few endpoints that the libraries ask for a data set of plain files."""

    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's own name
        """Tests print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.do_GET(self.rfile.read(length))

    def do_GET(self, body: bytes = b"") -> None:
        path = self.path.partition("?")[0].replace("%2F", "/")
        self.hub.asked.append(f"{self.command} {path}")
        called = re.match(r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/([^/]+))?(?:/([^/]+))?/?(.*)", path)
        if not called or called[1] not in self.hub.branches:
            return self.refuse(404, "RepoNotFound")
        name, what, revision, rest = called.groups()
        branches = self.hub.branches[name]
        commit = branches.get(revision or "main", revision or "")
        if what == "refs":
            each = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": sha}
                for branch, sha in branches.items()
            ]
            return self.give_json({"branches": each, "tags": [], "converts": []})
        if (name, commit) not in self.hub.files:
            return self.refuse(404, "RevisionNotFound")
        return self.about(name, commit, what, rest, body)

    def about(self, name: str, commit: str, what: str | None, rest: str, body: bytes) -> None:
        """What is asked about a data set and commit that are there."""
        files = self.hub.files[name, commit]
        if what in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            return self.give_json({"id": name, "sha": commit, "siblings": siblings, "tags": []})
        if what == "resolve":
            if name in self.hub.gated:
                return self.refuse(403, "GatedRepo")
            if rest not in files:
                return self.refuse(404, "EntryNotFound")
            return self.give(files[rest], commit)
        if what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else []
            return self.give_json([self.entry(p, files[p]) for p in asked if p in files])
        if what == "tree":
            found = self.listed(files, rest, "recursive=True" in self.path)
            return self.give_json(found) if found else self.refuse(404, "EntryNotFound")
        return self.refuse(404, "EntryNotFound")

    def listed(self, files: dict[str, bytes], folder: str, deep: bool) -> list[dict[str, Any]]:
        """Files and folders below a folder, of all depths or of the first."""
        start = f"{folder}/" if folder else ""
        inside = {p: c for p, c in files.items() if p.startswith(start)}
        folders = {str(up) for p in inside for up in PurePosixPath(p).parents if str(up) != "."}
        found = [self.entry(p, c) for p, c in inside.items()]
        found += [
            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            for path in sorted(folders)
            if path.startswith(start)
        ]
        return [e for e in found if deep or "/" not in e["path"].removeprefix(start)]

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(content).hexdigest()  # noqa: S324 - what git calls a file
        return {"type": "file", "path": path, "size": len(content), "oid": oid}

    def give_json(self, found: Any) -> None:
        self.give(json.dumps(found).encode(), None, "application/json")

    def give(self, content: bytes, commit: str | None, kind: str = "text/plain") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if commit:
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one data set, and libraries that know no other hub and no cache but this one's."""
    holds = Hub()
    holds.put("owner/name", COMMIT, data__train_jsonl=jsonl("a", "b"), data__test_jsonl=jsonl("c"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Answer,), {"hub": holds}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield holds
    server.shutdown()
    server.server_close()
    thread.join()


def source(name: str = "owner/name", **more: Any) -> HubSource:
    fields = Fields(**{name: name for name in Fields.model_fields})
    given: dict[str, Any] = {
        "kind": "hub", "shape": "auto", "fields": fields, "roles": {}, "strict_turns": True,
        "select": [], "transform": None, "fold": None, "id": name, "configuration": None,
        "revision": "main", "train": "train", "evaluation": None,
    }  # fmt: skip
    return HubSource(**given | more)


def texts(spec: HubSource, split: str = "train") -> list[str]:
    parts, _ = hub_parts(spec, split, CACHE)
    return [raw.values["text"] for part in parts for raw in part.rows() if raw.values]


def fault(spec: HubSource, split: str = "train") -> tuple[str, Fault]:
    with pytest.raises(Unusable) as raised:
        hub_parts(spec, split, CACHE)
    assert raised.value.fault.code == "LF501"
    return str(raised.value), raised.value.fault


def test_rows_of_a_split_and_the_commit_of_a_branch(hub: Hub) -> None:
    parts, facts = hub_parts(source(), "train", CACHE)
    assert [part.name for part in parts] == ["owner/name train"]
    assert [raw.values for raw in parts[0].rows()] == [{"text": "a"}, {"text": "b"}]
    assert facts == {
        "commit": COMMIT,
        "rows": {"train": 2, "test": 1},
        "columns": {"text": "Value('string')"},
        "offline": False,
    }
    assert texts(source(), "test") == ["c"]


def test_a_branch_that_moves_on_and_a_commit_that_stays(hub: Hub) -> None:
    assert texts(source()) == ["a", "b"]
    hub.put("owner/name", NEWER, data__train_jsonl=jsonl("d"))
    assert texts(source()) == ["d"]
    hub.asked.clear()
    assert texts(source(revision=COMMIT)) == ["a", "b"]
    assert hub.asked == []  # known by its commit: nobody was asked


def test_what_was_seen_last_serves_when_the_hub_is_away(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert texts(source()) == ["a", "b"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parts, facts = hub_parts(source(), "test", CACHE)
    assert [raw.values for raw in parts[0].rows()] == [{"text": "c"}]
    assert (facts["commit"], facts["offline"]) == (COMMIT, True)
    text, found = fault(source("owner/other"))
    assert "the hub was not reached" in text
    assert found.hint


def test_no_such_data_set_revision_split(hub: Hub) -> None:
    text, found = fault(source("owner/nme"))
    assert text == "data set owner/nme does not exist on the hub, or you may not see it"
    assert found.hint
    assert "HF_TOKEN" in found.hint
    text, found = fault(source(revision="mian"))
    assert text == "data set owner/name has no revision `mian`"
    assert found.hint == "data.revision=main"
    text, found = fault(source(train="trian"), "trian")
    assert text == "data set owner/name has no split of the name `trian`"
    assert (found.hint, found.notes[0]) == ("data.train=train", "its splits: train, test")
    assert fault(source(evaluation={"dev": "tst"}), "tst")[1].hint == "data.evaluation.dev=test"
    assert fault(source(), "train[:10%]")[1].hint == (
        "data.max_train_rows=<rows>, or data.eval_fraction=<share> to hold some out"
    )
    assert "is not the id" in fault(source("a/b/c"))[0]


CARD = b"""---
configs:
- config_name: short
  data_files: short.jsonl
- config_name: long
  data_files: long.jsonl
---
"""


def test_configurations(hub: Hub) -> None:
    hub.put("owner/two", COMMIT, README_md=CARD, short_jsonl=jsonl("s"), long_jsonl=jsonl("l", "m"))
    assert texts(source("owner/two", configuration="long")) == ["l", "m"]
    text, found = fault(source("owner/two"))
    assert text.endswith("has several parts: one of its configurations must be chosen")
    assert found.notes == ("its configurations: short, long",)
    assert found.hint == "data.configuration=short"
    text, found = fault(source("owner/two", configuration="lnog"))
    assert "has no configuration `lnog`" in text
    assert (found.hint, found.key) == ("data.configuration=long", "configuration")


def test_a_gated_data_set(hub: Hub) -> None:
    hub.gated.add("owner/name")
    text, found = fault(source())
    assert "is gated" in text
    assert found.hint
    assert "HF_TOKEN" in found.hint


def test_code_of_a_data_set_is_never_run(hub: Hub, tmp_path: Path) -> None:
    evil = b"open('ran.txt', 'w')\n"
    hub.put("owner/evil", COMMIT, evil_py=evil, train_jsonl=jsonl("a"))
    assert "is a script" in fault(source("owner/evil"))[0]
    local = tmp_path / "folder"
    local.mkdir()
    (local / "folder.py").write_bytes(evil)
    fault(source("folder"))
    assert list(tmp_path.rglob("ran.txt")) == []


def test_files_that_hold_no_text_or_no_rows(hub: Hub) -> None:
    hub.put("owner/pictures", COMMIT, train__a_png=b"\x89PNG")
    assert "holds files for the reader `imagefolder`" in fault(source("owner/pictures"))[0]
    hub.put("owner/broken", COMMIT, train_jsonl=b'{"text": "a"}\n{"text": \n')
    assert "cannot be loaded: " in fault(source("owner/broken"))[0]
    hub.put("owner/nothing", COMMIT, notes_xyz=b"")
    assert "cannot be loaded: " in fault(source("owner/nothing"))[0]


def test_a_folder_in_place_of_an_id(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.jsonl").write_bytes(jsonl("x", "y"))
    parts, facts = hub_parts(source("mine"), "train", CACHE)
    assert [raw.values for raw in parts[0].rows()] == [{"text": "x"}, {"text": "y"}]
    assert facts["commit"] is None
    assert hub.asked == []
    (tmp_path / "mine" / "train.jsonl").write_bytes(jsonl("z"))
    assert texts(source("mine")) == ["z"]
