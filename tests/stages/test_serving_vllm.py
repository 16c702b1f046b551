"""`llmforge serve --engine vllm`: the command that is started; vLLM itself is not asked for here.

And the address of a server, whichever engine answers there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.build.places import Folder
from llmforge.diagnostics import ConfigRefused
from llmforge.stages.serving.listening import bind, url_of, warning
from llmforge.stages.serving.vllm import command

URL = "http://127.0.0.1:8123/v1"
ADDRESS = ["--host", "127.0.0.1", "--port", "8123"]


def adapter(folder: Path, **changes: Any) -> Path:
    config = {"peft_type": "LORA", "r": 24, "base_model_name_or_path": "org/base",
              "revision": "abc", **changes}  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_full_weights(tmp_path: Path) -> None:
    assert command(Folder(tmp_path), "mine", URL, "bfloat16") == [
        "--model", str(tmp_path), "--served-model-name", "mine", *ADDRESS, "--dtype", "bfloat16"
    ]  # fmt: skip


def test_an_adapter_over_its_base_on_the_hub(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    assert command(Folder(folder), "mine", URL) == [
        "--model", "org/base", "--served-model-name", "mine-base", "--revision", "abc",
        "--tokenizer", str(folder), "--enable-lora", "--max-lora-rank", "32",
        "--lora-modules", f"mine={folder}", *ADDRESS,
    ]  # fmt: skip


def test_an_adapter_over_a_base_of_its_own(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    (folder / "base").mkdir()
    line = command(Folder(folder), "mine", URL)
    assert line[line.index("--model") + 1] == str(folder / "base")
    assert "--revision" not in line


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"peft_type": "IA3"}, {"r": 1024}],
)
def test_what_vllm_does_not_read_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused) as refused:
        command(Folder(adapter(tmp_path / "a", **changes)), "mine", URL)
    (found,) = refused.value.diagnostics
    assert (found.code, found.hint) == ("LF933", "--engine transformers")


def test_a_host_that_others_can_reach_is_warned_of() -> None:
    assert [warning(host) for host in ("127.0.0.1", "::1", "localhost")] == [None] * 3
    found = warning("0.0.0.0")  # noqa: S104 - the point of the test
    assert found
    assert (found.code, found.is_error, found.hint) == ("LF932", False, "--host 127.0.0.1")


def test_a_free_port_is_told_before_anything_listens_there() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken, "127.0.0.1") == f"http://127.0.0.1:{port}/v1"
        assert port > 0
