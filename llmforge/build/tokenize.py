"""Rows to token ids and labels: what carries loss is decided here, by place and never by token id.

In: rows and a tokenizer. Out: one `Sample` or `Rejected` per row, in order, not cut (`fit` cuts).
`lm_sample`, `completion_sample` and `chat_sample` are the builders of the three collator kinds.

What is trained:
* `lm`: every token and the end token.
* `completion`: from the end of the prompt's last non-blank character on, and the end token. The
  white space between the two is the completion's: byte-level tokens begin with their space, so
  " yes" after "A:" is one token, and masking it for the space that the prompt brought would leave
  "yes" untrained. Prompt and completion are joined as written, by a newline when neither has white
  space there; answering strips the prompt the same way. A token that begins before the border is
  the prompt's and masked.
* `chat`: of each assistant turn (or the last, `turns: last`) everything after the generation
  prompt up to and including the turn's last special token, the end of turn. What the template
  writes behind it, such as ChatML's newline, is masked.

Text is tokenised once, whole, with offsets: a token's label depends on where it begins.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.build.data import Row
from llmforge.build.errors import DataRefused
from llmforge.build.templates import leading_ids, special_ids
from llmforge.plan import Plan

IGNORED = -100
"""Label of a token without loss (PyTorch's `ignore_index`)."""

Messages = list[dict[str, Any]]


@dataclass
class Sample:
    """One row in tokens."""

    ids: list[int]
    labels: list[int]
    """As long as `ids`: the token itself where it carries loss, else -100. Not shifted."""
    prompt: str = ""
    """What a person would read as the question to the last answer."""

    @property
    def trained(self) -> int:
        """Tokens with loss. The first token of a sample is never predicted, so never counted."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class Rejected:
    """A row that becomes no sample."""

    reason: str
    """`empty`, `no_trained_token` or `over_max_length`."""


SampleBuilder = Callable[[Sequence[Row], Any, Plan], list[Sample | Rejected]]


def lm_sample(rows: Sequence[Row], tokenizer: Any, plan: Plan) -> list[Sample | Rejected]:  # noqa: ARG001 - one signature for all
    """Every token and the end token carry loss. Rows of any shape."""
    if rows and "messages" in rows[0].values:
        # a template writes its own beginning and ends
        rendered = _render(tokenizer, [row.values["messages"] for row in rows], rows)
        return [Sample(ids, list(ids)) for ids, _, _ in _encode(tokenizer, rendered)]
    joined = [row.values["text"] if "text" in row.values else _join(row)[0] for row in rows]
    made: list[Sample | Rejected] = []
    ends = _Ends(tokenizer)
    for text, (ids, _, _) in zip(joined, _encode(tokenizer, joined), strict=True):
        whole = [*ends.before(ids), *ids, *ends.after(ids)]
        made.append(Sample(whole, list(whole)) if text.strip() else Rejected("empty"))
    return made


def completion_sample(rows: Sequence[Row], tokenizer: Any, plan: Plan) -> list[Sample | Rejected]:  # noqa: ARG001 - one signature for all
    """The completion and the end token carry loss. Rows of shape `prompt_completion`."""
    pairs = [_join(row) for row in rows]
    encoded = _encode(tokenizer, [text for text, _ in pairs])
    made: list[Sample | Rejected] = []
    ends = _Ends(tokenizer)
    for row, (_, border), (ids, starts, _) in zip(rows, pairs, encoded, strict=True):
        if not row.values["completion"].strip():
            made.append(Rejected("empty"))
            continue
        before, after = ends.before(ids), ends.after(ids)
        labels = [id_ if at >= border else IGNORED for id_, at in zip(ids, starts, strict=True)]
        made.append(
            Sample(
                [*before, *ids, *after],
                [*(IGNORED for _ in before), *labels, *after],
                row.values["prompt"].strip(),
            )
        )
    return made


def chat_sample(rows: Sequence[Row], tokenizer: Any, plan: Plan) -> list[Sample | Rejected]:
    """Assistant turns and their ends carry loss. Rows of shape `messages`, or prompt and completion
    taken as one question and its answer.

    Raises:
        DataRefused: the template cannot render a row, or is not stable under prefixes, so that the
            place of a turn cannot be told.
    """
    last_only = getattr(plan.spec.collator, "turns", "all") == "last"
    chats = [_messages(row) for row in rows]
    turns = [_answers(chat, last_only) for chat in chats]
    wholes = _render(tokenizer, chats, rows)
    owners = [rows[number] for number, found in enumerate(turns) for _ in found]
    prompts = iter(
        _render(
            tokenizer,
            [chat[:turn] for chat, found in zip(chats, turns, strict=True) for turn in found],
            owners,
            answer_next=True,
        )
    )
    replies = iter(
        _render(
            tokenizer,
            [chat[: turn + 1] for chat, found in zip(chats, turns, strict=True) for turn in found],
            owners,
        )
    )
    special = special_ids(tokenizer)
    made: list[Sample | Rejected] = []
    for row, chat, found, whole, (ids, starts, stops) in zip(
        rows, chats, turns, wholes, _encode(tokenizer, wholes), strict=True
    ):
        spans = [_span(next(prompts), next(replies), whole, row, turn) for turn in found]
        if not found:
            made.append(Rejected("no_trained_token"))
            continue
        if not any(chat[turn]["content"].strip() for turn in found):
            made.append(Rejected("empty"))
            continue
        labels = [IGNORED] * len(ids)
        ended = True
        for begin, end in spans:
            first = bisect_left(starts, begin)
            behind = bisect_left(starts, end)
            while behind > first and stops[behind - 1] > end:
                behind -= 1  # a token that reaches into the next turn is not the answer's
            closing = [place for place in range(first, behind) if ids[place] in special][-1:]
            ended = bool(closing)
            behind = closing[0] + 1 if closing else behind
            labels[first:behind] = ids[first:behind]
        if not ended and found[-1] == len(chat) - 1 and tokenizer.eos_token_id is not None:
            # the template leaves the last answer open; without an end, it would never stop
            ids = [*ids, tokenizer.eos_token_id]
            labels.append(tokenizer.eos_token_id)
        made.append(Sample(ids, labels, _question(chat[: found[-1]])))
    return made


def fit(sample: Sample, max_length: int, truncation: str) -> Sample | Rejected:
    """Cut a sample to `max_length` tokens, or reject it.

    `right` cuts the end, and with it the end token; `left` cuts the start; `drop` rejects. A sample
    left without a token that carries loss is rejected.
    """
    if len(sample.ids) > max_length:
        if truncation == "drop":
            return Rejected("over_max_length")
        cut = slice(-max_length, None) if truncation == "left" else slice(max_length)
        sample = Sample(sample.ids[cut], sample.labels[cut], sample.prompt)
    return sample if sample.trained else Rejected("no_trained_token")


class _Ends:
    """What belongs before and after plain text: BOS where the tokenizer uses one, and EOS."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end token, so no answer could ever stop")
        self._bos, self._eos = leading_ids(tokenizer), [tokenizer.eos_token_id]

    def before(self, ids: list[int]) -> list[int]:
        """Nothing when the text brings its own BOS: two of them are a known trap."""
        return [] if ids[:1] == self._bos else self._bos

    def after(self, ids: list[int]) -> list[int]:
        return [] if ids[-1:] == self._eos else self._eos


def _encode(tokenizer: Any, texts: list[str]) -> list[tuple[list[int], list[int], list[int]]]:
    """Ids, and the first and one-past-last character of each token, per text."""
    backend = tokenizer.backend_tokenizer
    # a tokenizer.json may carry a length of its own, which would cut samples silently
    backend.no_truncation()
    backend.no_padding()
    found = []
    for encoding in backend.encode_batch(texts, add_special_tokens=False):
        offsets = encoding.offsets
        found.append((encoding.ids, [at for at, _ in offsets], [end for _, end in offsets]))
    return found


def _join(row: Row) -> tuple[str, int]:
    """Prompt and completion as one text, and the character where the completion begins."""
    prompt, completion = row.values["prompt"], row.values["completion"]
    border = len(prompt.rstrip())
    apart = not prompt or prompt[-1:].isspace() or completion[:1].isspace()
    return (f"{prompt}{completion}" if apart else f"{prompt}\n{completion}"), border


def _messages(row: Row) -> Messages:
    if "messages" in row.values:
        return list(row.values["messages"])
    return [
        {"role": "user", "content": row.values["prompt"]},
        {"role": "assistant", "content": row.values["completion"]},
    ]


def _answers(chat: Messages, last_only: bool) -> list[int]:
    found = [number for number, turn in enumerate(chat) if turn.get("role") == "assistant"]
    return found[-1:] if last_only else found


def _question(before: Messages) -> str:
    """What leads to the last answer: the question alone, or the whole talk when there is more."""
    if len(before) == 1:
        return str(before[0]["content"])
    return "\n".join(f"{turn.get('role')}: {turn['content']}" for turn in before)


def _span(prompt: str, reply: str, whole: str, row: Row, turn: int) -> tuple[int, int]:
    """Where an answer stands in the rendered chat, in characters."""
    if not reply.startswith(prompt):
        raise DataRefused(
            f"{row.place}: the chat template begins the reply of message {turn} in another way "
            "than its own generation prompt does, so the answer's place cannot be told; "
            "hint: tokenizer.chat_template=chatml"
        )
    if not whole.startswith(reply):
        raise DataRefused(
            f"{row.place}: the chat template writes message {turn} differently once other turns "
            "follow it, so what would be trained is never what is asked; hint: collator.turns=last"
        )
    return len(prompt), len(reply)


def _render(
    tokenizer: Any, chats: list[Messages], rows: Sequence[Row], answer_next: bool = False
) -> list[str]:
    if not chats:
        return []
    try:
        found = tokenizer.apply_chat_template(
            chats, tokenize=False, add_generation_prompt=answer_next
        )
    except Exception as error:
        if len(chats) == 1:  # templates raise whatever they like, mostly about the order of roles
            raise DataRefused(
                f"{rows[0].place}: the chat template refuses the row: {error}"
            ) from error
        # one by one, to name the row
        for chat, row in zip(chats, rows, strict=True):
            _render(tokenizer, [chat], [row], answer_next)
        raise
    return list(found)
