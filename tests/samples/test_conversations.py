"""The example data set: reproducible, true, and split so that held-out rows need learning."""

from __future__ import annotations

import calendar
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from llmforge.samples import words
from llmforge.samples.conversations import (
    SKILLS,
    combination,
    generate,
    split,
    write,
)

# Changes only when the words, the phrasings or the drawing change, which is a new data set.
DIGEST = "2d52696d80682bbda99fb56f2df19fb156282c6d838d1a13231e425852f69ae1"

Row = dict[str, Any]
ROWS = generate(0, 6000)
TRAIN, HELD_OUT = split(ROWS, 0)


def digest(rows: list[Row]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def turns(row: Row) -> list[tuple[str, str]]:
    """(user, assistant) pairs of a conversation."""
    said = [message["content"] for message in row["messages"] if message["role"] != "system"]
    return list(zip(said[::2], said[1::2], strict=True))


def last_question_in_context(row: Row) -> tuple[str, ...]:
    """The last question, with the introduction that it refers to where there is one."""
    questions = [question for question, _ in turns(row)]
    return (questions[0], questions[-1]) if row["skill"] == "recall" else (questions[-1],)


def last_turns(skill: str) -> list[tuple[str, str]]:
    found = [turns(row)[-1] for row in ROWS if row["skill"] == skill]
    assert found
    return found


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


# --- generate ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_rows_on_every_machine() -> None:
    assert digest(ROWS) == DIGEST


def test_the_rows_do_not_depend_on_the_hash_order_of_the_process() -> None:
    program = (
        "import json; from llmforge.samples.conversations import generate, split;"
        "print(json.dumps(split(generate(5, 300), 5)))"
    )
    root = str(Path(__file__).parents[2])
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root},
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert printed == {json.dumps(split(generate(5, 300), 5)).encode() + b"\n"}


def test_another_seed_gives_other_rows() -> None:
    assert digest(generate(1, 50)) != digest(generate(0, 50))


def test_fewer_rows_are_the_beginning_of_more_rows() -> None:
    assert generate(0, 100) == ROWS[:100]


def test_no_conversation_stands_twice_even_under_another_system_message() -> None:
    assert len(ROWS) == 6000
    assert len({tuple(turns(row)) for row in ROWS}) == 6000


def test_every_row_is_a_chat_that_ends_with_the_assistant() -> None:
    for row in ROWS:
        assert set(row) == {"messages", "skill"}
        roles = [message["role"] for message in row["messages"]]
        if roles[0] == "system":
            roles = roles[1:]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert roles
        for message in row["messages"]:
            assert set(message) == {"role", "content"}
            assert message["content"].strip() == message["content"] != ""
            assert not set(message["content"]) & set("{}")


def test_every_turn_is_a_sentence() -> None:
    for row in ROWS:
        for question, answer in turns(row):
            assert question[0].isupper()
            assert question[-1] in ".?"
            assert re.fullmatch(r"[A-Z0-9][^.?!]*\.", answer)


def test_the_conversations_vary_in_shape_but_stay_short() -> None:
    lengths = Counter(len(turns(row)) for row in ROWS)
    assert set(lengths) == {1, 2, 3, 4}
    assert min(lengths.values()) >= 100
    with_system = sum(row["messages"][0]["role"] == "system" for row in ROWS)
    assert 0.25 < with_system / len(ROWS) < 0.42
    sizes = [sum(len(m["content"].split()) for m in row["messages"]) for row in ROWS]
    assert sum(sizes) / len(sizes) < 30
    assert max(sizes) <= 80


def test_the_vocabulary_is_closed_and_small() -> None:
    text = " ".join(message["content"] for row in ROWS for message in row["messages"])
    assert 500 <= len(set(re.findall(r"\w+", text))) <= 900


def test_every_skill_is_asked_in_at_least_eight_ways() -> None:
    ways = defaultdict(set)
    for row in ROWS:
        ways[row["skill"]].add(combination(row).phrasing[-1])
    assert tuple(sorted(ways)) == SKILLS
    assert 8 <= len(SKILLS) <= 12
    assert all(len(templates) >= 8 for templates in ways.values())


def test_the_same_questions_always_have_the_same_answer() -> None:
    answers = defaultdict(set)
    for row in ROWS:
        answers[last_question_in_context(row)].add(turns(row)[-1][1])
        for question, answer in turns(row)[:-1]:
            answers[(question,)].add(answer)
    assert [asked for asked, given in answers.items() if len(given) > 1] == []


def test_no_rows_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        generate(0, 0)


# --- the answers are right, worked out here a second time from the question alone ------------


def test_sums_are_right() -> None:
    for question, answer in last_turns("sum"):
        a, b = numbers(question)
        assert answer == f"{a} plus {b} is {a + b}."


def test_differences_are_right_and_never_negative() -> None:
    for question, answer in last_turns("difference"):
        a, b = numbers(question)
        assert a >= b
        assert answer == f"{a} minus {b} is {a - b}."


def test_comparisons_are_right_and_balanced() -> None:
    verdicts: Counter[bool] = Counter()
    for question, answer in last_turns("compare"):
        a, b = numbers(question)
        yes = f"Yes, {a} is greater than {b}."
        assert answer == (yes if a > b else f"No, {a} is not greater than {b}.")
        verdicts[a > b] += 1
    assert 0.4 < verdicts[True] / verdicts.total() < 0.6


def test_counting_names_every_number_on_the_way() -> None:
    for question, answer in last_turns("count"):
        a, b = numbers(question)
        assert b - a >= 2
        assert numbers(answer) == list(range(a, b + 1))
        assert re.fullmatch(r"The numbers are \d+(, \d+)* and \d+\.", answer)


def test_the_first_and_the_last_item_come_from_the_list_in_the_question() -> None:
    for question, answer in last_turns("item"):
        listed = [word for word in re.findall(r"\w+", question) if word in words.ITEMS]
        assert len(set(listed)) == 3
        place = "first" if "first" in question else "last"
        assert answer == f"The {place} item is {listed[0 if place == 'first' else -1]}."


def test_days_and_months_follow_the_calendar() -> None:
    days, months = list(calendar.day_name), list(calendar.month_name)[1:]
    for question, answer in last_turns("calendar"):
        named = next(n for n in days + months if re.search(rf"\b{n}\b", question))
        cycle = days if named in days else months
        back = re.search(r"before|yesterday|just ended|what was the last month", question)
        there = cycle[(cycle.index(named) + (-1 if back else 1)) % len(cycle)]
        assert answer == f"{there} comes {'before' if back else 'after'} {named}."


def test_what_is_recalled_is_what_was_said() -> None:
    for row in ROWS:
        if row["skill"] != "recall":
            continue
        said, asked, answer = turns(row)[0][0], *turns(row)[-1]
        (name,) = (name for name in words.NAMES if re.search(rf"\b{name}\b", said))
        (city,) = (city for city in words.HOMES if re.search(rf"\b{city}\b", said))
        about_home = re.search(r"\b(live|home)\b", asked)
        assert answer == (f"You live in {city}." if about_home else f"Your name is {name}.")


def test_the_fact_tables_name_each_thing_once() -> None:
    for table in (words.CAPITALS, words.PLURALS, words.YOUNG, words.COLOURS):
        keys = [key for key, _ in table]
        assert sorted(keys) == sorted(set(keys))
    both = [word for pair in words.OPPOSITES for word in pair]
    assert sorted(both) == sorted(set(both))
    assert len({capital for _, capital in words.CAPITALS}) == len(words.CAPITALS) == 40


def test_no_question_opens_a_sentence_with_a_slot() -> None:
    templates = [template for asks in words.ASKS.values() for template in asks]
    assert [template for template in templates if re.search(r"(^|[.!?] )\{", template)] == []


def test_articles_agree_with_the_word_after_them() -> None:
    things = [thing for thing, _ in words.COLOURS]
    for phrase in [*things, *(phrase for pair in words.YOUNG for phrase in pair)]:
        article, _, noun = phrase.rpartition(" ") if phrase.count(" ") == 1 else ("", "", "")
        if article in ("a", "an"):
            assert article == ("an" if noun[0] in "aeiou" else "a"), phrase


# --- split -----------------------------------------------------------------------------------


def test_every_row_lands_in_exactly_one_part() -> None:
    assert Counter(map(digest, ([row] for row in ROWS))) == Counter(
        map(digest, ([row] for row in TRAIN + HELD_OUT))
    )
    assert len(HELD_OUT) == pytest.approx(600, abs=len(SKILLS))


def test_both_parts_keep_the_order_of_the_rows() -> None:
    place = {digest([row]): number for number, row in enumerate(ROWS)}
    for part in (TRAIN, HELD_OUT):
        places = [place[digest([row])] for row in part]
        assert places == sorted(places)


def test_each_skill_gives_a_tenth_of_its_rows_to_the_held_out_part() -> None:
    all_rows, held = (Counter(row["skill"] for row in part) for part in (ROWS, HELD_OUT))
    assert set(held) == set(SKILLS) == {row["skill"] for row in TRAIN}
    for skill in SKILLS:
        assert held[skill] == pytest.approx(all_rows[skill] / 10, abs=4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_training_row_asks_a_held_out_question_in_any_turn(seed: int) -> None:
    train, held_out = split(ROWS, seed)
    asked = {last_question_in_context(row) for row in train}
    asked |= {(question,) for row in train for question, _ in turns(row)}
    assert [row for row in held_out if last_question_in_context(row) in asked] == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_held_out_combination_is_new_but_all_its_parts_are_taught(seed: int) -> None:
    train, held_out = split(ROWS, seed)
    seen = [combination(row) for row in train]
    combinations = {(made.skill, made.phrasing, made.filler) for made in seen}
    phrasings = {(made.skill, template) for made in seen for template in made.phrasing}
    values = {(made.skill, *slot) for made in seen for slot in made.filler}
    answers = {made.answer for made in seen}
    for row in held_out:
        made = combination(row)
        assert (made.skill, made.phrasing, made.filler) not in combinations
        assert {(made.skill, template) for template in made.phrasing} <= phrasings
        assert {(made.skill, *slot) for slot in made.filler} <= values
        assert made.answer in answers


def test_a_combination_reads_back_into_the_last_question() -> None:
    for row in ROWS:
        made = combination(row)
        texts = tuple(template.format(**dict(made.filler)) for template in made.phrasing)
        assert texts == last_question_in_context(row)


def test_the_split_depends_on_its_seed_and_on_nothing_else() -> None:
    assert split(ROWS, 0) == (TRAIN, HELD_OUT)
    assert split(ROWS, 1)[1] != HELD_OUT


def test_a_larger_fraction_holds_out_more() -> None:
    _, held_out = split(ROWS, 0, fraction=0.25)
    assert len(held_out) == pytest.approx(1500, rel=0.05)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_that_leaves_a_part_empty_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        split(ROWS, 0, fraction)


def test_rows_that_share_nothing_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="too few"):
        split(ROWS[:12], 0)


def test_a_chat_from_elsewhere_is_refused_by_name() -> None:
    chat = {"messages": [{"role": "user", "content": "What is love?"}], "skill": "capital"}
    with pytest.raises(ValueError, match="What is love"):
        split([chat], 0)


def test_a_question_that_also_opens_another_chat_is_never_held_out() -> None:
    opened_with = "What is the capital of France?"
    opener = [
        {"role": "user", "content": opened_with},
        {"role": "assistant", "content": "The capital of France is Paris."},
    ]
    rows = [{"messages": opener, "skill": "capital"}]
    rows += [{**row, "messages": opener + row["messages"]} for row in ROWS if len(turns(row)) == 1]
    for seed in range(5):
        _, held_out = split(rows, seed, 0.5)
        assert opened_with not in {turns(row)[-1][0] for row in held_out}


# --- write -----------------------------------------------------------------------------------


def test_written_files_hold_the_split_one_object_a_line(tmp_path: Path) -> None:
    train_path, eval_path = write(tmp_path / "new" / "folder", 0, 600)
    assert (train_path.name, eval_path.name) == ("train.jsonl", "eval.jsonl")
    train, held_out = split(generate(0, 600), 0)
    for path, rows in ((train_path, train), (eval_path, held_out)):
        text = path.read_bytes().decode("utf-8")
        assert text.endswith("}\n")
        assert [json.loads(line) for line in text.splitlines()] == rows
    assert sorted(path.name for path in train_path.parent.iterdir()) == [
        "eval.jsonl",
        "train.jsonl",
    ]


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    once = [path.read_bytes() for path in write(tmp_path, 3, 600)]
    assert [path.read_bytes() for path in write(tmp_path, 3, 600)] == once
    assert [path.read_bytes() for path in write(tmp_path, 4, 600)] != once


def test_an_interrupted_write_leaves_no_mixed_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_path, _ = write(tmp_path, 0, 600)
    before = train_path.read_bytes()

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, 1, 600)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]
    assert train_path.read_bytes() == before
