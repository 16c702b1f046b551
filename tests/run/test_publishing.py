"""Nothing of this machine, and no secret, is in what is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run.publishing import Publisher, last_part


@pytest.fixture
def publisher(tiny: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> Publisher:
    monkeypatch.setenv("MY_TOKEN", "canary-77")
    hub = ("hub=push", "hub.repository=me/m", "hub.token=env:MY_TOKEN")
    return Publisher(tiny("tracking=none", *hub))


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ("/home/ann/base/", "base"),
        ("../secret/base", "base"),
        ("~/models/base", "base"),
        ("C:\\models\\base", "base"),
        ("said canary-77 aloud", "said <MY_TOKEN> aloud"),
        ("postgresql://ann:pw@db.inside/rows", "postgresql://rows"),
        ("org/model", "org/model"),
        ("{{ messages }}\n/ not a path", "{{ messages }}\n/ not a path"),
        (3, 3),
        (None, None),
    ],
)
def test_values(given, published, publisher: Publisher) -> None:
    assert publisher.value({"a": [given]}) == {"a": [published]}


def test_the_run_s_own_folder_inside_a_text(publisher: Publisher, work: Path) -> None:
    assert publisher.text(f"saved to {work}/notes/x, see {work}") == "saved to notes/x, see "
    assert publisher.text(f"{work}s") == f"{work}s", "another folder that begins alike"


def test_a_file_with_nothing_to_hide_is_left_byte_by_byte(publisher: Publisher) -> None:
    content = '{"a":  1, "b": "x/y"}'
    assert publisher.file(content) == content
    assert json.loads(publisher.file('{"path": "/home/ann/base"}')) == {"path": "base"}


def test_the_published_plan_is_a_plan(
    tiny: Callable[..., Plan], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary-77")
    plan = tiny("tracking.token=env:MY_TOKEN", "tracking.uri=http://inside.example:5000")

    found = Publisher(plan).plan()

    again = Plan.from_dict(found)
    assert (again.run_id, again.stages) == (plan.run_id, plan.stages)
    assert again.spec.optimizer == plan.spec.optimizer
    text = json.dumps(found)
    for private in (str(work), str(Path.home()), "inside.example", "canary-77"):
        assert private not in text


def test_last_part() -> None:
    assert [last_part(p) for p in ("/a/b.txt", "C:\\a\\b.txt", "/")] == ["b.txt", "b.txt", "."]
