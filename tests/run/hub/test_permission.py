"""Before a run starts, the hub is asked whether it will take the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.hub import check_push
from llmforge.run.status import Status

if TYPE_CHECKING:
    from stand_in_hub import StandIn

PUSH = ("tracking=none", "hub=push")


def refused(plan: Plan) -> str | None:
    try:
        check_push(plan)
    except ConfigRefused as refusal:
        (found,) = refusal.diagnostics
        assert "token-of-me" not in str(found)
        return f"{found.code}: {found.message}"
    return None


@pytest.mark.parametrize("repository", ["me/model", "our-org/model"])
def test_own_repositories_and_those_of_one_s_organizations(
    repository: str, tiny: Callable[..., Plan], hub: StandIn
) -> None:
    assert refused(tiny(*PUSH, f"hub.repository={repository}")) is None
    assert hub.repositories == {}, "nothing is made by asking"


def test_somebody_else_s_repository(tiny: Callable[..., Plan], hub: StandIn) -> None:
    found = refused(tiny(*PUSH, "hub.repository=them/model"))
    assert found == "LF922: the token may not write to them/model: them is none of me, our-org"


def test_a_token_for_reading(tiny: Callable[..., Plan], hub: StandIn) -> None:
    hub.users["token-of-me"].role = "read"
    found = refused(tiny(*PUSH, "hub.repository=me/model"))
    assert found == "LF922: the token may not write to me/model: it is a token for reading"


def test_an_organization_in_which_one_only_reads(tiny: Callable[..., Plan], hub: StandIn) -> None:
    hub.users["token-of-me"].orgs["our-org"] = "read"
    found = refused(tiny(*PUSH, "hub.repository=our-org/model"))
    assert found is not None
    assert "in our-org you may only read" in found


def test_a_hub_in_trouble(tiny: Callable[..., Plan], hub: StandIn) -> None:
    hub.trouble("GET", "/api/whoami-v2", "cut")
    found = refused(tiny(*PUSH, "hub.repository=me/model"))
    assert found is not None
    assert found.startswith("LF924: the hub was not reached")


def test_nothing_is_asked_without_need(
    tiny: Callable[..., Plan], hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    done = tiny(*PUSH, "hub.repository=me/model", "seed=3")
    assert refused(done) == "LF920: the hub does not know the token"
    RunFolder.create(done).set_status(Status.FINISHED)
    hub.asked.clear()

    assert refused(done) is None
    assert refused(tiny("tracking=none")) is None
    assert refused(tiny(*PUSH, "hub.repository=me/model", "hub.check=false")) is None
    assert hub.asked == []
