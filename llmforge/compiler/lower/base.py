"""What every part of lowering gives: keywords with the settings they come from.

In: nothing. Out: the type `Lowered`.
"""

from __future__ import annotations

from typing import Any

Lowered = dict[str, tuple[Any, str]]
"""keyword -> (value, the key it came from)."""
