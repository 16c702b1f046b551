"""Composition as a whole: values, choices, all faults in one call, Hydra's state left alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from omegaconf import OmegaConf

from llmforge.compose import Draft, compose, hydra_link
from llmforge.compose.library import Library
from llmforge.compose.scan import _scan
from llmforge.diagnostics import Severity


def test_values_are_plain_resolved_and_without_hydra(draft):
    found = draft("lora=wide")
    assert found == Draft(
        values={
            "seed": 42,
            "model": {"kind": "tiny", "layers": 2},
            "lora": {
                "kind": "lora",
                "r": 256,
                "alpha": 256,
                "targets": ["q", "v"],
                "init": {"kind": "gauss", "scale": 0.01},
            },
            "quantization": {"bits": None},
            "trainer": {"micro_batch": 8, "global_batch": 128, "lr": 0.0001, "fields": {}},
        },
        origins=found.origins,
        choices={
            "experiment": None,
            "local": None,
            "lora": "wide",
            "model": "tiny",
            "quantization": "none",
            "trainer": "default",
        },
        overrides=("lora=wide",),
        references=frozenset({"lora.r"}),
    )
    assert type(found.values["lora"]) is dict
    assert type(found.values["lora"]["targets"]) is list


def test_values_are_what_hydra_makes_of_the_tree(draft, conf):
    """The config source of ours changes nothing about composition."""
    overrides = ["experiment=med", "lora=wide", "+trainer.x={a: [1]}", "~seed"]
    with initialize_config_dir(str(conf), version_base="1.3"):
        expected = OmegaConf.to_container(hydra_compose("config", overrides), resolve=True)
    assert draft(*overrides).values == expected


def test_choices_tell_which_optional_files_are_there(draft, write):
    write({"local/default.yaml": "# @package _global_\nseed: 1\n"})
    assert draft().choices["local"] == "default"
    assert draft("experiment=med").choices["experiment"] == "med"
    assert draft("experiment=med").choices["lora"] == "small"
    assert draft("experiment=med", "lora=wide").choices["lora"] == "wide"


def test_config_dirs_add_options(draft, write, tmp_path):
    write({"model/own.yaml": "kind: own"}, tmp_path / "mine")
    found = draft("model=own", config_dirs=("../mine",))
    assert found.values["model"] == {"kind": "own"}
    assert found.config_dirs == ("../mine",)
    assert found.diagnostics == ()


def test_a_shadowed_option_is_reported_where_it_is_used(draft, only, write, codes, tmp_path):
    mine = {"model/tiny.yaml": "kind: own", "lora/wide.yaml": "kind: own"}
    write(mine, tmp_path / "work" / "my")
    found = draft(config_dirs=("my",))
    shadowed = only(found, "LF111")
    assert (shadowed.severity, shadowed.key) == (Severity.WARNING, "model")
    assert shadowed.message == "my/model/tiny.yaml hides conf/model/tiny.yaml"
    assert found.values["model"] == {"kind": "own"}
    assert codes(draft("lora=wide", config_dirs=("my",))) == ["LF111", "LF111"]


def test_the_first_config_dir_wins(draft, only, write, tmp_path):
    write({"model/tiny.yaml": "kind: one"}, tmp_path / "one")
    write({"model/tiny.yaml": "kind: two"}, tmp_path / "two")
    found = draft(config_dirs=("../one", "../two", "../one"))
    assert found.values["model"] == {"kind": "one"}
    assert only(found, "LF111").message == (
        f"{tmp_path}/one/model/tiny.yaml hides {tmp_path}/two/model/tiny.yaml"
    )


# ---------------------------------------------------------------- everything at once


def test_all_faults_are_reported_in_one_call(draft):
    """An unknown option, an unknown key, a broken interpolation and a missing value."""
    found = draft("lora=smal", "trainer.micro_bach=4", "+trainer.x=${trainer.lrr}", "model=large")
    assert {(one.code, one.key, one.hint) for one in found.diagnostics} == {
        ("LF102", "lora", "lora=small"),
        ("LF101", "trainer.micro_bach", "trainer.micro_batch=4"),
        ("LF106", "trainer.x", "'trainer.x=${trainer.lr}'"),
        ("LF105", "model.path", "model.path=<value>"),
    }
    assert found.values["model"] == {"kind": "large", "layers": 80}
    assert "x" not in found.values["trainer"]


def test_faults_of_overrides_and_files_are_reported_together(draft, codes, write):
    write({"lora/default.yaml": "r: 1\nr: 2\n_target_: x\n", "trainer/default.yaml": "a: ["})
    found = draft("lora=default", "a=b=c", "seed=1,2", "modl=tiny", config_dirs=("nope",))
    assert codes(found) == ["LF102", "LF107", "LF108", "LF110", "LF112", "LF112", "LF115"]


# ---------------------------------------------------------------- LF105


def test_every_missing_value_is_reported(draft, write):
    write({"lora/default.yaml": 'r: ???\nsub: {x: "???", y: 1}\nlist: [1, "???"]\nuses: ${.r}\n'})
    found = draft("lora=default", "model=large")
    assert {(one.code, one.key, one.hint) for one in found.diagnostics} == {
        ("LF105", "lora.r", "lora.r=<value>"),
        ("LF105", "lora.sub.x", "lora.sub.x=<value>"),
        ("LF105", "lora.list", "lora.list=<value>"),
        ("LF105", "model.path", "model.path=<value>"),
    }
    assert found.values["lora"] == {"sub": {"y": 1}}


def test_missing_value_names_who_asks_for_it(draft, only):
    origins = only(draft("model=large"), "LF105").origins
    assert [(origin.place, origin.reason) for origin in origins] == [
        ("conf/model/large.yaml:4", "chosen by model=large on the command line")
    ]


def test_missing_value_given_on_the_command_line(draft):
    found = draft("model=large", "model.path=/m")
    assert (found.diagnostics, found.values["model"]["path"]) == ((), "/m")


def test_group_that_needs_a_choice(draft, only, write):
    write({"config.yaml": "defaults:\n  - _self_\n  - model: ???\n"})
    found = only(draft(), "LF105")
    assert (found.key, found.hint) == ("model", "model=<option>")
    assert draft("model=tiny").diagnostics == ()


# ---------------------------------------------------------------- LF106


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "${lora.rr}",
            "`trainer.lr` refers to `lora.rr`, which does not exist",
            "'trainer.lr=${lora.r}'",
        ),
        (
            "${trainer.micro_bach}",
            "`trainer.lr` refers to `trainer.micro_bach`, which does not exist",
            "'trainer.lr=${trainer.micro_batch}'",
        ),
        ("${zzz}", "`trainer.lr` refers to `zzz`, which does not exist", None),
        (
            "${oc.env:LLMFORGE_NOPE}",
            "`trainer.lr` cannot be resolved: Environment variable 'LLMFORGE_NOPE' not found",
            None,
        ),
        ("${nope:1}", "`{}` cannot be resolved: Unsupported interpolation type nope", None),
        ("${eval:1+1}", "`{}` cannot be resolved: Unsupported interpolation type eval", None),
        ("${trainer.lr}", "`{}` cannot be resolved: Recursive interpolation detected", None),
    ],
)
def test_interpolation_that_does_not_resolve(draft, only, write, text, message, hint):
    write({"trainer/default.yaml": f"micro_batch: 8\nlr: {text}\n"})
    found = draft("lora=small")
    broken = only(found, "LF106")
    assert (broken.key, broken.message, broken.hint) == (
        "trainer.lr",
        message.replace("{}", "trainer.lr"),
        hint,
    )
    assert broken.notes[-1] == f"as written: {text}"
    assert broken.origins[-1].place == "conf/trainer/default.yaml:2"
    assert found.values["trainer"] == {"micro_batch": 8}


def test_broken_interpolations_are_found_one_by_one(draft, write):
    write(
        {
            "trainer/default.yaml": """
                a: ${nope}
                b: [1, "${zip}"]
                c: {d: "${oc.env:LLMFORGE_NOPE}"}
                e: '${'
                uses_a: ${.a}
                good: ${seed}
                """
        }
    )
    found = draft()
    broken = {(one.code, one.key, one.origins[-1].line) for one in found.diagnostics}
    assert broken == {
        ("LF106", "trainer.a", 1),
        ("LF106", "trainer.b.1", 2),
        ("LF106", "trainer.c.d", 3),
        ("LF106", "trainer.e", 4),
    }
    assert found.values["trainer"] == {"good": 42}


def test_a_circle_of_interpolations(draft, write):
    write({"trainer/default.yaml": "a: ${.b}\nb: ${.a}\n"})
    found = draft()
    assert [(one.code, one.key) for one in found.diagnostics] == [
        ("LF106", "trainer.a"),
        ("LF106", "trainer.b"),
    ]


def test_omegaconfs_own_resolvers_work(draft, monkeypatch):
    monkeypatch.setenv("LLMFORGE_LR", "3e-4")
    assert draft("trainer.lr='${oc.decode:${oc.env:LLMFORGE_LR}}'").values["trainer"]["lr"] == 3e-4


# ---------------------------------------------------------------- Hydra's global state


def test_compose_leaves_no_hydra_behind(draft):
    draft()
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("override", ["seed=1", "sed=1"])
def test_compose_inside_another_hydra(draft, conf, override):
    with initialize_config_dir(str(conf), job_name="outer", version_base="1.3"):
        outer, hydra = GlobalHydra.instance(), GlobalHydra.instance().hydra
        draft(override)
        assert GlobalHydra.instance() is outer
        assert GlobalHydra.instance().hydra is hydra
        assert JobRuntime.instance().get("name") == "outer"
        assert hydra_compose("config", ["seed=5"]).seed == 5


def test_compose_inside_hydras_main(conf, tmp_path):
    """A task function composes again for its own overrides, in a sweep too."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            import hydra
            from hydra.core.hydra_config import HydraConfig
            from llmforge.compose import compose

            @hydra.main(version_base="1.3", config_path={str(conf)!r}, config_name="config")
            def main(config):
                overrides = list(HydraConfig.get().overrides.task)
                draft = compose(overrides, root=Path({str(conf)!r}))
                print(config.seed, draft.values["seed"], HydraConfig.get().job.name)

            main()
            """
        )
    )
    command = [sys.executable, str(program), "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}/m"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    assert said == ["1 1 program", "2 2 program"]


def test_our_source_serves_nobody_else(conf):
    """Registered with Hydra, but idle outside our own compositions."""
    compose((), root=conf)
    with initialize_config_dir(str(conf), version_base="1.3"):
        paths = {source.scheme() for source in GlobalHydra.instance().config_loader().get_sources()}
    assert "llmforge" not in paths


def test_version_base_is_put_back(draft, monkeypatch):
    with initialize_config_dir("/", version_base="1.3"):
        pass
    before = hydra_link.VersionBase.instance().getbase()
    draft()
    assert hydra_link.VersionBase.instance().getbase() == before


# ---------------------------------------------------------------- the price


def test_a_sound_command_line_costs_one_composition(conf, monkeypatch):
    compositions = []
    with hydra_link.hydra_link(hydra_link.Session(Library((conf,)))) as link:
        loader: type[ConfigLoader] = type(link.loader)
    original = loader.load_configuration

    def counting(self, *args, **kwargs):
        compositions.append(args)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(loader, "load_configuration", counting)
    compose(("experiment=med", "trainer.lr=1"), root=conf)
    assert len(compositions) == 1


def test_points_of_a_sweep_share_the_list_of_files(conf, monkeypatch):
    listed = []
    original = hydra_link._FILES.__class__

    class Counting(original):
        def __setitem__(self, key, value):
            listed.append(key)
            super().__setitem__(key, value)

    monkeypatch.setattr(hydra_link, "_FILES", Counting())
    for seed in range(4):
        compose((f"seed={seed}", "lora=small"), root=conf)
    compose(("lora=wide",), root=conf)
    assert len(listed) == 2


def test_the_shared_list_notices_changed_files(draft, write):
    assert "lora.r" in draft("lora=small").origins.chains
    write({"lora/small.yaml": "defaults: [none]\nr: 5\n"})
    chain = draft("lora=small").origins.chain("lora.kind")
    assert [origin.place for origin in chain] == ["conf/lora/none.yaml:1"]
    write({"local/default.yaml": "# @package _global_\nseed: 1\n"})
    assert draft("lora=small").origins.chain("seed")[-1].where == "conf/local/default.yaml"


def test_each_file_is_read_once(conf):
    _scan.cache_clear()
    compose(("experiment=med",), root=conf)
    read = _scan.cache_info().misses
    compose(("experiment=med",), root=conf)
    assert (read, _scan.cache_info().misses) == (7, 7)


def test_cold_start_stays_within_its_budget():
    """Hydra's import, composition and origins: 0.4 s; the bound is for busy machines."""
    program = (
        "import time; start = time.process_time()\n"
        "from llmforge.compose import compose\n"
        "compose(['experiment=smoke', 'lora=small', 'lora.r=64'])\n"
        "import sys; print(time.process_time() - start)\n"
        "assert not {'torch', 'transformers', 'mlflow', 'pydantic'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.0


def test_fifty_faults_are_reported_in_a_few_seconds(draft):
    started = time.process_time()
    found = draft(*(f"trainer.micro_batch{n}={n}" for n in range(50)))
    assert len(found.diagnostics) == 50
    assert time.process_time() - started < 5
