"""Start-up: `llmforge --help` against an empty Python, `llmforge plan` against bare Hydra.

Every figure is a cold process; all candidates run in turn in one go, and ratios are taken round by
round. Aims on an idle 2-core machine: `--help` within 0.12 s, `plan` within 0.7 s.

    python benchmarks/startup.py [rounds]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from timing import cold, report

from llmforge.compose import config_root

HYDRA = f"""
import hydra
with hydra.initialize_config_dir({str(config_root())!r}, version_base="1.3"):
    from omegaconf import OmegaConf
    OmegaConf.to_container(hydra.compose("config"), resolve=True)
"""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    python = sys.executable
    llmforge = [python, "-m", "llmforge"]
    with tempfile.TemporaryDirectory() as folder:
        times = cold(
            {
                "python -c pass": [python, "-c", "pass"],
                "llmforge --help": [*llmforge, "--help"],
                "bare Hydra, same groups": [python, "-c", HYDRA],
                "llmforge plan": [*llmforge, "plan"],
                "llmforge check, 3 mistakes": [
                    python, "-c",
                    "import sys; from llmforge.cli import main; "
                    "sys.exit(0 if main(['check', 'optimizer.lrr=1', 'lora=smal', "
                    "'trainer.global_batch=7', 'trainer.micro_batch=2']) == 2 else 1)",
                ],
            },
            Path(folder),
            rounds,
        )  # fmt: skip
    print(
        report(
            times,
            {
                "llmforge --help": "python -c pass",
                "llmforge plan": "bare Hydra, same groups",
                "llmforge check, 3 mistakes": "bare Hydra, same groups",
            },
        )
    )


if __name__ == "__main__":
    main()
