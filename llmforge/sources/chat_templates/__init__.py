"""Chat templates by name: which there are, and the Jinja file of each.

In: a name. Out: the path of its file. The files say in their first lines whose format they render,
and mark what the assistant writes with `{% generation %}`. This module reads and renders nothing,
so the compiler may ask it which names exist; `build/templates.py` gives a template to a tokenizer.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """What `tokenizer.chat_template` may name, in alphabetical order."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.jinja")))


def path(name: str) -> Path:
    """The Jinja file of a name (UTF-8).

    Raises:
        KeyError: there is no template of that name.
    """
    if name not in names():
        raise KeyError(f"no chat template is called {name}; there are {', '.join(names())}")
    return _FOLDER / f"{name}.jinja"
