"""The machine at hand, asked of a driver's tool that stands in for the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmforge.compiler.facts.hardware import has_bf16, probe_hardware

TWO_GPUS = "NVIDIA A100-SXM4-80GB, 81920, 8.0\nNVIDIA A100-SXM4-80GB, 81920, 8.0\n"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """`driver(text, exit_code)`: an nvidia-smi that answers so."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(answer: str, exit_code: int = 0) -> None:
        (tmp_path / "answer").write_text(answer)
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\nexit {exit_code}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def test_gpus_of_the_driver(driver):
    driver(TWO_GPUS)

    found = probe_hardware()

    assert found == {
        "device": "cuda",
        "name": "NVIDIA A100-SXM4-80GB",
        "count": 2,
        "memory_gib": 80.0,
        "compute_capability": "8.0",
        "bf16": True,
        "cores": len(os.sched_getaffinity(0)),
    }


@pytest.mark.parametrize(
    ("visible", "device", "count"),
    [("0", "cuda", 1), ("1", "cuda", 1), ("0,1", "cuda", 2), ("", "cpu", 1), ("-1", "cpu", 1),
     ("GPU-1b2c", "cuda", 2), ("7", "cpu", 1)],
)  # fmt: skip
def test_visible_devices(visible, device, count, driver, monkeypatch):
    driver(TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    found = probe_hardware()

    assert (found["device"], found["count"]) == (device, count)


@pytest.mark.parametrize(("answer", "exit_code"), [("", 0), ("no driver", 9), ("odd line\n", 0)])
def test_driver_without_an_answer_is_a_cpu(answer, exit_code, driver):
    driver(answer, exit_code)

    assert probe_hardware()["device"] == "cpu"


def test_no_driver_is_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    found = probe_hardware()

    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    kib = int(meminfo["MemTotal"].split()[0])
    assert (found["device"], found["count"], found["compute_capability"]) == ("cpu", 1, None)
    assert found["memory_gib"] == pytest.approx(kib / 2**20, abs=0.1)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("7.0", False), ("7.5", False), ("8.0", True), ("8.9", True), ("9.0", True), ("12.0", True)],
)
def test_bfloat16_came_with_ampere(capability, expected):
    assert has_bf16(capability) is expected
