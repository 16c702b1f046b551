"""After training, on a GPU: what was quantized there is read back there, by other kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.cli import main
from llmforge.refs.subjects import Asked, find_subject
from llmforge.run.folder import RunFolder
from llmforge.run.making import order as making

pytestmark = pytest.mark.gpu

TINY = (
    "name=tiny", "model=small_llama", "model.layers=2", "model.hidden=128",
    "model.intermediate=256", "model.heads=4", "model.kv_heads=2", "data.rows=400",
    "trainer.epochs=null", "trainer.max_steps=20", "tracking=none",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["gptq", "gptq_8bit", "bnb_4bit", "bnb_8bit", "int8", "int4"])
def test_a_model_is_quantized_and_measured_on_the_gpu(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {"gptq": "gptqmodel", "bnb": "bitsandbytes", "int": "compressed_tensors"}
    pytest.importorskip(next(name for head, name in needed.items() if kind.startswith(head)))
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY]) == 0
    (folder,) = (tmp_path / "runs").iterdir()

    assert main(["quantize", "--run", str(folder), f"quantize={kind}"]) == 0

    record = making.record(RunFolder.open(folder), "quantize")
    assert record is not None
    assert record["layers"] == 14
    assert abs(record["perplexity_growth"]) < 0.2
    assert record["bytes_after"] < record["bytes_before"]
    assert record["peak_memory_bytes"] > 0
    assert find_subject(Asked(folder)).run.run_id == record["run_id"]
