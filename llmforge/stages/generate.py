"""Generate: answers of a model, one at a time or many at once.

In: a model, its tokenizer and the settings of the `generation` section. Out: text. Prompts are
rendered by the tokenizer's chat template when it has one; batches are padded on the left, stop at
the end of turn, and use the key-value cache.

Stop strings and streams are in `stops.py`, files of prompts in `answer_file.py`, talks in
`chat.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from llmforge.build.templates import leading_ids, stop_ids
from llmforge.stages.stops import StopTexts, Stream, cut_at

Prompt = str | list[dict[str, Any]]
"""A user turn, or a whole talk as {role, content} messages."""

_DRAWING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
"""Settings of drawing and what leaves the distribution as it is."""

_OFF = {
    "num_beams": 1,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
}
"""Settings that hold with and without drawing, and what turns them off."""


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    """Without special tokens, stop strings and white space at either end."""
    tokens: int
    """Tokens that were generated, the end of turn left out."""
    ended: Literal["turn", "stop", "length"]
    """By the end of turn (or of text), by a stop string, or by `max_new_tokens` or the context."""


def generate(
    model: Any, tokenizer: Any, prompts: Prompt | Sequence[Prompt], **generation: Any
) -> list[Answer]:
    """Answers to one prompt or several: `llmforge.generate`.

    Args:
        model: as `llmforge.load` gives it; stays on its device and in its mode.
        tokenizer: the model's.
        prompts: a text, a talk as {role, content} messages, or a list of such.
        generation: any of the keys of the `generation` section. Those not given are as in
            `conf/generation/default.yaml`; `preset="creative"` takes another option of that group.

    Returns:
        As many answers as prompts, in their order.

    Raises:
        ConfigRefused: an unknown key, or a value that is not allowed (LF101, LF104, LF860).
        ValueError: a prompt is empty, or leaves no room in the model's context.
    """
    from llmforge.compiler.generation import generation_settings

    settings = generation_settings(**generation)
    talk = isinstance(prompts, str) or (bool(prompts) and isinstance(prompts[0], Mapping))
    asked: Any = [prompts] if talk else list(prompts)
    return answers(model, tokenizer, asked, settings)


def answers(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], generation: Mapping[str, Any]
) -> list[Answer]:
    """Answers to many prompts, in their order; see `complete` for what is raised."""
    system = generation.get("system")
    ids = [prompt_ids(tokenizer, prompt, system) for prompt in prompts]
    batch = int(generation.get("batch", 1))
    found = _completions(model, tokenizer, ids, generation, batch)
    return [_answer(tokenizer, one, generation) for one in found]


def answer(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    generation: Mapping[str, Any],
    stream: Callable[[str], None] | None = None,
) -> str:
    """The text of one answer; see `answer_whole`."""
    return answer_whole(model, tokenizer, prompt, generation, stream).text


def answer_whole(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    generation: Mapping[str, Any],
    stream: Callable[[str], None] | None = None,
) -> Answer:
    """One answer.

    Args:
        prompt: a user turn, or a whole talk as {role, content} messages, when the tokenizer has a
            chat template; else the text to continue.
        generation: as in the section `generation`; only `max_new_tokens` must be there.
        stream: called with each piece of text as it is generated.

    Raises:
        ValueError: the prompt leaves no room in the model's context, messages were given to a
            tokenizer without a chat template, or beams are to be streamed.
    """
    stops = list(generation.get("stop", ()))
    if stream is not None and int(generation.get("num_beams", 1)) > 1:
        raise ValueError(
            "beam search changes what it has written, so its answer cannot be streamed"
        )
    ids = prompt_ids(tokenizer, prompt, generation.get("system"))
    streamer = Stream(tokenizer, stream, stops) if stream is not None else None
    (found,) = _completions(model, tokenizer, [ids], generation, 1, streamer)
    return _answer(tokenizer, found, generation)


def prompt_ids(tokenizer: Any, prompt: Prompt, system: str | None = None) -> list[int]:
    """Token ids of a prompt, as training saw them.

    Args:
        tokenizer: of the model.
        prompt: see `Prompt`.
        system: stands before it, unless the talk brings a system message of its own.

    Raises:
        ValueError: the tokenizer's template takes no system prompt, or there is no template for a
            talk.
    """
    if tokenizer.chat_template:
        return _rendered(tokenizer, messages_of(prompt, system))
    if not isinstance(prompt, str):
        raise ValueError(  # noqa: TRY004 - it is the tokenizer that does not fit, not the type
            "this model's tokenizer has no chat template; give the prompt as plain text"
        )
    if system is not None:
        raise ValueError(
            "this model's tokenizer has no chat template, so there is no place for a system prompt"
        )
    return plain_ids(tokenizer, prompt)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text to continue, without a chat template."""
    # a trailing space belongs to the answer's first token (see build/tokenize.py)
    ids: list[int] = tokenizer(text.rstrip(" "), add_special_tokens=False)["input_ids"]
    lead = leading_ids(tokenizer)
    return ids if ids[:1] == lead else [*lead, *ids]


def messages_of(prompt: Prompt, system: str | None) -> list[dict[str, Any]]:
    """A talk, with the system prompt before it where it has none of its own."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system is None or (messages and messages[0].get("role") == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _rendered(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ValueError(f"the model's chat template refuses the prompt: {error}") from error
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


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
    but `max_new_tokens`; what is left out means greedy. A stop string is still in the ids: `decode`
    cuts it off.

    Raises:
        ValueError: a prompt is empty or fills the model's context.
    """
    found = _completions(model, tokenizer, prompts, generation, batch, streamer)
    return [one.ids for one in found]


def context_of(model: Any) -> int | None:
    """Tokens that the model sees at once; None where its config does not say."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found if found is None else int(found)


def decode(tokenizer: Any, ids: list[int], stops: Sequence[str] = ()) -> str:
    """Text of generated ids up to a stop string, special tokens left out, stripped."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return cut_at(text, stops)[0].strip()


@dataclass
class _Completion:
    ids: list[int]
    stopped: bool
    """By a stop token."""


def _answer(tokenizer: Any, found: _Completion, generation: Mapping[str, Any]) -> Answer:
    text = tokenizer.decode(found.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text, cut = cut_at(text, list(generation.get("stop", ())))
    ended: Literal["turn", "stop", "length"] = "turn" if found.stopped else "length"
    return Answer(text.strip(), len(found.ids), "stop" if cut else ended)


def _completions(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    generation: Mapping[str, Any],
    batch: int = 1,
    streamer: Any = None,
) -> list[_Completion]:
    context = context_of(model)
    for ids in prompts:
        if not ids:
            raise ValueError("an empty prompt has nothing to continue")
        if context is not None and len(ids) >= context:
            raise ValueError(
                f"the prompt has {len(ids)} tokens and the model sees {context}, which leaves no "
                "room for an answer"
            )
    stops = set(stop_ids(tokenizer))
    texts = list(generation.get("stop", ()))
    # a tokenizer need not have a padding token, and what stands there is not looked at
    pad = next(
        id_ for id_ in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if id_ is not None
    )
    device = next(model.parameters()).device
    found = [_Completion([], False) for _ in prompts]
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
            config = _config(pad, generation, sorted(stops), room)
            ids, mask = _left_padded([prompts[n] for n in chosen], pad)
            ends = [StopTexts(tokenizer, texts, longest)] if texts else []
            with torch.no_grad(), _drawn_with(generation, start, device):
                output = model.generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    generation_config=config,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList(ends),
                )
            for number, tokens in zip(chosen, output[:, longest:].tolist(), strict=True):
                end = next((at for at, id_ in enumerate(tokens) if id_ in stops), None)
                found[number] = _Completion(tokens[:end], end is not None)
    finally:
        model.generation_config = own
        model.train(was_training)
    return found


@contextmanager
def _drawn_with(generation: Mapping[str, Any], offset: int, device: torch.device) -> Iterator[None]:
    """Inside, answers are drawn with the seed of `generation`; what is drawn later is not."""
    seed = generation.get("seed")
    if seed is None or not generation.get("sample", False):
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed) + offset)
        yield


def is_greedy(generation: Mapping[str, Any]) -> bool:
    """Do these settings give the answers that `max_new_tokens` alone would give?"""
    changed = any(generation.get(name, off) != off for name, off in _OFF.items())
    return not (changed or generation.get("sample") or generation.get("stop"))


def _config(
    pad: int, generation: Mapping[str, Any], stops: list[int], room: int | None
) -> GenerationConfig:
    length = int(generation["max_new_tokens"])
    length = length if room is None else min(length, room)
    chosen: dict[str, Any] = {"do_sample": bool(generation.get("sample", False))}
    if chosen["do_sample"]:
        # all are named: the library's own default of 50 for top_k is set by nobody here
        chosen |= {name: generation.get(name, off) for name, off in _DRAWING.items()}
        chosen["min_p"] = chosen["min_p"] or None
    for name, off in _OFF.items():
        if generation.get(name, off) != off:
            chosen[name] = generation[name]
    if "min_new_tokens" in chosen:
        chosen["min_new_tokens"] = min(chosen["min_new_tokens"], length)
    return GenerationConfig(
        max_new_tokens=length,
        eos_token_id=stops or None,
        pad_token_id=pad,
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
