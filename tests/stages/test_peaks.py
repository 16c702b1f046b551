"""Memory of each process, beside what was foretold of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from llmforge.stages.peaks import ALLOCATED, RESIDENT, Peak, beside, own_peak, peaks

PLAN: Any = SimpleNamespace(estimate={"memory": {"peak_bytes": 900}})


def test_one_process_on_a_cpu_tells_its_resident_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = own_peak()
    taken = np.ones(before.measured_bytes + 2**26, dtype=np.uint8)
    [after] = peaks()

    assert after.kind == RESIDENT
    assert after.rank == 0
    assert after.measured_bytes > before.measured_bytes
    assert after.measured_bytes > taken.nbytes
    assert "error" not in beside(PLAN, [after])[0], "libraries are in it, which no plan foretells"


def test_each_rank_has_a_row() -> None:
    held = [Peak(0, "a", ALLOCATED, 1000), Peak(1, "b", ALLOCATED, 800)]

    assert beside(PLAN, held) == [
        {
            "rank": 0,
            "host": "a",
            "kind": "allocated",
            "measured_bytes": 1000,
            "foretold_bytes": 900,
            "error": -0.1,
        },
        {
            "rank": 1,
            "host": "b",
            "kind": "allocated",
            "measured_bytes": 800,
            "foretold_bytes": 900,
            "error": 0.125,
        },
    ]
