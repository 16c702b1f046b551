"""Two processes on the CPU: one loss, one gradient, one final folder. Run with `pytest -m slow`.

They share the gradient (DDP), or weights and all (FSDP2). accelerate shards on accelerators only,
and asked for FSDP2 on a CPU would train by DDP without a word; `build/sharding.py` sees to it, and
the worker below says what it trained with. More engines: `test_sharding.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmforge.build.load import load
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.stages.evaluate import evaluate
from llmforge.stages.prepare import prepare

WORKER = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from llmforge.build.load import save_final
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.plan import Plan
from llmforge.stages.evaluate import evaluate
from llmforge.stages.prepare import prepare
plan, out = Plan.load(sys.argv[1]), Path(sys.argv[2])
parts = build_parts(plan, prepare(plan))
trainer = build_trainer(plan, parts, out / "trainer", [])
before = evaluate(plan, parts, trainer)
trainer.train()
after = evaluate(plan, parts, trainer)
save_final(plan, trainer, out / "final")
engine = type(trainer.model_wrapped).__name__, trainer.is_fsdp_enabled
(out / f"figures-{os.environ['RANK']}.json").write_text(json.dumps([before, after, engine]))
"""


FSDP2 = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "reshard_after_forward": True,
        "cpu_offload": False,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("asked", ["ddp", "fsdp2"])
def test_two_processes_do_what_one_does(make_plan, settings, tmp_path: Path, asked, adapter):
    # five held-out rows over two processes and batches of two: the last batch is filled up
    rows = [{"messages": chat} for chat in settings.CHATS[:13]]
    changes = {"data.eval_fraction": 5 / 13, "evaluation.micro_batch": 2, "trainer.micro_batch": 4}
    changes |= {"lora": settings.LORA} if adapter == "lora" else {}
    one = make_plan(changes, rows)
    two = make_plan(changes | {"trainer.micro_batch": 2}, rows)
    two.lowered["training_arguments"] |= FSDP2 if asked == "fsdp2" else {}
    file = two.save(tmp_path / "plan.json")
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, str(tmp_path / "worker.py"), str(file), str(tmp_path)],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    parts = build_parts(one, prepare(one))
    trainer = build_trainer(one, parts, tmp_path / "alone", [])
    alone = [evaluate(one, parts, trainer)]
    trainer.train()
    alone.append(evaluate(one, parts, trainer))

    told = [json.loads((tmp_path / f"figures-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1], "every process is told the same"
    *figures, engine = told[0]
    assert engine[1] is (asked == "fsdp2")
    assert engine[0].startswith("FSDP" if asked == "fsdp2" else "DistributedDataParallel")
    for together, single in zip(figures, alone, strict=True):
        assert together["eval_tokens"] == single["eval_tokens"], "no row is counted twice"
        assert together["eval_loss"] == pytest.approx(single["eval_loss"], abs=1e-5)
        assert together["samples"] == single["samples"]
    model, _ = load(tmp_path / "final")
    for name, weight in trainer.model.named_parameters():
        assert weight.allclose(model.get_parameter(name), atol=1e-4), name
