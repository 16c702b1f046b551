"""What a plan knows of code of the user's own that it names: where it is, and what class it is.

In: a registered component. Out: the digest of its source, and findings: LF125 for a builder that
is not there, LF124 for one that inherits from another class than it must. Source is parsed and
never imported: a builder may need torch, which no plan does. Where reading cannot tell (a base
class of a library, names made on the fly) nothing is said; the worker looks at the class itself.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from llmforge import plugins
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.registry import Component

BASES: dict[str, tuple[str, ...]] = {
    "callback": ("transformers.TrainerCallback",),
    "collator": ("llmforge.BaseCollator", "llmforge.build.extending.BaseCollator"),
    "hooks": ("llmforge.Experiment", "llmforge.build.experiment.Experiment"),
    "metric": (
        *("llmforge.LogitsMetric", "llmforge.build.measures.LogitsMetric"),
        *("llmforge.TextMetric", "llmforge.build.measures.TextMetric"),
    ),
    "trainer": ("llmforge.build.trainer.ForgeTrainer",),
}
"""What a builder that is a class must inherit from; optimizers, and functions, are free."""

FOREIGN = frozenset(("transformers", "torch", "trl", "peft", "accelerate", "datasets"))
"""Libraries none of whose classes inherits from one of ours."""

_DEEPEST = 8
"""Base classes followed, one above the other."""


@dataclass(frozen=True)
class Look:
    """What was seen of one component."""

    digest: str | None
    """SHA-256, hex, over the source files of its spec and its builder; None where there is none."""
    diagnostics: list[Diagnostic] = field(default_factory=list)


def look_at_component(component: Component, key: str) -> Look:
    """Source and class of a component that the settings choose at `key`."""
    module, _, name = str(component.builder).partition(":")
    files: set[Path] = set()
    try:
        files |= {path for path in [plugins.source_of(component.spec.__module__)] if path}
        source = plugins.source_of(module)
    except (Exception, SystemExit) as error:  # the packages above it are the user's code
        return Look(None, [_missing(component, key, f"there is no module `{module}`", error)])
    if source is None:
        return Look(_digest(files))
    try:
        parsed = _Module(module, ast.parse(source.read_bytes()))
    except (SyntaxError, ValueError) as error:
        return Look(None, [_missing(component, key, f"`{module}` does not parse", error)])
    files.add(source)
    if not parsed.has(name):
        guess = near(name, parsed.names, 1)
        return Look(
            _digest(files),
            [
                Diagnostic(
                    "LF125",
                    f"the builder {component.builder} of {component.section} kind "
                    f"`{component.kind}` is not there: `{module}` defines no `{name}`",
                    key=key,
                    notes=did_you_mean(name, parsed.names),
                    hint=f"register it as {module}:{guess[0]}" if guess else None,
                )
            ],
        )
    return Look(_digest(files), _wrong_base(component, key, parsed, name))


def _missing(component: Component, key: str, what: str, error: BaseException) -> Diagnostic:
    said = "" if isinstance(error, ModuleNotFoundError) else f": {plugins.raised_at(error)}"
    return Diagnostic(
        "LF125",
        f"the builder {component.builder} of {component.section} kind `{component.kind}` is not "
        f"there: {what}{said}",
        key=key,
    )


def _wrong_base(component: Component, key: str, module: _Module, name: str) -> list[Diagnostic]:
    wanted = BASES.get(component.section)
    if wanted is None or _inherits(module, name, wanted, component.section, 0) is not False:
        return []
    bases = ", ".join(f"`{base}`" for base in module.bases(name)) or "nothing"
    return [
        Diagnostic(
            "LF124",
            f"{component.builder} of {component.section} kind `{component.kind}` does not inherit "
            f"from {wanted[0]}",
            key=key,
            notes=(f"it inherits from {bases}",),
            hint=f"class {name}({wanted[0]})",
        )
    ]


def _inherits(
    module: _Module, name: str, wanted: tuple[str, ...], section: str, depth: int
) -> bool | None:
    """Does a class inherit from one of `wanted`? None where its source does not say."""
    found = module.classes.get(name)
    if found is None or depth > _DEEPEST:
        return _elsewhere(module, name, wanted, section, depth)
    answers = [_inherits_from(module, base, wanted, section, depth) for base in module.bases(name)]
    if True in answers:
        return True
    return None if None in answers else False


def _inherits_from(
    module: _Module, base: str, wanted: tuple[str, ...], section: str, depth: int
) -> bool | None:
    if base in module.classes:
        return _inherits(module, base, wanted, section, depth + 1)
    return _elsewhere(module, base, wanted, section, depth)


def _elsewhere(
    module: _Module, name: str, wanted: tuple[str, ...], section: str, depth: int
) -> bool | None:
    """The same for a name that the module did not define itself."""
    full = module.full_name(name)
    if full in wanted:
        return True
    root, _, _ = full.partition(".")
    if "." not in full:
        return False if hasattr(builtins, full) else None
    if root in FOREIGN:
        return None if section == "callback" else False
    if root != module.name.partition(".")[0] or depth > _DEEPEST:
        return None
    parent, _, last = full.rpartition(".")
    try:
        source = plugins.source_of(parent)
        parsed = _Module(parent, ast.parse(source.read_bytes())) if source else None
    except (ImportError, SyntaxError, ValueError):  # the worker will say what is wrong with it
        return None
    return _inherits(parsed, last, wanted, section, depth + 1) if parsed else None


class _Module:
    """The names of one source file."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self._tree = tree

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {
            node.name: node for node in _statements(self._tree) if isinstance(node, ast.ClassDef)
        }

    @cached_property
    def imported(self) -> dict[str, str]:
        """Name here -> full name."""
        found: dict[str, str] = {}
        for node in _statements(self._tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    found[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom):
                above = self.name.split(".")[: -node.level] if node.level else []
                parent = ".".join(filter(None, [*above, node.module]))
                found |= {
                    alias.asname or alias.name: f"{parent}.{alias.name}" for alias in node.names
                }
        return found

    @cached_property
    def names(self) -> set[str]:
        """All that stands at the top of the module."""
        found = set(self.classes) | set(self.imported)
        for node in _statements(self._tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets += [node.target] if isinstance(node, ast.AnnAssign) else []
            found |= {name.id for target in targets for name in ast.walk(target)
                      if isinstance(name, ast.Name)}  # fmt: skip
        return found

    def has(self, name: str) -> bool:
        """Also true where the module makes names on the fly."""
        return name in self.names or bool({"*", "__getattr__"} & self.names)

    def bases(self, name: str) -> list[str]:
        """Base classes as they are written; `Metric[float]` is `Metric`."""
        node = self.classes.get(name)
        plain = [b.value if isinstance(b, ast.Subscript) else b for b in node.bases] if node else []
        return [ast.unparse(base) for base in plain]

    def full_name(self, name: str) -> str:
        first, _, rest = name.partition(".")
        known = self.imported.get(first, first)
        return f"{known}.{rest}" if rest else known


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements that run when the module is imported, those in `if` and `try` too."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _statements(node)


def _digest(files: set[Path]) -> str | None:
    if not files:
        return None
    parts = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return hashlib.sha256("".join(parts).encode()).hexdigest()
