"""Keys that do not exist, and what is proposed instead (LF101)."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("text", "note", "hint"),
    [
        ("trainer.micro_bach=4", "did you mean `trainer.micro_batch`?", "trainer.micro_batch=4"),
        ("trainr.micro_batch=4", "did you mean `trainer.micro_batch`?", "trainer.micro_batch=4"),
        ("sed=4", "did you mean `seed`?", "seed=4"),
        ("~sed", "did you mean `seed`?", "'~seed'"),
        ("micro_batch=4", "did you mean `trainer.micro_batch`?", "trainer.micro_batch=4"),
        ("trainer.lr.x=1", "`trainer.lr` is a value, not a section", None),
        (
            "trainer.zzz=1",
            "keys of `trainer`: fields, global_batch, lr, micro_batch",
            None,
        ),
        ("trainer.fields.prompt=q", "`trainer.fields` is empty; `+` adds a key to it",
         "+trainer.fields.prompt=q"),
    ],
)  # fmt: skip
def test_unknown_key(draft, only, text, note, hint):
    found = only(draft(text), "LF101")
    key = text.lstrip("~").partition("=")[0]
    assert (found.key, found.message) == (key, f"unknown key `{key}`")
    assert found.notes == (note,)
    assert found.hint == hint
    assert found.origins[0].where == text


def test_unknown_key_without_anything_near(draft, only):
    found = only(draft("zzz=1"), "LF101")
    assert (found.notes, found.hint) == ((), None)


def test_unknown_key_in_a_mapping_value(draft, only):
    found = only(draft("trainer={micro_bach: 4, lr: 1}"), "LF101")
    assert found.key == "trainer.micro_bach"
    assert found.hint == "'trainer={micro_batch: 4, lr: 1}'"


def test_key_of_another_option(draft, only):
    found = only(draft("lora.r=64"), "LF101")
    assert found.notes == ("`lora=none` does not have it; these do: default, small, wide",)
    assert found.hint == "lora=default lora.r=64"


def test_key_of_another_option_with_one_that_has_it_itself(draft, only):
    found = only(draft("lora=small", "lora.init.scale=1"), "LF101")
    assert found.hint == "lora=wide lora.init.scale=1"


def test_the_option_proposed_is_the_plainest(draft, only, write):
    write(
        {
            "deepspeed/large.yaml": "defaults: [small]\nr: 2",
            "deepspeed/none.yaml": "",
            "deepspeed/small.yaml": "r: 1",
            "config.yaml": "defaults: [_self_, deepspeed: none]",
        }
    )
    assert only(draft("deepspeed.r=3"), "LF101").hint == "deepspeed=small deepspeed.r=3"


def test_an_option_that_includes_itself_does_not_hang_the_search(draft, codes, write):
    write({"lora/loop.yaml": "defaults: [pool]", "lora/pool.yaml": "defaults: [loop]"})
    assert codes(draft("lora.zzz=1")) == ["LF101"]


def test_index_outside_a_list(draft, only):
    found = only(draft("lora=default", "lora.targets.9=k"), "LF101")
    assert found.notes == ("`lora.targets` is a list of 2, counted from 0",)


def test_adding_what_is_there(draft, only):
    found = only(draft("+seed=3"), "LF101")
    assert found.message == "`seed` is there already, so `+seed=3` cannot add it"
    assert found.hint == "seed=3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora.targets={a: 1}", "`lora.targets` is a list, and `{}` is a mapping"),
        ("+trainer.fields=[1]", "`trainer.fields` is a mapping, and `{}` is a list"),
    ],
)
def test_a_list_and_a_mapping_do_not_merge(draft, only, text, message):
    found = only(draft("lora=default", text), "LF119")
    assert found.message == message.format(text)
    assert found.origins[0].where == text


def test_misspelt_group(draft, only):
    found = only(draft("modl=tiny"), "LF102")
    assert (found.message, found.hint) == ("no group `modl`", "model=tiny")
    assert found.notes == ("did you mean `model`?", "options of `model`: large, tiny")


def test_misspelt_nested_group(draft, only, write):
    write({"data/tokenizer/bpe.yaml": "a: 1"})
    found = only(draft("data/tokeniser=bpe"), "LF102")
    assert (found.message, found.hint) == ("no group `data/tokeniser`", "data/tokenizer=bpe")


def test_group_that_the_primary_config_does_not_list(draft, only, write):
    write({"extra/one.yaml": "a: 1"})
    found = only(draft("extra=one"), "LF102")
    assert found.message == "group `extra` is not part of the config"
    assert found.hint == "+extra=one"
    assert draft("+extra=one").values["extra"] == {"a": 1}


def test_appending_a_group_that_is_there(draft, only):
    found = only(draft("+model=large"), "LF100")
    assert found.hint == "model=large"


def test_unknown_key_of_hydra(draft, only):
    assert only(draft("hydra.job.chdri=true"), "LF101").hint == "hydra.job.chdir=true"


def test_launcher_that_is_not_installed(draft, only):
    found = only(draft("hydra/launcher=nope"), "LF102")
    assert found.message == "group `hydra/launcher` has no option `nope`"
    assert found.origins[0].where == "hydra/launcher=nope"


def test_broken_interpolation_text_on_the_command_line(draft, only):
    found = only(draft("seed='${'"), "LF106")
    assert found.key == "seed"
    assert found.message.startswith("`seed`: interpolation does not parse")


def test_every_unknown_key_is_reported(draft):
    found = draft("trainer.a=1", "trainer.b=1", "trainer.micro_batch=2", "c=1")
    assert [one.key for one in found.diagnostics] == ["trainer.a", "trainer.b", "c"]
    assert found.values["trainer"]["micro_batch"] == 2
