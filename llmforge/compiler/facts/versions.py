"""Installed versions, read from package metadata: nothing is imported for it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "mlflow",
    "mlflow-skinny",
    "bitsandbytes",
    "gptqmodel",
    "optimum",
    "deepspeed",
    "schedulefree",
    "flash-attn",
    "liger-kernel",
)


def installed_versions() -> dict[str, str]:
    """Version of each package a run may use; packages that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
