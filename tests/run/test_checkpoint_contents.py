"""What stands in a checkpoint of a real run, and that none of it can be spoiled unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run import checkpoints, resume, sealing
from llmforge.run.folder import RunFolder
from llmforge.run.signals import StopFlag
from llmforge.track.protocol import NullTracker

torch = pytest.importorskip("torch")

torch.set_num_threads(1)

BESIDE = {
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"),
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"),
    *(checkpoints.PLAN, sealing.MANIFEST),
}


def trained(plan: Plan, parent: Path) -> RunFolder:
    from llmforge.stages.train import train

    run = RunFolder(parent / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    train(plan, run, NullTracker(), StopFlag())
    return run


def weights(run: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.model.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("none", {"config.json", "model.safetensors"}),
        ("small", {"README.md", "adapter_config.json", "adapter_model.safetensors"}),
    ],
)
def test_everything_that_is_needed_stands_beside_the_weights(
    tiny: Callable[..., Plan], tmp_path: Path, kind: str, names: set[str]
) -> None:
    plan = tiny("tracking=none", f"lora={kind}", "evaluation=end", "evaluation.at_start=false")
    run = trained(plan, tmp_path)
    assert [kept.step for kept in run.checkpoints()] == [12, 8]
    for kept in run.checkpoints():
        assert {path.name for path in kept.path.iterdir()} == BESIDE | names
        assert sealing.facts(kept.path)["fingerprint"] == plan.fingerprint
        stops = json.loads((kept.path / "generation_config.json").read_text())["eos_token_id"]
        assert (
            stops == json.loads((run.model / "generation_config.json").read_text())["eos_token_id"]
        )


def test_weights_in_pieces_and_by_the_clock(tiny: Callable[..., Plan], tmp_path: Path) -> None:
    from llmforge.stages.train import train

    same = ("tracking=none", "evaluation=end", "evaluation.at_start=false")
    whole = trained(tiny(*same), tmp_path / "whole")
    # so short a time is over after every step
    plan = tiny(*same, "checkpoint.max_shard_size=10KB", "checkpoint.every=0.0001s")
    assert plan.fingerprint == RunFolder.open(whole.path).plan().fingerprint
    run = RunFolder(tmp_path / "pieces" / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    train(plan, run, NullTracker(), StopFlag())
    assert [kept.step for kept in run.checkpoints()] == [12, 11]
    newest = run.checkpoints()[0].path
    pieces = sorted(newest.glob("model-*.safetensors"))
    assert len(pieces) > 1
    largest = max(path.stat().st_size for path in pieces)
    one_tensor = 300 * 16 * 4  # the embedding cannot be cut
    assert largest < one_tensor + 2000
    assert (newest / "model.safetensors.index.json").is_file()

    # the run goes on from pieces: as if it had been killed after step 11
    for path in (run.model, newest):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    run.manifest.unlink()
    train(plan, run, NullTracker(), StopFlag())
    from safetensors.torch import load_file

    expected = load_file(whole.model / "model.safetensors")
    found = {k: v for path in run.model.glob("*.safetensors") for k, v in load_file(path).items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_byte_flipped_anywhere_is_seen(tiny: Callable[..., Plan], tmp_path: Path) -> None:
    plan = tiny("tracking=none", "lora=small", "evaluation=end", "evaluation.at_start=false")
    run = trained(plan, tmp_path)
    newest, before = run.checkpoints()
    tried = 0
    for path in sorted(newest.path.rglob("*")):
        size = path.stat().st_size
        content = path.read_bytes()
        for place in sorted({0, size // 3, size // 2, size - 2, size - 1} & set(range(size))):
            spoiled = bytearray(content)
            spoiled[place] ^= 0x01
            path.write_bytes(spoiled)
            fault = checkpoints.verify(newest)
            assert fault, f"byte {place} of {path.name}"
            assert path.name in fault
            tried += 1
        path.write_bytes(content)
    assert tried > 50
    assert checkpoints.verify(newest) is None

    spoiled = bytearray((newest.path / "optimizer.pt").read_bytes())
    spoiled[len(spoiled) // 2] ^= 0x80
    (newest.path / "optimizer.pt").write_bytes(spoiled)
    told: list[str] = []
    chosen = resume.choose(plan, run, told.append)
    assert chosen
    assert chosen.step == before.step
    assert told == [
        "checkpoint at step 12 is passed over: optimizer.pt is damaged; kept as "
        "broken-checkpoint-12",
        "going on after step 8 (checkpoint-8)",
    ]
