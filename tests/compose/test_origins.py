"""Chains of origins: who set a value, in which order, and why that file was there."""

from __future__ import annotations

import json
import random

import pytest

from llmforge.compose import compose, options
from llmforge.diagnostics import Severity
from llmforge.origins import Origins, leaves


def told(draft, key):
    """The chain of a key as `(place or override, value, reason)`."""
    chain = draft.origins.chains[key]
    return [(o.where if o.kind == "override" else o.place, o.value, o.reason) for o in chain]


def places(draft, key):
    return [place for place, _, _ in told(draft, key)]


def test_chain_runs_from_the_first_writer_to_the_winner(draft):
    found = draft("experiment=med", "trainer.global_batch=64")
    assert told(found, "trainer.global_batch") == [
        ("conf/trainer/default.yaml:2", 128, ""),
        ("conf/experiment/med.yaml:8", 96, "chosen by experiment=med on the command line"),
        ("trainer.global_batch=64", 64, ""),
    ]


def test_reason_names_the_experiment_that_chose_a_file(draft):
    assert told(draft("experiment=med"), "lora.r") == [
        ("conf/lora/default.yaml:2", 8, "included by conf/lora/small.yaml"),
        ("conf/lora/small.yaml:2", 4, "chosen by conf/experiment/med.yaml:5"),
    ]


def test_reason_names_the_command_line_where_it_overrules_the_experiment(draft):
    assert told(draft("experiment=med", "lora=wide"), "lora.r")[-1] == (
        "conf/lora/wide.yaml:2",
        256,
        "chosen by lora=wide on the command line",
    )


def test_defaults_of_the_primary_config_need_no_reason(draft):
    assert told(draft(), "seed") == [("conf/config.yaml:11", 42, "")]
    assert told(draft(), "model.kind") == [("conf/model/tiny.yaml:4", "tiny", "")]


def test_users_files_are_shown_relative_to_where_they_work(draft, write, tmp_path):
    write({"model/own.yaml": "kind: own"}, tmp_path / "work" / "my")
    write({"lora/own.yaml": "kind: own"}, tmp_path / "far")
    found = draft("model=own", "lora=own", config_dirs=("my", "../far"))
    assert places(found, "model.kind") == ["my/model/own.yaml:1"]
    assert places(found, "lora.kind") == [f"{tmp_path}/far/lora/own.yaml:1"]


def test_interpolated_value_keeps_its_file_and_its_text(draft):
    assert told(draft("lora=default"), "lora.alpha") == [
        (
            "conf/lora/default.yaml:3",
            "${.r}",
            "chosen by lora=default on the command line; interpolated from ${.r}",
        )
    ]


def test_leaves_behind_an_interpolated_mapping(draft, write):
    write(
        {"trainer/default.yaml": "copy: ${model}\nnested: '${oc.env:NOPE,${seed}} and ${seed}'\n"}
    )
    found = draft()
    assert found.values["trainer"]["copy"] == {"kind": "tiny", "layers": 2}
    expected = [("conf/trainer/default.yaml:1", "${model}", "interpolated from ${model}")]
    assert told(found, "trainer.copy.kind") == told(found, "trainer.copy.layers") == expected
    assert told(found, "trainer.nested")[0][2] == (
        "interpolated from ${oc.env:NOPE,${seed}}, ${seed}"
    )


def test_interpolation_in_a_list(draft, write):
    write({"trainer/default.yaml": "a: [1, '${seed}']\n"})
    assert told(draft(), "trainer.a") == [
        ("conf/trainer/default.yaml:1", [1, "${seed}"], "interpolated from ${seed}")
    ]


def test_an_escaped_interpolation_is_text(draft, write):
    write({"trainer/default.yaml": "a: \\${seed}\n"})
    found = draft()
    assert found.values["trainer"]["a"] == "${seed}"
    assert told(found, "trainer.a") == [("conf/trainer/default.yaml:1", "\\${seed}", "")]


def test_files_that_merge_into_an_interpolated_mapping(draft, write):
    write(
        {
            "trainer/default.yaml": "copy: ${model}\n",
            "experiment/e.yaml": "# @package _global_\ntrainer: {copy: {layers: 9}}\n",
        }
    )
    found = draft("experiment=e")
    assert found.values["trainer"]["copy"] == {"kind": "tiny", "layers": 9}
    assert places(found, "trainer.copy.layers") == ["conf/experiment/e.yaml:2"]
    assert places(found, "trainer.copy.kind") == ["conf/trainer/default.yaml:1"]


def test_a_list_is_one_leaf(draft):
    found = draft("lora=default", "lora.targets=[k]")
    assert told(found, "lora.targets") == [
        ("conf/lora/default.yaml:4", ["q", "v"], "chosen by lora=default on the command line"),
        ("lora.targets=[k]", ["k"], ""),
    ]


def test_an_element_of_a_list_rewrites_the_leaf(draft):
    found = draft("lora=default", "lora.targets.1={a: 1}", "lora.targets.1.a=2")
    assert told(found, "lora.targets")[1:] == [
        ("lora.targets.1={a: 1}", ["q", {"a": 1}], ""),
        ("lora.targets.1.a=2", ["q", {"a": 2}], ""),
    ]


def test_leaves_of_a_mapping_override(draft):
    found = draft("+trainer.fields={prompt: question, more: {a: [1]}}")
    text = "+trainer.fields={prompt: question, more: {a: [1]}}"
    assert told(found, "trainer.fields.prompt") == [(text, "question", "")]
    assert told(found, "trainer.fields.more.a") == [(text, [1], "")]
    assert "trainer.fields" not in found.origins.chains


def test_a_mapping_override_merges(draft):
    found = draft("trainer={lr: 1}")
    assert places(found, "trainer.lr") == ["conf/trainer/default.yaml:3", "trainer={lr: 1}"]
    assert places(found, "trainer.micro_batch") == ["conf/trainer/default.yaml:1"]


def test_an_added_key(draft):
    assert told(draft("++sed=3"), "sed") == [("++sed=3", 3, "")]
    assert told(draft("+trainer.new.deep=3"), "trainer.new.deep") == [
        ("+trainer.new.deep=3", 3, "")
    ]


def test_a_deleted_key_leaves_no_chain(draft):
    found = draft("quantization=4bit", "~trainer.lr", "~quantization.bits", "~model")
    assert not [key for key in found.origins.chains if key.startswith(("trainer.lr", "model"))]
    assert told(found, "quantization") == [("~quantization.bits", {}, "")]


def test_a_mapping_replaced_by_a_scalar(draft, write):
    write(
        {
            "trainer/default.yaml": "a: {b: 1, c: {d: 2}}\n",
            "experiment/e.yaml": "# @package _global_\ntrainer:\n  a: null\n",
        }
    )
    found = draft("experiment=e")
    assert places(found, "trainer.a") == ["conf/experiment/e.yaml:3"]
    assert not [key for key in found.origins.chains if key.startswith("trainer.a.")]


def test_a_scalar_replaced_by_a_mapping(draft):
    found = draft("trainer.lr={start: 1, end: 0}")
    assert places(found, "trainer.lr.start") == ["trainer.lr={start: 1, end: 0}"]
    assert "trainer.lr" not in found.origins.chains


def test_an_empty_mapping_is_a_leaf_until_somebody_fills_it(draft):
    assert told(draft(), "trainer.fields") == [("conf/trainer/default.yaml:4", {}, "")]
    assert "trainer.fields" not in draft("+trainer.fields.a=1").origins.chains


def test_a_later_question_mark_does_not_take_a_value_back(draft, write):
    write({"lora/small.yaml": "defaults: [default, _self_]\nr: ???\n"})
    found = draft("lora=small")
    assert found.values["lora"]["r"] == 8
    assert places(found, "lora.r") == ["conf/lora/default.yaml:2"]


def test_package_header_moves_the_keys(draft, write):
    write({"lora/moved.yaml": "# @package adapter.first\nr: 1\n"})
    found = draft("lora=moved")
    assert found.values["adapter"] == {"first": {"r": 1}}
    assert places(found, "adapter.first.r") == ["conf/lora/moved.yaml:2"]


def test_group_at_package_merges_the_file_twice(draft):
    found = draft("lora=small", "+lora@adapter=small", "adapter.r=2")
    assert places(found, "lora.r") == ["conf/lora/default.yaml:2", "conf/lora/small.yaml:2"]
    assert places(found, "adapter.r") == [
        "conf/lora/default.yaml:2",
        "conf/lora/small.yaml:2",
        "adapter.r=2",
    ]


def test_package_in_a_defaults_list(draft, write):
    write({"lora/pair.yaml": "defaults:\n  - default@one\n  - /model@two: large\nkind: pair\n"})
    found = draft("lora=pair", "lora.two.path=x")
    assert places(found, "lora.one.r") == ["conf/lora/default.yaml:2"]
    assert places(found, "lora.two.layers") == ["conf/model/large.yaml:3"]
    assert places(found, "lora.two.path") == ["conf/model/large.yaml:4", "lora.two.path=x"]


def test_nested_group(draft, write):
    write(
        {
            "config.yaml": "defaults: [_self_, data/tokenizer: bpe]\ndata: {rows: 1}\n",
            "data/tokenizer/bpe.yaml": "size: 10\n",
        }
    )
    found = draft("data.tokenizer.size=11")
    assert places(found, "data.tokenizer.size") == [
        "conf/data/tokenizer/bpe.yaml:1",
        "data.tokenizer.size=11",
    ]
    assert found.choices == {"data/tokenizer": "bpe"}


def test_keys_that_are_not_text(draft, write):
    write({"trainer/default.yaml": "a: {1: x, true: y, 2.5: z}\n'dotted.key': 1\n"})
    found = draft()
    assert places(found, "trainer.a.1") == ["conf/trainer/default.yaml:1"]
    assert places(found, "trainer.dotted.key") == ["conf/trainer/default.yaml:2"]


def test_files_that_hydras_searchpath_adds(draft, only, write, tmp_path):
    write({"model/far.yaml": "kind: far\n"}, tmp_path / "work" / "far")
    found = draft("model=far", "hydra.searchpath=[far]")
    assert told(found, "model.kind") == [
        ("far/model/far.yaml:1", "far", "chosen by model=far on the command line")
    ]
    unknown = only(draft("model=faar", "hydra.searchpath=[far]"), "LF102")
    assert (unknown.message, unknown.hint) == ("group `model` has no option `faar`", "model=far")


# ---------------------------------------------------------------- LF117


def test_an_experiment_that_loses_against_the_machine(draft, only, write):
    write({"local/default.yaml": "# @package _global_\nseed: 0\ntrainer: {global_batch: 96}\n"})
    found = only(draft("experiment=med"), "LF117")
    assert (found.severity, found.key, found.hint) == (Severity.WARNING, "seed", "seed=7")
    assert found.message == (
        "`seed` of conf/experiment/med.yaml:6 loses against conf/local/default.yaml:2"
    )


@pytest.mark.parametrize("overrides", [[], ["experiment=med", "seed=1"]])
def test_no_warning_where_the_user_decided(draft, codes, write, overrides):
    write({"local/default.yaml": "# @package _global_\nseed: 0\n"})
    assert codes(draft(*overrides)) == []


def test_no_warning_within_an_experiment(draft, codes, write):
    write({"experiment/e.yaml": "# @package _global_\ndefaults: [_self_, med]\nseed: 1\n"})
    assert codes(draft("experiment=e")) == []


def test_self_last_in_the_primary_config_is_noticed(draft, only, conf):
    primary = conf / "config.yaml"
    text = primary.read_text().replace("  - _self_\n", "")
    primary.write_text(text.replace("local: default\n", "local: default\n  - _self_\n"))
    assert only(draft("experiment=med"), "LF117").message == (
        "`seed` of conf/experiment/med.yaml:6 loses against conf/config.yaml:11"
    )


# ---------------------------------------------------------------- every leaf, always


def check(draft):
    """Every leaf has a chain; uninterpolated ones end in the value; all of it is JSON."""
    assert draft.values
    for key, value in leaves(draft.values):
        chain = draft.origins.chains.get(key)
        assert chain, f"{key} has no origin ({draft.overrides})"
        assert chain[-1].where != "composition", f"{key} is unexplained ({draft.overrides})"
        if "${" not in str(chain[-1].value):
            assert chain[-1].value == value, f"{key} ({draft.overrides})"
    stored = json.loads(json.dumps(draft.origins.to_dict()))
    assert Origins.from_dict(stored).to_dict() == stored


def test_every_leaf_of_a_broad_composition(draft, write):
    write({"local/default.yaml": "# @package _global_\nseed: 0\nmachine: {gpu: [a, b]}\n"})
    check(
        draft(
            "experiment=med",
            "lora=wide",
            "model=large",
            "model.path=${machine.gpu.0}",
            "+lora@second=small",
            "+trainer.fields={a: {b: 1}, c: []}",
            "+copy=${lora}",
            "~trainer.micro_batch",
            "trainer.lr=null",
        )
    )


@pytest.mark.parametrize("option", options("experiment"), ids=lambda option: option.name)
def test_every_shipped_experiment(option):
    """A missing mandatory value, such as the model's path, is no fault here."""
    found = compose((f"experiment={option.name}",))
    assert {one.code for one in found.diagnostics} <= {"LF105"}
    check(found)


CHOICES = ["experiment=med", "lora=default", "lora=small", "lora=wide", "quantization=4bit"]
VALUES = [
    "seed=1",
    "+trainer.fields={a: 1}",
    "++trainer.fields.a={b: {c: 2}}",
    "++trainer.fields.a.b=[1, 2]",
    "++lora.init={scale: 2}",
    "++lora.init.kind=null",
    "++lora.targets.0=k",
    "++lora.r=16",
    "++lora.alpha=1",
    "++extra=${lora}",
    "++extra={a: {}}",
    "++extra.a.b=x",
    "~trainer.lr",
    "~lora.kind",
    "++model={layers: 3, name: {first: a}}",
    "++model.name=plain",
    "+quantization@trainer.quant=8bit",
]


@pytest.mark.parametrize("seed", range(25))
def test_the_last_writer_is_the_value_over_random_overrides(draft, seed):
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    overrides = chance.sample(CHOICES, 2) + chance.sample(VALUES, chance.randint(1, 7))
    check(draft(*overrides))


def random_tree(chance, depth=0):
    if depth < 2 and chance.random() < 0.4:
        keys = chance.sample("abc", chance.randint(0, 3))
        return {key: random_tree(chance, depth + 1) for key in keys}
    return chance.choice([1, 2.5, "x", None, True, "1e-4", "${seed}", "${model}", "${model.kind}"])


@pytest.mark.parametrize("seed", range(25))
def test_the_replayed_merge_is_hydras_over_random_files(draft, write, seed):
    """JSON is YAML, so trees are written as they are."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    trees = [json.dumps({key: random_tree(chance) for key in "abcd"})[1:-1] for _ in range(4)]
    order = chance.choice(["base", "base, _self_", "_self_, base"])
    write(
        {
            "lora/base.yaml": f"{{{trees[0]}}}",
            "lora/top.yaml": f"{{defaults: [{order}], {trees[1]}}}",
            "experiment/e.yaml": f"# @package _global_\n{{lora: {{{trees[2]}}}}}",
            "local/default.yaml": f"# @package _global_\n{{lora: {{{trees[3]}}}}}",
        }
    )
    check(draft("lora=top", "experiment=e", "++lora.a.b={c: 1}", "++lora.b.a=[1]", "~lora.d"))
