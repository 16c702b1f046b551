"""The plans of `tests/build`, for the stages as well."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# test folders are no packages, so the neighbour's fixtures are loaded by path
_path = Path(__file__).parents[1] / "build" / "conftest.py"
_spec = importlib.util.spec_from_file_location("llmforge_build_fixtures", _path)
assert _spec
assert _spec.loader
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)

make_plan = _module.make_plan
quick = _module.quick
settings = _module.settings
checkpoint = _module.checkpoint
gpt2_like = _module.gpt2_like
llama_like = _module.llama_like
