"""The one Hydra application: multirun, Hydra's own flags and shell completion behind `train`.

In: the arguments after `train`. Out: an exit code. Hydra composes the job's config for its own
flags; what runs is always compiled by our own path from the job's overrides, so a run started
through Hydra and one started without it have the same plan.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmforge.diagnostics import ConfigRefused

_EXIT = {"worst": 0}

_MULTIRUN = ("-m", "--multirun")

_DRY = "--dry-run"

_NO_MULTIRUN = frozenset(
    ("-c", "--cfg", "-i", "--info", "-r", "--run", "-sc", "--shell-completion")
)
"""Flags of Hydra that look at one composition."""


def hydra_train(args: Sequence[str]) -> int:
    """`llmforge train` with a Hydra flag among its arguments.

    Raises:
        ConfigRefused: the sweep cannot work; LF733, its flags contradict each other.
    """
    from llmforge.sweep.session import OWN_SWEEPER

    dirs, rest = _config_dirs(args)
    words = [word for word in rest if word not in _MULTIRUN]
    if len(words) == len(rest):
        return _hydra(rest, dirs)
    flags = [word for word in words if word.startswith("-") and word != _DRY]
    clash = next((word for word in flags if word.partition("=")[0] in _NO_MULTIRUN), None)
    if clash is not None:
        raise _contradicts(clash)
    other_sweeper = any(word.startswith("hydra/sweeper=") and word != OWN_SWEEPER for word in words)
    if other_sweeper or flags:
        return _hydra(rest, dirs)
    return sweep([word for word in words if word != _DRY], dirs, _DRY in words)


def _contradicts(flag: str) -> ConfigRefused:
    from llmforge.diagnostics import ConfigRefused, Diagnostic

    found = Diagnostic(
        "LF733",
        f"`{flag}` shows one composition, and `-m` asks for several runs",
        notes=(
            "`llmforge sweep ... --dry-run` shows what the runs would be",
            "without -m, and with one value for each key, the composition is shown",
        ),
    )
    return ConfigRefused([found])


def sweep(overrides: Sequence[str], dirs: Sequence[str], dry: bool = False) -> int:
    """`llmforge sweep`, and `llmforge train -m`.

    Raises:
        ConfigRefused: the sweep cannot work.
    """
    from llmforge.sweep.session import run_sweep

    return run_sweep(overrides, dirs, lambda own: _hydra(["-m", *own], []), dry)


def _hydra(args: Sequence[str], dirs: Sequence[str]) -> int:
    """Hydra's own command line: its flags, its multirun, its launchers."""
    import hydra
    from omegaconf import DictConfig

    from llmforge.compose import config_root

    _EXIT["worst"] = 0

    def job(_: DictConfig) -> object:
        from hydra.core.hydra_config import HydraConfig

        return _job(list(HydraConfig.get().overrides.task), list(dirs))

    run = hydra.main(version_base="1.3", config_path=str(config_root()), config_name="config")(job)
    saved = sys.argv
    # Hydra reads its flags from argv; a user's folder is a config dir for it as well
    sys.argv = ["llmforge train", *(w for d in dirs[:1] for w in ("--config-dir", d)), *args]
    try:
        run()
    except SystemExit as refused:
        # our job never raises: what Hydra ends with is a command line it could not compose
        if refused.code not in (0, None):
            return 2
    finally:
        sys.argv = saved
    return _EXIT["worst"]


def _job(overrides: list[str], dirs: list[str]) -> object:
    """One job of Hydra: a trial of a sweep, or a run of its own."""
    from llmforge.sweep.jobs import in_company, place_of, trial_folder
    from llmforge.sweep.trial import run_trial

    folder = trial_folder(overrides)
    if folder is None:
        return _run(overrides, dirs)
    place = place_of(overrides)
    with in_company(place):
        return run_trial(folder, place.number, place.places)


def _run(overrides: list[str], dirs: list[str]) -> int:
    from llmforge import render
    from llmforge.diagnostics import ConfigRefused
    from llmforge.runnable import RunnablePlan

    try:
        outcome = RunnablePlan.compiled(overrides, dirs).run()
        code = outcome.exit_code
        found = [outcome.diagnostic] if outcome.diagnostic else []
    except ConfigRefused as refusal:
        code, found = 2, list(refusal.diagnostics)
    if found:
        render.emit(render.findings_text(found, render.wants_colour(sys.stderr)), sys.stderr)
    _EXIT["worst"] = max(_EXIT["worst"], code)
    return code


def _config_dirs(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--config-dir X` (repeatable) out of the arguments: our loader gives them precedence."""
    dirs: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--config-dir":
            dirs.append(next(words, ""))
        elif word.startswith("--config-dir="):
            dirs.append(word.partition("=")[2])
        else:
            rest.append(word)
    return dirs, rest


def complete(args: Sequence[str]) -> int:
    """Shell completion: `eval "$(llmforge -sc install=bash)"`, then TAB after `train`.

    Hydra's completion calls the program with the line being typed in the environment; the verb is
    taken out of it, since Hydra knows only overrides.
    """
    line = os.environ.get("COMP_LINE")
    if line is not None:
        for verb in ("train", "sweep", "plan", "check"):
            if f" {verb} " in line:
                shorter = line.replace(f" {verb} ", " ", 1)
                point = int(os.environ.get("COMP_POINT", len(line)))
                os.environ["COMP_LINE"] = shorter
                os.environ["COMP_POINT"] = str(max(0, point - (len(line) - len(shorter))))
                break
    return hydra_train(args)
