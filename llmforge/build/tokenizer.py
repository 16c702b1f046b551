"""The tokenizer: trained on the rows, or loaded, and given a padding token and a chat template.

In: a plan and the training rows. Out: a fast tokenizer that round-trips text. No path adds a token
to a loaded tokenizer, because a new token means an untrained embedding row.

This module does not tokenise samples: `tokenize.py` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmforge.build.templates import (
    TURN_END,
    TURN_START,
    leading_ids,
    set_chat_template,
    stop_ids,
)
from llmforge.plan import Plan
from llmforge.sources.base import Row

PAD, EOS = "<pad>", "<eos>"


def make_tokenizer(plan: Plan, rows: Iterable[Row]) -> Any:
    """The run's tokenizer, from the source that the plan names.

    Raises:
        ValueError: the tokenizer has no fast (offset-giving) form, or its template cannot stop.
    """
    spec = plan.spec.tokenizer
    first, rows = _first(rows)
    # pairs may be of texts or of chats
    pair_of_chats = first is not None and isinstance(first.values.get("chosen"), dict)
    chats = plan.spec.collator.kind == "chat" or pair_of_chats
    if spec.source == "train":
        longest = int(plan.spec.collator.max_length)
        tokenizer = train_tokenizer(texts(rows), spec.vocabulary, longest)
    elif spec.source == "model":
        model = plan.lowered["model"]
        tokenizer = open_tokenizer(
            model["pretrained_model_name_or_path"],
            revision=model.get("revision"),
            trust_remote_code=bool(model.get("trust_remote_code", False)),
        )
    else:
        tokenizer = open_tokenizer(spec.source)
    # first, since a shipped template writes BOS where the tokenizer begins texts with it
    set_edges(tokenizer, spec.add_bos, spec.add_eos)
    set_chat_template(tokenizer, spec.chat_template, chats=chats)
    give_padding(tokenizer)
    return tokenizer


def _first(rows: Iterable[Row]) -> tuple[Row | None, Iterable[Row]]:
    """The first row, and all of them."""
    left = iter(rows)
    first = next(left, None)
    return first, left if first is None else chain((first,), left)


def set_edges(tokenizer: Any, bos: bool | str, eos: bool | str) -> None:
    """Let the tokenizer begin texts with BOS and end them with the end token, or not.

    Args:
        tokenizer: changed in place, in a way that is saved with it.
        bos: true, false, or `auto` for what it does by itself; `eos` likewise.

    Raises:
        ValueError: it has no such token.
    """
    if bos == "auto" and eos == "auto":
        return  # its own way of doing it may be more than a token at either end
    for name, asked in (("bos", bos), ("eos", eos)):
        if asked is True and getattr(tokenizer, f"{name}_token") is None:
            raise ValueError(f"tokenizer.add_{name}=true, but the tokenizer has no {name} token")
    begins, ends = bool(leading_ids(tokenizer)), bool(trailing_ids(tokenizer))
    # one at a time makes the library write its post-processor anew, with both as they stand then
    tokenizer.add_bos_token = begins if bos == "auto" else bos
    tokenizer.add_eos_token = ends if eos == "auto" else eos


def trailing_ids(tokenizer: Any) -> list[int]:
    """`[eos]` when the tokenizer ends every text with its end token, else nothing."""
    eos = tokenizer.eos_token_id
    return [eos] if eos is not None and tokenizer("a")["input_ids"][-1:] == [eos] else []


def open_tokenizer(
    source: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """A tokenizer from a folder (never from the network), or from a hub repository."""
    if Path(source).is_dir():
        # transformers prefers the class that a model's family is known for over the one the folder
        # declares; for Qwen2 that splits text in another way and adds a token without a row
        plain = _declared_class(Path(source)) == "TokenizersBackend"
        kind = PreTrainedTokenizerFast if plain else AutoTokenizer
        options: dict[str, Any] = {"local_files_only": True}
    else:
        kind, options = AutoTokenizer, {"revision": revision} if revision else {}
    if kind is AutoTokenizer:
        options["trust_remote_code"] = trust_remote_code
    tokenizer = kind.from_pretrained(str(source), **options)
    if not tokenizer.is_fast:
        raise ValueError(
            f"{source} has no fast tokenizer (tokenizer.json), and masks need the place of every "
            "token in the text"
        )
    return tokenizer


def _declared_class(folder: Path) -> str | None:
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the library says what is wrong with it
    return None if "auto_map" in config else config.get("tokenizer_class")


def train_tokenizer(texts: Iterable[str], vocabulary: int, max_length: int) -> Any:
    """Byte-level BPE with `<pad>`, `<eos>`, `<|im_start|>` and `<|im_end|>` as tokens 0 to 3.

    Every byte has a token, so any UTF-8 text comes back as it was. The same texts give the same
    tokenizer; a small text gives fewer than `vocabulary` tokens.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        extra_special_tokens=[TURN_START, TURN_END],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def texts(rows: Iterable[Row]) -> Iterator[str]:
    """What a tokenizer is trained on: contents and roles, without the template's marks."""
    for row in rows:
        values = row.values
        if isinstance(values.get("chosen"), dict):  # a pair of chats
            values = {"messages": [*values["prompt"], values["chosen"], values["rejected"]]}
        if "messages" in values:
            for message in values["messages"]:
                calls = message.get("tool_calls")
                said = (
                    [message.get("content"), json.dumps(calls, ensure_ascii=False)]
                    if calls
                    else [message.get("content")]
                )
                yield "\n".join([message.get("role", ""), *(text for text in said if text)])
        else:
            parts = (values[name] for name in _TEXTS if values.get(name))
            yield "\n".join("\n".join(p) if isinstance(p, list) else p for p in parts)


_TEXTS = (
    *("text", "text_parts", "prompt", "completion", "instruction", "input", "output"),
    *("chosen", "rejected"),
)


def give_padding(tokenizer: Any) -> None:
    """Make sure there is a padding token, apart from the end token wherever that is possible.

    Without one, an unused special token is taken: one named like padding, else a reserved one,
    else the unknown token. The last resort is the end token itself, which is safe here because
    labels and attention are masked by position, never by token id.
    """
    if tokenizer.pad_token_id is not None:
        return
    ends = {*stop_ids(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id}
    added = {
        id_: token.content
        for id_, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and id_ not in ends
    }
    for word in ("pad", "reserved"):
        for content in added.values():
            if word in content.lower():
                tokenizer.pad_token = content
                return
    if tokenizer.unk_token is not None and tokenizer.unk_token_id not in ends:
        tokenizer.pad_token = tokenizer.unk_token
    elif tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    else:
        raise ValueError("the tokenizer has no special token at all to pad with")
