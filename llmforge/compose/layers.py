"""The files of one composition with the reason each of them is there.

In: the files Hydra lists, their scans, the overrides. Out: `Layer`s in merge order, and what the
files themselves give away: faults, code-running keys (LF110), shadowing (LF111).

It does not merge anything: `merge.py` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmforge.compose.hydra_link import Composition, Included
from llmforge.compose.library import PRIMARY
from llmforge.compose.overrides import Override, code_running_key
from llmforge.compose.scan import Scan, scan
from llmforge.compose.source import Session
from llmforge.compose.tree import Entry, forbidden
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.origins import Origin


@dataclass(frozen=True)
class Layer:
    """One file, merged at one place."""

    config_path: str
    package: str
    where: str
    """The file as users read it."""
    reason: str
    chosen: bool
    """The command line asked for it, by itself or through an experiment."""
    from_experiment: bool
    """It is an experiment the command line chose, or is included by one."""
    scan: Scan

    def origin(self, entry: Entry) -> Origin:
        """This file as the writer of one of its keys."""
        return Origin("file", self.where, entry.plain(), entry.line, self.reason)


def build_layers(
    composition: Composition, session: Session, overrides: Sequence[Override]
) -> list[Layer]:
    """One layer per file that Hydra did not bring itself, in merge order."""
    chooser = _Chooser(composition, session, overrides)
    layers: dict[str, Layer] = {}
    parents = {file.config_path: file.parent for file in composition.files}
    parents_first = sorted(composition.files, key=lambda file: _depth(file, parents))
    for file in parents_first:
        if chooser.ours(file) and file.config_path not in layers:
            layers[file.config_path] = chooser.layer(file, layers.get(file.parent))
    return [
        replace(layers[file.config_path], package=file.package)
        for file in composition.files
        if file.config_path in layers
    ]


def in_hydra(key: str) -> bool:
    """Whether a dotted key belongs to Hydra's own node."""
    return key == "hydra" or key.startswith("hydra.")


def findings(layers: Iterable[Layer], session: Session) -> list[Diagnostic]:
    """What is wrong with the files themselves, each file once."""
    out: list[Diagnostic] = []
    seen: set[Path] = set()
    for layer in layers:
        if layer.scan.path in seen:
            continue
        seen.add(layer.scan.path)
        out += [layer.scan.diagnostic(f, layer.where, layer.package) for f in layer.scan.faults]
        for path in forbidden(layer.scan.tree):
            full = (*layer.package.split("."), *path) if layer.package else path
            if not in_hydra(str(full[0])):
                out.append(code_running_key(full, (_place_of(layer, path),)))
        hidden = session.library.candidates(layer.config_path)[1:]
        out += [_shadowing(layer, session.library.show(path)) for path in hidden[:1]]
        if circle := session.circles.get(layer.config_path):
            out.append(_circle(layer, circle))
    return out


def _place_of(layer: Layer, path: Sequence[object]) -> Origin:
    """The origin of the deepest key on the path that has a line."""
    tree, line, value = layer.scan.tree, None, None
    for part in path:
        entry = tree.get(part) if isinstance(tree, dict) else None
        if entry is None:
            break
        line, value = entry.line, entry.plain()
        tree = entry.value
    return Origin("file", layer.where, value, line, layer.reason)


def _shadowing(layer: Layer, hidden: str) -> Diagnostic:
    return Diagnostic(
        "LF111",
        f"{layer.where} hides {hidden}",
        Severity.WARNING,
        key=layer.package or None,
        origins=(Origin("file", layer.where, reason=layer.reason),),
        notes=("config dirs come before the shipped options; rename the file to keep both",),
    )


def _circle(layer: Layer, circle: Sequence[str]) -> Diagnostic:
    line = next((i.line for i in layer.scan.includes if i.name != "_self_"), None)
    return Diagnostic(
        "LF118",
        f"{layer.where} includes itself: {' -> '.join(circle)}",
        key=layer.package or None,
        origins=(Origin("file", layer.where, line=line),),
    )


def _depth(file: Included, parents: Mapping[str, str]) -> int:
    """How many files include this one, one inside the other."""
    depth, at = 0, file.parent
    while at in parents and depth < len(parents):
        depth, at = depth + 1, parents[at]
    return depth


class _Chooser:
    """Says for each file who asked for it."""

    def __init__(
        self, composition: Composition, session: Session, overrides: Sequence[Override]
    ) -> None:
        self.session = session
        self.by_target = {o.target: o for o in overrides if o.is_group}
        self.targets = _targets(composition.choices)
        self.outside = [
            Path(str(source["path"]))
            for source in composition.config.hydra.runtime.config_sources
            if source["schema"] == "file"
        ]
        self.rivals = [
            (file.config_path, scanned)
            for file in composition.files
            if (scanned := self._scan(file.config_path)) is not None
        ]

    def ours(self, file: Included) -> bool:
        """Not one of the files Hydra brings for its own node."""
        return not in_hydra(file.package) or self._scan(file.config_path) is not None

    def layer(self, file: Included, parent: Layer | None) -> Layer:
        scanned = self._scan(file.config_path)
        if scanned is None:  # a ConfigStore node or a package: no lines, and nothing to scan
            scanned = Scan(Path(file.config_path))
            where = file.config_path
        else:
            where = self.session.library.show(scanned.path)
        reason, chosen = self._reason(file, parent)
        experiment = file.config_path.startswith("experiment/") and chosen
        inherited = parent is not None and parent.from_experiment
        return Layer(
            file.config_path, file.package, where, reason, chosen, experiment or inherited, scanned
        )

    def _reason(self, file: Included, parent: Layer | None) -> tuple[str, bool]:
        target = self.targets.get(file.config_path)
        if target is not None:
            if override := self.by_target.get(target):
                return f"chosen by {override.text} on the command line", True
            for config_path, scanned in reversed(self.rivals):
                for include in scanned.includes:
                    folder = config_path.rpartition("/")[0]
                    path = f"{include.group_path(folder)}/{include.name}"
                    if include.override and path == file.config_path:
                        shown = self.session.library.show(scanned.path)
                        chosen = config_path.rpartition("/")[0] in self.by_target
                        return f"chosen by {shown}:{include.line}", chosen
        if parent is None or parent.config_path == PRIMARY:
            return "", False
        return f"included by {parent.where}", parent.chosen

    def _scan(self, config_path: str) -> Scan | None:
        """From our search path, or from a dir that `hydra.searchpath` added behind it."""
        stand_in = self.session.stand_ins.get(config_path) or config_path
        if (found := self.session.scan(stand_in)) is not None:
            return found
        files = (folder / f"{config_path}.yaml" for folder in self.outside)
        return next((scan(file) for file in files if file.is_file()), None)


def _targets(choices: Mapping[str, object]) -> dict[str, str]:
    """Config path -> the `group@package` it was chosen for."""
    return {
        f"{target.partition('@')[0]}/{option}": target
        for target, option in choices.items()
        if isinstance(option, str)
    }
