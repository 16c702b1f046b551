"""Runs of several processes on the CPU: `python ranks.py CASES.json OUT.json`.

In: name -> overrides. Out: name -> exit codes, run folder, training losses by attempt, and what
each rank holds. The libraries are imported once, then every rank is a fork of this process in which
the real worker runs; importing takes longer than all the steps of a case.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

LIMIT = 240
"""Seconds after which a rank that hangs says where, and ends."""

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
    "DS_ACCELERATOR": "cpu",
    "LLMFORGE_QUIET": "1",
}


def run(overrides: list[str]) -> dict[str, Any]:
    """All ranks of a run, to the end; a second time it goes on."""
    from llmforge.compiler.passes import compile_plan
    from llmforge.run.folder import RunFolder

    plan = compile_plan(overrides)
    folder = RunFolder.create(plan)
    world, port = int(plan.settings["launch"]["processes"]), _free_port()
    ranks = [_fork(folder.path, rank, world, port) for rank in range(world)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks]
    held = [folder.path / f"held-{rank}.json" for rank in range(world)]
    return {
        "codes": codes,
        "folder": str(folder.path.resolve()),
        "losses": _losses(folder.journal),
        "held": [json.loads(file.read_text()) for file in held if file.is_file()],
    }


def _fork(folder: Path, rank: int, world: int, port: int) -> int:
    if pid := os.fork():
        return pid
    code = 1
    try:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {name: str(value) for name, value in place.items()} if world > 1 else {}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        from llmforge.run import worker

        _tell_what_is_held(folder / f"held-{rank}.json")
        code = worker.main([str(folder)])
    finally:
        sys.stdout.flush()
        os._exit(code)


def _tell_what_is_held(file: Path) -> None:
    """After training: bytes of weights and optimizer state, and classes of trained weights."""
    from llmforge.build.trainer import ForgeTrainer

    train = ForgeTrainer.train

    def trained(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = train(self, *args, **kwargs)
        file.write_text(json.dumps(_held(self)))
        return found

    ForgeTrainer.train = trained  # type: ignore[method-assign]


def _held(trainer: Any) -> dict[str, Any]:
    weights = list(trainer.model.parameters())
    optimizer, masters = trainer.optimizer, []
    while hasattr(optimizer, "optimizer"):  # accelerate's wrapper, ZeRO's, then the plain one
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
            masters += getattr(optimizer, name, None) or []
        optimizer = optimizer.optimizer
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return {
        "weights": sum(_bytes(weight) for weight in weights),
        "masters": sum(_bytes(weight) for weight in masters),
        "state": sum(_bytes(value) for value in state if getattr(value, "dim", int)() > 0),
        "trained": sorted({type(weight).__name__ for weight in weights if weight.requires_grad}),
    }


def _bytes(tensor: Any) -> int:
    """Of this rank's part."""
    if hasattr(tensor, "ds_tensor"):
        tensor = tensor.ds_tensor
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    return int(tensor.numel() * tensor.element_size())


def _losses(journal: Path) -> list[list[float]]:
    """Training losses of each attempt."""
    found: list[list[float]] = []
    for line in journal.read_text().splitlines() if journal.is_file() else ():
        entry = json.loads(line)
        if entry.get("mark") == "attempt":
            found.append([])
        elif "train_loss" in entry.get("values", {}):
            found[-1].append(entry["values"]["train_loss"])
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """See the module."""
    import deepspeed  # noqa: F401 - imported once, for all ranks
    import torch

    import llmforge.build.trainer  # noqa: F401 - as above

    torch.set_num_threads(1)
    cases = json.loads(Path(sys.argv[1]).read_text())
    found = {}
    for name, overrides in cases.items():
        found[name] = run(overrides)
        Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
