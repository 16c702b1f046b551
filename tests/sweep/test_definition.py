"""What a sweep is, before a point is compiled."""

from __future__ import annotations

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.sweep.definition import define


def codes(refused: ConfigRefused) -> list[str]:
    return [d.code for d in refused.diagnostics]


def test_keys_with_several_values_vary_and_the_others_are_fixed(work):
    found = define(["lora=none,small", "optimizer.lr=1e-4,2e-4", "seed=7"])

    assert {d.key: d.values for d in found.dimensions} == {
        "lora": ("none", "small"),
        "optimizer.lr": ("0.0001", "0.0002"),
    }
    assert found.fixed == ("seed=7",)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("trainer.epochs=range(1,4)", ("1", "2", "3")),
        ("lora=glob(8bit_*, exclude=8bit_*l)", ("8bit_m", "8bit_s")),
        ("seed=sort(3,1,2)", ("1", "2", "3")),
        ("data.train=[a,b],[c]", ("[a,b]", "[c]")),
        ("+callbacks.mine={kind:a},{kind:b}", ("{kind:a}", "{kind:b}")),
    ],
)
def test_hydras_grammar_is_the_grammar(work, text, values):
    assert define([text]).dimensions[0].values == values


def test_a_sweep_under_version_control(work):
    found = define(["sweep=lora_lr"])
    assert found.name == f"lora_lr-{found.digest()[:10]}"

    assert [d.key for d in found.dimensions] == ["lora", "optimizer.lr"]
    assert (found.objective, found.direction) == ("eval_loss", "minimize")


def test_the_command_line_wins_over_the_file(work):
    found = define(["sweep=lora_lr", "lora=none,small"])

    assert found.dimensions[-1].values == ("none", "small")
    assert len(found.dimensions) == 2


def test_a_fixed_value_on_the_command_line_takes_the_key_out_of_the_files_space(work):
    found = define(["sweep=lora_lr", "lora=small"])

    assert [d.key for d in found.dimensions] == ["optimizer.lr"]
    assert "lora=small" in found.fixed


def test_own_sweeps_are_found_in_own_folders(work):
    (work / "mine" / "sweep").mkdir(parents=True)
    (work / "mine" / "sweep" / "seeds.yaml").write_text(
        "defaults: [grid]\nspace: {seed: 'range(1,4)'}\nobjective: exact_match\n"
    )
    found = define(["sweep=seeds"], ["mine"])

    assert found.dimensions[0].values == ("1", "2", "3")
    assert found.direction == "maximize"
    assert found.config_dirs == ("mine",)


def test_the_same_command_is_the_same_sweep_also_with_more_values(work):
    first = define(["seed=1,2", "lora=none"])

    assert define(["seed=1,2", "lora=none"]).folder == first.folder
    assert define(["seed=1,2,3", "lora=none"]).folder == first.folder
    assert define(["seed=1,2", "lora=small"]).folder != first.folder
    assert define(["lora=none,small"]).folder != first.folder


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["seed=1"], "LF710"),
        (["lora=glob(no_such_*)"], "LF710"),
        (["seed=range(3,3)"], "LF710"),
        (["seed=1,2", "seed=3,4"], "LF711"),
        (["optimizer.lr=interval(1e-5,1e-4)"], "LF712"),
        (["seed=1,2", "optimizer.lr=="], "LF112"),
        (["seed=1,2", "sweep.refused=perhaps"], "LF104"),
        (["seed=1,2", "sweep.objectiv=x"], "LF101"),
        (["seed=1,2", "sweep=gird"], "LF102"),
    ],
)
def test_what_is_no_sweep_is_refused(work, overrides, code):
    with pytest.raises(ConfigRefused) as refused:
        define(overrides)
    assert code in codes(refused.value)


@pytest.mark.parametrize(
    ("objective", "direction"),
    [("eval_loss", "minimize"), ("eval_perplexity", "minimize"), ("exact_match", "maximize")],
)
def test_directions(work, objective, direction):
    assert define(["seed=1,2", f"sweep.objective={objective}"]).direction == direction


def digest(*overrides: str) -> str:
    return define(["hardware=cpu", *overrides]).digest()


def test_the_order_of_words_makes_no_other_sweep(work):
    asked = ("lora=none,small", "seed=1,2", "trainer.epochs=null", "trainer.max_steps=5")
    assert digest(*asked) == digest(*reversed(asked))
    assert digest(*asked) != digest(*asked, "name=other")
    # where the last word counts, another order says something else
    twice = ("seed=1,2", "trainer.log_every=1", "trainer.log_every=2")
    assert digest(*twice) != digest(*reversed(twice))
