"""Installed versions, read from package metadata: nothing is imported for it."""

from __future__ import annotations

from llmforge.installed import installed_version

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
    "auto-gptq",
    "compressed-tensors",
    "deepspeed",
    "ray",
    "submitit",
    "schedulefree",
    "flash-attn",
    "liger-kernel",
    "trl",
)


def installed_versions() -> dict[str, str]:
    """Version of each package a run may use; packages that are not installed are left out."""
    found = {name: installed_version(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version is not None}
