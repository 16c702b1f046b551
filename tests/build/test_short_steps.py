"""The short step that ends an epoch, of losses that are means: each row counts once over processes.

Eleven rows in batches of four: a third step of three rows, which two processes with batches of two,
or with batches of one and accumulation, cannot share evenly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = (
    *("tracking=none", "hardware=cpu", "model=small_llama", "model.layers=2", "model.hidden=64"),
    *("model.intermediate=128", "model.heads=4", "model.kv_heads=2", "model.context=256"),
    *("tokenizer.vocabulary=300", "collator.max_length=128", "trainer.max_steps=7"),
    *("trainer.epochs=null", "trainer.global_batch=4", "trainer.log_every=1", "schedule=constant"),
    *("evaluation.at_start=false", "evaluation.every=null", "evaluation.samples=0"),
    *("evaluation.exact_match_rows=0", "checkpoint.every=null", "data.max_overlap=null"),
    *("data=jsonl", "data.train=pairs.jsonl", "data.eval_fraction=0.0", "optimizer.lr=3e-3"),
)
LOSSES = {
    "smoothed": (
        *("trainer.label_smoothing=0.2", "trainer.loss_kernel=full"),
        *("data.fields.completion=chosen", "data.shape=prompt_completion"),
    ),
    "sigmoid": ("trainer=dpo", "trainer.beta=0.3"),
    "precomputed": ("trainer=dpo", "trainer.beta=0.3", "trainer.reference=precomputed"),
    "nca": ("trainer=dpo", "trainer.beta=0.3", "trainer.loss=nca_pair"),
}
OWN = (
    *("plugins=[own]", "trainer.kind=own", "trainer.loss_kernel=full"),
    *("data.fields.completion=chosen", "data.shape=prompt_completion"),
)
SPEC = """
import llmforge

@llmforge.register("trainer", "own", "own_parts:Own")
class OwnSpec(llmforge.TrainerSpec):
    pass
"""
PARTS = """
from llmforge.build.trainer import ForgeTrainer

class Own(ForgeTrainer):
    OWN_LOSS = True
"""
SHARED = {
    "one": ("trainer.micro_batch=4",),
    "accumulated": ("trainer.micro_batch=2",),
    "two": ("launch=torchrun", "launch.processes=2", "trainer.micro_batch=2"),
    "two_accumulated": ("launch=torchrun", "launch.processes=2", "trainer.micro_batch=1"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every loss, shared in every way: `done["nca-two"]`."""
    pytest.importorskip("deepspeed")
    bench = tmp_path_factory.mktemp("short")
    rows = [
        {"prompt": f"say {n}", "chosen": " yes" * (1 + n % 4), "rejected": f" no {n}"}
        for n in range(11)
    ]
    (bench / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = (f"paths.runs={bench}", f"paths.cache={bench}/.c")
    cases = {
        f"{loss}-{way}": [*SMALL, *words, *how, *places, f"name={loss}-{way}"]
        for loss, words in LOSSES.items()
        for way, how in SHARED.items()
    }
    for way in ("one", "two"):
        cases[f"own-{way}"] = [*SMALL, *OWN, *SHARED[way], *places, f"name=own-{way}"]
    (bench / "own.py").write_text(SPEC)
    (bench / "own_parts.py").write_text(PARTS)
    (bench / "cases.json").write_text(json.dumps(cases))
    told = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("ranks.py")), "cases.json", "out.json"],
        cwd=bench,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{bench}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    found: dict[str, Any] = json.loads((bench / "out.json").read_text())
    for name, case in found.items():
        log = Path(case["folder"], "log.txt").read_text()
        assert set(case["codes"]) == {0}, f"{name}: {log[-3000:]}"
    return found


@pytest.mark.parametrize("way", ["accumulated", "two", "two_accumulated"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_steps_are_those_of_one_process(done: dict[str, Any], loss: str, way: str) -> None:
    alone, shared = done[f"{loss}-one"], done[f"{loss}-{way}"]

    assert shared["losses"][0] == pytest.approx(alone["losses"][0], abs=1e-5)
    expected, found = weights(alone), weights(shared)
    for key, weight in expected.items():
        assert found[key].allclose(weight, atol=1e-3), key


@pytest.mark.parametrize("way", ["two", "two_accumulated"])
def test_what_is_logged_of_pairs_leaves_fillers_out(done: dict[str, Any], way: str) -> None:
    """In the third step: means over three pairs."""
    alone, shared = (logged(done[f"sigmoid-{name}"], 3) for name in ("one", way))

    assert shared["logps_chosen"] < -1
    if way == "two":  # one turn; with accumulation it is the mean of two turns' means
        for name in ("rewards_chosen", "rewards_accuracy", "logps_chosen", "logps_rejected"):
            assert shared[name] == pytest.approx(alone[name], abs=1e-4), name


@pytest.mark.parametrize("loss", ["smoothed", "sigmoid"])
def test_every_token_is_counted_once(done: dict[str, Any], loss: str) -> None:
    """Seven steps of eleven rows in batches of four: two epochs and a third of one."""
    told = {way: told_of(done[f"{loss}-{way}"])["tokens"] for way in SHARED}

    assert len({figures["measured"] for figures in told.values()}) == 1, told
    assert 0 < told["one"]["measured"] <= told["one"]["foretold_at_most"]


def test_a_loss_of_ones_own_takes_rows_twice_and_says_so(done: dict[str, Any]) -> None:
    warned = [one for one in told_of(done["own-two"])["warnings_told"] if one["code"] == "LF813"]

    assert [one["message"] for one in warned] == ["1 of 11 rows are trained on twice in each epoch"]
    assert warned[0]["hint"] == "data.max_train_rows=8"
    assert not [one for one in told_of(done["own-one"])["warnings_told"] if one["code"] == "LF813"]
    assert not [one for one in told_of(done["nca-two"])["warnings_told"] if one["code"] == "LF813"]


def told_of(case: dict[str, Any]) -> dict[str, Any]:
    """The result, with the warnings of the run's status."""
    folder = Path(case["folder"])
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    status = json.loads((folder / "status.json").read_text())
    return found | {"warnings_told": status["warnings"]}


def weights(case: dict[str, Any]) -> dict[str, Any]:
    return load_file(Path(case["folder"], "model", "model.safetensors"))


def logged(case: dict[str, Any], step: int) -> dict[str, float]:
    """The figures of one step."""
    lines = Path(case["folder"], "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    found: dict[str, float] = {}
    for row in rows:
        found |= row["values"] if row.get("step") == step and "values" in row else {}
    return found
