"""What is legal: pydantic specs, one module per family of sections; no defaults, no torch."""

from llmforge.schema.base import Effect, Spec
from llmforge.schema.run import SCALARS, SECTIONS, SINGLE, RunSpec

__all__ = ["SCALARS", "SECTIONS", "SINGLE", "Effect", "RunSpec", "Spec"]
