"""Chat templates: which one a tokenizer gets, and which tokens end a turn.

In: a tokenizer and `tokenizer.chat_template`. Out: a Jinja template set on the tokenizer, and the
ids that stop generation. The template travels with the tokenizer, so that training, answering and
any other engine that loads the final folder render the same text.

ChatML is built in. A tokenizer that lacks `<|im_start|>` and `<|im_end|>` as special tokens gets
no new tokens (their embedding rows would be untrained): the marks are then ordinary text, and each
assistant turn ends with the tokenizer's own end token as well, so that there is one token that
stops generation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

_CHATML = (
    "{bos}"
    "{{%- for message in messages -%}}"
    "{{{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' -}}}}"
    "{end}"
    "{{{{- '\\n' -}}}}"
    "{{%- endfor -%}}"
    "{{%- if add_generation_prompt -%}}"
    "{{{{- '<|im_start|>assistant\\n' -}}}}"
    "{{%- endif -%}}"
)
_END = "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}"

_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def chatml(tokenizer: Any) -> str:
    """ChatML for this tokenizer: begun with its BOS token where it uses one, see the module.

    Raises:
        ValueError: the marks are no special tokens and there is no end token to stop at either.
    """
    special = special_ids(tokenizer)
    known = tokenizer.get_vocab()
    marks = all(known.get(mark) in special for mark in (TURN_START, TURN_END))
    if not marks and tokenizer.eos_token is None:
        raise ValueError(
            "the tokenizer has neither <|im_end|> nor an end token, so no answer could ever stop; "
            "give a tokenizer.chat_template of its own"
        )
    bos = "{{- bos_token -}}" if leading_ids(tokenizer) else ""
    return _CHATML.format(bos=bos, end="" if marks else _END)


def set_chat_template(tokenizer: Any, setting: str, chats: bool) -> None:
    """Give the tokenizer its template.

    `auto` keeps the tokenizer's own and falls back to ChatML when the data are chats (`chats`);
    `chatml` always sets ChatML; anything else is the path of a Jinja file (UTF-8).
    """
    if setting == "chatml" or (setting == "auto" and chats and not tokenizer.chat_template):
        tokenizer.chat_template = chatml(tokenizer)
    elif setting != "auto":
        tokenizer.chat_template = Path(setting).read_text(encoding="utf-8")


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all special tokens, named ones (`eos_token`) and reserved ones alike."""
    added = tokenizer.added_tokens_decoder
    return set(tokenizer.all_special_ids) | {id_ for id_, token in added.items() if token.special}


def leading_ids(tokenizer: Any) -> list[int]:
    """`[bos]` when the tokenizer begins every text with its BOS token, else nothing."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def stop_ids(tokenizer: Any) -> list[int]:
    """Ids that end an answer: the end of an assistant turn first, then the end token.

    The end of turn is the last special token that the template writes after an answer. Empty when
    the tokenizer has neither.
    """
    found: list[int] = []
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(_PROBE, tokenize=False)
        start = tokenizer.apply_chat_template(
            _PROBE[:1], tokenize=False, add_generation_prompt=True
        )
        turn = text.removeprefix(start)
        special = special_ids(tokenizer)
        ids = tokenizer(turn, add_special_tokens=False)["input_ids"]
        found = [id_ for id_ in ids if id_ in special][-1:]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in found:
        found.append(tokenizer.eos_token_id)
    return found
