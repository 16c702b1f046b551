"""Several ranks died; who tells the cause?"""

from __future__ import annotations

import pytest

from llmforge.plan import Plan
from llmforge.run.endings import EXIT_FAILED, Ending, settle
from llmforge.run.folder import RunFolder
from llmforge.run.starting import ranks
from llmforge.run.status import Status

CLOSED = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:54432")


@pytest.fixture
def run(plan: Plan) -> RunFolder:
    return RunFolder.create(plan)


def fails(run: RunFolder, plan: Plan, rank: int, error: Exception) -> None:
    try:
        raise error
    except type(error) as raised:
        found = {"code": "LF801", "message": f"{type(error).__name__}: {error}"}
        ranks.keep_failure(run, plan, rank, found, raised)


def test_a_lost_connection_is_never_the_cause(run: RunFolder, plan: Plan) -> None:
    fails(run, plan, 0, CLOSED)  # it was first to write
    fails(run, plan, 3, ValueError("a bad row"))
    fails(run, plan, 1, CLOSED)

    assert [told["rank"] for told in ranks.failures(run)] == [3, 0, 1]
    words = ranks.last_words(run)
    assert words
    assert words.startswith("rank 3 on ")
    assert "ValueError: a bad row" in words
    assert "Traceback" in words


def test_of_two_causes_the_earlier(run: RunFolder, plan: Plan) -> None:
    fails(run, plan, 1, ValueError("first"))
    fails(run, plan, 0, ValueError("second"))

    assert ranks.failures(run)[0]["message"] == "rank 1: ValueError: first"


def test_what_the_status_keeps_is_the_diagnostic_alone(run: RunFolder, plan: Plan) -> None:
    fails(run, plan, 1, ValueError("a bad row"))
    code, told = settle(run, Ending(code=1, asked=False, oom=False))

    assert code == EXIT_FAILED
    assert told
    assert any("log-rank1.txt" in note for note in told.notes), "the log that has the traceback"
    record = run.record()
    assert record.status is Status.FAILED
    assert "traceback" not in (record.diagnostic or {})


def test_a_killed_rank_is_told_by_its_launcher(run: RunFolder, plan: Plan) -> None:
    fails(run, plan, 0, CLOSED)
    ranks.killed(run.path, 1, "SIGKILL")
    _, told = settle(run, Ending(code=1, asked=False, oom=False))
    assert told
    assert (told.code, told.message) == ("LF804", "rank 1: the worker was killed by SIGKILL")


def test_a_launcher_that_knows_the_signal_only(run: RunFolder, plan: Plan) -> None:
    fails(run, plan, 0, CLOSED)
    _, told = settle(run, Ending(code=128 + 9, asked=False, oom=False))
    assert told
    assert told.code == "LF804"
    assert "SIGKILL" in told.message


def test_secrets_stay_out(run: RunFolder, tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    plan = tiny("tracking=mlflow", "tracking.token=env:MY_TOKEN")
    fails(run, plan, 0, ValueError("no access with hush-hush"))

    assert "hush-hush" not in run.failure(0).read_text(encoding="utf-8").partition("traceback")[2]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (CLOSED, True),
        (ConnectionResetError("reset"), True),
        (RuntimeError("NCCL error: unhandled system error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("connection closed by peer"), False),
    ],
)
def test_a_neighbour_that_is_gone(error: Exception, lost: bool) -> None:
    assert ranks.lost_neighbour(error) is lost


def test_starts_by_different_launchers_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    monkeypatch.setenv(ranks.RESTART, "1")
    assert ranks.restarts() == 3
