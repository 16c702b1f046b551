"""Sweeps before their first trial, against Hydra's own multirun of jobs that do nothing.

100 and 1,000 points expanded, compiled, checked and looked up, each in a cold process; the
baseline is `hydra.main` in multirun mode over the same tree and 100 points, whose job is `pass`.
All candidates run in turn in one go. Aims on an idle 2-core machine: 2 s and 15 s.

    python benchmarks/expand.py [rounds]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from timing import cold, report

from llmforge.compose import config_root

HYDRA = f"""
import logging, sys
import hydra
@hydra.main(version_base="1.3", config_path={str(config_root())!r}, config_name="config")
def job(_):
    pass
sys.argv = ["job", "-m", "hydra/hydra_logging=disabled", *sys.argv[1:]]
job()
"""

HUNDRED = ("lora=none,small", "optimizer.lr=range(1,6)", "seed=range(0,10)")
THOUSAND = ("lora=none,small", "optimizer.lr=range(1,11)", "seed=range(0,50)")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    python = sys.executable
    sweep = [python, "-m", "llmforge", "sweep", "--dry-run", "tracking=none", "hardware=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        times = cold(
            {
                "Hydra, 100 jobs that do nothing": [python, "-c", HYDRA, *HUNDRED],
                "llmforge sweep, 100 points": [*sweep, *HUNDRED],
                "llmforge sweep, 1,000 points": [*sweep, *THOUSAND],
            },
            Path(folder),
            rounds,
        )
    hydra = "Hydra, 100 jobs that do nothing"
    print(
        report(
            times,
            {"llmforge sweep, 100 points": hydra, "llmforge sweep, 1,000 points": hydra},
        )
    )


if __name__ == "__main__":
    main()
