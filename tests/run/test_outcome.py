"""What the plan foretold, beside what the run measured."""

from __future__ import annotations

from collections.abc import Callable

from llmforge.plan import Plan
from llmforge.run import outcome
from llmforge.run.checkpoints import Keeper
from llmforge.run.folder import RunFolder

Make = Callable[..., Plan]


def test_tokens_beside_the_most_they_can_be(tiny: Make) -> None:
    plan = tiny("tracking=none")
    most = plan.estimate["tokens_at_most"]

    assert outcome.tokens(plan, most - 5) == {"measured": most - 5, "foretold_at_most": most}
    assert outcome.tokens(plan, None) == {}, "of a run that went on from one that did not count"


def test_more_tokens_than_the_plan_allows_are_warned_of(tiny: Make) -> None:
    plan = tiny("tracking=none")
    most, steps = plan.estimate["tokens_at_most"], plan.estimate["steps"]
    trained = plan.estimate["trainable_parameters"]

    assert outcome.surprises(plan, steps, trained, most) == []
    [found] = outcome.surprises(plan, steps, trained, most + 1)
    assert (found.code, found.key) == ("LF810", "estimate.tokens_at_most")
    assert f"{most + 1:,}" in found.message


def test_the_disk_that_is_taken(tiny: Make) -> None:
    plan = tiny("tracking=none")
    run, sizes = RunFolder.create(plan), plan.estimate["disk"]
    keeper = Keeper(run.checkpoint_folder, plan)
    for step in (3, 6):
        keeper.begin(step)
        folder = keeper.staging(step) / keeper.final(step).name
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(bytes(sizes["checkpoint_bytes"]))
        keeper.finish(step, None)
    run.model.mkdir()
    (run.model / "model.safetensors").write_bytes(bytes(sizes["model_bytes"]))

    found = outcome.disk(plan, run)

    assert found["foretold_bytes"] == sizes["model_bytes"] + 2 * sizes["checkpoint_bytes"]
    assert found["foretold_at_most_bytes"] == sizes["total_bytes"]
    records = sum(file.stat().st_size for file in run.path.rglob("checkpoint.json"))
    plans = sum(file.stat().st_size for file in run.checkpoint_folder.rglob("plan.json"))
    assert found["measured_bytes"] == found["foretold_bytes"] + records + plans
    assert -1 < found["error"] < 0


def test_rows_that_are_trained_on_twice(tiny: Make) -> None:
    plan = tiny("tracking=none")
    rows, batch = plan.facts["data"]["rows"]["train"], plan.settings["trainer"]["global_batch"]

    [found] = outcome.repeated(plan, 3, rows)

    assert found.code == "LF813"
    assert found.hint == f"data.max_train_rows={rows - rows % batch}"
    [packed] = outcome.repeated(plan, 3, rows - 1)
    assert packed.hint is None, "how many rows make as many packs is not known"
    assert outcome.repeated(plan, 0, rows) == []
