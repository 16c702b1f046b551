"""The built-in example data set: short chats that a tiny model can learn from scratch.

Purpose: let somebody try fine-tuning without any download, on data where learning can be told
from memorising: the held-out questions combine known words and known phrasings in a way that
training never shows.
In -> out: a seed -> rows `{"messages": [{"role", "content"}, ...], "skill"}`, their split into
training and held-out rows, or the two files `train.jsonl` and `eval.jsonl`.
Not done here: no tokenizing, no training, no scoring; and `split` understands only rows made by
`generate`, not chats from elsewhere.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from pathlib import Path
from typing import Any, NamedTuple

from llmforge.samples import words

Row = dict[str, Any]
Filler = dict[str, str]

DEFAULT_ROWS = 6000
# Skills take turns in this order. The ones with the most facts stand twice, so that each fact
# is still seen often enough.
ROTATION: tuple[str, ...] = (
    "capital", "sum", "opposite", "compare", "plural", "recall", "young", "difference",
    "colour", "sum", "calendar", "count", "item", "recall",
)  # fmt: skip
SKILLS: tuple[str, ...] = tuple(sorted(set(ROTATION)))

# Every sixth pairing of a phrasing with a filler is asked only as an opening turn, the others
# only as the last question. If both were mixed, holding a question out would also have to drop
# every training chat that opens with it.
OPENER_STEP = 6


@dataclass(frozen=True)
class Form:
    """One kind of question: its phrasings, what fills their slots, and the answer sentence."""

    skill: str
    asks: tuple[str, ...]
    answer: str
    fillers: tuple[Filler, ...]
    # Only for questions about something the user said before.
    introductions: tuple[str, ...] = ()


class Combination(NamedTuple):
    """What a row's last question is made of; the unit that `split` holds out."""

    skill: str
    phrasing: tuple[str, ...]
    filler: tuple[tuple[str, str], ...]
    answer: str

    def parts(self) -> list[tuple[str, ...]]:
        """The pieces that training has to show somewhere for the combination to be fair."""
        return [
            *((self.skill, "phrasing", template) for template in self.phrasing),
            *((self.skill, slot, value) for slot, value in self.filler),
            (self.skill, "answer", self.answer),
        ]


def generate(seed: int, rows: int = DEFAULT_ROWS) -> list[Row]:
    """Unique conversations, the same for the same seed on every machine."""
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    rng = random.Random(seed)  # noqa: S311 - repeatable, nothing secret
    made: dict[str, Row] = {}
    while len(made) < rows:
        row = _conversation(rng, ROTATION[len(made) % len(ROTATION)])
        made.setdefault(_chat_key(row["messages"]), row)
    return list(made.values())


def split(rows: list[Row], seed: int, fraction: float = 0.1) -> tuple[list[Row], list[Row]]:
    """Rows for training and held-out rows, both in the order given.

    A held-out row's last question is a combination of phrasing and filler that no training row
    asks in any turn, while each of its phrasings, filler values and its answer sentence is
    taught by some training row. About `fraction` of each skill is held out; less when the rows
    are too few to leave every piece in training.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    groups: dict[Combination, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(combination(row), []).append(number)
    asked_early = {question for row in rows for question in _questions(row)[:-1]}
    room = Counter(row["skill"] for row in rows)
    for skill, count in room.items():
        room[skill] = round(count * fraction)
    taught = Counter(part for made_of in groups for part in made_of.parts())

    held: set[int] = set()
    candidates = list(groups)
    random.Random(seed).shuffle(candidates)  # noqa: S311 - as in generate
    for made_of in candidates:
        members = groups[made_of]
        if len(members) > room[made_of.skill]:
            continue
        if any(taught[part] < 2 for part in made_of.parts()):
            continue  # nothing else would teach that part
        if _questions(rows[members[0]])[-1] in asked_early:
            continue
        room[made_of.skill] -= len(members)
        taught.subtract(made_of.parts())
        held.update(members)
    if not held:
        raise ValueError(f"{len(rows)} rows are too few to hold out {fraction:g} of them")
    train = [row for number, row in enumerate(rows) if number not in held]
    return train, [rows[number] for number in sorted(held)]


def write(folder: Path, seed: int, rows: int = DEFAULT_ROWS) -> tuple[Path, Path]:
    """Write `train.jsonl` and `eval.jsonl` into `folder`; the same bytes for the same seed."""
    train, held_out = split(generate(seed, rows), seed)
    folder.mkdir(parents=True, exist_ok=True)
    train_path, eval_path = folder / "train.jsonl", folder / "eval.jsonl"
    # Two files cannot be replaced in one step. Without the old eval file an interruption leaves
    # a file missing, never a pair of different seeds in which eval rows stand in train.
    eval_path.unlink(missing_ok=True)
    _write_lines(train_path, train)
    _write_lines(eval_path, held_out)
    return train_path, eval_path


def combination(row: Row) -> Combination:
    """Read back from the text which phrasing and filler a row's last question was made of."""
    questions = _questions(row)
    readings = _readings()
    try:
        template, filler = readings[questions[-1]]
        phrasing: tuple[str, ...] = (template,)
        if "{" not in template:  # what it asks about was said in the first turn
            introduction, filler = readings[questions[0]]
            phrasing = (introduction, template)
    except (KeyError, IndexError):
        raise ValueError(f"not a conversation made by generate(): {questions}") from None
    answer: str = row["messages"][-1]["content"]
    return Combination(row["skill"], phrasing, tuple(sorted(filler.items())), answer)


def _conversation(rng: random.Random, skill: str) -> Row:
    turns: list[tuple[str, str]] = []
    form = rng.choice([form for form in forms() if form.skill == skill])
    ask, filler = _question(rng, form, opening=False)
    if form.introductions:
        introduction = rng.choice(form.introductions)
        turns.append((introduction.format_map(filler), words.GREETING.format_map(filler)))
    # An opening turn is always on another skill; what has an introduction cannot open.
    openers = [other for other in forms() if other.skill != skill and not other.introductions]
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2))):
        opener = rng.choice(openers)
        turns.append(_turn(opener, *_question(rng, opener, opening=True)))
    turns.append(_turn(form, ask, filler))

    messages: list[dict[str, str]] = []
    if rng.choice((True, False, False)):
        messages.append({"role": "system", "content": rng.choice(words.SYSTEMS)})
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages, "skill": skill}


def _question(rng: random.Random, form: Form, *, opening: bool) -> tuple[str, Filler]:
    while True:
        ask, filler = rng.randrange(len(form.asks)), rng.randrange(len(form.fillers))
        if ((ask + filler) % OPENER_STEP == 0) == opening:
            return form.asks[ask], form.fillers[filler]


def _turn(form: Form, ask: str, filler: Filler) -> tuple[str, str]:
    return ask.format_map(filler), form.answer.format_map(filler)


def _questions(row: Row) -> list[str]:
    return [turn["content"] for turn in row["messages"] if turn["role"] == "user"]


def _chat_key(messages: list[dict[str, str]]) -> str:
    # Two chats that differ only in the system message ask the same thing, so they count as one
    # as far as uniqueness goes.
    return json.dumps([turn["content"] for turn in messages if turn["role"] != "system"])


@cache
def _readings() -> dict[str, tuple[str, Filler]]:
    """Every user message that the tables can make -> its template and filler."""
    return {
        template.format_map(filler): (template, filler)
        for form in forms()
        for template in form.asks + form.introductions
        for filler in form.fillers
    }


@cache
def forms() -> tuple[Form, ...]:
    """Every kind of question that is asked."""
    kinds: list[tuple[str, str, Iterable[Filler]]] = [
        ("capital", "capital", _pairs("country", "capital", words.CAPITALS)),
        ("opposite", "opposite", _pairs("word", "other", _both_ways(words.OPPOSITES))),
        ("plural", "plural", _pairs("one", "many", words.PLURALS)),
        ("young", "young", map(_young, words.YOUNG)),
        ("colour", "colour", _pairs("thing", "colour", words.COLOURS)),
        ("calendar", "day after", _neighbours("day", words.DAYS, 1)),
        ("calendar", "day before", _neighbours("day", words.DAYS, -1)),
        ("calendar", "month after", _neighbours("month", words.MONTHS, 1)),
        ("calendar", "month before", _neighbours("month", words.MONTHS, -1)),
        ("sum", "sum", (_sum(a, b) for a, b in product(range(13), repeat=2))),
        ("difference", "difference", (_rest(a, b) for a in range(13) for b in range(a + 1))),
        ("compare", "compare", (_verdict(a, b) for a, b in permutations(range(13), 2))),
        ("count", "count", (_count(a, a + steps) for a in range(13) for steps in range(2, 7))),
    ]
    lists = [dict(zip("abc", items, strict=True)) for items in permutations(words.ITEMS, 3)]
    kinds += [("item", "first item", lists), ("item", "last item", lists)]
    people = [{"name": name, "city": city} for name, city in product(words.NAMES, words.HOMES)]
    kinds += [("recall", "home", people), ("recall", "name", people)]
    return tuple(
        Form(
            skill,
            words.ASKS[kind],
            words.ANSWERS[kind],
            tuple(fillers),
            words.INTRODUCTIONS if skill == "recall" else (),
        )
        for skill, kind, fillers in kinds
    )


def _pairs(key: str, value: str, pairs: Iterable[tuple[str, str]]) -> list[Filler]:
    return [{key: left, value: right} for left, right in pairs]


def _both_ways(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [turned for left, right in pairs for turned in ((left, right), (right, left))]


def _young(pair: tuple[str, str]) -> Filler:
    an_animal, baby = pair
    return {"an_animal": an_animal, "animal": an_animal.split(" ", 1)[1], "baby": baby}


def _neighbours(kind: str, names: tuple[str, ...], step: int) -> list[Filler]:
    return [
        {kind: name, "answer": names[(place + step) % len(names)]}
        for place, name in enumerate(names)
    ]


def _sum(a: int, b: int) -> Filler:
    return {"a": str(a), "b": str(b), "total": str(a + b)}


def _rest(a: int, b: int) -> Filler:
    return {"a": str(a), "b": str(b), "rest": str(a - b)}


def _verdict(a: int, b: int) -> Filler:
    return {"a": str(a), "b": str(b), "verdict": f"Yes, {a} is" if a > b else f"No, {a} is not"}


def _count(start: int, end: int) -> Filler:
    numbers = [str(number) for number in range(start, end + 1)]
    listed = ", ".join(numbers[:-1]) + " and " + numbers[-1]
    return {"a": str(start), "b": str(end), "numbers": listed}


def _write_lines(path: Path, rows: list[Row]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    # Written beside the target, so that the replacement is one rename on one file system.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(text.encode("utf-8"))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
