"""What is legal: pydantic specs, one module per family of sections; no defaults, no torch."""

from llmforge.schema import preference as preference  # imported to be registered
from llmforge.schema.base import Effect, Spec
from llmforge.schema.run import SCALARS, SECTIONS, SINGLE, RunSpec
from llmforge.schema.sweep import APART

__all__ = ["APART", "SCALARS", "SECTIONS", "SINGLE", "Effect", "RunSpec", "Spec"]
