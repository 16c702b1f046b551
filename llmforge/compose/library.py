"""Where option files are: the shipped `conf/` tree and the user's own config dirs.

In: the dirs named with `--config-dir`. Out: `Library`, an ordered search path that answers which
file a config path means, which files it shadows, and which groups and options exist.

It looks at names on disk only; nothing here reads YAML (the first comment lines apart) or knows
Hydra.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import llmforge
from llmforge.diagnostics import Diagnostic, did_you_mean, near

PRIMARY = "config"
"""Name of the primary config, without its suffix."""

_DOC_BYTES = 4096


@dataclass(frozen=True)
class Option:
    """One option of a group: one YAML file."""

    group: str
    name: str
    path: Path
    shadows: Path | None
    """The file of the same name further down the search path that this one hides."""
    doc: str
    """The comment that opens the file, without the editor's schema line."""


@dataclass(frozen=True)
class Library:
    """The search path, first match wins; the shipped root is last."""

    dirs: tuple[Path, ...]

    @property
    def root(self) -> Path:
        """The shipped tree."""
        return self.dirs[-1]

    def candidates(self, config_path: str) -> list[Path]:
        """Every file that answers to `group/option`, in search order."""
        name = config_path if config_path.endswith(".yaml") else f"{config_path}.yaml"
        if not _inside(name):
            return []
        return [file for folder in self.dirs if (file := folder / name).is_file()]

    def find(self, config_path: str) -> Path | None:
        """The file that answers to `group/option`."""
        return next(iter(self.candidates(config_path)), None)

    def is_group(self, name: str) -> bool:
        """Whether any dir has a folder of that name."""
        return _inside(name) and any((folder / name).is_dir() for folder in self.dirs)

    def option_names(self, group: str) -> list[str]:
        """What may be chosen in a group."""
        if not _inside(group):
            return []
        folders = [folder / group for folder in self.dirs]
        names = {f.stem for d in folders if d.is_dir() for f in d.glob("*.yaml")}
        # `_rows` is what options of a group start from, none by itself
        return sorted(name for name in names if not name.startswith("_"))

    def options(self, group: str) -> list[Option]:
        """The options with their files and what they say about themselves."""
        found = []
        for name in self.option_names(group):
            path, *hidden = self.candidates(f"{group}/{name}")
            found.append(Option(group, name, path, next(iter(hidden), None), _doc(path)))
        return found

    def groups(self) -> list[str]:
        """Every folder that holds at least one option, nested ones as `hydra/launcher`."""
        found = set()
        for folder in self.dirs:
            for here, below, files in os.walk(folder):
                below[:] = [name for name in below if not name.startswith((".", "__"))]
                if Path(here) != folder and any(name.endswith(".yaml") for name in files):
                    found.add(Path(here).relative_to(folder).as_posix())
        return sorted(found)

    def show(self, path: Path) -> str:
        """The path as users read it: `conf/...` for shipped files, relative when below the cwd."""
        if path.is_relative_to(self.root):
            return f"conf/{path.relative_to(self.root).as_posix()}"
        here = Path.cwd()
        return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def config_root() -> Path:
    """The shipped config tree: inside the package in a wheel, beside it in a checkout.

    Raises `FileNotFoundError` naming both places when neither holds a primary config.
    """
    package = Path(llmforge.__file__ or "").resolve().parent
    places = (package / "conf", package.parent / "conf")
    for place in places:
        if (place / f"{PRIMARY}.yaml").is_file():
            return place
    raise FileNotFoundError(
        f"no {PRIMARY}.yaml in {places[0]} (installed package) nor in {places[1]} (checkout)"
    )


def open_library(
    config_dirs: Iterable[str | Path] = (), root: Path | None = None
) -> tuple[Library, list[Diagnostic]]:
    """The search path for these config dirs; a dir that is not there is reported and left out."""
    shipped = Path(root).absolute() if root is not None else config_root()
    if not (shipped / f"{PRIMARY}.yaml").is_file():
        raise FileNotFoundError(f"no {PRIMARY}.yaml in {shipped}")
    dirs: list[Path] = []
    found: list[Diagnostic] = []
    for given in config_dirs:
        folder = Path(os.path.normpath(Path(given).expanduser().absolute()))
        if not folder.is_dir():
            found.append(_missing_dir(str(given), folder))
        elif folder != shipped and folder not in dirs:
            dirs.append(folder)
    return Library((*dirs, shipped)), found


def options(
    group: str, config_dirs: Sequence[str | Path] = (), root: Path | None = None
) -> list[Option]:
    """The options of a group, the user's first where names collide; empty for an unknown group."""
    return open_library(config_dirs, root)[0].options(group)


def groups(config_dirs: Sequence[str | Path] = (), root: Path | None = None) -> list[str]:
    """Every group that has options, shipped or the user's."""
    return open_library(config_dirs, root)[0].groups()


def _missing_dir(given: str, folder: Path) -> Diagnostic:
    what = "is not a directory" if folder.exists() else "does not exist"
    siblings = (
        [d.name for d in folder.parent.iterdir() if d.is_dir()] if folder.parent.is_dir() else []
    )
    best = near(folder.name, siblings, limit=1)
    return Diagnostic(
        code="LF115",
        message=f"config dir `{given}` {what}",
        notes=did_you_mean(folder.name, siblings),
        hint=f"--config-dir {Path(given).with_name(best[0])}" if best else None,
    )


def _inside(name: str) -> bool:
    """Whether a config path stays below its folder; `..` would read any YAML on the machine."""
    return not name.startswith("/") and ".." not in name.split("/")


def _doc(path: Path) -> str:
    """The first block of comment lines that is not a Hydra header or an editor's schema line."""
    with path.open("rb") as file:
        text = file.read(_DOC_BYTES).decode("utf-8", errors="replace")
    doc: list[str] = []
    for line in text.splitlines():
        comment = line.strip()
        body = comment.lstrip("#").strip()
        if comment.startswith("#") and body and not body.startswith(("@", "yaml-language-server")):
            doc.append(body)
        elif doc or (comment and not comment.startswith("#")):
            break
    return "\n".join(doc)
