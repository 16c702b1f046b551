"""Formats of the weights of a GGUF file.

In: nothing. Out: `FORMS`. The command line offers them before anything else is imported.
"""

from __future__ import annotations

FORMS = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
"""Format as GGUF names it -> bytes a weight."""
