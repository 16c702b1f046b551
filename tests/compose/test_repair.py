"""Files that do not fit together: everything that Hydra would stop at is reported by its place."""

from __future__ import annotations

import pytest


def test_an_experiment_asks_for_an_unknown_option(draft, only, write):
    write(
        {
            "experiment/bad.yaml": """
                # @package _global_
                defaults:
                  - override /lora: smal
                seed: 3
                """
        }
    )
    found = draft("experiment=bad")
    unknown = only(found, "LF102")
    assert unknown.message == "group `lora` has no option `smal`"
    assert unknown.hint == "lora=small"
    assert unknown.origins[0].place == "conf/experiment/bad.yaml:3"
    assert found.values["seed"] == 3


def test_an_option_includes_a_file_that_is_not_there(draft, only, write):
    write({"lora/small.yaml": "defaults:\n  - defautl\nr: 4\n"})
    unknown = only(draft("lora=small"), "LF102")
    assert unknown.message == "group `lora` has no option `defautl`"
    assert unknown.origins[0].place == "conf/lora/small.yaml:2"


def test_a_stand_in_that_leads_back_is_no_circle(draft, codes, write):
    write({"lora/default.yaml": "defaults: [defautl]\nr: 4\n"})
    assert codes(draft("lora=default")) == ["LF102"]


def test_a_missing_file_without_a_near_match(draft, codes, write):
    write({"lora/small.yaml": "defaults: [zzzzzz]\nalpha: ${.r}\n"})
    assert codes(draft("lora=small", "lora.r=3")) == ["LF102"]


def test_an_experiment_overrides_a_group_that_is_not_listed(draft, only, write):
    write(
        {
            "experiment/bad.yaml": """
                # @package _global_
                defaults:
                  - override /modle: large
                  - override /lora: small
                """
        }
    )
    found = draft("experiment=bad")
    stray = only(found, "LF102")
    assert stray.message == "group `modle` is not part of the config"
    assert stray.notes[0] == "did you mean `model`?"
    assert stray.origins[0].place == "conf/experiment/bad.yaml:3"
    assert found.choices["lora"] == "small"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"lora/small.yaml": "defaults: [small]"}, "lora/small -> lora/small"),
        (
            {"lora/small.yaml": "defaults: [default]", "lora/default.yaml": "defaults: [small]"},
            "lora/small -> lora/default -> lora/small",
        ),
        (
            {"lora/small.yaml": "defaults: [/model/x]", "model/x.yaml": "defaults: [/lora/small]"},
            "lora/small -> model/x -> lora/small",
        ),
    ],
)
def test_files_that_include_each_other(draft, only, write, files, message):
    write(files)
    found = only(draft("lora=small"), "LF118")
    assert found.message == f"conf/lora/small.yaml includes itself: {message}"
    assert found.origins[0].place == "conf/lora/small.yaml:1"


def test_a_circle_through_group_entries_is_still_an_answer(draft, codes, write):
    write({"lora/small.yaml": "defaults: [{/model: back}]"})
    write({"model/back.yaml": "defaults: [{/lora: small}]"})
    assert codes(draft("lora=small")) == ["LF100"]


def test_a_list_in_one_file_and_a_mapping_in_the_next(draft, only, write):
    write({"experiment/bad.yaml": "# @package _global_\ntrainer:\n  fields: [a, b]\n"})
    found = draft("experiment=bad", "trainer.micro_batch=4")
    clash = only(found, "LF119")
    assert clash.key == "trainer.fields"
    assert clash.message == (
        "`trainer.fields` is a mapping in conf/trainer/default.yaml:4 and a list in "
        "conf/experiment/bad.yaml:3"
    )
    assert found.values["trainer"]["micro_batch"] == 4


def test_a_clash_in_what_everybody_gets(draft, only, write):
    write({"local/default.yaml": "# @package _global_\ntrainer: [1]\n"})
    found = draft("lora=small")
    assert only(found, "LF119").message == (
        "`trainer` is a mapping in conf/trainer/default.yaml:4 and a list in "
        "conf/local/default.yaml:2"
    )
    assert found.values == {}


def test_what_has_no_code_of_its_own_is_told_in_hydras_words(draft, only, write):
    write({"lora/small.yaml": "defaults: [{override /model: large}, default]\n"})
    refused = only(draft("lora=small", "trainer.lr=1"), "LF100")
    assert refused.message.startswith("override `lora=small` cannot be composed: ")
    assert refused.origins[0].where == "lora=small"


def test_a_primary_config_that_does_not_compose(draft, only, write):
    write({"config.yaml": "defaults: [_self_, _self_]\n"})
    refused = only(draft(), "LF100")
    assert refused.message == (
        "the config files cannot be composed: Duplicate _self_ defined in config"
    )


def test_an_environment_variable_that_hydra_wants_to_copy(draft, only):
    assert only(draft("hydra.job.env_copy=[LLMFORGE_NOPE]"), "LF100").message == (
        "override `hydra.job.env_copy=[LLMFORGE_NOPE]` cannot be composed: "
        "KeyError: 'LLMFORGE_NOPE'"
    )


def test_deleting_what_has_another_value(draft, only):
    assert only(draft("~seed=3"), "LF100").origins[0].where == "~seed=3"


def test_good_overrides_survive_the_bad_ones(draft, codes):
    found = draft("lora=zzz", "model=large", "model.path=x", "sed=1", "seed=2", "quantization=4bit")
    assert codes(found) == ["LF101", "LF102"]
    assert found.values["model"] == {"kind": "large", "layers": 80, "path": "x"}
    assert (found.values["seed"], found.values["quantization"]) == (2, {"bits": 4})
