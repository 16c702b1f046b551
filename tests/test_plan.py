"""The plan file, and fingerprints: what makes two runs the same run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import llmforge as package
from llmforge.compiler.parse import parse
from llmforge.compiler.passes import compile_plan
from llmforge.plan import STAGE_EFFECTS, Plan, PlanUnreadable, canonical_digest, stage_fingerprints
from llmforge.schema import SCALARS, SECTIONS, Effect, RunSpec, Spec
from llmforge.schema.extension import NAMED

ALL = {"prepare", "train", "evaluate"}


def changed(before: Plan, after: Plan) -> set[str]:
    """Stages that would run again."""
    return {stage for stage in ALL if before.stages[stage] != after.stages[stage]}


def write_rows(path: Path, answer: str = "8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = json.dumps({"question": "How many legs has a spider?", "answer": answer})
    path.write_text(f"{row}\n" * 200, encoding="utf-8")
    return path


# -- the file ----------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same_plan(compiled, tmp_path):
    plan = compiled("experiment=smoke", "hardware=h200")

    loaded = Plan.load(plan.save(tmp_path / "deep" / "plan.json"))

    assert loaded == plan
    assert loaded.to_json() == plan.to_json()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["plan.json"]


def test_file_starts_with_what_a_reader_looks_for(compiled):
    data = json.loads(compiled("hardware=cpu").to_json())

    assert list(data)[:5] == ["plan_schema", "llmforge", "name", "run_id", "fingerprint"]
    assert data["llmforge"] == package.__version__
    assert data["run_id"] == f"demo-{data['fingerprint'][:10]}"


def test_loaded_settings_are_typed(compiled, tmp_path):
    plan = compiled("hardware=cpu")

    spec = Plan.load(plan.save(tmp_path / "plan.json")).spec

    assert isinstance(spec, RunSpec)
    assert spec.settings() == plan.settings


def test_run_folder_is_below_the_runs(compiled):
    plan = compiled("hardware=cpu", "name=first", "paths.runs=results")

    assert plan.run_folder == Path("results") / f"first-{plan.fingerprint[:10]}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a plan"),
        ("{}", "plan_schema is None; this llmforge reads version 1"),
        ('{"plan_schema": 2}', "plan_schema is 2; this llmforge reads version 1"),
        ('{"plan_schema": 1}', "not a plan: 'settings'"),
        ('{"plan_schema": 1, "settings": 3}', "not a plan"),
    ],
)
def test_unreadable_files_say_why_and_which(text, told, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(PlanUnreadable) as error:
        Plan.load(path)

    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_binary_file_is_not_a_plan(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(PlanUnreadable, match="is not JSON"):
        Plan.load(path)


def test_settings_of_another_version_are_unreadable(compiled):
    data = json.loads(compiled("hardware=cpu").to_json())
    data["settings"]["trainer"]["epochs"] = "twelve"

    with pytest.raises(PlanUnreadable, match=r"trainer\.epochs"):
        _ = Plan.from_dict(data).spec


# -- fingerprints ------------------------------------------------------------------------------


def test_compiled_twice_it_is_the_same_plan(work):
    assert compile_plan(["hardware=cpu"]).to_json() == compile_plan(["hardware=cpu"]).to_json()


def test_three_ways_to_the_same_plan(work):
    """An override, an option file of one's own, an experiment: the way does not count."""
    options = work / "mine"
    (options / "optimizer").mkdir(parents=True)
    (options / "optimizer/slow.yaml").write_text(
        "defaults: [adamw, _self_]\nlr: 1e-4\n", encoding="utf-8"
    )
    (options / "experiment").mkdir()
    (options / "experiment/slow.yaml").write_text(
        "# @package _global_\noptimizer:\n  lr: 1e-4\n", encoding="utf-8"
    )

    by_override = compile_plan(["optimizer.lr=1e-4"])
    by_option = compile_plan(["optimizer=slow"], [options])
    by_experiment = compile_plan(["experiment=slow"], [options])

    assert by_override.stages == by_option.stages == by_experiment.stages
    assert by_override.fingerprint != compile_plan().fingerprint


def test_solved_by_itself_or_given_it_is_the_same_run(compiled):
    length = ("trainer.epochs=null", "trainer.max_steps=400", "trainer.global_batch=16")
    solved = compiled(*length, "evaluation.every=25%")

    given = compiled(*length, "evaluation.every=100", "trainer.micro_batch=16")

    assert given.stages == solved.stages


@pytest.mark.parametrize(
    "override",
    [
        "name=another",
        "tracking=none",
        "tracking.experiment=another",
        "paths.runs=elsewhere",
        "launch.threads=2",
        "trainer.log_every=5",
        "trainer.workers=2",
        "checkpoint.keep=5",
        "card.license=mit",
        "model.attention=eager",
        "trainer.gradient_checkpointing=true",
        "collator.pad_to_multiple=16",
        "hardware.name=somewhere",
    ],
)
def test_names_places_records_and_speed_change_no_run(override, compiled):
    assert changed(compiled("hardware=cpu"), compiled("hardware=cpu", override)) == set()


@pytest.mark.parametrize(
    "override",
    ["optimizer.lr=1e-4", "seed=1", "schedule=linear", "trainer.epochs=2", "model.layers=2",
     "trainer.global_batch=64", "precision=bfloat16", "lora=small"],
)  # fmt: skip
def test_weights_train_again_on_the_same_prepared_data(override, compiled):
    found = changed(compiled("hardware=cpu"), compiled("hardware=cpu", override))

    assert found == {"train", "evaluate"}


@pytest.mark.parametrize(
    "override", ["generation=creative", "evaluation.samples=1", "evaluation.exact_match_rows=9"]
)
def test_scores_are_measured_again_on_the_same_weights(override, compiled):
    assert changed(compiled("hardware=cpu"), compiled("hardware=cpu", override)) == {"evaluate"}


@pytest.mark.parametrize(
    "override",
    ["data.rows=500", "data.max_train_rows=100", "tokenizer.vocabulary=512", "collator.turns=last",
     "collator.max_length=64", "tokenizer.chat_template=chatml"],
)  # fmt: skip
def test_other_samples_run_everything_again(override, compiled):
    assert changed(compiled("hardware=cpu"), compiled("hardware=cpu", override)) == ALL


def gsm8k(train: Path, *more: str) -> Plan:
    return compile_plan(["experiment=gsm8k", f"data.train={train}", *more])


def test_data_that_moved_are_the_same_data(work):
    here = gsm8k(write_rows(work / "here.jsonl"))
    there = gsm8k(write_rows(work / "far" / "there.jsonl"))

    assert changed(here, there) == set()


def test_data_that_changed_in_place_are_other_data(work):
    before = gsm8k(write_rows(work / "rows.jsonl"))
    after = gsm8k(write_rows(work / "rows.jsonl", answer="eight"))

    assert changed(before, after) == ALL


def test_files_in_another_order_are_other_data(work):
    write_rows(work / "a.jsonl", "8")
    write_rows(work / "b.jsonl", "eight")

    assert changed(gsm8k("[a.jsonl,b.jsonl]"), gsm8k("[b.jsonl,a.jsonl]")) == ALL


def test_weights_that_changed_prepare_nothing_again(work, checkpoint):
    first = compile_plan(["model=folder", f"model.path={checkpoint(work / 'one')}"])
    moved = compile_plan(["model=folder", f"model.path={checkpoint(work / 'two')}"])
    with (work / "two/model.safetensors").open("ab") as file:
        file.write(b" ")
    other = compile_plan(["model=folder", "model.path=two"])

    assert changed(first, moved) == set()
    assert changed(first, other) == {"train", "evaluate"}


def test_tokenizer_that_changed_runs_everything_again(work, checkpoint):
    folder = checkpoint(work / "tiny")
    before = compile_plan(["model=folder", "model.path=tiny"])
    (folder / "tokenizer.json").write_text("{ }")
    after = compile_plan(["model=folder", "model.path=tiny"])

    assert changed(before, after) == ALL


def test_template_file_that_changed_runs_everything_again(work):
    template = work / "chat.jinja"
    template.write_text("{{ messages }}")
    before = compile_plan(["tokenizer.chat_template=chat.jinja"])
    template.write_text("{{ messages[1:] }}")
    after = compile_plan(["tokenizer.chat_template=chat.jinja"])

    assert changed(before, after) == ALL


def test_when_the_best_state_is_looked_for_decides_the_weights(compiled):
    often, seldom = (
        compiled("checkpoint=best", f"evaluation.every={n}", f"checkpoint.every={n}")
        for n in (10, 50)
    )

    assert changed(often, seldom) == {"train", "evaluate"}


def test_canonical_digest_does_not_see_the_order_of_keys():
    assert canonical_digest({"a": 1, "b": [1, 2]}) == canonical_digest({"b": [1, 2], "a": 1})
    assert canonical_digest({"a": [1, 2]}) != canonical_digest({"a": [2, 1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_digest(float("nan"))


# -- every field of the schema -----------------------------------------------------------------

# `data=csv` stands for all that the option needs, see `every_kind`
OPTIONS = [
    (), ("model=folder", "model.path=tiny", "lora=small", "quantization=8bit", "hardware=h200",
         "data=csv"),
    ("model=hub", "model.id=example/none", "data=json"),
    ("model=trained", 'model.overrides=["name=base"]', "data=json"),
    ("optimizer=adafactor", "schedule=linear", "data=parquet", "collator=packed"),
    ("optimizer=adamw_8bit", "schedule=constant", "data=arrow"),
    ("optimizer=sgd", "collator=lm", "data=text"),
    ("experiment=gsm8k", "data.train=qa.jsonl", "tracking=none"),
    ("quantize=gptq", "quantize.group_size=32"), ("quantize=bnb_4bit",), ("quantize=int8",),
    ("hardware=h200", "hardware.count=2", "launch=torchrun", "deepspeed=stage3", "data=sql"),
    ("hardware=h200", "hardware.count=2", "launch=torchrun", "fsdp=full_shard", "data=saved"),
    *(("hardware=h200", "hardware.count=2", f"launch={kind}", "data=json")
      for kind in ("deepspeed", "ray", "slurm")),
    ("data=hub",), ("data=class",), ("data=mix",), ("data=builtin_short",),
    ("hub=push", "hub.repository=a/b"),
    ("model=folder", "model.path=tiny", "data=builtin_pairs", "collator=preference",
     "trainer=dpo"),
    ("optimizer=adam", "schedule=wsd", "data=json"),
    ("optimizer=muon", "schedule=multistep", "data=json"),
    ("optimizer=lion", "schedule=inverse_sqrt", "data=json"),
    ("optimizer=adamw_paged", "schedule=cosine_restarts", "data=json"),
    ("optimizer=adamw_schedule_free", "schedule=polynomial", "data=json"),
    *(("model=folder", "model.path=tiny", f"lora={kind}", "collator.max_length=40", "data=json")
      for kind in ("eva", "vera", "adalora", "ia3", "prompt", "prefix")),
]  # fmt: skip


def whole(overrides: tuple[str, ...], every_kind: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(
        found
        for given in overrides
        for found in (every_kind[given[5:]] if given.startswith("data=") else (given,))
    )


CANDIDATES = [
    -1, ["a", "b"], "torch", "auto_gptq", "texts",
    True, False, None, 3, 4, 8, 16, 32, 300, 0.125, 0.25, 0.5, "auto", "x", "env:OTHER", "2GB",
    "after_build",
    "last", "all", "eager", "sdpa", "llama", "opt", "text", "messages", "right", "left", "refuse",
    "float32", "bfloat16", "none", "all_only", "lora_only", "minimize", "maximize", "cuda", "cpu",
    "nf4", "fp4", "a/b", ["x"], ["y"], [0.5, 0.5], 1, 2, "train", "drop", "best_fit", "first",
    "paragraph", {"human": "user"}, {"one": 1.0, "two": 2.0},
    "always", "fused", "end", "final", "adapter", "checkpoint", "every_save", "default",
    "max-autotune", "inductor", "sigmoid", "hinge", "copy", "precomputed",
    "a:1", "static", "openmpi", "SPREAD", "local", "compute",
    "original", [1, 2, 3], "steps", "linear", "10%", "gaussian", "vocabulary", "zero", "uniform",
    {"one": {"value": 1}},
]  # fmt: skip


def fields(settings: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Paths of all leaves but the kinds, which change what other fields there are, and what can
    have one value only."""
    spec = parse(settings)[0]
    assert spec is not None

    def below(part: Spec, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name in type(part).model_fields:
            value = getattr(part, name)
            if isinstance(value, Spec):
                yield from below(value, (*path, name))
            elif name in ("sources", *NAMED):
                for key, source in value.items():
                    yield from below(source, (*path, name, key))
            elif len(get_args(type(part).model_fields[name].annotation)) != 1:
                yield (*path, name)

    yield from below(spec, ())


def with_value(settings: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    name, *rest = path
    return {**settings, name: with_value(settings[name], tuple(rest), value) if rest else value}


def effect_at(spec: Spec, path: tuple[str, ...]) -> Effect:
    for name in path[:-1]:
        spec = spec[name] if isinstance(spec, dict) else getattr(spec, name)
    return type(spec).effect_of(path[-1])


@pytest.mark.parametrize("overrides", OPTIONS, ids=" ".join)
def test_a_field_changes_exactly_the_stages_its_effect_says(overrides, compiled, every_kind):
    settings = compiled(*whole(overrides, every_kind)).settings
    identity = {"data": ["digest"], "model": {"config.json": "digest"}, "tokenizer": {}}
    spec = parse(settings)[0]
    before = stage_fingerprints(spec, identity)

    for path in fields(settings):
        others = (parse(with_value(settings, path, value))[0] for value in CANDIDATES)
        other = next((o for o in others if o is not None and o.settings() != settings), None)
        assert other is not None, f"no other legal value for {'.'.join(path)}"
        after = stage_fingerprints(other, identity)
        effect = effect_at(spec, path)
        expected = {stage for stage, effects in STAGE_EFFECTS.items() if effect in effects}
        assert {s for s in before if before[s] != after[s]} == expected, ".".join(path)


def test_the_options_above_hold_every_kind(compiled, every_kind):
    from llmforge.registry import kinds

    plans = [compiled(*whole(overrides, every_kind)) for overrides in OPTIONS]
    seen = {s: {plan.settings[s].get("kind") for plan in plans} for s in SECTIONS}

    # never in a plan
    solved = {("collator", "auto"), ("hardware", "auto"), ("optimizer", "file"), ("lora", "file")}
    solved |= {("deepspeed", "file")}
    solved |= {("quantization", "gptq")}  # needs a checkpoint that GPTQ has packed
    missing = {(s, k) for s in SECTIONS for k in kinds(s) if k not in seen[s]}
    assert missing == solved


def test_every_field_is_a_scalar_or_in_a_section():
    assert set(RunSpec.model_fields) == {*SCALARS, *SECTIONS}
