"""What the installed `TrainingArguments` takes: names, types, defaults, help; nothing is imported.

In: the source file of the installed transformers. Out: its dataclass fields as `Argument`s, read
from the syntax tree, which takes a tenth of a second and is kept in the cache folder under the
file's digest; and `expected`, which says of a value whether an annotation allows it.

Annotations are read as text: `int`, `float`, `str`, `bool`, `None`, `dict`, `list`, unions,
`Literal`, `Optional`. A class of the library (an enumeration, say) is given as text in YAML, so it
counts as text.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CLASS = "TrainingArguments"
_LAYOUT = 1
"""Of what is kept; another number forgets it all."""


@dataclass(frozen=True)
class Argument:
    """One field of the installed class."""

    name: str
    annotation: str
    """As it stands in the source: `int | None`."""
    default: str
    help: str
    """The library's own sentence."""


def source_file() -> Path | None:
    """Where the installed class is defined; None without transformers."""
    found = importlib.util.find_spec("transformers")
    folders = (found.submodule_search_locations or ()) if found else ()
    files = (Path(folder) / "training_args.py" for folder in folders)
    return next((file for file in files if file.is_file()), None)


def installed_arguments(cache: Path) -> dict[str, Argument] | None:
    """Every argument by its name; None where transformers, or the class in it, is not found."""
    file = source_file()
    if file is None:
        return None
    raw = file.read_bytes()
    digest = hashlib.sha256(str(_LAYOUT).encode() + raw).hexdigest()
    kept = cache / "facts" / f"arguments-{digest}.json"
    found = _read(kept)
    if found is None:
        found = read_class(raw.decode("utf-8"))
        _keep(kept, found)
    return found or None


def read_class(source: str) -> dict[str, Argument]:
    """The fields of the class in a module's source; none where it has no such class."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == _CLASS:
            fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]
            found = [_argument(s) for s in fields if isinstance(s.target, ast.Name)]
            return {a.name: a for a in found if not a.annotation.startswith("ClassVar")}
    return {}


def _argument(node: ast.AnnAssign) -> Argument:
    assert isinstance(node.target, ast.Name)  # noqa: S101 - the caller looked
    default, told = node.value, ""
    if isinstance(default, ast.Call):  # `field(default=..., metadata={"help": ...})`
        given = {word.arg: word.value for word in default.keywords if word.arg}
        default = given.get("default", given.get("default_factory"))
        told = _help(given.get("metadata"))
    return Argument(
        node.target.id, ast.unparse(node.annotation), ast.unparse(default) if default else "", told
    )


def _help(metadata: ast.expr | None) -> str:
    if not isinstance(metadata, ast.Dict):
        return ""
    for key, value in zip(metadata.keys, metadata.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "help":
            return " ".join(_text(value).split())
    return ""


def _text(node: ast.expr) -> str:
    """A text constant, also one put together with `+` or in parentheses."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ""


def _read(kept: Path) -> dict[str, Argument] | None:
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        return {name: Argument(**fields) for name, fields in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # not kept, or not whole: read again


def _keep(kept: Path, found: Mapping[str, Argument]) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        staged = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
        staged.write_text(json.dumps({n: asdict(a) for n, a in found.items()}), encoding="utf-8")
        staged.replace(kept)
    except OSError:
        return  # read again next time


def expected(annotation: str, value: Any) -> str | None:
    """What an annotation wants, in words, where it does not allow the value; else None."""
    parts = _alternatives(ast.parse(annotation, mode="eval").body)
    if any(_allows(part, value) for part in parts):
        return None
    return " or ".join(dict.fromkeys(_in_words(part) for part in parts))


def _alternatives(node: ast.expr) -> list[ast.expr]:
    """The types of a union, however it is written."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    if isinstance(node, ast.Subscript) and _name(node.value) in ("Optional", "Union"):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        found = [part for each in inner for part in _alternatives(each)]
        return [*found, ast.Constant(None)] if _name(node.value) == "Optional" else found
    return [node]


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _allows(node: ast.expr, value: Any) -> bool:
    if isinstance(node, ast.Constant):  # None
        return value is None and node.value is None
    if not isinstance(node, ast.Subscript):
        return _PLAIN.get(_name(node), _OTHER)[1](value)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    outer = _name(node.value).lower()
    if outer == "literal":
        return any(isinstance(i, ast.Constant) and _is(i.value, value) for i in inner)
    if outer == "list":
        each = _alternatives(inner[0])
        return isinstance(value, list) and all(any(_allows(p, v) for p in each) for v in value)
    if outer == "dict":
        each = _alternatives(inner[-1])
        return isinstance(value, dict) and all(
            any(_allows(p, v) for p in each) for v in value.values()
        )
    return True  # a kind of type nobody here has met: the library will say


def _is(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _in_words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return "null"
    if not isinstance(node, ast.Subscript):
        return _PLAIN.get(_name(node), _OTHER)[0]
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    outer = _name(node.value).lower()
    if outer == "literal":
        return " or ".join(f"`{str(getattr(i, 'value', '')).lower()}`" for i in inner)
    words = " or ".join(_in_words(part) for part in _alternatives(inner[-1]))
    return f"a {'mapping' if outer == 'dict' else 'list'} of {words}"


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


Kind = tuple[str, Callable[[Any], bool]]

_OTHER: Kind = ("text", lambda value: isinstance(value, str))
"""A class of the library: an enumeration, by one of its values."""

_PLAIN: dict[str, Kind] = {
    "int": ("a whole number", _is_int),
    "float": ("a number", _is_number),
    "str": _OTHER,
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "dict": ("a mapping", lambda value: isinstance(value, dict)),
    "list": ("a list", lambda value: isinstance(value, list)),
    "Any": ("anything", lambda _: True),
}
"""Name of a type -> what it is in words, and whether a value fits."""
