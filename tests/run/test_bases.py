"""A model that another run trains: compiled with its own plan, refused while it is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.compiler.passes import check, compile_plan
from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.bases import check_base, missing
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

SHAPE = ("name=base", "model.layers=1", "model.hidden=16", "model.heads=2", "model.kv_heads=2",
         "model.intermediate=32", "tokenizer.vocabulary=300")  # fmt: skip
SMALL = ("hardware=cpu",)


@pytest.fixture(autouse=True)
def here(work: Path) -> Path:
    return work


def on(*of_base: str, more: tuple[str, ...] = ()) -> list[str]:
    """Overrides of an adapter over a model that another run trains."""
    return ["model=trained", f"model.overrides={json.dumps(of_base)}", "lora=small", *SMALL, *more]


def compiled(*of_base: str, more: tuple[str, ...] = ()) -> Plan:
    return compile_plan(on(*(of_base or SHAPE), more=more))


def finish(plan: Plan) -> RunFolder:
    """A run folder as a finished training leaves it, without weights."""
    run = RunFolder.create(plan)
    run.set_status(Status.FINISHED)
    run.write_json("manifest.json", {"files": {}})
    return run


def finding(refusal: ConfigRefused) -> Diagnostic:
    (found,) = refusal.diagnostics
    return found


def test_the_model_is_known_before_it_is_trained():
    plan, alone = compiled(), compile_plan([*SHAPE, *SMALL])

    assert plan.facts["model"] == alone.facts["model"]
    assert plan.settings["tokenizer"]["source"] == "model"
    assert plan.facts["identity"]["model"] == {"run": alone.stages["train"], "weights": "model"}
    assert plan.facts["identity"]["tokenizer"] == {"run": alone.stages["prepare"]}
    assert plan.lowered["model"]["pretrained_model_name_or_path"] == str(alone.run_folder / "model")
    assert plan.base_plan is not None
    assert plan.base_plan.run_id == alone.run_id, "the same run as on its own command line"
    assert plan.estimate["trainable_parameters"] < plan.estimate["total_parameters"]


def test_a_change_of_the_other_run_that_changes_its_weights_changes_this_one():
    before = compiled()
    other = compiled(*SHAPE, "optimizer.lr=1e-4")
    renamed = compiled(*SHAPE[1:], "name=another")

    assert other.stages["train"] != before.stages["train"]
    assert other.stages["prepare"] == before.stages["prepare"], "the tokenizer is the same"
    assert renamed.stages == before.stages


def test_a_saved_plan_holds_the_other_one(tmp_path: Path):
    plan = compiled()
    read = Plan.load(plan.save(tmp_path / "plan.json"))

    assert read.base_plan is not None
    assert read.base_plan.stages == compiled().base_plan.stages
    assert "base" not in compile_plan(list(SMALL)).to_dict()


def test_hardware_tracking_and_paths_are_those_of_the_run_that_needs_it():
    more = ("paths.runs=elsewhere", "tracking.uri=sqlite:///a.db", "tracking.registered_model=b")
    base = compiled(more=more).base_plan
    own = compiled(*SHAPE, "paths.runs=mine", more=more).base_plan
    apart = compiled(more=(*more, "model.runs=pool")).base_plan

    assert base is not None
    assert base.run_folder.parent == Path("elsewhere")
    assert base.settings["tracking"]["uri"] == "sqlite:///a.db"
    assert base.settings["tracking"]["registered_model"] is None, "it names this run's model"
    assert base.settings["hardware"]["name"] == "cpu"
    assert own is not None
    assert own.run_folder.parent == Path("mine")
    assert apart is not None
    assert apart.run_folder.parent == Path("pool")


def test_a_chain_of_three():
    inner = ["model=trained", f"model.overrides={json.dumps(SHAPE)}", "name=middle", "seed=7"]
    plan = compiled(*inner)

    middle = plan.base_plan
    assert middle is not None
    assert middle.name == "middle"
    assert middle.base_plan is not None
    assert middle.base_plan.name == "base"
    assert middle.base_plan.facts["model"] == plan.facts["model"]
    assert "trained by middle-" in summary(plan)
    assert "trained by base-" in summary(plan)


def summary(plan: Plan) -> str:
    from llmforge.render import plan_text

    return plan_text(plan).partition("\n\n")[0]


def test_findings_of_the_other_run_are_told_with_their_place():
    checked = check(on(*SHAPE, "trainer.global_batch=-1"))

    (found,) = [d for d in checked.diagnostics if d.is_error]
    assert (found.code, found.key) == ("LF104", "model.overrides")
    assert found.message.startswith("in the run that trains the model: `trainer.global_batch`")
    assert "command line: trainer.global_batch" in found.notes
    assert found.hint is not None
    assert '"trainer.global_batch=32"' in found.hint
    assert "global_batch=-1" not in found.hint, "the hint stands in its place"


def test_it_is_refused_until_it_is_trained(llmforge: Callable):
    plan = compiled()
    with pytest.raises(ConfigRefused) as refusal:
        check_base(plan)
    found = finding(refusal.value)
    assert found.code == "LF625"
    assert "has not begun" in found.message
    assert found.hint is not None
    assert found.hint.startswith("llmforge run model=trained 'model.overrides=[")

    finish(plan.base_plan)
    check_base(plan)


def test_train_names_the_command_that_trains_both(llmforge: Callable):
    words = " ".join(f"'{word}'" for word in on(*SHAPE))
    ran = llmforge(f"train {words}")

    assert ran.code == 2
    assert "error[LF625]" in ran.err
    assert "hint: llmforge run model=trained" in ran.err
    assert not Path("runs").exists()


def test_fused_weights_are_another_matter():
    adapted = compiled(*SHAPE, "lora=small", more=("model.weights=fused",))
    run = finish(adapted.base_plan)

    assert adapted.lowered["model"]["pretrained_model_name_or_path"] == str(
        adapted.base_plan.run_folder / "fused"
    )
    assert adapted.facts["identity"]["model"]["run"] == adapted.base_plan.stages["fuse"]
    assert "is not fused" in str(missing(adapted))
    settings = adapted.base_plan.settings["fuse"]
    run.write_json("fuse.json", {"stage": "fuse", "target": "fused", "settings": settings})
    (run.path / "fused").mkdir()
    (run.path / "fused" / "config.json").write_text("{}")
    assert missing(adapted) is None
    half = {**settings, "dtype": "float16"}
    run.write_json("fuse.json", {"stage": "fuse", "target": "fused", "settings": half})
    assert str(missing(adapted)).endswith("was fused with another fuse.dtype")


def test_no_torch_is_imported_to_compile_both():
    script = (
        "import sys\nfrom llmforge.compiler.passes import compile_plan\n"
        f"compile_plan({on(*SHAPE)!r})\n"
        "print([n for n in ('torch', 'transformers', 'peft', 'mlflow') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
