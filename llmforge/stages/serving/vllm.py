"""Serving through vLLM, where the user has it installed: its own server in the place of this
process.

In: the model's place, the name and address under which it is to answer, flags of loading. Out: the
command, started. An adapter is served over its base, as vLLM does it; what vLLM reads in another
way than llmforge, or not at all, is refused (LF933) and can be served by transformers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from llmforge.build.load import ADAPTER_CONFIG, BASE, is_adapter
from llmforge.build.places import Place, base_name
from llmforge.diagnostics import ConfigRefused, Diagnostic

if TYPE_CHECKING:
    import argparse

_MODULE = "vllm.entrypoints.openai.api_server"


def start(place: Place, name: str, url: str, parsed: argparse.Namespace) -> NoReturn:
    """Become vLLM's server; signals and the exit code are its own."""
    line = command(
        place, name, url, parsed.dtype, parsed.quantization, parsed.adapter, parsed.device
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", _MODULE, *line])  # noqa: S606 - our own list


def command(
    place: Place,
    name: str,
    url: str,
    dtype: str | None = None,
    quantization: str | None = None,
    adapters: list[str] | None = None,
    device: str = "auto",
) -> list[str]:
    """Arguments of vLLM's server.

    Raises:
        ConfigRefused: LF933.
    """
    if quantization is not None or adapters or device != "auto":
        raise _refused("--quantization, --adapter and --device are not what vLLM takes")
    address = urlsplit(url)
    line = ["--host", str(address.hostname), "--port", str(address.port)]
    if dtype is not None:
        line += ["--dtype", dtype]
    folder = place.folder
    if folder is None:
        source, revision = base_name(place)
        return ["--model", source, "--served-model-name", name, *_at(revision), *line]
    if not is_adapter(folder):
        return ["--model", str(folder), "--served-model-name", name, *line]
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if config["peft_type"] != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        raise _refused("the adapter is more than plain LoRA, which vLLM does not read")
    base, revision = _base_of(place, folder)
    ranks = [config["r"], *(config.get("rank_pattern") or {}).values()]
    # it has room for ranks of these sizes only
    room = next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= max(ranks)), None)
    if room is None:
        raise _refused(f"the adapter's rank is {max(ranks)}, and vLLM has room for 512")
    adapter = ["--enable-lora", "--max-lora-rank", str(room), "--lora-modules", f"{name}={folder}"]
    return ["--model", base, "--served-model-name", f"{name}-base", *_at(revision), "--tokenizer",
            str(folder), *adapter, *line]  # fmt: skip


def _base_of(place: Place, folder: Path) -> tuple[str, str | None]:
    own = folder / BASE
    if own.is_dir():
        return str(own), None
    written = place.run.model / BASE if place.run is not None else None
    if written is not None and written.is_dir():
        return str(written), None
    return base_name(place)


def _at(revision: str | None) -> list[str]:
    return ["--revision", revision] if revision is not None else []


def _refused(message: str) -> ConfigRefused:
    return ConfigRefused([Diagnostic("LF933", message, hint="--engine transformers")])
