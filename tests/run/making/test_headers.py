"""Heads of safetensors files, also of files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmforge.run.making.headers import BadHeader, Header, main_dtype, read_headers, size_in


def test_what_a_file_holds_is_read_without_its_weights(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.int8)}, str(file))
    found = read_headers(file)
    assert found == {"a": Header("F32", (2, 3)), "b": Header("I8", (4,))}
    assert (size_in(found, None), size_in(found, "float16")) == (28, 16)
    assert main_dtype(found) == "float32"


def entry(**change: object) -> bytes:
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **change}
    return json.dumps({"a": one}).encode()


@pytest.mark.parametrize(
    "head",
    [
        b"no json",
        b"[" * 50_000,
        b"[]",
        entry(data_offsets=[0, None]),
        entry(data_offsets=[]),
        entry(shape="wide"),
        entry(data_offsets=[0, 400]),
    ],
)
def test_what_is_no_such_file_is_told_as_that(tmp_path: Path, head: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(BadHeader):
        read_headers(file)
