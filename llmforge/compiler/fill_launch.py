"""`num_gpus=2` alone: a local launch becomes torchrun's option.

In: a draft whose `num_gpus` is more than 1 while section `launch` is the one-process default. Out:
the same with the section of `conf/launch/torchrun.yaml`, what the user said of it kept, and the
kind's origin telling why. Any other launch stays: it takes its number of processes from `num_gpus`
later (`derive/launching.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llmforge.compose import Draft, compose
from llmforge.origins import Origin


def fill_launch(
    draft: Draft, config_dirs: Sequence[str | Path] = (), root: Path | None = None
) -> Draft:
    """The draft with a launch for several processes; itself where nothing asks for one."""
    many, launch = draft.values.get("num_gpus"), draft.values.get("launch")
    if not isinstance(many, int) or isinstance(many, bool) or many < 2:
        return draft
    if not isinstance(launch, Mapping) or launch.get("kind") != "local":
        return draft
    shipped = compose(["launch=torchrun"], config_dirs, root)
    values, origins = copy.deepcopy(draft.values), draft.origins.copy()
    section = copy.deepcopy(shipped.values["launch"])
    for key in section:
        chain = origins.chains.get(f"launch.{key}", [])
        if key != "kind" and any(origin.kind != "file" for origin in chain):
            section[key] = values["launch"].get(key, section[key])
            continue
        origins.drop(f"launch.{key}")
        for origin in shipped.origins.chain(f"launch.{key}"):
            origins.add(f"launch.{key}", origin)
    why = f"num_gpus={many} on one node is a process for each"
    origins.add(
        "launch.kind", Origin("derived", "fill_launch", "torchrun", reason=why, reads=("num_gpus",))
    )
    values["launch"] = section
    return replace(draft, values=values, origins=origins)
