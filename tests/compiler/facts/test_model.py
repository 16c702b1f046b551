"""What stands behind a model section: shapes, folders, the hub's local cache; never the network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.facts.model import look_at_model
from llmforge.schema.model import FolderModel, HubModel

CACHE = Path(".llmforge")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(work, monkeypatch):
    """An empty hub cache, and no way out."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(work / "hub"))


def folder(path: str = "tiny", own_code: bool = False) -> FolderModel:
    return FolderModel(
        kind="folder",
        path=path,
        trust_remote_code=own_code,
        attention="auto",
        device_map=None,
        offload_folder=None,
    )


def hub(revision: str = "main", shape: dict[str, Any] | None = None) -> HubModel:
    return HubModel(
        kind="hub",
        id="example/tiny",
        revision=revision,
        shape=shape,
        trust_remote_code=False,
        attention="auto",
        device_map=None,
        offload_folder=None,
    )


def look(model):
    found = look_at_model(model, None, CACHE)
    return found, [(d.code, d.severity.value, d.message) for d in found.diagnostics]


def test_facts_of_a_folder(checkpoint, work):
    checkpoint(work / "tiny")

    found, findings = look(folder())

    assert findings == []
    assert (found.facts.family, found.facts.layers, found.facts.vocabulary) == ("llama", 2, 300)
    assert set(found.identity) == {"config.json", "model.safetensors"}


def test_every_shard_and_the_index_are_part_of_the_identity(checkpoint, work):
    tiny = checkpoint(work / "tiny")
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tiny / name).write_bytes((tiny / "model.safetensors").read_bytes())
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text("{}")
    (tiny / "README.md").write_text("no part of the model")

    found, _ = look(folder())

    assert set(found.identity) == {
        "config.json", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip
    assert set(found.tokenizer_identity) == {"tokenizer.json"}


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("models/tinny", "model.path=models/tiny"),
        ("models", "model.path=models/tiny"),
        ("Qwen/Qwen2.5-0.5B", "model=hub model.id=Qwen/Qwen2.5-0.5B"),
        ("far/away/tiny", None),
    ],
)
def test_folder_that_is_not_a_model(path, hint, checkpoint, work):
    checkpoint(work / "models/tiny")

    found, ((code, severity, _),) = look(folder(path))

    assert (code, severity) == ("LF602", "error")
    assert found.diagnostics[0].hint == hint


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (b"{", "LF602", "cannot be read"),
        (b"\xff\xfe", "LF602", "cannot be read"),
        (b"[]", "LF602", "is not a JSON object"),
        (b'{"model_type": 7}', "LF605", "model_type must be a string"),
        (b"{}", "LF605", "model_type must be a string"),
        (b'{"model_type": "llama"}', "LF605", "num_hidden_layers must be a positive whole number"),
        (b'{"model_type": "unheard_of"}', "LF603", "transformers does not know it"),
    ],
)
def test_config_that_cannot_be_used(content, code, told, checkpoint, work):
    (checkpoint(work / "tiny") / "config.json").write_bytes(content)

    _, ((found, severity, message),) = look(folder())

    assert (found, severity) == (code, "warning" if code == "LF603" else "error")
    assert told in message


def test_architecture_without_formulas_is_built_on_the_meta_device(checkpoint, work):
    checkpoint(work / "tiny", model_type="bloom")

    found, findings = look(folder())

    assert findings == []
    assert (found.facts.family, found.facts.layers, found.facts.hidden) == ("bloom", 2, 16)
    assert list((work / CACHE / "facts").iterdir()), "remembered"


def test_code_of_its_own_says_nothing_about_sizes(checkpoint, work):
    tiny = {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    checkpoint(work / "tiny", **tiny)

    found, ((code, severity, message),) = look(folder(own_code=True))
    trusted_less, findings = look(folder())

    assert (code, severity, found.facts) == ("LF603", "warning", None)
    assert message.endswith("its repository's own code builds it")
    assert findings == []
    assert trusted_less.facts.family == "llama"


def test_config_of_a_billion_layers_is_not_unrolled(checkpoint, work):
    checkpoint(work / "tiny", num_hidden_layers=10**9)

    _, ((code, _, message),) = look(folder())

    assert code == "LF605"
    assert message.endswith("num_hidden_layers (1000000000) is beyond any model")


def test_pickled_weights_are_not_read(checkpoint, work):
    tiny = checkpoint(work / "tiny")
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")

    found, ((code, _, message),) = look(folder())

    assert (code, message) == ("LF608", "tiny holds no safetensors weights")
    assert "pytorch_model.bin" in found.diagnostics[0].notes[0]


def test_hub_model_that_was_never_downloaded(work):
    found, findings = look(hub())

    assert findings == [
        ("LF606", "warning",
         "example/tiny is not in the local hub cache: its facts are not known yet")
    ]  # fmt: skip
    assert found.facts is None
    assert found.identity == {"hub": "example/tiny", "revision": "main"}


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_hub_model_in_the_cache_is_known_by_its_commit(revision, checkpoint, work):
    repository = work / "hub/models--example--tiny"
    checkpoint(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)

    found, findings = look(hub(revision))

    assert findings == []
    assert found.facts.family == "llama"
    assert found.identity == {"hub": "example/tiny", "commit": COMMIT}


SHAPE = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 64,
}


def cached(checkpoint, work, **config: Any) -> None:
    checkpoint(work / f"hub/models--example--tiny/snapshots/{COMMIT}", **config)


def test_shape_stands_in_for_a_model_that_was_never_downloaded(work):
    found, findings = look(hub(shape=SHAPE))

    assert findings == []
    assert (found.facts.layers, found.facts.context) == (2, 64)
    assert found.config == SHAPE
    assert found.identity == {"hub": "example/tiny", "revision": "main"}


def test_shape_that_is_the_cached_one_is_not_spoken_of(checkpoint, work):
    cached(checkpoint, work)

    found, findings = look(hub(COMMIT, SHAPE))

    assert findings == []
    assert found.identity == {"hub": "example/tiny", "commit": COMMIT}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (SHAPE | {"num_hidden_layers": 3}, "layers: 2, model.shape says 3"),
        (SHAPE | {"tie_word_embeddings": True}, "tied embeddings: False, model.shape says True"),
        (SHAPE | {"hidden_size": 15}, "model.shape cannot be built: config.json: hidden"),
    ],
)
def test_cached_config_wins_over_another_shape(given, told, checkpoint, work):
    cached(checkpoint, work)

    found, ((code, severity, message),) = look(hub(COMMIT, given))

    assert (code, severity) == ("LF606", "warning")
    assert message.endswith("has another shape than model.shape; the cached counts")
    assert any(note.startswith(told) for note in found.diagnostics[0].notes)
    assert found.diagnostics[0].hint == "model.shape=null"
    assert (found.facts.layers, found.facts.tied_embeddings) == (2, False)


def test_shape_that_cannot_be_built(work):
    found, ((code, severity, message),) = look(hub(shape=SHAPE | {"hidden_size": 15}))

    assert (code, severity, found.facts) == ("LF605", "error", None)
    assert "hidden_size (15) is no multiple of the 2 heads" in message
    assert found.diagnostics[0].key == "model.shape"


def test_cached_config_that_cannot_be_read(checkpoint, work):
    cached(checkpoint, work)
    (work / f"hub/models--example--tiny/snapshots/{COMMIT}/config.json").write_text("{")

    _, ((code, severity, message),) = look(hub(COMMIT))

    assert (code, severity) == ("LF602", "error")
    assert "cannot be read" in message


def test_config_dict_is_kept_for_rules(checkpoint, work):
    checkpoint(work / "tiny", quantization_config={"quant_method": "gptq"})

    found, _ = look(folder())

    assert found.config["quantization_config"] == {"quant_method": "gptq"}
    assert found.config == json.loads((work / "tiny/config.json").read_text())
