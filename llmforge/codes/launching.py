"""Codes of launching: found before anything starts, or by the processes before they load anything.

Data only: title and text of each.
"""

from __future__ import annotations

LAUNCHING: dict[str, tuple[str, str]] = {
    "LF460": (
        "port in use",
        "Somebody listens at the port at which the processes are to meet: another run, or one that "
        "was not ended. Take another port, or `auto` on one node.",
    ),
    "LF461": (
        "no Ray cluster at the address",
        "Nothing answers at `launch.address`. `ray status` on a node of the cluster tells its "
        "address; `launch.address=null` starts Ray on this machine for the run.",
    ),
    "LF462": (
        "host that cannot be reached",
        "A host of the hostfile, or the one where nodes meet, has no address here or does not "
        "answer. DeepSpeed's launcher reaches hosts by SSH without a password.",
    ),
    "LF463": (
        "nodes that are not alike",
        "All processes compare llmforge, Python, the libraries that decide numbers and "
        "communication, and the plan's fingerprint before they load anything. Another version on "
        "one node gives other numbers, or a run that hangs hours later.",
    ),
    "LF464": (
        "processes that did not meet",
        "A node was not started, has another place to meet, or a firewall is between them. "
        "`llmforge doctor --launch` with the same settings tries it with a tiny job.",
    ),
    "LF465": (
        "no Slurm",
        "Jobs are submitted by `sbatch`, on a machine that has it. `launch.executor=local` runs "
        "the job here, to try it out.",
    ),
    "LF466": (
        "run folder that nodes do not share",
        "All ranks go on from checkpoints in the run folder, and with sharded state each writes "
        "its part there, so `paths.runs` must lie on a disk that all nodes share. Prepared data "
        "(`paths.cache`) may be each node's own. Under Ray, `launch.storage` stands in for a "
        "shared disk where the state is not sharded.",
    ),
    "LF467": (
        "job that is queued already",
        "A Slurm job of this very plan runs or waits; a second one would work in the same folder. "
        "Wait for it, or cancel it.",
    ),
    "LF468": (
        "run that cannot be gone on from with another number of processes",
        "`checkpoint.reshard` takes up the newest checkpoint of a run of the same plan that had "
        "another number of processes. Nothing else may differ, the other run must stand still, "
        "and its state must be one that can be dealt out anew: ZeRO's cannot. That run itself "
        "goes on by its own command.",
    ),
}
