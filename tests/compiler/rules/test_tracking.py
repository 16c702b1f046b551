"""Rules of uploads: a repository and a push go together."""

from __future__ import annotations

import pytest

from llmforge.compiler.rules.tracking import push_without_repository, repository_without_push
from llmforge.diagnostics import Severity

PUSH, REPOSITORY = "checkpoint.hub_push", "checkpoint.hub_repository"


@pytest.mark.parametrize(
    ("push", "repository", "refused", "warned"),
    [
        (True, "me/mine", False, False),
        (False, None, False, False),
        (True, None, True, False),
        (False, "me/mine", False, True),
    ],
)
def test_both_or_neither(push, repository, refused, warned, solved):
    context = solved({PUSH: push, REPOSITORY: repository})

    assert bool([*push_without_repository(context)]) is refused
    told = [*repository_without_push(context)]
    assert [(d.severity, d.hint) for d in told] == (
        [(Severity.WARNING, "checkpoint.hub_push=true")] if warned else []
    )
