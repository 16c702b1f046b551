"""A signal is a flag inside the training loop and an exception outside of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from llmforge.run.signals import StopFlag, StopRequested


@pytest.fixture
def stop() -> StopFlag:
    return StopFlag()


@pytest.fixture
def listening(stop: StopFlag) -> StopFlag:
    before = signal.getsignal(signal.SIGTERM)
    stop.listen(signal.SIGTERM)
    yield stop
    signal.signal(signal.SIGTERM, before)


def test_a_signal_raises_a_flag(listening: StopFlag) -> None:
    assert not listening
    os.kill(os.getpid(), signal.SIGTERM)
    assert listening
    assert listening.reason == "SIGTERM"


def test_a_signal_ends_a_phase_without_state_at_once(listening: StopFlag) -> None:
    def phase() -> None:
        with listening.immediate():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(StopRequested, match="SIGTERM"):
        phase()


def test_libraries_that_catch_everything_let_it_through(listening: StopFlag) -> None:
    def library() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")

    with pytest.raises(StopRequested), listening.immediate():
        library()


def test_the_second_signal_does_not_break_the_clean_up(listening: StopFlag) -> None:
    cleaned = []

    def phase() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    with pytest.raises(StopRequested), listening.immediate():
        phase()
    assert cleaned


def test_a_request_that_came_before_is_met_at_the_door(stop: StopFlag) -> None:
    stop.request("SIGTERM")
    with pytest.raises(StopRequested), stop.immediate():
        pytest.fail("entered")


def test_a_write_that_must_not_be_torn_is_finished_first(listening: StopFlag) -> None:
    written = []

    def write() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        written.append(True)

    with pytest.raises(StopRequested), listening.immediate(), listening.deferred():
        write()
    assert written


def test_a_worker_ends_with_its_driver() -> None:
    worker = (
        "import os, signal, sys, time\n"
        "from llmforge.run.signals import stop_with\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('stopped', flush=True), os._exit(0)))\n"
        "stop_with(int(sys.argv[1]), 0.05)\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    watched = subprocess.Popen(
        [sys.executable, "-c", worker, str(driver.pid)], stdout=subprocess.PIPE, text=True
    )
    assert watched.stdout
    assert watched.stdout.readline() == "ready\n"
    driver.kill()  # not waited for yet: a zombie counts as gone
    assert watched.stdout.readline() == "stopped\n"
    assert watched.wait(60) == 0
    driver.wait()
