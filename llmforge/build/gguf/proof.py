"""Proof that a GGUF file holds a folder's model: `python -m llmforge.build.gguf.proof FOLDER FILE`.

In: the folder that was converted, the file. Out: one line of JSON on stdout: what was compared, and
`faults`, empty where all agrees. The file is read by the package that defines the format, its
tensors are named and turned back as transformers does when it loads GGUF, and each is compared with
the folder's, one at a time: equal to the last bit, or for 8 bits within half a step. Settings,
tokens, merges, special tokens and chat template are compared as well.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from llmforge.build.fusing.deltas import hollow_model
from llmforge.build.fusing.files import WeightFiles
from llmforge.build.tokenizer import open_tokenizer

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_HALF_STEP = 0.5 / 127 + 2**-10
"""Of 8 bits, as a share of the largest number, with a scale that is rounded to 16 bits."""
_SETTINGS = (
    "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings",
    "vocab_size",
)  # fmt: skip
_COMPUTED = ("rope_freqs.weight",)
"""Tensors that no folder has: they follow from settings."""
_SHOWN = 5


def prove(folder: Path, file: Path) -> dict[str, Any]:
    """What was compared, and what differs.

    Raises:
        ValueError: transformers does not read models of this architecture from GGUF.
    """
    from gguf import GGUFReader
    from transformers import AutoConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    reader = GGUFReader(file)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    told = load_gguf_checkpoint(str(file))["config"]
    counts: Counter[str] = Counter()
    faults = [*_weights(folder, reader, config, told, counts), *_settings(config, told)]
    tokenizer = open_tokenizer(folder)
    faults += _tokens(folder, reader, tokenizer)
    return {
        "faults": faults,
        "tensors": sum(counts.values()),
        "formats": dict(counts),
        "tokens": len(tokenizer),
        "bytes": file.stat().st_size,
    }


def _weights(
    folder: Path, reader: Any, config: Any, told: Mapping[str, Any], counts: Counter[str]
) -> Iterator[str]:
    from gguf import dequantize
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    architecture = _field(reader, "general.architecture")
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=told)
    names = get_gguf_hf_weights_map(hollow_model(config), processor)
    stored = WeightFiles(folder)
    missing = set(stored.stored)
    for tensor in reader.tensors:
        if tensor.name in _COMPUTED:
            continue
        form = tensor.tensor_type.name
        turned = processor.process(
            weights=dequantize(tensor.data, tensor.tensor_type), name=tensor.name,
            tensor_key_mapping=names, parsed_parameters={},
        )  # fmt: skip
        name = names.get(turned.name)
        if name not in missing:
            yield f"{tensor.name} is no tensor of the folder"
            continue
        missing.discard(name)
        counts[form] += 1
        if fault := _other(stored.get(name), torch.tensor(turned.weights), form):
            yield f"{name} {fault}"
    if missing:
        listed = ", ".join(sorted(missing)[:_SHOWN])
        yield f"{len(missing):,} tensors of the folder are not in the file: {listed}"


def _other(ours: torch.Tensor, theirs: torch.Tensor, form: str) -> str | None:
    if ours.shape != theirs.shape:
        return f"has the shape {list(theirs.shape)}, not {list(ours.shape)}"
    plain = ours.float()
    if bool((theirs.isfinite() != plain.isfinite()).any()):
        return f"has numbers that {form} does not hold"
    if form in _FLOATS:
        same = torch.equal(ours.to(_FLOATS[form]).float(), theirs)
        return None if same else "has other numbers"
    off = float((plain - theirs).abs().max())
    return None if off <= _HALF_STEP * float(plain.abs().max()) else f"is off by {off:.3g}"


def _settings(config: Any, told: Mapping[str, Any]) -> Iterator[str]:
    for name in _SETTINGS:
        ours, theirs = getattr(config, name, None), told.get(name)
        if ours is None or theirs is None:
            continue
        if abs(float(ours) - float(theirs)) > 1e-6 * abs(float(ours)):
            yield f"{name} is {theirs}, not {ours}"
    ours = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
    theirs = told.get("rope_theta")
    if ours is not None and theirs is not None and abs(ours - theirs) > 1e-6 * abs(ours):
        yield f"rope_theta is {theirs}, not {ours}"


def _tokens(folder: Path, reader: Any, tokenizer: Any) -> Iterator[str]:
    theirs = _field(reader, "tokenizer.ggml.tokens") or []
    ours = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    other = [place for place, one in enumerate(ours) if theirs[place : place + 1] != [one]]
    if other:
        first = ours[other[0]]
        yield f"{len(other):,} tokens are others, the first is number {other[0]}: {first!r}"
    merges = _field(reader, "tokenizer.ggml.merges")
    if merges is not None and list(merges) != _merges(folder):
        yield "the tokenizer merges otherwise"
    for kind in ("bos", "eos"):
        known = _field(reader, f"tokenizer.ggml.{kind}_token_id")
        own = getattr(tokenizer, f"{kind}_token_id")
        if own is not None and known != own:
            yield f"the {kind} token is {known}, not {own}"
    template = tokenizer.chat_template
    if isinstance(template, str) and _field(reader, "tokenizer.chat_template") != template:
        yield "the chat template is another"


def _merges(folder: Path) -> list[str]:
    """Of `tokenizer.json`, each as `left right`, which is how GGUF has them."""
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    merges = told["model"].get("merges") or []
    # a blank within a token would read as the middle; the converter writes this letter for it
    blank = chr(ord(" ") + 256)
    return [
        one if isinstance(one, str) else " ".join(part.replace(" ", blank) for part in one)
        for one in merges
    ]


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def main(argv: list[str]) -> int:
    """See the module."""
    folder, file = map(Path, argv)
    print(json.dumps(prove(folder, file)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
