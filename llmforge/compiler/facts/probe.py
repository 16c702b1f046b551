"""Facts of architectures without formulas: built on the meta device, in a process of its own.

In: the dict of a `config.json`. Out: `ModelFacts` as the installed transformers builds the model,
or `CannotBuild` with the reason. The process (`build/skeleton.py`) has torch, this one never; it
runs no remote code, reaches no network and no GPU, and holds no weights. What it said is kept in
the cache folder under the digest of the config and of the versions of torch and transformers, so
that it is started once for each architecture.

    python -m llmforge.compiler.facts.probe CONFIG.json     prints the facts as JSON

Formulas (`facts/families/`) are asked first: they take no time, and need no torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llmforge
from llmforge.compiler.facts.families import LinearModule, ModelFacts
from llmforge.plan import canonical_digest

_BUILDER = "llmforge.build.skeleton"
_LAYOUT = 1
"""Of what is kept; another number forgets it all."""

_MOST_SECONDS = 120.0
"""Importing torch takes seconds, a model of a thousand layers a few more."""

_QUIET = {
    "PYTHONSAFEPATH": "1",  # a `torch.py` in the user's folder is not PyTorch
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}


class CannotBuild(ValueError):
    """Why there are no facts: the message goes on after the architecture's name."""


def probe(
    config: Mapping[str, Any], cache: Path, most_seconds: float = _MOST_SECONDS
) -> ModelFacts:
    """Facts of a config, from the cache or from a process that builds the model.

    Args:
        config: a whole `config.json`; `model_type` is a text.
        cache: folder where answers are kept; one that cannot be written costs time, no more.
        most_seconds: when the process is given up.

    Raises:
        CannotBuild: transformers does not know the architecture, cannot build it, or is not here.
    """
    versions = {name: _version(name) for name in ("torch", "transformers")}
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        raise CannotBuild(f"{' and '.join(missing)} would build it, and is not installed")
    digest = canonical_digest({"layout": _LAYOUT, "versions": versions, "config": dict(config)})
    kept = cache / "facts" / f"{digest}.json"
    found = _read(kept)
    if found is None:
        found = _ask(config, most_seconds)
        _keep(kept, found)
    if "facts" not in found:
        raise CannotBuild(str(found["reason"]))
    return _facts(found["facts"])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(kept: Path) -> dict[str, Any] | None:
    """An answer that was kept whole; None for any other."""
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if "facts" in found:
            _facts(found["facts"])
            return dict(found)
        return {"reason": found["reason"]}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(kept: Path, found: dict[str, Any]) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        staged = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
        staged.write_text(json.dumps(found), encoding="utf-8")
        staged.replace(kept)
    except OSError:
        return  # asked again next time


def _ask(config: Mapping[str, Any], most_seconds: float) -> dict[str, Any]:
    """The builder's answer.

    Raises:
        CannotBuild: it died or took too long, which another time may not.
    """
    with tempfile.TemporaryDirectory(prefix="llmforge-") as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(dict(config)), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", _BUILDER, str(file)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=_environment(),
                timeout=most_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CannotBuild(f"building it took more than {most_seconds:g} s") from error
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = f": {lines[-1][:200]}" if lines else ""
        raise CannotBuild(f"its builder ended with exit code {done.returncode}{said}") from error
    return found


def _environment() -> dict[str, str]:
    found = os.environ | _QUIET
    root = Path(llmforge.__file__).resolve().parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        # a plain checkout: the child finds the package where this process did
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), found.get("PYTHONPATH")]))
    return found


def _facts(found: Mapping[str, Any]) -> ModelFacts:
    modules = tuple(LinearModule(**module) for module in found["linear_modules"])
    attentions = tuple(found["attentions"])
    return ModelFacts(**{**found, "linear_modules": modules, "attentions": attentions})


def main(arguments: list[str]) -> int:
    """Print the facts of one config file; exit code 2 with the reason where there are none."""
    if len(arguments) != 1:
        print("usage: python -m llmforge.compiler.facts.probe CONFIG.json", file=sys.stderr)
        return 2
    try:
        config = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise CannotBuild("no JSON object with a model_type")
        facts = probe(config, Path(".llmforge"))
    except (OSError, ValueError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(facts)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
