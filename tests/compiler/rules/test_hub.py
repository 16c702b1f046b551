"""Rules of uploads: where to, of what, and what others can do with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.compiler.rules.hub import repository_fault

PUSH = ("hub=push", "hub.repository=me/mine")
ADAPTER = ("model=folder", "model.path=tiny", "lora=small")


def findings(context) -> list[tuple[str, str | None]]:
    from llmforge.compiler.passes import run_rules

    found = [(d.code, d.hint) for d in run_rules(context)]
    return [pair for pair in found if pair[0] in ("LF701", "LF704") or pair[0][:4] == "LF92"]


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("hub=push",), "LF701", "hub.repository=<owner>/demo"),
        (("hub.repository=me/mine",), "LF704", "hub=push"),
        ((*PUSH, "hub.what=adapter"), "LF921", "hub.what=model"),
        (("hub=push", "hub.repository=mine"), "LF923", "hub.repository=<owner>/demo"),
        ((*PUSH, "hub.when=every_save", "checkpoint.every=null"), "LF926", "checkpoint.every=25%"),
        ((*PUSH, "hub.what=checkpoint", "checkpoint.every=null"), "LF926", "checkpoint.every=25%"),
        (("paths.env_file=.envv",), "LF927", "paths.env_file=.env"),
        (("card.text=nowhere.md",), "LF928", "card.text=null"),
    ],
)
def test_what_is_wrong_and_what_helps(words, code, hint, solved):
    assert findings(solved(*words)) == [(code, hint)]


@pytest.mark.parametrize(
    "words",
    [
        (),
        PUSH,
        (*PUSH, "hub.when=every_save", "hub.what=checkpoint"),
        (*PUSH, "checkpoint.every=null"),
        ("paths.env_file=null",),
        ("hub=push", "hub.repository=an-org/Model_7.b"),
    ],
)
def test_nothing_to_say(words, solved):
    assert findings(solved(*words)) == []


@pytest.mark.parametrize("name", ["me/a b", "me/a--b", "-me/a", "a/b/c", "me/", "me/x.git"])
def test_names_that_the_hub_refuses(name):
    assert repository_fault(name)


def test_a_card_s_text_must_be_text(solved, tmp_path: Path):
    text = tmp_path / "card.md"
    text.write_bytes(b"\xff\xfe\x00")
    assert findings(solved(f"card.text={text}")) == [("LF928", "card.text=null")]
    text.write_text("Made for the harbour.", encoding="utf-8")
    assert findings(solved(f"card.text={text}")) == []
