"""A small hub on the loopback, spoken to by the hub's own library: users, repositories, commits.

It gives out what it has, holds what is pushed to it by content, as git and LFS do, refuses what the
hub refuses, and has troubles on demand: `hub.trouble("POST", "/commit/", 500, times=2)`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

LARGE = (".safetensors", ".bin", ".pt", ".pth")
"""Ends of the names of files that go the way of large ones."""


Bad = int | str | float | threading.Event


@dataclass
class User:
    name: str
    orgs: dict[str, str] = field(default_factory=dict)
    """Organization -> role in it."""
    role: str = "write"
    """Of the token."""


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[tuple[str, str, str]] = field(default_factory=list)
    """Branch, id, message."""

    def head(self, branch: str) -> str:
        ids = [number for known, number, _ in self.commits if known == branch]
        return ids[-1] if ids else "0" * 40


@dataclass
class Trouble:
    method: str
    place: str
    what: Bad
    """A status, `cut` for a connection that ends inside the body, seconds to wait, or an event to
    wait for."""
    times: int


class StandIn:
    """The hub's memory."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {"token-of-me": User("me", {"our-org": "write"})}
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.received = 0
        """Bytes of contents that were taken."""
        self.troubles: list[Trouble] = []
        self.lock = threading.RLock()
        self.url = ""

    def trouble(self, method: str, place: str, what: Bad, times: int = 1) -> None:
        """Answer the next requests of a kind badly; `place` is looked for in the path."""
        self.troubles.append(Trouble(method, place, what, times))

    def next_trouble(self, method: str, path: str) -> Bad | None:
        with self.lock:
            for trouble in self.troubles:
                if trouble.times and trouble.method == method and trouble.place in path:
                    trouble.times -= 1
                    return trouble.what
        return None

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[name].branches[branch]

    def checkout(self, name: str, folder: Path, branch: str = "main") -> Path:
        """Write a repository's files to a folder, as a download would."""
        for path, content in self.files(name, branch).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder

    def messages(self, name: str) -> list[str]:
        return [message for _, _, message in self.repositories[name].commits]


class Answer(BaseHTTPRequestHandler):
    """The endpoints that uploads and downloads use."""

    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's own name
        """Tests print nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        trouble = self.hub.next_trouble(self.command, path)
        if trouble == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        body = self._body(length)
        if isinstance(trouble, float):
            time.sleep(trouble)
        elif isinstance(trouble, threading.Event):
            trouble.wait(60)
        elif isinstance(trouble, int):
            return self._refuse(trouble, "trouble on demand")
        for pattern, method in self.routes():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                with self.hub.lock:
                    return method(body, *found.groups())
        return self._refuse(404, f"no such endpoint: {path}")

    def _body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def routes(self) -> tuple[tuple[str, Callable[..., None]], ...]:
        repository = r"/api/models/([^/]+/[^/]+)"
        return (
            (r"GET /api/whoami-v2", self.whoami),
            (r"POST /api/repos/create", self.create),
            (r"POST /api/validate-yaml", self.validate),
            (rf"GET {repository}(?:/revision/(.+))?", self.about),
            (rf"GET {repository}/tree/([^/]+)", self.tree),
            (rf"GET {repository}/auth-check(?:/write)?", self.auth_check),
            (rf"POST {repository}/branch/(.+)", self.branch),
            (rf"POST {repository}/preupload/(.+)", self.preupload),
            (rf"POST {repository}/commit/(.+)", self.commit),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"PUT /large/(\w+)", self.large),
            (r"(?:HEAD|GET) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        )

    # -- who ------------------------------------------------------------------------------------

    def user(self) -> User | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.hub.users.get(token)

    def may_write(self, owner: str) -> bool:
        user = self.user()
        if user is None or user.role == "read":
            return False
        return owner == user.name or user.orgs.get(owner, "read") != "read"

    def whoami(self, _body: bytes) -> None:
        user = self.user()
        if user is None:
            return self._refuse(401, "Invalid credentials in Authorization header")
        orgs = [{"name": name, "roleInOrg": role} for name, role in user.orgs.items()]
        token = {"displayName": "t", "role": user.role}
        return self._give(
            {"name": user.name, "type": "user", "orgs": orgs, "auth": {"accessToken": token}}
        )

    def auth_check(self, _body: bytes, name: str) -> None:
        if name not in self.hub.repositories:
            return self._refuse(404, "Repository not found", "RepoNotFound")
        if not self.may_write(name.partition("/")[0]):
            return self._refuse(403, "you may not write here")
        return self._give({})

    # -- repositories ---------------------------------------------------------------------------

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        user = self.user()
        if user is None:
            return self._refuse(401, "Invalid credentials in Authorization header")
        owner = asked.get("organization") or user.name
        name = f"{owner}/{asked['name']}"
        if not self.may_write(owner):
            return self._refuse(403, f"you may not create a repository for {owner}")
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            return self._give(url, 409)
        self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
        return self._give(url)

    def validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            assert found, "no front matter"
            assert isinstance(yaml.safe_load(found[1]), dict), "front matter is no mapping"
        except (AssertionError, yaml.YAMLError) as error:
            return self._give({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return self._give({"errors": [], "warnings": []})

    def about(self, _body: bytes, name: str, revision: str | None) -> None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.may_write(name.partition("/")[0])):
            return self._refuse(404, "Repository not found", "RepoNotFound")
        branch = self.branch_of(found, revision or "main")
        if branch is None:
            return self._refuse(404, "Revision not found", "RevisionNotFound")
        siblings = [{"rfilename": path} for path in found.branches[branch]]
        head = found.head(branch)
        return self._give(
            {"id": name, "sha": head, "private": found.private, "siblings": siblings, "tags": []}
        )

    def tree(self, _body: bytes, name: str, revision: str) -> None:
        found = self.hub.repositories[name]
        files = found.branches[self.branch_of(found, revision) or revision]
        return self._give(
            [
                {"type": "file", "path": path, "size": len(text), "oid": _identity(text, "regular")}
                for path, text in files.items()
            ]
        )

    @staticmethod
    def branch_of(found: Repository, revision: str) -> str | None:
        """The branch of that name, or whose last commit that is."""
        heads = {found.head(branch): branch for branch in found.branches}
        return revision if revision in found.branches else heads.get(revision)

    def branch(self, _body: bytes, name: str, branch: str) -> None:
        branches = self.hub.repositories[name].branches
        if branch in branches:
            return self._give({}, 409)
        branches[branch] = dict(branches["main"])
        return self._give({})

    # -- contents -------------------------------------------------------------------------------

    def preupload(self, body: bytes, name: str, branch: str) -> None:
        if not self.may_write(name.partition("/")[0]):
            return self._refuse(403, "you may not write here")
        there = self.hub.files(name, branch)
        files = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            content = there.get(file["path"])
            oid = None if content is None else _identity(content, mode)
            files.append(
                {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        return self._give({"files": files})

    def batch(self, body: bytes, _name: str) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            wanted = dict(asked)
            if asked["oid"] not in self.hub.large:
                wanted["actions"] = {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}"}}
            objects.append(wanted)
        return self._give({"transfer": "basic", "objects": objects})

    def large(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._refuse(400, "the content is not what was announced")
        self.hub.large[oid] = body
        self.hub.received += len(body)
        return self._give({})

    def commit(self, body: bytes, name: str, branch: str) -> None:
        if not self.may_write(name.partition("/")[0]):
            return self._refuse(403, "you may not write here")
        found = self.hub.repositories[name]
        files, message = dict(found.branches[branch]), ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                self.hub.received += len(files[value["path"]])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        found.branches[branch] = files
        number = hashlib.sha1(body + str(len(found.commits)).encode()).hexdigest()  # noqa: S324 - an id as git has it
        found.commits.append((branch, number, message))
        return self._give(
            {"commitUrl": f"{self.hub.url}/{name}/commit/{number}", "commitOid": number}
        )

    def resolve(self, _body: bytes, name: str, revision: str, path: str) -> None:
        """A file for whoever downloads it."""
        found = self.hub.repositories.get(name)
        branch = self.branch_of(found, revision) if found else None
        if found is None or branch is None:
            return self._refuse(404, "Repository not found", "RepoNotFound")
        content = found.branches[branch].get(path)
        if content is None:
            return self._refuse(404, "Entry not found", "EntryNotFound")
        self.send_response(200)
        self.send_header("X-Repo-Commit", found.head(branch))
        self.send_header("ETag", f'"{_identity(content, "lfs")}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        return None

    # -- answers --------------------------------------------------------------------------------

    def _give(self, found: Any, status: int = 200) -> None:
        content = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        content = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _identity(content: bytes, mode: str) -> str:
    if mode == "lfs":
        return hashlib.sha256(content).hexdigest()
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content).hexdigest()  # noqa: S324 - what git calls a file


@contextmanager
def running() -> Iterator[StandIn]:
    """A hub that answers at `hub.url` until the end of the block."""
    hub = StandIn()
    handler = type("HandlerOfOne", (Answer,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
