"""Cold processes timed in turn, so that a drifting machine slows all candidates alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def cold(
    commands: Mapping[str, Sequence[str]], cwd: Path, rounds: int = 9
) -> dict[str, list[float]]:
    """Wall seconds of each command, `rounds` times, interleaved; one warm-up round is dropped."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            done = subprocess.run(
                command, cwd=cwd, env=env, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def report(times: Mapping[str, Sequence[float]], baseline: Mapping[str, str]) -> str:
    """A table: median, fastest, slowest, and the median ratio to the baseline, round by round."""
    lines = [f"{'what':<34} {'median':>8} {'min':>8} {'max':>8}   ratio to baseline"]
    for name, values in times.items():
        against = baseline.get(name)
        ratio = ""
        if against:
            pairs = [a / b for a, b in zip(values, times[against], strict=True)]
            ratio = f"{statistics.median(pairs):5.2f} x {against}"
        lines.append(
            f"{name:<34} {statistics.median(values):7.3f}s {min(values):7.3f}s "
            f"{max(values):7.3f}s   {ratio}"
        )
    return "\n".join(lines)
