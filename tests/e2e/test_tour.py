"""The shown example: one command from nothing to a model of 4 bits, and what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_tour(work: Path):
    pytest.importorskip("compressed_tensors", reason="the extra compressed quantizes")
    words = [sys.executable, "-m", "llmforge", "run", "experiment=tour", "hardware=cpu"]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    assert "base: train" in done.stdout
    (run,) = Path("runs").glob("tour-*")
    chain = {one["name"]: one for one in json.loads((run / "chain.json").read_text())["stages"]}
    assert {one["state"] for one in chain.values()} == {"done"}
    assert chain["base: evaluate"]["figures"]["exact match"] > 0.8

    tuned = chain["evaluate"]["figures"]
    assert tuned["exact match before"] < 0.1, "the base answers in sentences"
    assert tuned["exact match"] > 0.6
    assert chain["fuse"]["figures"]["top-1 agreement"] > 0.999
    packed = chain["quantize"]["figures"]
    assert packed["perplexity"] < 1.2 * packed["perplexity before"]

    answers = json.loads((run / "answers.json").read_text())
    asked = len(answers["rows"])
    assert set(answers["right"]) == {"adapter", "fused", "quantized"}
    assert answers["right"]["fused"] == answers["right"]["adapter"]
    assert answers["right"]["quantized"] >= asked // 2
