"""Composition: config files and overrides in, one `Draft` with its origins out.

`loader.py` is the way in and shows the order of things; `hydra_link.py` is the only module that
drives Hydra. What the values mean is the schema's business.
"""

from llmforge.compose.library import Option, config_root, groups, options
from llmforge.compose.loader import Draft, compose

__all__ = ["Draft", "Option", "compose", "config_root", "groups", "options"]
