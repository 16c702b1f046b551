"""Plugins are imported for what they register; what goes wrong is told with file and line."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import llmforge
from llmforge.diagnostics import Severity
from llmforge.plugins import load, loaded, raised_at

_numbers = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def plugin(folder: Path) -> Callable[[str], str]:
    """Writes a module of a name that no other test has, returns the name."""

    def write(text: str) -> str:
        name = f"plugin_{next(_numbers)}_{os.getpid()}"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    return write


def test_a_module_of_the_working_folder(plugin: Callable[[str], str]) -> None:
    name = plugin("value = 3")
    path = list(sys.path)
    assert load([name]) == []
    assert importlib.import_module(name).value == 3
    assert sys.path == path
    assert name in loaded()


def test_it_is_imported_once(plugin: Callable[[str], str], folder: Path) -> None:
    name = plugin("open('log.txt', 'a').write('x')")
    assert load([name, name]) == load([name]) == []
    assert (folder / "log.txt").read_text() == "x"


def test_a_module_in_a_package(folder: Path) -> None:
    (folder / "my_package").mkdir()
    (folder / "my_package" / "parts.py").write_text("from my_package import other", "utf-8")
    (folder / "my_package" / "other.py").write_text("", "utf-8")
    assert load(["my_package.parts"]) == []


def test_a_name_with_a_slip(plugin: Callable[[str], str]) -> None:
    name = plugin("")
    (found,) = load([name[1:]])
    assert (found.code, found.key, found.severity) == ("LF121", "plugins", Severity.ERROR)
    assert found.message == f"plugin `{name[1:]}` was not found: there is no module `{name[1:]}`"
    assert found.hint == f"plugins=[{name}]"
    assert "PYTHONPATH" in found.notes[-1]
    assert name[1:] not in loaded()


def test_a_slip_inside_a_package(folder: Path) -> None:
    (folder / "a_package").mkdir()
    (folder / "a_package" / "__init__.py").write_text("", "utf-8")
    (folder / "a_package" / "components.py").write_text("", "utf-8")
    (found,) = load(["a_package.componets"])
    assert "there is no module `a_package.componets`" in found.message
    assert found.hint == "plugins=[a_package.components]"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("my_parts.py", "plugins=[my_parts]"),
        ("src/my_parts.py", "plugins=[src.my_parts]"),
        ("my_package:thing", None),
        ("os; import sys", None),
        (".relative", None),
        ("", None),
    ],
)
def test_what_is_no_name_of_a_module(folder: Path, name: str, hint: str | None) -> None:
    (found,) = load([name])
    assert found.message == f"`{name}` is not the name of a module"
    assert found.hint == hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nx = 1 / 0\n", "ZeroDivisionError: division by zero ({name}.py:2)"),
        ("x = (\n", "SyntaxError: '(' was never closed ({name}.py:1)"),
        ("import no_such_library", "No module named 'no_such_library' ({name}.py:1)"),
        ("import sys\nsys.exit('no')", "SystemExit: no ({name}.py:2)"),
        ("import json\njson.loads('[')", "({name}.py:2)"),
        (
            "import llmforge.sources.functions as f\n\n@f.transform('no name')\ndef g(row): ...",
            "ValueError: transform name `no name` is not letters, digits, underscores, dots and "
            "dashes ({name}.py:3)",
        ),
    ],
)
def test_a_module_that_raises(plugin: Callable[[str], str], text: str, said: str) -> None:
    name = plugin(text)
    (found,) = load([name])
    assert found.message.startswith(f"plugin `{name}` cannot be imported: ")
    assert found.message.endswith(said.format(name=name))


def test_every_plugin_is_told(plugin: Callable[[str], str]) -> None:
    good = plugin("")
    found = load([plugin("1/0"), good, plugin("raise OSError"), "no/name"])
    assert len(found) == 3
    assert good in loaded()


def test_a_mended_module_is_loaded_again(plugin: Callable[[str], str], folder: Path) -> None:
    name = plugin("1/0")
    assert len(load([name])) == 1
    (folder / f"{name}.py").write_text("mended = True  # longer than before", "utf-8")
    assert load([name]) == []


def test_nothing_in_the_folder_stands_in_for_pythons_own(
    plugin: Callable[[str], str], folder: Path
) -> None:
    (folder / "colorsys.py").write_text("raise RuntimeError('not me')", "utf-8")
    assert load([plugin("import colorsys\ncolorsys.rgb_to_hls(0, 0, 0)")]) == []


def test_a_module_that_another_one_stands_before(folder: Path) -> None:
    (folder / "json.py").write_text("", "utf-8")
    (found,) = load(["json"])
    assert found.message.startswith("plugin `json` is not the one in this folder: json came from ")
    assert found.hint == "rename json.py"


def test_entry_points_of_installed_packages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = folder / "site" / "some_parts-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: some-parts\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[llmforge.components]\ngood = some_good_parts\nbad = some_bad_parts\n"
    )
    (folder / "site" / "some_good_parts.py").write_text("loaded = True")
    (folder / "site" / "some_bad_parts.py").write_text("raise KeyError('x')")
    monkeypatch.syspath_prepend(folder / "site")
    (found,) = load([])
    assert (found.code, found.severity) == ("LF121", Severity.WARNING)
    assert found.message.startswith(
        "`some_bad_parts` of some-parts cannot be loaded: KeyError: 'x'"
    )
    assert "some_good_parts" in sys.modules


def test_a_process_that_keeps_the_folder_off_its_path(
    plugin: Callable[[str], str], folder: Path
) -> None:
    """As workers run: PYTHONSAFEPATH, the working folder importable only while plugins load."""
    name = plugin("from llmforge.sources.functions import transform\n"
                  "@transform('shout')\ndef shout(row):\n    return row\n")  # fmt: skip
    script = (
        "import sys\nfrom llmforge.plugins import load\n"
        "from llmforge.sources.functions import find_transform\n"
        f"assert load([{name!r}]) == []\nassert {str(folder)!r} not in sys.path\n"
        "assert '' not in sys.path\nprint(find_transform('shout')({'a': 1}))\n"
        "assert not {'torch', 'numpy', 'datasets', 'pydantic'} & set(sys.modules)"
    )
    root = Path(llmforge.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("{'a': 1}\n", "")


def test_where_an_error_was_raised() -> None:
    assert raised_at(ValueError("two\nlines")) == "lines"  # raised nowhere
    with pytest.raises(ValueError, match="invalid literal") as raised:
        int("x")
    assert "test_plugins.py:" in raised_at(raised.value)
