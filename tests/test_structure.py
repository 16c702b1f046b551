"""Which part may know which other part, and what none of them may do; read off the source.

    conf -> compose -> schema -> compiler -> plan -> run -> build        (DESIGN.md, section 1)

Above `build` a plan is data, so nothing there needs torch: the command line stays instant, and a
plan for eight GPUs compiles on a laptop. Below `compose` nothing needs Hydra: a worker reads JSON.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from llmforge.codes import known_codes

PACKAGE = Path(__file__).parents[1] / "llmforge"
MODULES = sorted(PACKAGE.rglob("*.py"))

GROUND = {
    "diagnostics", "digests", "installed", "origins", "registry", "stage_order", "store", "version",
}  # fmt: skip

# part -> the parts it may import when it is imported itself
MAY_IMPORT: dict[str, set[str]] = {
    # the ground: plain data, known to all
    "version": set(),
    "installed": set(),
    "origins": set(),
    "diagnostics": {"origins"},
    "registry": set(),
    "digests": set(),
    "store": set(),
    "stage_order": set(),
    # the way from YAML to a plan; `plan` is the type the compiler fills, so it stands below it
    "schema": GROUND,
    "compose": GROUND,
    "samples": set(),
    # rows: read by the compiler, which counts and refuses, and by the worker, which tokenises
    "sources": GROUND | {"plugins", "schema"},
    "plugins": {"diagnostics", "installed", "registry"},
    "plan": GROUND | {"schema", "plugins"},
    "compiler": GROUND | {"schema", "compose", "plan", "plugins", "sources"},
    # what is told about plans
    "codes": {"compiler"},
    "render": GROUND | {"plan"},
    "diff": GROUND | {"schema", "compiler", "plan", "render"},
    "explain": GROUND | {"schema", "compose", "compiler", "plan", "codes", "render", "diff"},
    "doctor": GROUND | {"compose", "compiler", "render"},
    "refs": GROUND | {"plan"},
    "merging": GROUND | {"plan", "refs", "run"},
    "upload": GROUND | {"compose", "compiler", "plan", "refs", "run"},
    # the runner: it starts from a plan and never compiles
    "run": GROUND | {"schema", "plan", "plugins", "render", "track"},
    "track": GROUND | {"plan", "run"},
    "stages": GROUND | {"schema", "plan", "plugins", "run", "track", "build"},
    "build": GROUND | {"schema", "plan", "plugins", "samples", "sources"},
    # many runs: it compiles them all, and hands them to whatever launches jobs
    "sweep": GROUND | {"schema", "compose", "compiler", "plan", "render", "run", "track"},
    # pages and records of what lies in folders
    "report": GROUND | {"plan", "render", "run", "sweep", "track"},
    # a plan for Python users, who run it
    "runnable": {"plan"},
    # the ways in import what a verb needs inside that verb
    "__init__": {"version"},
    "__main__": {"cli"},
    "cli": {"verbs"},
    "verbs": set(),
    "app": set(),
}

# imports inside a function or for the type checker only: they may also point here
MAY_IMPORT_LATER: dict[str, set[str]] = {
    "registry": {"schema"},  # the type of a specification
    "compose": {"schema"},  # which mappings take any name, asked when Hydra refused one
    "compiler": {"samples"},  # how many conversations the generator makes
    "codes": {"compiler"},  # rules explain themselves
    "sweep": {"report"},  # the page that is written when a sweep ends
    # a reference may name anything
    "refs": {"compiler", "compose", "run", "build", "render", "track"},
    "merging": {"compiler"},  # how a setting is written
    # the worker's half; which hardware is here; what changed since a checkpoint; the fused model
    "run": {"stages", "build", "compiler", "diff", "refs"},
    "stages": {"compiler"},  # settings of generation that a talk, or Python, changes
    "runnable": {"compiler", "run"},
    "__init__": set(MAY_IMPORT),
    "cli": set(MAY_IMPORT),
    "verbs": set(MAY_IMPORT),
    "app": set(MAY_IMPORT),
}

HEAVY = {
    "torch", "transformers", "peft", "datasets", "accelerate", "mlflow", "numpy", "pandas",
    "tokenizers", "safetensors", "bitsandbytes", "deepspeed", "matplotlib", "sklearn",
}  # fmt: skip
HEAVY_PARTS = {"build", "stages"}  # imported in worker processes only
HYDRA = {"hydra", "omegaconf", "antlr4"}
HYDRA_PARTS = {"compose", "app"}  # `app` is the one Hydra application


@dataclass(frozen=True)
class Import:
    """One imported name."""

    module: Path
    name: str
    later: bool
    """Inside a function, or under `if TYPE_CHECKING`."""

    @property
    def part(self) -> str:
        return part_of(self.module)

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module.relative_to(PACKAGE)} imports {self.name}"


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def imports_of(module: Path) -> Iterator[Import]:
    tree = tree_of(module)
    at_import = set(at_import_time(tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = node.module == "llmforge"
            names = [f"llmforge.{a.name}" for a in node.names] if whole else [node.module or ""]
        else:
            continue
        for name in names:
            yield Import(module, name, node not in at_import)


def at_import_time(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from at_import_time(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from at_import_time(node.body)


IMPORTS = [found for module in MODULES for found in imports_of(module)]


def test_every_part_stands_in_the_table():
    assert {part_of(module) for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_point_downward(part):
    own = [i for i in IMPORTS if i.part == part and i.package == "llmforge"]
    allowed, later = MAY_IMPORT[part], MAY_IMPORT_LATER.get(part, set())
    wrong = []
    for found in own:
        target = found.name.split(".")[1] if "." in found.name else "__init__"
        if target in {part, "__init__"} or target not in MAY_IMPORT:
            continue  # a neighbour, or a name of the package itself such as `llmforge.compile`
        if target not in (allowed | later if found.later else allowed):
            wrong.append(str(found))
    assert wrong == []


def test_nothing_above_build_imports_torch_and_the_like():
    wrong = [i for i in IMPORTS if i.package in HEAVY and i.part not in HEAVY_PARTS]
    assert [str(i) for i in wrong if not i.later] == []
    # later, that is inside a function: in the worker's module, in the tracker, and in the process
    # of its own that asks the hub for a data set
    assert {i.part for i in wrong} <= {"run", "track", "sources"}
    assert {i.module.name for i in wrong if i.part == "sources"} <= {"hub.py"}


def test_nothing_below_compose_imports_hydra():
    wrong = [str(i) for i in IMPORTS if i.package in HYDRA and i.part not in HYDRA_PARTS]
    assert wrong == []


def test_yaml_is_read_in_one_place():
    assert {i.part for i in IMPORTS if i.package == "yaml"} == {"compose"}


VERBS = """
import sys
from llmforge.cli import main
assert main(["plan", "-o", "plan.json"]) == 0
assert main(["check", "trainer.epoch=3", "model=hub", "model.id=a/b"]) == 2
assert main(["explain", "trainer.micro_batch"]) == 0
assert main(["explain", "LF204"]) == 0
assert main(["diff", "plan.json", "lora=small"]) == 0
assert main(["list"]) == 0
assert main(["schema"]) == 0
assert main(["doctor"]) in (0, 1)
import llmforge.run.launch
print("LOADED", *sys.modules)
"""


def loaded_by(script: str, folder: Path) -> set[str]:
    """Top-level packages in `sys.modules` after a script."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    names = done.stdout.rpartition("LOADED")[2].split()
    assert "llmforge" in names
    return {name.partition(".")[0] for name in names}


def test_verbs_of_the_driver_load_nothing_heavy(tmp_path):
    assert loaded_by(VERBS, tmp_path) & HEAVY == set()


def test_help_loads_neither_hydra_nor_pydantic(tmp_path):
    script = """
import sys
from llmforge.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print("LOADED", *sys.modules)
"""
    light = loaded_by(script, tmp_path)
    assert light & (HEAVY | HYDRA | {"pydantic", "yaml", "rich"}) == set()


FORBIDDEN_IMPORTS = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
OWN_READER = {"build/pieces.py": {"pickle"}}
"""Whose reader of pickles makes the classes that it lists, and nothing else."""
FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads",
    "eval", "exec", "__import__", "compile", "os.system", "torch.load", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "hydra.utils.instantiate", "instantiate",
    "np.load", "numpy.load", "joblib.load",
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_nothing_unpickles_evaluates_or_uses_a_shell(module):
    allowed = OWN_READER.get(module.relative_to(PACKAGE).as_posix(), set())
    assert {i.package for i in imports_of(module)} & FORBIDDEN_IMPORTS == allowed
    calls = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)]
    # torch's reader of tensors and plain values makes nothing else
    calls = [call for call in calls if "weights_only=True" not in map(ast.unparse, call.keywords)]
    assert {ast.unparse(call.func) for call in calls} & FORBIDDEN_CALLS == set()
    keywords = {ast.unparse(keyword) for call in calls for keyword in call.keywords}
    assert keywords & {"shell=True", "allow_pickle=True", "weights_only=False"} == set()


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_module_is_short_and_says_what_it_is_for(module):
    assert ast.get_docstring(tree_of(module))
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 400


def test_every_code_in_the_source_is_explained():
    used = {code for module in MODULES for code in re.findall(r'"(LF\d{3})"', module.read_text())}
    assert used == set(known_codes())


def test_no_folder_of_tests_is_left_out_by_its_name(pytestconfig: pytest.Config) -> None:
    """pytest skips folders called `build` unless told otherwise; ours holds tests."""
    assert "build" not in pytestconfig.getini("norecursedirs")
    assert list((PACKAGE.parent / "tests" / "build").glob("test_*.py"))
