"""Before a run starts: will the hub take its model?

In: a plan. Out: nothing, or a refusal within seconds, where the upload would fail when the training
is paid for: LF920 for the token, LF922 for the right to write, LF924 for a hub that does not
answer. `hub.check=false` asks nothing. Nothing is made on the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.environment import scrub, secret
from llmforge.run.folder import RunFolder
from llmforge.run.hub.order import Order, order_of
from llmforge.run.hub.sending import connect, diagnose, no_token, not_allowed
from llmforge.run.status import Status

SECONDS = 10.0
"""How long the hub may take to answer one small request."""


def check_push(plan: Plan) -> None:
    """Refuse a plan whose upload would be refused.

    Raises:
        ConfigRefused: LF920, LF922, LF924.
    """
    order = order_of(plan)
    if order is None or not plan.settings["hub"]["check"]:
        return
    if RunFolder(plan.run_folder).status() is Status.FINISHED:
        return  # it is answered from its folder
    found = obstacle(plan, order)
    if found is not None:
        chain = plan.origins.chain(found.key or "hub.kind")
        message = " ".join(scrub(found.message, plan).split())
        raise ConfigRefused([replace(found, message=message, origins=chain)])


def obstacle(plan: Plan, order: Order) -> Diagnostic | None:
    """Why the hub would not take it; None when it would, as far as it says."""
    token = secret(order.token, plan)
    if not token:
        return no_token(order, f"the variable {order.token.removeprefix('env:')} is not set")
    api = connect(token, SECONDS)
    try:
        who = api.whoami()
    except Exception as error:  # the library and its network let all kinds through
        return diagnose(error, order)
    return _right_to_write(api, who, order)


def _right_to_write(api: Any, who: Mapping[str, Any], order: Order) -> Diagnostic | None:
    owner = order.repository.partition("/")[0]
    role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        return not_allowed(order, "it is a token for reading")
    if owner == who.get("name"):
        return None
    orgs = {org.get("name"): org.get("roleInOrg") for org in who.get("orgs") or ()}
    if orgs.get(owner) == "read":
        return not_allowed(order, f"in {owner} you may only read")
    if owner in orgs:
        return None
    # somebody else's: one may have been let in to a repository that exists
    try:
        api.auth_check(order.repository, write=True)
    except Exception as error:  # as above
        found = diagnose(error, order)
        if found.code == "LF922":
            known = ", ".join(str(name) for name in (who.get("name"), *orgs) if name)
            return not_allowed(order, f"{owner} is none of {known}")
        return found
    return None
