"""Talks: turns that grow, make room for themselves, are taken back, and end where they should."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmforge.build.parts import build_parts
from llmforge.compiler.generation import generation_settings
from llmforge.stages.answer_file import PromptsUnusable, answer_file, read_prompts
from llmforge.stages.chat import Chat
from llmforge.stages.generate import complete, generate, is_greedy, prompt_ids
from llmforge.stages.prepare import prepare
from llmforge.stages.stops import Stream, cut_at, printable
from llmforge.stages.talk import Talk, TurnTooLong


@pytest.fixture
def talk(make_plan) -> Talk:
    """With an untrained model that sees 128 tokens."""
    plan = make_plan()
    parts = build_parts(plan, prepare(plan))
    settings = generation_settings(max_new_tokens=8)
    return Talk(parts.model, parts.tokenizer, settings, "test")


def chat(talk: Talk, text: str, **more: Any) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = Chat(talk, io.StringIO(text), out, err, **more).run()
    return code, out.getvalue(), err.getvalue()


def test_turns_belong_to_the_talk_and_are_taken_back(talk: Talk) -> None:
    talk.say("What comes after 1?")
    talk.say("And then?")
    assert [one["role"] for one in talk.messages] == ["user", "assistant"] * 2
    assert talk.undo()
    assert talk.messages[0]["content"] == "What comes after 1?"
    talk.reset()
    assert not talk.undo()


def test_the_oldest_turns_make_room(talk: Talk) -> None:
    told: list[str] = []
    for number in range(12):
        talk.say(f"What comes after {number}?", told=told.append)
    assert len(talk.messages) == 24, "the log has all of it"
    assert told
    assert re.match(r"the model sees 128 tokens: the first [12] turn\(s\) are left out", told[0])
    seen = talk._prompt()
    assert isinstance(seen, list)
    assert seen[0]["role"] == "user"
    with pytest.raises(TurnTooLong, match="and the model sees 128"):
        talk.say("word " * 200)
    assert len(talk.messages) == 24, "what could not be asked is not part of it"


def test_what_was_said_before_a_stop_is_kept(talk: Talk) -> None:
    heard: list[str] = []

    def interrupt(piece: str) -> None:
        heard.append(piece)
        raise KeyboardInterrupt

    talk.generation["max_new_tokens"] = 60
    talk.generation["min_new_tokens"] = 60
    talk.generation["sample"], talk.generation["seed"] = True, 3
    with pytest.raises(KeyboardInterrupt):
        talk.say("What comes after 1?", interrupt)
    last = talk.messages[-1]
    assert (last["role"], last["stopped"]) == ("assistant", True)
    assert last["content"] == "".join(heard).strip()
    talk.say("Go on.")


def test_without_a_template_turns_are_plain(talk: Talk) -> None:
    talk.tokenizer.chat_template = None
    talk.say("What comes after 1?")
    talk.messages.append({"role": "user", "content": "And then?"})
    prompt = talk._prompt()
    assert isinstance(prompt, str)
    assert prompt.startswith("User: What comes after 1?\nModel:")
    assert prompt.endswith("\nUser: And then?\nModel:")
    assert "\nUser:" in talk._settings()["stop"]


def test_a_script_talks(talk: Talk, tmp_path: Path) -> None:
    lines = [
        "/system You are kind.", "one\\", "two", "/set temperature=0.5", "/set temprature=1",
        "/set num_beams=4", "//quit", "/undo", "/adapter", f"/save {tmp_path}/talk.md", "/resett",
        "/quit", "never",
    ]  # fmt: skip
    log = tmp_path / "talk.jsonl"
    code, _, err = chat(talk, "\n".join(lines), log=log)
    assert code == 1, "a script is told that lines of it went wrong"
    row = json.loads(log.read_text())
    roles = [one["role"] for one in row["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert row["messages"][1]["content"] == "one\ntwo"
    assert talk.generation["temperature"] == 0.5
    assert "unknown key `generation.temprature`" in err
    assert "a talk is streamed" in err
    assert "no command /resett; did you mean `reset`" in err
    assert "this model has no adapters" in err
    assert "**System**\n\nYou are kind." in (tmp_path / "talk.md").read_text()


def test_a_quiet_script_ends_well(talk: Talk) -> None:
    assert chat(talk, "What comes after 1?\n")[0] == 0


def test_a_stop_string_is_never_shown(talk: Talk) -> None:
    assert cut_at("a b c", ["c", "b"]) == ("a ", True)
    heard: list[str] = []
    stream = Stream(talk.tokenizer, heard.append, ["\nUser:"])
    for piece in (" yes", "\n", "Us", "ed\nUse", "r", ": no"):
        stream.on_finalized_text(piece)
    stream.on_finalized_text("", stream_end=True)
    assert "".join(heard) == "yes\nUsed"


def test_a_model_does_not_drive_the_terminal() -> None:
    assert printable("a\x1b[2Jb\tc\nd\x9b") == "a\ufffd[2Jb\tc\nd\ufffd"


def test_generation_ends_at_a_stop_string(talk: Talk) -> None:
    model, tokenizer = talk.model, talk.tokenizer
    options = {"max_new_tokens": 30, "min_new_tokens": 30, "sample": True, "seed": 5}
    (whole,) = generate(model, tokenizer, "What comes after 1?", **options)
    assert whole.tokens == 30
    assert whole.ended == "length"
    stop = whole.text[4:6]
    (cut,) = generate(model, tokenizer, "What comes after 1?", **options | {"stop": [stop]})
    assert cut.ended == "stop"
    assert cut.tokens < 30
    assert cut.text == whole.text[: whole.text.index(stop)].strip()
    again = generate(model, tokenizer, ["What comes after 1?"], **options)
    assert again[0].text == whole.text, "the seed decides"


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3, "early_stopping": True}, {"no_repeat_ngram_size": 1},
     {"sample": True, "top_k": 2, "min_p": 0.1, "seed": 1}, {"repetition_penalty": 3.0}],
)  # fmt: skip
def test_every_option_reaches_the_library(talk: Talk, options: dict[str, Any]) -> None:
    assert not is_greedy(generation_settings(**options))
    (found,) = generate(talk.model, talk.tokenizer, "What?", max_new_tokens=12, **options)
    assert found.tokens <= 12
    if "no_repeat_ngram_size" in options:
        ids = prompt_ids(talk.tokenizer, "What?")
        (said,) = complete(talk.model, talk.tokenizer, [ids], {"max_new_tokens": 12, **options})
        assert len({*ids, *said}) == len(set(ids)) + len(said)


def test_files_of_prompts(talk: Talk, tmp_path: Path) -> None:
    source, target = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    rows = ['"one"', '{"prompt": "two", "id": 2}', '{"prompt": "%s"}' % ("long " * 300),
            '{"messages": [{"role": "user", "content": "four"}]}']  # fmt: skip
    source.write_text("\n".join(rows))
    prompts = read_prompts(source)
    settings = generation_settings(max_new_tokens=4, batch=2)
    told = answer_file(talk.model, talk.tokenizer, prompts, target, settings)
    assert (told.answered, told.failed, told.kept) == (3, 1, 0)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [one.get("prompt", "")[:4] for one in lines] == ["one", "two", "long", ""]
    assert lines[1]["id"] == 2
    assert "and the model sees 128" in lines[2]["error"]

    # killed in the middle of the third line: the rest is answered, and it is the same file
    whole = target.read_text()
    target.write_text("".join(whole.splitlines(keepends=True)[:2]) + '{"prompt": "lo')
    told = answer_file(talk.model, talk.tokenizer, prompts, target, settings)
    assert told.kept == 2
    assert target.read_text() == whole
    with pytest.raises(PromptsUnusable, match=r"answers.jsonl:1 is no answer to prompt 1"):
        answer_file(talk.model, talk.tokenizer, [{"prompt": "other"}], target, settings)
    source.write_text('{"text": 1}')
    with pytest.raises(PromptsUnusable, match=r"prompts.jsonl:1 has no `prompt`"):
        read_prompts(source)
