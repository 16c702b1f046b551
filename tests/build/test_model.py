"""Weights that cannot be had: which they are, and what helps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmforge.build.model import from_checkpoint, no_hub_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = """{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300,
"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}"""


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def plan(revision: str = COMMIT) -> Any:
    """What `from_checkpoint` reads of a plan."""
    lowered = {
        "pretrained_model_name_or_path": "example/tiny",
        "revision": revision,
        "trust_remote_code": False,
        "use_safetensors": True,
        "dtype": "float32",
        "attn_implementation": "sdpa",
    }
    none = SimpleNamespace(kind="none")
    spec = SimpleNamespace(seed=1, quantization=none, hooks=none)
    return SimpleNamespace(lowered={"model": lowered}, spec=spec)


def test_model_that_is_nowhere() -> None:
    with pytest.raises(FileNotFoundError) as raised:
        from_checkpoint(plan(), None)

    message = str(raised.value)
    assert message.startswith(
        f"the weights of example/tiny at {COMMIT} cannot be had; `hf download"
    )
    assert "hf auth login" in message
    assert "\n" not in message


def test_config_in_the_cache_and_no_weights(offline: Path) -> None:
    snapshot = offline / "models--example--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(CONFIG)

    with pytest.raises(FileNotFoundError, match="cannot be had"):
        from_checkpoint(plan(), None)


def test_revision_without_safetensors() -> None:
    said = OSError("example/tiny does not appear to have a file named model.safetensors.")

    message = no_hub_weights("example/tiny", "main", said)

    assert "safetensors only" in message
    assert "model.revision=refs/pr/<number>" in message
