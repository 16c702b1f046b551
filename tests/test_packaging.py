"""`conf/` is found however llmforge was installed: wheel, editable, or a plain checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PROBE = (
    "import llmforge, llmforge.compose as c; "
    "print(llmforge.__file__); print(c.config_root()); "
    "print(llmforge.compile(['tracking=none']).name)"
)


SWEEPERS = (
    "from hydra.core.plugins import Plugins; from hydra.plugins.sweeper import Sweeper; "
    "print(*(f'{c.__module__}.{c.__name__}' for c in Plugins.instance().discover(Sweeper)))"
)
OURS = "hydra_plugins.llmforge_sweeper.LlmforgeSweeper"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of its own, without environments and outputs."""
    target = tmp_path_factory.mktemp("checkout") / "llmforge-src"
    ignored = shutil.ignore_patterns(".*", "runs", "multirun", "build", "dist", "__pycache__")
    return shutil.copytree(CHECKOUT, target, ignore=ignored)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that has every dependency and no llmforge."""
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    site = next(env.glob("lib/python*/site-packages"))
    # a path in a .pth file is searched, but the .pth files inside it (our editable one) are not
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return env / "bin" / "python"


def run(python: Path, *args: str, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, *args], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(python: Path, cwd: Path) -> tuple[Path, Path, str]:
    module, root, name = run(python, "-c", PROBE, cwd=cwd).split()
    return Path(module), Path(root), name


def test_without_an_install_there_is_no_llmforge(python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [python, "-c", "import llmforge"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1


def test_wheel_carries_conf_inside_the_package(python: Path, copy: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, copy],
        check=True,
        capture_output=True,
    )
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index",
        str(next(wheels.glob("*.whl"))), cwd=tmp_path)  # fmt: skip

    module, root, name = probe(python, tmp_path)

    assert module.is_relative_to(tmp_path / "env")
    assert root == module.parent / "conf"
    assert name == "demo"
    assert OURS in run(python, "-c", SWEEPERS, cwd=tmp_path).split()
    shipped = {p.relative_to(copy / "conf") for p in (copy / "conf").rglob("*.yaml")}
    assert {p.relative_to(root) for p in root.rglob("*.yaml")} == shipped
    templates = {p.name for p in (module.parent / "report" / "templates").iterdir()}
    assert templates == {p.name for p in (copy / "llmforge/report/templates").iterdir()}
    assert {"sweep.html.jinja", "style.css", "page.js"} <= templates


def test_editable_install_uses_the_checkouts_conf(python: Path, copy: Path, tmp_path: Path) -> None:
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation",
        "--editable", str(copy), cwd=tmp_path)  # fmt: skip

    module, root, name = probe(python, tmp_path)

    assert module == copy / "llmforge" / "__init__.py"
    assert root == copy / "conf"
    assert name == "demo"
    assert OURS in run(python, "-c", SWEEPERS, cwd=tmp_path).split()


def test_plain_checkout_runs_without_an_install(python: Path, copy: Path) -> None:
    module, root, _ = probe(python, copy)

    assert (module, root) == (copy / "llmforge" / "__init__.py", copy / "conf")
    assert OURS in run(python, "-c", SWEEPERS, cwd=copy).split()
    assert "verbs" in run(python, "-m", "llmforge", "--help", cwd=copy)


def test_the_type_marker_is_shipped() -> None:
    assert (CHECKOUT / "llmforge" / "py.typed").is_file()
