"""A GGUF file is the model of its folder to the last bit, and the proof tells when it is not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from llmforge.build.gguf.convert import cut_of
from llmforge.installed import installed_version
from llmforge.refs.models import Place
from llmforge.run.making.converting import PACKAGES, NotConverted, convert, wanted


@pytest.fixture(scope="module")
def made(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/` and its `model.gguf`, made as `llmforge export` does."""
    missing = [name for name in PACKAGES if installed_version(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: the extra gguf")
    folder = tmp_path_factory.mktemp("gguf")
    model = shutil.copytree(checkpoint("llama"), folder / "model")
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    # what a model folder may bring is data here, and never run
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["own.Own", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    trap = f"open({str(folder / 'ran')!r}, 'w')\nclass Own: pass\n"
    (model / "own.py").write_text(trap)
    convert(wanted(Place(model, "tiny"), folder / "model.gguf", None), lambda _: None)
    return folder


def test_every_tensor_and_token_is_there(made: Path):
    from gguf import GGUFReader

    record = json.loads((made / "model.gguf.json").read_text())
    weights = load_file(made / "model" / "model.safetensors")
    assert (record["faults"], record["tensors"]) == ([], len(weights))
    assert record["formats"] == {"F32": len(weights)}
    assert sorted(path.name for path in made.iterdir()) == [
        "model",
        "model.gguf",
        "model.gguf.json",
    ]

    reader = GGUFReader(made / "model.gguf")
    assert reader.get_field("general.name").contents() == "tiny"
    assert reader.get_field("tokenizer.ggml.pre").contents() == "gpt-2"
    assert reader.get_field("tokenizer.chat_template").contents() == "{{ messages[0].content }}"
    told: list[str] = []
    convert(wanted(Place(made / "model", "tiny"), made / "model.gguf", None), told.append)
    assert "this is its record" in told[0]


KILLED = """
import os, signal, sys
from pathlib import Path
from llmforge.refs.models import Place
from llmforge.run.making.converting import convert, wanted
move = Path.replace
def then_die(self, target):
    move(self, target)
    if Path(target).name == "model.gguf":
        os.kill(os.getpid(), signal.SIGKILL)
Path.replace = then_die
convert(wanted(Place(Path(sys.argv[1]), "tiny"), Path(sys.argv[2]), None), print)
"""


@pytest.mark.slow
def test_killed_after_the_file_was_moved_it_is_known_and_not_made_again(made: Path, tmp_path: Path):
    file = tmp_path / "model.gguf"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(made / "model"), str(file)], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert file.is_file()
    assert not file.with_name("model.gguf.json").exists()

    told: list[str] = []
    record = convert(wanted(Place(made / "model", "tiny"), file, None), told.append)

    assert "this is its record" in told[0]
    assert record["files"]["model.gguf"]["bytes"] == file.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"model.gguf", "model.gguf.json"}


def test_transformers_says_the_same_of_both(made: Path):
    import torch
    from transformers import AutoModelForCausalLM

    one = AutoModelForCausalLM.from_pretrained(made / "model")
    two = AutoModelForCausalLM.from_pretrained(made, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    assert torch.equal(one(ids).logits, two(ids).logits)


def scaled(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.001
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def lost(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.bias"] = weights["model.norm.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def changed(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        told = json.loads((folder / name).read_text())
        change(told)
        (folder / name).write_text(json.dumps(told))

    return fault


def swap(told: Any) -> None:
    words = told["model"]["vocab"]
    one, two = sorted(words, key=words.get)[-2:]
    words[one], words[two] = words[two], words[one]


FAULTS = {
    "layers.1.mlp.up_proj.weight has other numbers": scaled,
    "1 tensors of the folder are not in the file": lost,
    "tokens are others": changed("tokenizer.json", swap),
    "max_position_embeddings is": changed(
        "config.json", lambda told: told.update(max_position_embeddings=999)
    ),
    "rope_theta is 10000.0, not 5000.0": changed(
        "config.json", lambda told: told.update(rope_parameters={"rope_theta": 5000.0,
                                                                 "rope_type": "default"})
    ),
    "the chat template is another": lambda folder: (folder / "chat_template.jinja").write_text("x"),
}  # fmt: skip


@pytest.mark.parametrize("told", FAULTS)
def test_a_file_of_another_model_is_told(made: Path, tmp_path: Path, told: str):
    from llmforge.build.gguf.proof import prove

    other = shutil.copytree(made / "model", tmp_path / "model")
    assert prove(other, made / "model.gguf")["faults"] == []
    FAULTS[told](other)
    (fault,) = prove(other, made / "model.gguf")["faults"]
    assert told in fault


@pytest.mark.slow
def test_eight_bits_are_within_half_a_step(made: Path, tmp_path: Path):
    record = convert(wanted(Place(made / "model", "tiny"), tmp_path / "small", "q8_0"), print)
    assert record["faults"] == []
    assert record["formats"]["Q8_0"] > record["formats"]["F32"] / 2
    assert record["bytes"] < (made / "model.gguf").stat().st_size


def test_how_a_tokenizer_cuts_is_named_only_where_it_is_known(tmp_path: Path):
    def cut(**told: Any) -> str | None:
        (tmp_path / "tokenizer.json").write_text(json.dumps(told))
        return cut_of(tmp_path)

    plain = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    assert cut(pre_tokenizer=plain) == "gpt-2"
    assert cut(pre_tokenizer=plain | {"trim_offsets": True}, normalizer=None) == "gpt-2"
    assert cut(pre_tokenizer=plain, normalizer={"type": "NFC"}) is None
    assert cut(pre_tokenizer=plain | {"add_prefix_space": True}) is None
    assert cut(pre_tokenizer={"type": "Sequence", "pretokenizers": [plain]}) is None


@pytest.mark.slow
def test_a_tokenizer_that_the_converter_does_not_know(made: Path, tmp_path: Path):
    other = shutil.copytree(made / "model", tmp_path / "model")
    changed("tokenizer.json", lambda told: told.update(normalizer={"type": "NFKD"}))(other)
    with pytest.raises(NotConverted) as caught:
        convert(wanted(Place(other, "own"), tmp_path / "own.gguf", None), print)
    assert caught.value.diagnostic.code == "LF991"
    assert "pre-tokenizer" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
