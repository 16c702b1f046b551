"""The command line of sweeps: findings told once, Hydra's flags, completion, exit codes."""

from __future__ import annotations

import pytest

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
