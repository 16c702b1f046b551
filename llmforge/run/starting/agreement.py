"""Before anything is loaded: do all processes run the same thing, and see the same disk?

In: a plan and its run folder, in every process of the run. Out: nothing, with the processes joined
in a group; or `NodesDiffer`, the same on all of them. On rank 0 `nodes.json` tells who took part.

Nodes of a cluster differ by accident: another version of a library gives other numbers or other
collective calls, and the run hangs hours later; a run folder that is not shared leaves ranks
without the checkpoint to go on from.
"""

from __future__ import annotations

import os
import platform
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

from llmforge.plan import Plan
from llmforge.run.environment import versions
from llmforge.run.folder import RunFolder
from llmforge.run.starting.ranks import restarts, world_size

RECORD = "nodes.json"
SECONDS = 1800
"""How long a collective operation may take: PyTorch's own default, unless `trainer.extra` says."""

_DECIDING = (
    *("llmforge", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers"),
    *("numpy", "bitsandbytes", "deepspeed"),
)
"""Packages whose versions must be equal on all nodes."""


_MISSING = "not installed"


class NodesDiffer(RuntimeError):
    """Processes of one run that are not alike."""

    def __init__(self, message: str, notes: Sequence[str]) -> None:
        super().__init__(message)
        self.notes = tuple(notes)


class NeverMet(RuntimeError):
    """Processes that could not connect to each other."""


class FolderNotShared(RuntimeError):
    """A node that does not see the run folder of rank 0."""


def join(plan: Plan, patience: float | None = None) -> None:
    """Make the process group that training will use; nothing where the process is alone.

    Args:
        patience: seconds that the others, and each collective operation, may take; None is what
            training allows.
    """
    import torch

    if torch.distributed.is_initialized():
        return
    cuda = torch.cuda.is_available() and plan.settings["hardware"]["device"] == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    extra = plan.settings["trainer"].get("extra") or {}
    seconds = patience or float(extra.get("ddp_timeout", SECONDS))
    limit = timedelta(seconds=seconds)
    try:
        store, rank, world = next(iter(torch.distributed.rendezvous("env://", timeout=limit)))
        # torchrun's store outlives a restart, and with it the addresses of processes that are gone
        store = torch.distributed.PrefixStore(f"start-{restarts()}", store)
        torch.distributed.init_process_group(
            # what is said about hosts and versions is text, which goes over the CPU
            extra.get("ddp_backend") or ("cuda:nccl,cpu:gloo" if cuda else "gloo"),
            store=store,
            rank=rank,
            world_size=world,
            timeout=limit,
        )
    except torch.distributed.DistError as error:
        raise NeverMet(f"the processes of the run did not find one another: {error}") from error


def agree(plan: Plan, run: RunFolder, apart: bool = False) -> None:
    """Join the processes and compare them.

    Args:
        apart: nodes may have run folders of their own, which the launcher keeps alike.

    Raises:
        NodesDiffer: versions or plans differ; names hosts and values.
        FolderNotShared: a node does not see the file that rank 0 wrote.
    """
    if world_size() == 1:
        return
    join(plan)
    found = gather(own_facts(plan) | {"shared": sees(run)})
    differences = list(compare(found))
    if differences:
        raise NodesDiffer("the nodes of this run are not alike", differences)
    blind = sorted({told["host"] for told in found if not told["shared"]})
    if int(os.environ["RANK"]) == 0:
        run.write_json(RECORD, {"shared": not blind, "ranks": found})
    if blind and not apart:
        raise FolderNotShared(
            f"{run.path} on {', '.join(blind)} is not the folder that rank 0 has on "
            f"{found[0]['host']}"
        )


def sees(run: RunFolder) -> bool:
    """Does this process see a file that rank 0 puts in the run folder now? All must ask."""
    main, token = int(os.environ["RANK"]) == 0, f".seen-{secrets.token_hex(8)}"
    if main:
        (run.path / token).touch()
    try:
        named: str = gather(token)[0]
        seen = (run.path / named).exists()
        gather(seen)  # all have looked
    finally:
        if main:
            (run.path / token).unlink()
    return seen


def end(code: int) -> NoReturn:
    """End this process. Where the group still stands, another rank is gone or fails as well:
    threads that wait for it would abort the interpreter on its way out (SIGABRT), and what is told
    of the failure would be that."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def leave() -> None:
    """Take the process group down, after a stage that went well on every rank."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.barrier()  # a rank that is ahead must not close what another still uses
        torch.distributed.destroy_process_group()


def own_facts(plan: Plan) -> dict[str, Any]:
    """What this process runs, and where."""
    return {
        "rank": int(os.environ.get("RANK", "0")),
        "host": platform.node(),
        "fingerprint": plan.fingerprint,
        "python": platform.python_version(),
        "versions": {k: v for k, v in versions().items() if k in _DECIDING},
    }


def gather(value: Any) -> list[Any]:
    """What every rank gives, in the order of ranks; the same list on all of them."""
    import torch

    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def compare(ranks: Sequence[Mapping[str, Any]], more: Sequence[str] = ()) -> Iterator[str]:
    """Lines on what differs between hosts: `torch: 2.13.0 on a, b; 2.12.0 on c`.

    Args:
        more: facts that must be alike besides plan, Python and versions.
    """
    keys = {name for told in ranks for name in told["versions"]}
    rows: dict[str, list[Any]] = {
        "plan": [told["fingerprint"][:10] for told in ranks],
        "python": [told["python"] for told in ranks],
    }
    rows |= {name: [told["versions"].get(name) for told in ranks] for name in sorted(keys)}
    rows |= {name: [told.get(name) for told in ranks] for name in more}
    for name, values in rows.items():
        hosts: dict[Any, list[str]] = {}
        for told, value in zip(ranks, values, strict=True):
            hosts.setdefault(value, []).append(told["host"])
        if len(hosts) > 1:
            yield f"{name}: " + "; ".join(
                f"{_MISSING if value is None else value} on {', '.join(dict.fromkeys(where))}"
                for value, where in hosts.items()
            )
