"""Architectures without formulas: built on the meta device by a process of its own, and remembered.

Every probe starts a process that imports torch, some seconds each, so there are few of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.facts import probe as module
from llmforge.compiler.facts.families import facts_from_config
from llmforge.compiler.facts.probe import CannotBuild, probe

BLOOM = {"model_type": "bloom", "n_layer": 2, "hidden_size": 64, "n_head": 4, "vocab_size": 100}
MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_local_experts": 4,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: what was probed once is read."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(module.subprocess, "run", refuse)


def test_facts_of_an_architecture_without_formulas(cache):
    facts = probe(BLOOM, cache)

    # 12 h^2 + 13 h for each layer, the embedding, a norm behind it, the last norm
    assert facts.parameters == 2 * (12 * 64**2 + 13 * 64) + 100 * 64 + 4 * 64
    assert (facts.architecture, facts.layers, facts.hidden, facts.heads) == (
        *("BloomForCausalLM", 2, 64, 4),
    )
    assert (facts.intermediate, facts.vocabulary, facts.tied_embeddings) == (256, 100, True)
    assert [(m.name.rpartition(".")[2], m.role, m.bias) for m in facts.linear_modules[3:]] == [
        ("dense_4h_to_h", "mlp", True),
        ("query_key_value", "attention", True),
        ("dense", "attention", True),
        ("dense_h_to_4h", "mlp", True),
        ("dense_4h_to_h", "mlp", True),
        ("lm_head", "head", False),
    ]


def test_the_probe_says_what_the_formulas_say(cache):
    assert probe(MIXTRAL, cache) == facts_from_config(MIXTRAL)


def test_an_answer_is_kept(cache, no_process):
    assert probe(BLOOM, cache).layers == 2


def test_another_config_and_another_transformers_are_asked_anew(cache, no_process, monkeypatch):
    with pytest.raises(AssertionError, match="a process was started"):
        probe(BLOOM | {"n_layer": 3}, cache)
    monkeypatch.setattr(module, "_version", lambda _: "99.0")
    with pytest.raises(AssertionError, match="a process was started"):
        probe(BLOOM, cache)


@pytest.fixture
def asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configs that a process would be started for; each is answered as Bloom was."""
    probe(BLOOM, cache)
    kept = [json.loads(file.read_text()) for file in (cache / "facts").iterdir()]
    bloom = next(a for a in kept if a.get("facts", {}).get("architecture") == "BloomForCausalLM")
    configs: list[Any] = []

    def answer(config: Any, _: float) -> dict[str, Any]:
        configs.append(config)
        return bloom

    monkeypatch.setattr(module, "_ask", answer)
    return configs


@pytest.mark.parametrize("damage", ['{"facts": {"layers": 2}}', "{", "[]", "\x00", "{}"])
def test_a_damaged_answer_is_asked_anew(damage, asked, tmp_path):
    probe(BLOOM, tmp_path)
    (kept,) = (tmp_path / "facts").iterdir()
    kept.write_text(damage)

    assert probe(BLOOM, tmp_path).layers == 2
    assert probe(BLOOM, tmp_path).layers == 2
    assert asked == [BLOOM, BLOOM]


def test_a_cache_that_cannot_be_written_costs_time_only(asked, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")

    assert [probe(BLOOM, file).layers for _ in range(2)] == [2, 2]
    assert asked == [BLOOM, BLOOM]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "unheard_of"}, "transformers does not know it"),
        ({"model_type": "vit"}, "transformers has no causal language model of it"),
        (BLOOM | {"n_layer": 10**9}, "1,000,000,000 layers are beyond any model"),
        (BLOOM | {"n_head": 3}, "`hidden_size` must be divisible by num_heads"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_built_has_a_reason(config, reason, cache):
    with pytest.raises(CannotBuild, match=reason):
        probe(config, cache)


def test_a_repository_s_code_is_not_run(cache, tmp_path, monkeypatch):
    """Neither what a config names, nor what lies in the working folder."""
    for name in ("modeling_own.py", "torch.py", "transformers.py"):
        (tmp_path / name).write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}

    assert probe(BLOOM | own, cache).architecture == "BloomForCausalLM"


def test_a_process_that_takes_too_long_is_given_up_and_asked_again(cache):
    changed = BLOOM | {"n_layer": 4}
    for _ in range(2):
        with pytest.raises(CannotBuild, match=r"more than 0\.01 s"):
            probe(changed, cache, most_seconds=0.01)


def test_without_torch_nothing_is_started(cache, no_process, monkeypatch):
    monkeypatch.setattr(module, "_version", lambda name: None if name == "torch" else "5.0")

    with pytest.raises(CannotBuild, match="torch would build it, and is not installed"):
        probe(BLOOM, cache)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmforge.compiler.facts.probe", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_the_command_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BLOOM))
    (tmp_path / "list.json").write_text("[]")

    found = json.loads(command(tmp_path, "config.json").stdout)

    assert (found["architecture"], len(found["linear_modules"])) == ("BloomForCausalLM", 9)
    refused = command(tmp_path, "list.json")
    assert refused.returncode == 2
    assert refused.stderr == "list.json: no JSON object with a model_type\n"
    assert command(tmp_path).returncode == 2


def test_the_compiler_s_half_imports_no_torch(tmp_path):
    program = (
        "import sys, llmforge.compiler.facts.probe;"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
