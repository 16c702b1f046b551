"""Rows to token ids and labels: what carries loss is decided here, by place and never by token id.

In: rows and a tokenizer. Out: one `Sample` or `Rejected` per row, in order; `sample.fit` cuts them
later. `lm_sample`, `completion_sample` and `chat_sample` build the three collator kinds.

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
from typing import Any

from llmforge.build.data import Row
from llmforge.build.errors import DataRefused
from llmforge.build.sample import IGNORED, Encoded, Rejected, Sample, encode
from llmforge.build.templates import leading_ids, special_ids
from llmforge.plan import Plan

Messages = list[dict[str, Any]]

SampleBuilder = Callable[[Sequence[Row], Any, Plan], list[Sample | Rejected]]


def lm_sample(rows: Sequence[Row], tokenizer: Any, plan: Plan) -> list[Sample | Rejected]:  # noqa: ARG001 - one signature for all
    """Every token and the end token carry loss. Rows of any shape."""
    if rows and "messages" in rows[0].values:
        # a template writes its own beginning and ends
        rendered = _render(tokenizer, [row.values["messages"] for row in rows], rows)
        return [Sample(ids, list(ids)) for ids, _, _ in encode(tokenizer, rendered)]
    joined = [row.values["text"] if "text" in row.values else _join(row)[0] for row in rows]
    made: list[Sample | Rejected] = []
    ends = _Ends(tokenizer)
    for text, (ids, _, _) in zip(joined, encode(tokenizer, joined), strict=True):
        whole = [*ends.before(ids), *ids, *ends.after(ids)]
        made.append(Sample(whole, list(whole)) if text.strip() else Rejected("empty"))
    return made


def completion_sample(rows: Sequence[Row], tokenizer: Any, plan: Plan) -> list[Sample | Rejected]:  # noqa: ARG001 - one signature for all
    """The completion and the end token carry loss. Rows of shape `prompt_completion`."""
    pairs = [_join(row) for row in rows]
    encoded = encode(tokenizer, [text for text, _ in pairs])
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
    answers = [_answers(chat, last_only) for chat in chats]
    wholes = _render(tokenizer, chats, rows)
    spans = _spans(tokenizer, rows, chats, answers, wholes)
    special = special_ids(tokenizer)
    made: list[Sample | Rejected] = []
    for chat, turns, places, encoded in zip(
        chats, answers, spans, encode(tokenizer, wholes), strict=True
    ):
        if not turns:
            made.append(Rejected("no_trained_token"))
            continue
        if not any(chat[turn]["content"].strip() for turn in turns):
            made.append(Rejected("empty"))
            continue
        ids, labels = encoded[0], [IGNORED] * len(encoded[0])
        closed = True
        for begin, end in places:
            first, behind, closed = _tokens_of(encoded, begin, end, special)
            labels[first:behind] = ids[first:behind]
        if not closed and turns[-1] == len(chat) - 1 and tokenizer.eos_token_id is not None:
            # the template leaves the last answer open; without an end, it would never stop
            ids = [*ids, tokenizer.eos_token_id]
            labels.append(tokenizer.eos_token_id)
        made.append(Sample(ids, labels, _question(chat[: turns[-1]])))
    return made


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


def _join(row: Row) -> tuple[str, int]:
    """Prompt and completion as one text, and the character where the completion begins."""
    prompt, completion = _columns(row, "prompt", "completion")
    border = len(prompt.rstrip())
    apart = not prompt or prompt[-1:].isspace() or completion[:1].isspace()
    return (f"{prompt}{completion}" if apart else f"{prompt}\n{completion}"), border


def _messages(row: Row) -> Messages:
    if "messages" in row.values:
        return list(row.values["messages"])
    prompt, completion = _columns(row, "prompt", "completion")
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def _columns(row: Row, *names: str) -> list[Any]:
    if any(name not in row.values for name in names):
        raise DataRefused(
            f"{row.place}: this collator needs {' and '.join(names)}, the row holds "
            f"{' and '.join(row.values)}; hint: collator=auto"
        )
    return [row.values[name] for name in names]


def _answers(chat: Messages, last_only: bool) -> list[int]:
    found = [number for number, turn in enumerate(chat) if turn.get("role") == "assistant"]
    return found[-1:] if last_only else found


def _question(before: Messages) -> str:
    """What leads to the last answer: the question alone, or the whole talk when there is more."""
    if len(before) == 1:
        return str(before[0]["content"])
    return "\n".join(f"{turn.get('role')}: {turn['content']}" for turn in before)


def _spans(
    tokenizer: Any,
    rows: Sequence[Row],
    chats: list[Messages],
    answers: list[list[int]],
    wholes: list[str],
) -> list[list[tuple[int, int]]]:
    """Where each answer stands in its rendered chat, in characters.

    The template renders what leads to an answer, and what leads up to its end; both must begin the
    whole.
    """
    chosen = [(number, turn) for number, turns in enumerate(answers) for turn in turns]
    owners = [rows[number] for number, _ in chosen]
    before = [chats[number][:turn] for number, turn in chosen]
    prompts = _render(tokenizer, before, owners, answer_next=True)
    # rendering is most of the work; a chat up to its last message is the chat
    inner = [(number, turn) for number, turn in chosen if turn < len(chats[number]) - 1]
    through = [chats[number][: turn + 1] for number, turn in inner]
    rendered = iter(_render(tokenizer, through, [rows[number] for number, _ in inner]))
    replies = [
        next(rendered) if turn < len(chats[number]) - 1 else wholes[number]
        for number, turn in chosen
    ]
    spans: list[list[tuple[int, int]]] = [[] for _ in chats]
    for (number, turn), prompt, reply in zip(chosen, prompts, replies, strict=True):
        place = rows[number].place
        if not reply.startswith(prompt):
            raise DataRefused(
                f"{place}: the chat template begins the reply of message {turn} in another way "
                "than its own generation prompt does, so the answer's place cannot be told; "
                "hint: tokenizer.chat_template=chatml"
            )
        if not wholes[number].startswith(reply):
            raise DataRefused(
                f"{place}: the chat template writes message {turn} differently once other turns "
                "follow it, so what would be trained is never what is asked; "
                "hint: collator.turns=last"
            )
        spans[number].append((len(prompt), len(reply)))
    return spans


def _tokens_of(encoded: Encoded, begin: int, end: int, special: set[int]) -> tuple[int, int, bool]:
    """First token of an answer, one past its last, and whether a special token closes it."""
    ids, starts, stops = encoded
    first, behind = bisect_left(starts, begin), bisect_left(starts, end)
    while behind > first and stops[behind - 1] > end:
        behind -= 1  # a token that reaches into the next turn is not the answer's
    for place in range(behind - 1, first - 1, -1):
        if ids[place] in special:
            return first, place + 1, True
    return first, behind, False


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
