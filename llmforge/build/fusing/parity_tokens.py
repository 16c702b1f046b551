"""Tokenizers, chat templates and stops of two models: the same, or what differs.

In: two tokenizers, two generation configs, probes. Out: sentences, none where all is equal.

This module looks at no weights (`parity.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmforge.build.fusing.parity_look import Probe

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_STOPS = ("bos_token_id", "eos_token_id", "pad_token_id")


def differences(
    ours: Any, theirs: Any, our_stops: Any, their_stops: Any, probes: Sequence[Probe]
) -> list[str]:
    """What the second tokenizer and generation config have otherwise than the first.

    Args:
        our_stops: a generation config, or None where there is none.
        their_stops: likewise.
    """
    found = []
    if len(ours) != len(theirs):
        found.append(f"the tokenizer has {len(theirs):,} tokens, not {len(ours):,}")
    found += [
        f"{name} is {_shown(theirs, name)}, not {_shown(ours, name)}"
        for name in _NAMED
        if _shown(ours, name) != _shown(theirs, name)
    ]
    mine, other = ours.get_added_vocab(), theirs.get_added_vocab()
    lost = sorted(token for token, id_ in mine.items() if other.get(token) != id_)
    more = sorted(set(other) - set(mine))
    if lost:
        found.append(f"added tokens are missing or moved: {', '.join(lost[:5])}")
    if more:
        found.append(f"there are added tokens that were not: {', '.join(more[:5])}")
    if set(ours.all_special_ids) != set(theirs.all_special_ids):
        found.append("other tokens are special")
    found += _texts(ours, theirs, probes)
    for name in _STOPS:
        one, two = (_ids(getattr(config, name, None)) for config in (our_stops, their_stops))
        if one != two:
            found.append(f"generation_config has {name} {two}, not {one}")
    return found


def _texts(ours: Any, theirs: Any, probes: Sequence[Probe]) -> list[str]:
    found = []
    if bool(ours.chat_template) != bool(theirs.chat_template):
        there = "has a chat template where there was none"
        found.append(f"the tokenizer {there if theirs.chat_template else 'has no chat template'}")
    for probe in probes:
        one, two = _rendered(ours, probe), _rendered(theirs, probe)
        if one != two:
            found.append(f"the chat template renders the probe {probe.name} otherwise")
            break
    for probe in probes:
        if probe.text is not None and ours(probe.text)["input_ids"] != theirs(probe.text)[
            "input_ids"
        ]:  # fmt: skip
            found.append(f"the tokenizer splits the probe {probe.name} otherwise")
            break
    return found


def _rendered(tokenizer: Any, probe: Probe) -> tuple[str, ...]:
    if not probe.messages or not tokenizer.chat_template:
        return ()
    return tuple(
        str(tokenizer.apply_chat_template(
            list(probe.messages), add_generation_prompt=asked, tokenize=False
        ))
        for asked in (False, True)
    )  # fmt: skip


def _shown(tokenizer: Any, name: str) -> str:
    return f"{getattr(tokenizer, name)!s} ({getattr(tokenizer, f'{name}_id')})"


def _ids(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value or [])
