"""The command line of sweeps: findings told once, Hydra's flags, completion, exit codes."""

from __future__ import annotations

import pytest

from llmforge.sweep.folder import SweepFolder

SMALL = "hardware=cpu tracking=none"


def test_a_key_that_is_not_there_is_told_once_with_all_its_values(llmforge, work):
    told = llmforge("sweep optimizer.lrr=1e-4,2e-4")

    assert told.code == 2
    assert told.err.count("error[") == 1
    assert "unknown key `optimizer.lrr`" in told.err
    assert "command line   optimizer.lrr=1e-4,2e-4" in told.err.replace("0.0001,0.0002", "")
    assert "hint: optimizer.lr=1e-4,2e-4" in told.err


def test_a_fault_of_what_is_fixed_is_the_sweeps(llmforge, work):
    told = llmforge("sweep seed=1,2,3 optimizer.lrr=1")

    assert told.code == 2
    assert told.err.count("error[LF101]") == 1
    assert "hint: optimizer.lr=1" in told.err


def test_a_fault_of_one_point_is_the_points(llmforge, work):
    told = llmforge(f"sweep {SMALL} lora=none,smal --dry-run")

    assert told.code == 0
    assert "1 refused (LF102) · 1 to run" in told.out
    assert "lora=small" in told.err


@pytest.mark.parametrize("flag", ["--cfg=job", "-c job", "--info", "-i all"])
def test_flags_that_show_one_composition_do_not_go_with_several(llmforge, work, flag):
    told = llmforge(f"train -m seed=1,2 {flag}")

    assert told.code == 2
    assert "error[LF733]" in told.err


def test_train_with_m_is_the_same_sweep(llmforge, work):
    swept = llmforge(f"sweep {SMALL} seed=1,2 --dry-run")
    trained = llmforge(f"train -m {SMALL} seed=1,2 --dry-run")

    assert (trained.code, trained.out) == (swept.code, swept.out)


def test_a_dry_run_of_points_that_are_all_refused_for_different_reasons(llmforge, work):
    told = llmforge("sweep lora=smal,larg --dry-run")

    assert told.code == 2
    assert "2 refused (LF102)" in told.out


def test_a_key_of_the_section_is_explained(llmforge):
    told = llmforge("explain sweep.refused sweep.refused=stop")

    assert told.code == 0
    assert told.out.startswith("sweep.refused = stop")
    assert "conf/sweep/grid.yaml" in told.out
    assert "type: `skip` or `stop`" in told.out
    assert "sweep.refused" in llmforge("explain sweep").out
    assert "hint: llmforge explain sweep.refused" in llmforge("explain sweep.refusd").err


def test_launchers_are_listed(llmforge):
    told = llmforge("list hydra/launcher")

    assert told.code == 0
    assert "submitit_slurm" in told.out


def test_completion_behind_sweep(llmforge, work, monkeypatch):
    line = "llmforge sweep lora=no"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))

    assert "lora=none" in llmforge("-sc query=bash").out


@pytest.mark.parametrize(
    "line", ["sweep=grid,search", "sweep.at_once=1,2", "sweep.space.seed=1,2",
             "hydra.launcher.n_jobs=1,2"]
)  # fmt: skip
def test_the_sweep_itself_cannot_be_varied(llmforge, work, line):
    told = llmforge(f"sweep seed=1,2 {line} --dry-run")

    assert told.code == 2
    assert f"error[LF710]: `{line}` varies the sweep itself" in told.err


def test_a_space_of_lists_is_refused_with_its_reason(llmforge, work):
    told = llmforge("sweep seed=1,2 'sweep.space={optimizer.lr: [1,2]}' --dry-run")

    assert told.code == 2
    assert "error[LF104]" in told.err
    assert "sweep.space.optimizer.lr" in told.err


@pytest.mark.parametrize(
    "line", ["seed=range(1,1e12)", "seed=range(0,1000) data.rows=range(1,1000)"]
)
def test_a_grid_that_would_never_be_through_is_refused_at_once(llmforge, work, line):
    told = llmforge(f"sweep '{line.split(' ')[0]}' {line.partition(' ')[2]} --dry-run")

    assert told.code == 2
    assert "error[LF712]: the grid has more than 100,000 points" in told.err


def test_an_override_that_cannot_be_read_is_the_only_thing_told(llmforge, work):
    told = llmforge("sweep seed=1, --dry-run")

    assert (told.code, told.err.count("error[")) == (2, 1)
    assert "error[LF112]" in told.err


def test_a_long_value_does_not_spread_the_table(llmforge, work):
    long = "x" * 3000
    told = llmforge(f"sweep {SMALL} name=a,{long} --dry-run")

    assert told.code == 0
    assert max(map(len, told.out.splitlines())) < 200
    assert max(map(len, told.err.splitlines())) < 500


def test_many_different_reasons_are_not_all_told(llmforge, work):
    told = llmforge("sweep 'optimizer.lr=range(-40,-1)' --dry-run")

    assert told.err.count("warning[LF715]") == 10
    assert "... and 29 reasons more" in told.err


def test_what_is_refused_behind_hydra_is_told_like_everything_else(llmforge, work):
    line = f"sweep {SMALL} seed=1,2 sweep.name=s"
    folder = SweepFolder(work / "multirun" / "s")
    with folder.lock():
        driven = llmforge(line)
    folder.write({"digest": "of another one", "space": {"lora": "none,small"}})
    another = llmforge(line)

    assert (driven.code, another.code) == (2, 2)
    assert "error[LF714]: this sweep is being driven by process" in driven.err
    assert "error[LF713]" in another.err
    assert "hint: sweep.name=s-2" in another.err
    assert another.out == "", "before the table of its points"
    assert "Traceback" not in driven.err + another.err
