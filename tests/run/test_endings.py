"""Of several ranks that died, the one that knows the cause is heard."""

from __future__ import annotations

import pytest

from llmforge.plan import Plan
from llmforge.run.endings import EXIT_FAILED, Ending, settle
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status


@pytest.fixture
def run(plan: Plan) -> RunFolder:
    return RunFolder.create(plan)


def rank_0_failed(run: RunFolder, code: str, message: str) -> None:
    found = {"code": code, "message": message}
    run.set_status(Status.FAILED, pid=None, code=code, reason=message, diagnostic=found)


def rank_1_failed(run: RunFolder, code: str, message: str) -> None:
    run.write_json(run.failure(1).name, {"code": code, "message": message})


CRASHED = Ending(code=1, asked=False, oom=False)


def test_a_rank_that_failed_alone_is_the_cause(run: RunFolder) -> None:
    rank_0_failed(run, "LF801", "RuntimeError: connection closed by peer")
    rank_1_failed(run, "LF803", "out of memory")
    code, told = settle(run, CRASHED)
    assert code == EXIT_FAILED
    assert told
    assert (told.code, told.message) == ("LF803", "rank 1: out of memory")


@pytest.mark.parametrize("code", ["LF820", "LF821", "LF822"])
def test_what_rank_0_alone_looks_for_is_not_hidden_by_those_who_waited(
    run: RunFolder, code: str
) -> None:
    rank_0_failed(run, code, "the disk is too small")
    rank_1_failed(run, "LF801", "RuntimeError: connection closed by peer")
    _, told = settle(run, CRASHED)
    assert told
    assert (told.code, told.message) == (code, "the disk is too small")
    assert run.record().code == code
