"""An exception of a worker becomes one finding, with the setting to change."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from llmforge.build.errors import BuildError, DataChanged, DataRefused, NonFiniteLoss
from llmforge.plan import Plan
from llmforge.run.failures import diagnose


class OutOfMemoryError(RuntimeError):
    """As torch's, by name."""


def test_any_exception(plan: Plan) -> None:
    found = diagnose(KeyError("x"), plan)
    assert (found.code, found.message) == ("LF801", "KeyError: 'x'")


def test_a_loss_that_is_no_number_points_at_the_rate(plan: Plan) -> None:
    found = diagnose(NonFiniteLoss(3, "loss is nan"), plan)
    assert found.code == "LF802"
    assert "step 3" in found.message
    assert found.key == "optimizer.lr"
    assert found.origins
    assert found.hint == "optimizer.lr=0.0003"


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_micro_batch(plan: Plan, error: BaseException) -> None:
    found = diagnose(error, plan)
    assert found.code == "LF803"
    assert found.hint == "trainer.micro_batch=2 trainer.accumulation=4"


def test_out_of_memory_inside_a_builder_is_out_of_memory(plan: Plan) -> None:
    wrapped = BuildError("model", "conf/model/x.yaml:1", MemoryError())
    wrapped.__cause__ = MemoryError()
    assert diagnose(wrapped, plan).code == "LF803"


def test_out_of_memory_at_micro_batch_one(tiny: Callable[..., Plan]) -> None:
    plan = tiny("tracking=none", "trainer.micro_batch=1", "trainer.accumulation=8")
    assert diagnose(MemoryError(), plan).hint == "trainer.gradient_checkpointing=true"


def test_a_builder_names_its_section_and_its_origin(plan: Plan) -> None:
    found = diagnose(BuildError("model", "conf/model/tiny_llama.yaml:3", ValueError("no")), plan)
    assert (found.code, found.key) == ("LF805", "model")
    assert "ValueError: no" in found.message
    assert "tiny_llama.yaml" in found.origins[-1].place


def test_data(plan: Plan) -> None:
    assert diagnose(DataChanged("a.jsonl changed"), plan).code == "LF806"
    assert diagnose(DataRefused("a.jsonl:7 is bad"), plan).message == "a.jsonl:7 is bad"


def test_a_full_disk_is_named(plan: Plan) -> None:
    found = diagnose(OSError(errno.ENOSPC, "No space left on device"), plan)
    assert "the disk is full" in found.message
    assert found.hint == "checkpoint.keep=1"


def test_no_secret_in_a_message(tiny: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary-123")
    found = diagnose(RuntimeError("401 for canary-123"), tiny("tracking.token=env:MY_TOKEN"))
    assert found.message == "RuntimeError: 401 for <MY_TOKEN>"
