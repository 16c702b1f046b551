"""Generate: answers of a model, one at a time or many at once.

In: a model, its tokenizer and the settings of the `generation` section. Out: text. Prompts are
rendered by the tokenizer's chat template when it has one; batches are padded on the left, stop at
the end of turn, and use the key-value cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer

from llmforge.build.templates import leading_ids, stop_ids


def answer(
    model: Any,
    tokenizer: Any,
    prompt: str | list[dict[str, Any]],
    generation: Mapping[str, Any],
    stream: Callable[[str], None] | None = None,
) -> str:
    """One answer.

    Args:
        prompt: a user turn, or a whole talk as {role, content} messages, when the tokenizer has a
            chat template; else the text to continue.
        generation: `max_new_tokens`, `sample`, `temperature`, `top_p`, `repetition_penalty`.
        stream: called with each piece of text as it is generated.

    Raises:
        ValueError: the prompt leaves no room in the model's context, or messages were given to a
            tokenizer without a chat template.
    """
    ids = prompt_ids(tokenizer, prompt)
    streamer = _Streamer(tokenizer, stream) if stream is not None else None
    found = complete(model, tokenizer, [ids], generation, streamer=streamer)[0]
    return decode(tokenizer, found)


def prompt_ids(tokenizer: Any, prompt: str | list[dict[str, Any]]) -> list[int]:
    """Token ids of a prompt, as training saw them."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
    if not isinstance(prompt, str):
        raise ValueError(  # noqa: TRY004 - it is the tokenizer that does not fit, not the type
            "this model's tokenizer has no chat template; give the prompt as plain text"
        )
    # a trailing space belongs to the answer's first token (see build/tokenize.py)
    ids = tokenizer(prompt.rstrip(" "), add_special_tokens=False)["input_ids"]
    lead = leading_ids(tokenizer)
    return ids if ids[:1] == lead else [*lead, *ids]


def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    generation: Mapping[str, Any],
    batch: int = 1,
    streamer: Any = None,
) -> list[list[int]]:
    """Continuations of many prompts in token ids, in the prompts' order, without the stop token.

    Prompts of like length share a batch, so little is padded. `generation` may leave out everything
    but `max_new_tokens`; what is left out means greedy.

    Raises:
        ValueError: a prompt is empty or fills the model's context.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    for ids in prompts:
        if not ids:
            raise ValueError("an empty prompt has nothing to continue")
        if context is not None and len(ids) >= context:
            raise ValueError(
                f"the prompt has {len(ids)} tokens and the model sees {context}, which leaves no "
                "room for an answer"
            )
    stops = set(stop_ids(tokenizer))
    device = next(model.parameters()).device
    found: list[list[int]] = [[] for _ in prompts]
    was_training = model.training
    own = model.generation_config
    model.eval()
    try:
        # a checkpoint brings settings of its own, which would fill in whatever the plan leaves at
        # its default (a penalty, a temperature); what the plan says is what happens
        model.generation_config = GenerationConfig()
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]), reverse=True)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            longest = len(prompts[chosen[0]])
            room = None if context is None else context - longest
            config = _config(tokenizer, generation, sorted(stops), room)
            ids, mask = _left_padded([prompts[n] for n in chosen], tokenizer.pad_token_id)
            with torch.no_grad():
                output = model.generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    generation_config=config,
                    streamer=streamer,
                )
            for number, tokens in zip(chosen, output[:, longest:].tolist(), strict=True):
                end = next((at for at, id_ in enumerate(tokens) if id_ in stops), len(tokens))
                found[number] = tokens[:end]
    finally:
        model.generation_config = own
        model.train(was_training)
    return found


def decode(tokenizer: Any, ids: list[int]) -> str:
    """Text of generated ids, special tokens left out, white space at both ends stripped."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()


def _config(
    tokenizer: Any, generation: Mapping[str, Any], stops: list[int], room: int | None
) -> GenerationConfig:
    length = int(generation["max_new_tokens"])
    chosen: dict[str, Any] = {"do_sample": bool(generation.get("sample", False))}
    if chosen["do_sample"]:
        chosen |= {key: generation[key] for key in ("temperature", "top_p") if key in generation}
        chosen["top_k"] = 0  # the library's own default of 50 is set by nobody here
    return GenerationConfig(
        max_new_tokens=length if room is None else min(length, room),
        repetition_penalty=float(generation.get("repetition_penalty", 1.0)),
        eos_token_id=stops or None,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
        **chosen,
    )


def _left_padded(prompts: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


class _Streamer(TextStreamer):  # type: ignore[misc]
    """Hands out text as soon as its characters are whole."""

    def __init__(self, tokenizer: Any, stream: Callable[[str], None]) -> None:
        super().__init__(
            tokenizer,
            skip_prompt=True,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        self._stream = stream

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002 - the library's signature
        if text:
            self._stream(text)
