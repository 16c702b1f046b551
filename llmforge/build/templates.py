"""Chat templates: which one a tokenizer gets, and which tokens end a turn.

In: a tokenizer and `tokenizer.chat_template`. Out: a Jinja template set on the tokenizer, and the
ids that stop generation. The template travels with the tokenizer, so that training, answering and
any other engine that loads the final folder render the same text. Rendering is in `render.py`.

The templates by name lie in `sources/chat_templates`. A tokenizer that lacks a template's marks
gets no new tokens (their embedding rows would be untrained): the marks are then ordinary text, and
each assistant turn ends with the tokenizer's own end token as well, so that there is one token that
stops generation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmforge.sources import chat_templates

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

_TURN_ENDS = {
    "chatml": TURN_END,
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "phi3": "<|end|>",
}
"""What ends an assistant's turn; the other templates end it with the tokenizer's end token."""

VERBATIM = ("chatml", "mistral", "phi3", "vicuna", "zephyr")
"""Templates that write every content as it is, whatever it is (see `forms.py`)."""

_ANSWER = "llmforge-probe"
_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]


def named_template(tokenizer: Any, name: str) -> str:
    """The template of that name for this tokenizer.

    `opening` and `closing` are set for it where they are due: the BOS token, which templates of
    models that have no template of their own write where the tokenizer begins every text with one,
    and the end token of turns whose own mark is no token of this tokenizer.

    Raises:
        KeyError: no template has that name.
        ValueError: neither the template's mark nor an end token is there to stop at.
    """
    template = chat_templates.path(name).read_text(encoding="utf-8")
    set_first = ""
    if leading_ids(tokenizer):
        set_first += "{%- set opening = bos_token -%}"
    mark = _TURN_ENDS.get(name)
    if mark is None or tokenizer.get_vocab().get(mark) not in added_ids(tokenizer):
        if tokenizer.eos_token is None:
            lacks = "no end token" if mark is None else f"neither {mark} nor an end token"
            raise ValueError(
                f"the tokenizer has {lacks}, so no answer in the form of {name} could ever stop; "
                "give a tokenizer.chat_template of its own"
            )
        if mark is not None:
            set_first += "{%- set closing = eos_token -%}"
    return set_first + template


def set_chat_template(tokenizer: Any, setting: str, chats: bool) -> None:
    """Give the tokenizer its template.

    `auto` keeps the tokenizer's own and falls back to ChatML when the data are chats (`chats`); a
    name of `chat_templates.names()` always sets that one; anything else is the path of a Jinja file
    (UTF-8). A file that is called like a template is meant by `./name`.
    """
    if setting == "auto":
        if chats and not tokenizer.chat_template:
            tokenizer.chat_template = named_template(tokenizer, "chatml")
    elif setting in chat_templates.names():
        tokenizer.chat_template = named_template(tokenizer, setting)
    else:
        tokenizer.chat_template = Path(setting).read_text(encoding="utf-8")


def is_verbatim(template: str) -> bool:
    """Is it one of those, as `named_template` gives it?"""
    return any(
        template.endswith(chat_templates.path(name).read_text(encoding="utf-8"))
        for name in VERBATIM
    )


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all special tokens, named ones (`eos_token`) and reserved ones alike."""
    added = tokenizer.added_tokens_decoder
    return set(tokenizer.all_special_ids) | {id_ for id_, token in added.items() if token.special}


def added_ids(tokenizer: Any) -> set[int]:
    """Ids of all tokens that text is never merged into: special ones, and marks added without
    being called special, as some published tokenizers have them."""
    return set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)


def leading_ids(tokenizer: Any) -> list[int]:
    """`[bos]` when the tokenizer begins every text with its BOS token, else nothing."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def stop_ids(tokenizer: Any) -> list[int]:
    """Ids that end an answer: the end of an assistant turn first, then the end token.

    The end of turn is the first added token that the template writes behind an answer: Phi-3 writes
    the end token as well, behind the end of turn. Empty when the tokenizer has neither.
    """
    found: list[int] = []
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(_PROBE, tokenize=False)
        behind = text.rpartition(_ANSWER)[2]
        added = added_ids(tokenizer)
        ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
        found = [id_ for id_ in ids if id_ in added][:1]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in found:
        found.append(tokenizer.eos_token_id)
    return found
