"""Run llama.cpp's converter: `python -m llmforge.build.gguf.convert SCRIPTS FOLDER FILE TYPE NAME`.

In: the folder of llama.cpp's scripts, a model folder, the file to write, the format of its weights
as the converter names it, the model's name. Out: the file, or an exit code other than 0 with the
reason in the last line of stderr.

The converter is a program, and is run as one, in this process of its own. Two of its ways are
changed. It opens tokenizers with `trust_remote_code`: here no code of a model is run. And it knows
how a byte-level tokenizer cuts text by a list of published ones: a tokenizer of one's own, which
cuts as GPT-2's does and says so, is named for what it is.

Whether the file is right is asked by `proof.py`.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

_LIKE_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def cut_of(folder: Path) -> str | None:
    """How the tokenizer of a folder cuts text before merging, in llama.cpp's names.

    None where `tokenizer.json` says anything but GPT-2's way: a regular expression of another kind,
    or characters that are normalized first, which llama.cpp would not do.
    """
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    cut = dict(told.get("pre_tokenizer") or {})
    cut.pop("trim_offsets", None)  # places in the text, which change no token
    return "gpt-2" if cut == _LIKE_GPT2 and told.get("normalizer") is None else None


def main(argv: list[str]) -> int:
    """See the module."""
    scripts, folder, file, form, name = argv
    # its own copy of the package `gguf` goes with it
    sys.path[:0] = [scripts, str(Path(scripts) / "gguf-py")]
    _open_tokenizers_safely()
    _know_own_tokenizers(Path(folder))
    words = [folder, "--outfile", file, "--outtype", form, "--model-name", name]
    script = str(Path(scripts) / "convert_hf_to_gguf.py")
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
    return 0


def _open_tokenizers_safely() -> None:
    import transformers

    from llmforge.build.tokenizer import open_tokenizer

    plain = transformers.AutoTokenizer.from_pretrained

    def opened(source: Any, **_: Any) -> Any:
        transformers.AutoTokenizer.from_pretrained = plain  # which may be asked in turn
        try:
            return open_tokenizer(Path(source))
        finally:
            transformers.AutoTokenizer.from_pretrained = opened

    transformers.AutoTokenizer.from_pretrained = opened


def _know_own_tokenizers(folder: Path) -> None:
    from conversion.base import TextModel  # type: ignore[import-not-found]  # of the scripts

    known = TextModel.get_vocab_base_pre

    def named(self: Any, tokenizer: Any) -> Any:
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            if (cut := cut_of(folder)) is None:
                raise
            return cut

    TextModel.get_vocab_base_pre = named


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
