"""A model that cannot be had is refused in seconds, before a worker starts.

The hub is a server on the loopback, or a port at which nobody listens.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run import reach
from llmforge.run.folder import RunFolder
from llmforge.run.preflight import check_here
from llmforge.run.status import Status

MODEL = "HuggingFaceTB/SmolLM2-135M"
COMMIT = "c" * 40

HUB_MODEL = ("model=smollm2_135m", "tokenizer.source=model", "hardware=cpu", "tracking=none")

Refused = Callable[..., Diagnostic]


class Answer(BaseHTTPRequestHandler):
    """Says the same to every request."""

    status, code, wait = 200, "", 0.0
    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's own name
        """Tests print nothing."""

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        time.sleep(self.wait)
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.send_header("ETag", '"x"')
        self.send_header("X-Repo-Commit", COMMIT)
        if self.code:
            self.send_header("X-Error-Code", self.code)
        self.end_headers()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, an empty hub cache, and no hub but the test's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def speak_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library made of its environment when it was imported, for another hub."""
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE"
    monkeypatch.setattr(template, address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """`hub(403, "GatedRepo")`: a hub that says so; returns what it was asked."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, code: str = "", wait: float = 0.0) -> list[str]:
        says = {"status": status, "code": code, "wait": wait, "asked": []}
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Answer,), says))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        speak_to(server.server_port, monkeypatch)
        return says["asked"]  # type: ignore[return-value]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub's address at which nobody listens."""
    with socket.socket() as taken:  # bound and not listening: the port stays closed
        taken.bind(("127.0.0.1", 0))
        speak_to(taken.getsockname()[1], monkeypatch)
        yield


@pytest.fixture
def plan(compiled: Callable[..., Plan]) -> Plan:
    return compiled(*HUB_MODEL)


def refusal(plan: Plan) -> Diagnostic:
    with pytest.raises(ConfigRefused) as refused:
        check_here(plan)
    (found,) = refused.value.diagnostics
    assert (found.code, found.key) == ("LF812", "model.id")
    return found


def put(cache: Path, **files: str) -> None:
    """Files of the model in the local cache, as the hub's library lays them out."""
    folder = cache / f"models--{MODEL.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name, text in files.items():
        path = folder / "snapshots" / COMMIT / name.replace("__", "-").replace("_json", ".json")
        path = path.with_name(path.name.replace("_safetensors", ".safetensors"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.usefixtures("nobody")
def test_nobody_answers(plan):
    start = time.monotonic()
    found = refusal(plan)

    assert time.monotonic() - start < 5
    assert found.message.startswith(
        f"{MODEL} cannot be loaded: config.json and 2 more files are not in the local hub cache, "
        "and the hub was not reached: "
    )
    assert found.hint == f"hf download {MODEL} --revision main   # where there is a network"


def test_a_hub_that_is_silent_is_not_waited_for(plan, hub, monkeypatch):
    monkeypatch.setattr(reach, "SECONDS", 0.3)
    hub(200, wait=2.0)

    start = time.monotonic()
    assert "the hub was not reached" in refusal(plan).message
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("status", "code", "why", "hint"),
    [
        (403, "GatedRepo", "it is gated", "export HF_TOKEN="),
        (404, "RepoNotFound", "the hub does not have it", "check model.id"),
        (404, "RevisionNotFound", "no revision `main`", "model.revision=main"),
        (404, "EntryNotFound", "no config.json", "model.id="),
        (503, "", "the hub was not reached", "hf download"),
    ],
)
def test_what_the_hub_says(plan, hub, status, code, why, hint):
    asked = hub(status, code)
    found = refusal(plan)

    assert why in found.message
    assert hint in found.hint
    assert asked == [f"/{MODEL}/resolve/main/config.json"]


def test_a_hub_that_answers_is_enough(plan, hub):
    asked = hub(200)
    check_here(plan)

    assert len(asked) == 1


def test_offline_nothing_is_asked(plan, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = hub(200)

    assert "HF_HUB_OFFLINE forbids to ask the hub" in refusal(plan).message
    assert asked == []


@pytest.mark.usefixtures("nobody")
def test_what_is_in_the_cache_needs_no_hub(plan, cache):
    put(cache, config_json="{}", tokenizer_json="{}", model_safetensors="")

    check_here(plan)


@pytest.mark.usefixtures("nobody")
def test_weights_in_parts_are_looked_for_one_by_one(plan, cache):
    parts = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}
    whole = {"config_json": "{}", "tokenizer_json": "{}", "one_safetensors": ""}
    put(cache, **whole, **{"model_safetensors.index_json": json.dumps(parts)})

    assert "two.safetensors is not in the local hub cache" in refusal(plan).message

    put(cache, two_safetensors="")
    check_here(plan)


@pytest.mark.usefixtures("nobody")
def test_a_tokenizer_of_ones_own_needs_none_of_the_models(compiled, cache):
    plans = [compiled(*HUB_MODEL), compiled(*HUB_MODEL, "tokenizer.source=train")]
    put(cache, config_json="{}", model_safetensors="")

    assert "tokenizer.json is not" in refusal(plans[0]).message
    check_here(plans[1])


@pytest.mark.usefixtures("nobody")
def test_a_finished_run_needs_no_hub(plan):
    RunFolder.create(plan).set_status(Status.FINISHED)

    check_here(plan)


@pytest.mark.usefixtures("nobody")
def test_other_models_are_not_looked_for(compiled):
    check_here(compiled("hardware=cpu"))
