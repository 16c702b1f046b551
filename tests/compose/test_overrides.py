"""Overrides that never reach composition: grammar, sweeps, options, rivals, code-running keys."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.compose import compose

# ---------------------------------------------------------------- LF112


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("trainer.run=a=b", "at character 14 (`=`)", "'trainer.run=\"a=b\"'"),
        ("trainer.fields=[1,2", "at character 20 (its end)", "'trainer.fields=[1,2]'"),
        ("trainer.fields={a: 1", "at character 21 (its end)", "'trainer.fields={a: 1}'"),
        ("trainer.run=(x)", "at character 13 (`(`)", "'trainer.run=\"(x)\"'"),
        ("trainer.run=x;y", "at character 14 (`;`)", "'trainer.run=\"x;y\"'"),
        ("trainer.run=naïve", "at character 15 (`ï`)", "'trainer.run=\"naïve\"'"),
        ("--seed=1", "at character 1 (`-`)", "seed=1"),
        ("seed =1", "at character 5 (` `)", "seed=1"),
        ("seed: 1", "at character 6 (` `)", "seed=1"),
        ("lora", "at character 5 (its end)", "lora=<value>"),
        ("", "at character 1 (its end)", None),
        ("seed=int(x)", "", "'seed=\"int(x)\"'"),
    ],
)
def test_text_outside_the_grammar(draft, only, text, message, hint):
    found = only(draft(text), "LF112")
    assert found.message == f"override `{text}` cannot be read {message}".rstrip()
    assert found.hint == hint
    assert [origin.place for origin in found.origins] == ["command line"]


def test_a_hint_for_quoting_says_why(draft, only):
    assert only(draft("seed=a=b"), "LF112").notes[-1] == (
        "a value with special characters stands in quotes"
    )


def test_override_without_a_key(draft, only):
    assert only(draft("=3"), "LF112").message == "override `=3` names no key"


def test_mapping_with_a_null_key(draft, only):
    found = only(draft("+trainer.fields={null: 1}"), "LF112")
    assert found.key == "trainer.fields"


def test_a_nest_too_deep_for_the_parser(draft, only):
    assert only(draft("+a=" + "[" * 3000), "LF112").code == "LF112"


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("seed=1,2", "seed", "llmforge train -m seed=1,2"),
        ("seed=choice(1,2)", "seed", "llmforge train -m 'seed=choice(1,2)'"),
        ("seed=range(1,5)", "seed", "llmforge train -m 'seed=range(1,5)'"),
        ("trainer.lr=interval(0,1)", "trainer.lr", "llmforge train -m 'trainer.lr=interval(0,1)'"),
        ("lora=none,small", "lora", "llmforge train -m lora=none,small"),
        ("lora=glob(*)", "lora", "llmforge train -m 'lora=glob(*)'"),
    ],
)
def test_a_sweep_in_a_single_run(draft, only, text, key, hint):
    found = only(draft(text), "LF112")
    assert found.message == f"override `{text}` is a sweep, and this is a single run"
    assert (found.key, found.hint) == (key, hint)


def test_a_comma_may_have_been_a_list_or_text(draft, only):
    assert only(draft("seed=1,2"), "LF112").notes == (
        "a single run takes one value per key; `-m` sweeps over all of them",
        "a list is written 'seed=[1,2]'",
        "text with a comma is quoted: 'seed=\"1,2\"'",
    )


# ---------------------------------------------------------------- LF102


def test_unknown_option(draft, only):
    found = only(draft("lora=smal"), "LF102")
    assert (found.key, found.message) == ("lora", "group `lora` has no option `smal`")
    assert found.notes == (
        "did you mean `small`?",
        "options of `lora`: default, none, small, wide",
    )
    assert found.hint == "lora=small"
    assert found.origins[0].where == "lora=smal"


@pytest.mark.parametrize("text", ["lora=null", "lora=off", "lora=false", "lora="])
def test_switching_a_group_off_has_an_option_of_its_own(draft, only, text):
    assert only(draft(text), "LF102").hint == "lora=none"


def test_a_group_that_cannot_be_left_out(draft, only):
    found = only(draft("model=none"), "LF102")

    assert found.hint == "model=tiny"
    assert found.notes[0] == "`model` cannot be left out; `tiny` is the usual choice"


def test_the_only_option_is_meant(draft, only):
    assert only(draft("trainer=zzzz"), "LF102").hint == "trainer=default"


def test_an_option_that_reads_as_a_number(draft, only, write):
    write({"model/7.yaml": "kind: seven"})
    assert only(draft("model=7"), "LF102").message == "group `model` has no option `7`"
    assert draft('model="7"').values["model"] == {"kind": "seven"}


def test_unknown_option_does_not_cause_follow_up_findings(draft, codes):
    assert codes(draft("lora=zzzz", "lora.r=8")) == ["LF102"]
    assert codes(draft("lora=smal", "lora.r=8")) == ["LF102"]


def test_several_options_of_one_group(draft, only):
    assert draft("lora=[default,small]").values["lora"]["r"] == 4
    assert only(draft("lora=[default,zzz]"), "LF102").message == "group `lora` has no option `zzz`"


# ---------------------------------------------------------------- LF113


def test_group_chosen_twice(draft, only):
    found = draft("quantization=4bit", "quantization=8bit")
    rivals = only(found, "LF113")
    assert rivals.key == "quantization"
    assert rivals.message == (
        "group `quantization` is chosen twice: `quantization=4bit` and `quantization=8bit`"
    )
    assert rivals.hint == "quantization=8bit"
    assert [origin.where for origin in rivals.origins] == ["quantization=4bit", "quantization=8bit"]
    assert found.values["quantization"] == {"bits": 8}


def test_the_same_choice_twice_is_fine(draft, codes):
    assert codes(draft("quantization=4bit", "quantization=4bit")) == []


def test_an_unknown_option_is_no_rival(draft, codes):
    found = draft("quantization=4bt", "quantization=8bit")
    assert codes(found) == ["LF102"]
    assert found.values["quantization"] == {"bits": 8}


def test_a_value_set_twice_is_hydras_last_wins(draft, codes):
    found = draft("seed=1", "seed=2")
    assert codes(found) == []
    assert [origin.where for origin in found.origins.chain("seed")][-2:] == ["seed=1", "seed=2"]


# ---------------------------------------------------------------- LF110


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("+trainer._target_=os.system", "trainer._target_", "trainer.kind=<name>"),
        ("++_target_=os.system", "_target_", "kind=<name>"),
        ("trainer._partial_=true", "trainer._partial_", "trainer.kind=<name>"),
        ("+trainer.x={a: [{_args_: [1]}]}", "trainer.x.a.0._args_", "trainer.x.a.0.kind=<name>"),
        ("+a._convert_.b=1", "a._convert_.b", "a.kind=<name>"),
        ("+a={_recursive_: false}", "a._recursive_", "a.kind=<name>"),
    ],
)
def test_code_running_key_in_an_override(draft, only, text, key, hint):
    found = draft(text)
    refused = only(found, "LF110")
    assert (refused.key, refused.hint) == (key, hint)
    assert "kind" in refused.notes[0]
    assert "a" not in found.values


def test_code_running_key_in_a_file(draft, only, write):
    write({"lora/default.yaml": "kind: lora\n_target_: os.system\nx: [{_partial_: true}]\n"})
    found = draft("lora=default")
    keys = {(one.key, one.origins[0].place) for one in found.diagnostics}
    assert keys == {
        ("lora._target_", "conf/lora/default.yaml:2"),
        ("lora.x.0._partial_", "conf/lora/default.yaml:3"),
    }
    assert "_target_" not in found.values["lora"]


def test_code_running_key_behind_a_resolver(draft, only):
    found = draft("+trainer.x='${oc.create:{_target_: os.system}}'")
    assert only(found, "LF110").key == "trainer.x._target_"
    assert "x" not in found.values["trainer"]


def test_code_running_key_that_a_later_file_removes(draft, codes, write):
    write({"lora/default.yaml": "x: {_target_: os.system}"})
    write({"lora/small.yaml": "defaults: [default]\nx: 1"})
    assert codes(draft("lora=small")) == ["LF110"]


def test_hydras_own_node_keeps_its_targets(draft, codes, write):
    write({"hydra/launcher/mine.yaml": "_target_: hydra_plugins.mine.Launcher\n"})
    assert codes(draft("hydra/launcher=mine", "+hydra.callbacks.x._target_=a.B")) == []


def test_a_package_header_does_not_smuggle_targets_past_hydras_node(draft, only, write):
    write({"hydra/launcher/mine.yaml": "# @package _global_\nmodel:\n  _target_: os.system\n"})
    found = only(draft("hydra/launcher=mine"), "LF110")
    assert (found.key, found.origins[0].place) == (
        "model._target_",
        "conf/hydra/launcher/mine.yaml:3",
    )


def test_composing_runs_nothing(draft, write, tmp_path):
    """Not even what Hydra itself would run: callbacks and job logging."""
    callback = f"x: {{_target_: pathlib.Path.touch, self: {tmp_path}/ran}}"
    write({"hydra/callbacks/mine.yaml": callback})
    draft("hydra/callbacks=mine")
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- Hydra's grammar as it is


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("seed=null", "seed", None),
        ("++sed=3", "sed", 3),
        ("+trainer.new=x y", "trainer.new", "x y"),
        ("trainer.lr=1e-5", "trainer.lr", 1e-5),
        ('trainer.lr="1e-5"', "trainer.lr", "1e-5"),
        ("trainer.lr=[1,{a: b}]", "trainer.lr", [1, {"a": "b"}]),
        ("trainer.lr=int(3.7)", "trainer.lr", 3),
        ("seed=${trainer.micro_batch}", "seed", 8),
    ],
)
def test_values(draft, codes, text, key, value):
    found = draft(text)
    at = found.values
    for part in key.split("."):
        at = at[part]
    assert (codes(found), at) == ([], value)
    assert found.origins.chain(key)[-1].where == text


def test_deletions(draft, codes):
    found = draft("~trainer.lr", "~lora", "~seed=42")
    assert codes(found) == []
    assert sorted(found.values) == ["model", "quantization", "trainer"]
    assert "trainer.lr" not in found.origins.chains


TEXT = """seed lora lora.r trainer model experiment hydra hydra.job x/y
    + ++ ~ = @ . , [ ] { } : ' " \\ $ ${ 1 small null ??? _target_ ( ) choice range é # * - / %"""
WORDS = st.sampled_from([*TEXT.split(), " ", "\n"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WORDS, max_size=7).map("".join), max_size=3))
def test_no_override_text_makes_compose_raise(tmp_path_factory, texts):
    root = tmp_path_factory.mktemp("conf")
    (root / "config.yaml").write_text("defaults: [_self_, lora: small]\nseed: 1\n")
    (root / "lora").mkdir()
    (root / "lora" / "small.yaml").write_text("r: 1\n")
    assert compose(texts, root=root).overrides == tuple(texts)


def test_an_index_in_brackets(draft):
    """Hydra 1.3 does not read it and 1.4 does: either way the user gets there."""
    found = draft("lora=default", "lora.targets[0]=k")
    if found.diagnostics:
        assert [one.hint for one in found.diagnostics] == ["lora.targets.0=k"]
    else:
        assert found.origins.chains["lora.targets"][-1].value == ["k", "v"]


# ---------------------------------------------------------------- mappings of the user's own names

CHATS = ("data=jsonl", "data.train=chats.jsonl")


@pytest.mark.parametrize("text", ["data.roles={bot: assistant}", "data.roles.bot=assistant"])
def test_a_mapping_takes_new_names_without_a_plus(text):
    draft = compose([*CHATS, text])

    assert draft.diagnostics == ()
    assert draft.values["data"]["roles"] == {"bot": "assistant"}
    assert [origin.where for origin in draft.origins.chain("data.roles.bot")] == [text]


def test_each_setting_adds_to_the_mapping():
    draft = compose([*CHATS, "data.roles={bot: assistant}", "data.roles={me: user}"])

    assert draft.values["data"]["roles"] == {"bot": "assistant", "me": "user"}


def test_a_mapping_that_is_null_takes_names():
    draft = compose(["model=opt_125m", "model.shape.rope.theta=2", *CHATS, "data.evaluation.a=b"])

    assert draft.diagnostics == ()
    assert draft.values["model"]["shape"]["rope"] == {"theta": 2}
    assert draft.values["data"]["evaluation"] == {"a": "b"}


@pytest.mark.parametrize(
    "texts",
    [
        (*CHATS, "data.fields={promt: q}"),  # its names are the schema's
        (*CHATS, "data.rolls={bot: assistant}"),
        ("data=builtin", "data.roles={bot: assistant}"),  # the option has no such mapping
    ],
)
def test_other_keys_stay_closed(texts, only):
    assert only(compose(texts), "LF101").origins[0].where == texts[-1]
